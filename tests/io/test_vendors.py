"""Microscopes' files: a .czi that Zeiss's library writes, and a .lif put together here by Leica's
description of it. Slow tests fetch real files from packages that ship them, whose licences do not
let them lie here: an .nd2 of Nikon's program, and an .svs as Aperio's scanner writes it.
"""

import re
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reunet.errors import ImageError
from reunet.io import slides
from reunet.io.images import planes_of, read_image, read_pixel_size
from reunet.io.selection import Selection

RNG = np.random.default_rng(18)
STACK = RNG.integers(0, 60000, (3, 2, 40, 50), np.uint16)  # Z, C, Y, X


def write_czi(path: Path) -> Path:
    pytest.importorskip("bioio_czi")
    czi = pytest.importorskip("pylibCZIrw.czi")
    with czi.create_czi(str(path)) as file:
        for (z, c), plane in ((at, STACK[at]) for at in np.ndindex(3, 2)):
            file.write(data=plane[..., np.newaxis], plane={"Z": z, "C": c, "T": 0})
        file.write_metadata(
            "a", scale_x=5e-7, scale_y=5e-7, scale_z=1e-6, channel_names={0: "DAPI", 1: "GFP"}
        )
    return path


LIF = """<LMSDataContainerHeader Version="2"><Element Name="e" Visibility="1" UniqueID="u"><Data>
</Data><Memory Size="0" MemoryBlockID="MemBlock_0"/><Children><Element Name="stack" Visibility="1"
 UniqueID="v"><Data><Image TextDescription=""><ImageDescription><Channels>
<ChannelDescription DataType="0" ChannelTag="0" Resolution="16" LUTName="Blue" BytesInc="0"
 NameOfMeasuredQuantity="" Min="0" Max="65535" Unit="" IsLUTInverted="0" BitInc="0"/>
<ChannelDescription DataType="0" ChannelTag="0" Resolution="16" LUTName="Green" BytesInc="{c}"
 NameOfMeasuredQuantity="" Min="0" Max="65535" Unit="" IsLUTInverted="0" BitInc="0"/>
</Channels><Dimensions>
<DimensionDescription DimID="1" NumberOfElements="50" Origin="0" Length="2.45e-5" Unit="m"
 BitInc="0"
 BytesInc="2"/>
<DimensionDescription DimID="2" NumberOfElements="40" Origin="0" Length="1.95e-5" Unit="m"
 BitInc="0"
 BytesInc="100"/>
<DimensionDescription DimID="3" NumberOfElements="3" Origin="0" Length="2e-6" Unit="m"
 BitInc="0"
 BytesInc="{z}"/>
</Dimensions></ImageDescription></Image></Data>
<Memory Size="{size}" MemoryBlockID="MemBlock_1"/></Element></Children></Element>
</LMSDataContainerHeader>"""


def write_lif(path: Path) -> Path:
    pytest.importorskip("bioio_lif")
    pixels = STACK.tobytes()  # a channel is apart within its plane of Z
    xml = LIF.format(c=40 * 50 * 2, z=2 * 40 * 50 * 2, size=len(pixels))
    text = xml.encode("utf-16-le")

    def block(name: str, data: bytes) -> bytes:
        told = name.encode("utf-16-le")
        body = b"*" + struct.pack("<Q", len(data)) + b"*" + struct.pack("<I", len(name)) + told
        return struct.pack("<II", 0x70, len(body)) + body + data

    head = b"*" + struct.pack("<I", len(xml)) + text
    path.write_bytes(
        struct.pack("<II", 0x70, len(head)) + head
        + block("MemBlock_0", b"") + block("MemBlock_1", pixels)
    )  # fmt: skip
    return path


@pytest.mark.parametrize("write", [write_czi, write_lif])
def test_planes_channels_and_size(write: object, tmp_path: Path) -> None:
    path = write(tmp_path / f"a.{write.__name__[6:]}")  # type: ignore[operator,attr-defined]
    assert planes_of(path)["Z"] == 3
    picture = read_image(path)
    assert np.array_equal(picture.pixels[..., :2], STACK[0].transpose(1, 2, 0))
    assert "axis Z holds 3 planes, the first is used" in picture.notes
    found = read_image(path, Selection((1,), 2))
    assert np.array_equal(found.pixels[..., 0], STACK[2, 1])
    assert not found.notes
    brightest = read_image(path, Selection((0,), "max"))
    assert np.array_equal(brightest.pixels[..., 0], STACK[:, 0].max(axis=0))
    size = read_pixel_size(path)
    assert size is not None
    assert (size.x, size.y) == pytest.approx((0.5, 0.5))


def test_channels_of_a_czi_by_name(tmp_path: Path) -> None:
    path = write_czi(tmp_path / "a.czi")
    found = read_image(path, Selection(("GFP",), 0)).pixels
    assert np.array_equal(found[..., 0], STACK[0, 1])


@pytest.mark.parametrize("kind", ["czi", "nd2", "lif"])
def test_a_bad_file_is_one_clear_line(kind: str, tmp_path: Path) -> None:
    pytest.importorskip(f"bioio_{kind}")
    path = tmp_path / f"a.{kind}"
    path.write_bytes(RNG.bytes(5000))
    with pytest.raises(ImageError) as error:
        read_image(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


# -- files that packages ship


def shipped(package: str, folder: Path) -> Path:
    """A package's source, from the registry. Skips the test where that is out of reach."""
    how = ["-q", "--no-deps", "--no-binary", ":all:", "-d", folder]
    command = [sys.executable, "-m", "pip", "download", *how, package]
    if subprocess.run(command, capture_output=True, timeout=600).returncode:
        pytest.skip(f"{package} cannot be had from the registry here")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    return next(path for path in folder.iterdir() if path.is_dir())


def frame_of_nd2(path: Path, number: int) -> np.ndarray:
    """The pixels of a frame, which follow the name of its chunk, padding and a time of 8 bytes."""
    data, name = path.read_bytes(), f"ImageDataSeq|{number}!".encode()
    chunk = re.compile(re.escape(struct.pack("<I", 0x0ABECEDA)) + b".{12}" + re.escape(name), re.S)
    at = next(match.start() for match in chunk.finditer(data))
    (padded,) = struct.unpack("<I", data[at + 4 : at + 8])
    pixels = np.frombuffer(data, "<u2", 31 * 38 * 2, at + 16 + padded + 8)
    return pixels.reshape(31, 38, 2)


@pytest.mark.slow
def test_an_nd2_of_nikons_program(tmp_path: Path) -> None:
    """38 × 31 px, 2 channels, 3 times, 10 planes: what the package's own tests say of it."""
    pytest.importorskip("bioio_nd2")
    path = shipped("pims-nd2==1.1", tmp_path) / "pims_nd2/cluster.nd2"
    assert planes_of(path) == {"T": 3, "Z": 10}
    size = read_pixel_size(path)
    assert size is not None
    assert (size.x, size.y) == pytest.approx((0.167808983, 0.167808983))
    for plane in (0, 4, 29):
        found = read_image(path, Selection((0, 1), plane)).pixels
        assert np.array_equal(found[..., :2], frame_of_nd2(path, plane))
    named = read_image(path, Selection(("5-FAM/pH 9.0",), 4)).pixels
    assert np.array_equal(named[..., 0], frame_of_nd2(path, 4)[..., 0])
    assert named.max() > 0


@pytest.mark.slow
def test_an_svs_of_openslides_tests(tmp_path: Path) -> None:
    """The pixels that Pillow sees and OpenSlide reads, and the size that both tell; its broken twin
    is refused."""
    folder = shipped("openslide-python==1.4.7", tmp_path) / "tests/fixtures"
    path = folder / "small.svs"
    with Image.open(path) as picture:
        difference = read_image(path).pixels - np.asarray(picture, np.int16)
    assert np.abs(difference).max() <= 2  # decoders of JPEG round otherwise
    size = read_pixel_size(path)
    assert size is not None
    assert (size.x, size.source) == (0.499, "Aperio")
    pytest.importorskip("openslide")
    with slides.open_plane(path, True, lambda *_: None) as planes:
        by_openslide = np.concatenate([*planes.bands()])
        assert planes.notes == []
    assert np.abs(by_openslide - read_image(path).pixels.astype(np.int16)).max() <= 2
    assert slides.pixel_size(path) == size
    with pytest.raises(ImageError, match=r"unreadable\.svs: cannot be decoded"):
        read_image(folder / "unreadable.svs")
