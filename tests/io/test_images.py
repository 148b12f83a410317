"""Reading against what Pillow, tifffile and imagecodecs wrote; writing whole or not at all."""

import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from reunet.errors import ImageError
from reunet.io import tiff_pages
from reunet.io.images import list_images, native, read_image, read_label
from reunet.io.labels import label_path, write_label

H, W = 23, 37
RNG = np.random.default_rng(0)
GREY8 = RNG.integers(0, 256, (H, W), dtype=np.uint8)
RGB8 = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
RGBA8 = RNG.integers(0, 256, (H, W, 4), dtype=np.uint8)
RGB16 = RNG.integers(0, 65536, (H, W, 3), dtype=np.uint16)
STACK = RNG.integers(0, 65536, (6, H, W), dtype=np.uint16)  # any six planes


def triple(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, axis=-1)


def assert_reads(path: Path, expected: np.ndarray, notes: int = 0) -> None:
    picture = read_image(path)
    assert picture.pixels.dtype == expected.dtype
    assert picture.pixels.dtype.isnative
    np.testing.assert_array_equal(picture.pixels, expected)
    assert len(picture.notes) == notes, picture.notes


# --- PNG, BMP, JPEG


@pytest.mark.parametrize("ending", [".png", ".PNG", ".bmp"])
@pytest.mark.parametrize("stored", [GREY8, RGB8], ids=["grey", "rgb"])
def test_8_bit(tmp_path: Path, stored: np.ndarray, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    Image.fromarray(stored).save(path)
    assert_reads(path, stored if stored.ndim == 3 else triple(stored))


def test_png_alpha_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGBA8).save(path)
    assert_reads(path, RGBA8[..., :3])
    Image.fromarray(RGBA8[..., :2], mode="LA").save(path)
    assert_reads(path, triple(RGBA8[..., 0]))


@pytest.mark.parametrize("ending", [".png", ".bmp"])
def test_palette_and_bilevel(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    palette = Image.fromarray(RGB8).quantize(17)
    palette.save(path)
    assert_reads(path, np.asarray(palette.convert("RGB")))
    Image.fromarray(GREY8 > 127).save(path)
    assert_reads(path, triple(np.where(GREY8 > 127, 255, 0).astype(np.uint8)))


def test_palette_with_transparency_warns_of_nothing(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "a.png"
    palette = Image.fromarray(RGB8).quantize(17)
    palette.save(path, transparency=bytes(range(17)))
    assert_reads(path, np.asarray(palette.convert("RGB")))
    assert not recwarn.list


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_keeps_16_bits(tmp_path: Path, channels: int) -> None:
    stored = RNG.integers(0, 65536, (H, W, channels), dtype=np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(stored.squeeze()))
    assert_reads(path, stored[..., :3] if channels > 2 else triple(stored[..., 0]))


def test_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(RGB8).save(path)
    assert_reads(path, np.asarray(Image.open(path)))
    Image.fromarray(GREY8).save(path)
    assert_reads(path, triple(np.asarray(Image.open(path))))
    Image.fromarray(RGB8).convert("CMYK").save(path)
    assert_reads(path, np.asarray(Image.open(path).convert("RGB")))


def test_exif_orientation_is_not_applied(tmp_path: Path) -> None:
    path = tmp_path / "a.jpeg"
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer would turn it by 90 degrees
    Image.fromarray(RGB8).save(path, exif=exif)
    assert read_image(path).pixels.shape == RGB8.shape


def test_contents_decide_not_the_ending(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(RGB8).save(path, format="PNG")
    assert_reads(path, RGB8)


# --- TIFF


DTYPES = ["bool", "u1", "i1", "u2", ">u2", "i2", "u4", "i4", "f2", "f4", ">f4", "f8"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tiff_dtypes(tmp_path: Path, dtype: str) -> None:
    stored = RNG.uniform(-100 if dtype[-2] in "if" else 0, 100, (H, W)).astype(dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored, photometric="minisblack", byteorder=">" if ">" in dtype else "<")
    shown = stored.astype(np.uint8) * 255 if dtype == "bool" else stored
    assert_reads(path, triple(shown.astype(shown.dtype.newbyteorder("="))))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw"},
        {"compression": "zlib", "predictor": True},
        {"compression": "zstd"},
        {"compression": "packbits"},
        {"compression": "zlib", "tile": (16, 16)},
        {"bigtiff": True},
        {"planarconfig": "contig", "rowsperstrip": 5},
        {"ome": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("stored", [RGB8, RGB16], ids=["8", "16"])
def test_tiff_layouts(tmp_path: Path, stored: np.ndarray, options: dict[str, Any]) -> None:
    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, stored, photometric="rgb", **options)
    assert_reads(path, stored)


def test_tiff_jpeg(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    smooth = np.full((64, 64, 3), (200, 30, 90), np.uint8)
    tifffile.imwrite(path, smooth, photometric="rgb", compression="jpeg")
    assert np.abs(read_image(path).pixels.astype(int) - smooth).max() <= 3


def test_tiff_planar_rgb_is_transposed(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    planar = RGB8.transpose(2, 0, 1)
    tifffile.imwrite(path, planar, photometric="rgb", planarconfig="separate")
    assert_reads(path, RGB8)


def test_tiff_pillow_wrote(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for stored in (GREY8, RGB8):
        Image.fromarray(stored).save(path, compression="tiff_lzw")
        assert_reads(path, stored if stored.ndim == 3 else triple(stored))


def test_tiff_alpha_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, RGBA8, photometric="rgb", extrasamples=["unassalpha"])
    assert_reads(path, RGBA8[..., :3])
    grey_alpha = RGBA8[..., :2]
    options: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(path, grey_alpha, extrasamples=["assocalpha"], **options)
    assert_reads(path, triple(RGBA8[..., 0]))


@pytest.mark.parametrize("channels", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("kind", ["ome", "imagej", "samples", "last axis"])
def test_tiff_channels(tmp_path: Path, kind: str, channels: int) -> None:
    path = tmp_path / "a.tif"
    stored = STACK[:channels]
    last = np.ascontiguousarray(stored.transpose(1, 2, 0))
    if kind in ("ome", "imagej"):
        options: dict[str, Any] = {
            "ome": kind == "ome",
            "imagej": kind == "imagej",
            "metadata": {"axes": "CYX"},
        }
        tifffile.imwrite(path, stored, photometric="minisblack", **options)
    elif kind == "samples":
        tifffile.imwrite(path, last, photometric="minisblack", planarconfig="contig")
    else:
        tifffile.imwrite(path, last, photometric="minisblack")
        with tifffile.TiffFile(path) as tif:
            assert tif.series[0].axes == "QYX"
    if channels == 2:
        last = np.concatenate([last, np.zeros_like(last[..., :1])], axis=-1)
    assert_reads(path, last[..., :3], notes=channels != 3)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("kind", ["ome", "imagej", "shaped", "pages"])
def test_of_a_stack_the_first_plane_counts(
    tmp_path: Path, kind: str, compression: str | None
) -> None:
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {"photometric": "minisblack", "compression": compression}
    if kind == "pages":
        with tifffile.TiffWriter(path) as writer:
            for plane in STACK:
                writer.write(plane, metadata=None, contiguous=False, **options)
    else:
        axes: dict[str, Any] = {} if kind == "shaped" else {kind: True, "metadata": {"axes": "ZYX"}}
        tifffile.imwrite(path, STACK, **options, **axes)
    assert_reads(path, triple(STACK[0]), notes=1)


@pytest.mark.parametrize("kind", ["ome", "imagej"])
def test_hyperstack(tmp_path: Path, kind: str) -> None:
    stored = RNG.integers(0, 255, (2, 3, 4, H, W), dtype=np.uint8)
    axes = "TCZYX" if kind == "ome" else "TZCYX"
    planes = stored if kind == "ome" else np.ascontiguousarray(stored.swapaxes(1, 2))
    path = tmp_path / "a.tif"
    options: dict[str, Any] = {kind: True, "metadata": {"axes": axes}, "photometric": "minisblack"}
    tifffile.imwrite(path, planes, **options)
    assert_reads(path, stored[0, :, 0].transpose(1, 2, 0), notes=2)


def test_only_the_needed_pages_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK, photometric="minisblack", compression="zlib")
    decoded: list[int] = []
    read_page = tiff_pages._read_page

    def note(series: tifffile.TiffPageSeries, number: int) -> np.ndarray:
        decoded.append(number)
        return read_page(series, number)

    monkeypatch.setattr(tiff_pages, "_read_page", note)
    read_image(path)
    assert decoded == [0]


def test_samples_and_channels(tmp_path: Path) -> None:
    stored = np.stack([RGB8, RGB8[::-1]])
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored, imagej=True, photometric="rgb", metadata={"axes": "CYXS"})
    assert_reads(path, RGB8, notes=1)


def test_of_a_pyramid_the_full_size_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    full = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    with tifffile.TiffWriter(path) as writer:
        writer.write(full, photometric="rgb", tile=(16, 16), subifds=1)
        writer.write(full[::2, ::2], photometric="rgb", tile=(16, 16), subfiletype=1)
    assert_reads(path, full)


def test_tiff_palette(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    colours = RNG.integers(0, 256, (3, 256), dtype=np.uint16)
    for table in (colours * 257, colours):
        tifffile.imwrite(path, GREY8, photometric="palette", colormap=table)
        assert_reads(path, colours.T[GREY8].astype(np.uint8))
    np.testing.assert_array_equal(read_label(path), GREY8)


@pytest.mark.parametrize("dtype", ["bool", "u1", "u2"])
def test_white_is_zero_is_inverted(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "a.tif"
    stored = (GREY8 // 2).astype(dtype)
    tifffile.imwrite(path, stored, photometric="miniswhite")
    highest = 255 if dtype == "bool" else np.iinfo(dtype).max
    shown = highest - stored * (255 if dtype == "bool" else 1)
    assert_reads(path, triple(shown.astype("u1" if dtype == "bool" else dtype)))
    np.testing.assert_array_equal(read_label(path), stored)


def test_white_is_zero_of_12_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    stored = (STACK[0, :, :36] >> 4).astype(np.uint16)
    packed = np.frombuffer(imagecodecs.packints_encode(stored, 12), np.uint8)
    tifffile.imwrite(path, packed.reshape(H, 54), photometric="miniswhite", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tif:
        for name, value in (("ImageWidth", 36), ("BitsPerSample", 12)):
            tif.pages.first.tags[name].overwrite(value)
    assert_reads(path, triple(4095 - stored))


def test_values_that_are_not_finite_become_zero(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    stored = RNG.random((H, W), dtype=np.float32)
    stored[0, :3] = np.nan, np.inf, -np.inf
    tifffile.imwrite(path, stored)
    stored[0, :3] = 0
    assert_reads(path, triple(stored), notes=1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (9, 3)])
def test_tiny_images(tmp_path: Path, shape: tuple[int, int]) -> None:
    stored = RNG.integers(0, 255, shape, dtype=np.uint8)
    for ending in (".png", ".tif", ".bmp"):
        path = tmp_path / f"a{ending}"
        if ending == ".tif":
            tifffile.imwrite(path, stored, photometric="minisblack")
        else:
            Image.fromarray(stored).save(path)
        assert_reads(path, triple(stored))


# --- errors


def assert_fails(path: Path, cause: str, read: Callable[[Path], object] = read_image) -> None:
    with pytest.raises(ImageError) as caught:
        read(path)
    message = str(caught.value)
    assert path.name in message
    assert cause in message
    assert len(message.splitlines()) == 1
    assert "; " in message


def big_file(path: Path) -> None:
    noise = RNG.integers(0, 256, (200, 200, 3), dtype=np.uint8)
    if path.suffix == ".tif":
        tifffile.imwrite(path, noise, photometric="rgb")
    elif path.name.startswith("16"):
        path.write_bytes(imagecodecs.png_encode(noise.astype(np.uint16) * 257))
    else:
        options: dict[str, Any] = (
            {"progressive": True} if path.name.startswith("progressive") else {}
        )
        Image.fromarray(noise).save(path, **options)


NAMES = ["a.png", "16.png", "a.jpg", "progressive.jpg", "a.bmp", "a.tif"]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", NAMES)
def test_truncated(tmp_path: Path, name: str, share: float) -> None:
    path = tmp_path / name
    big_file(path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert_fails(path, "")


@pytest.mark.parametrize("compression", ["lzw", "zlib", "zstd", "jpeg", "packbits", None])
def test_truncated_tiff(tmp_path: Path, compression: str | None) -> None:
    path = tmp_path / "a.tif"
    noise = RNG.integers(0, 256, (200, 200, 3), dtype=np.uint8)
    tifffile.imwrite(path, noise, photometric="rgb", compression=compression, tile=(64, 64))
    path.write_bytes(path.read_bytes()[:-5000])
    assert_fails(path, "truncated")


@pytest.mark.parametrize("name", NAMES)
def test_garbage(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    assert_fails(path, "empty")
    path.write_text("this is\nno image")
    assert_fails(path, "not a PNG, JPEG, BMP or TIFF")
    big_file(path)
    path.write_bytes(path.read_bytes()[:12] + RNG.bytes(3000))
    assert_fails(path, "")
    assert capfd.readouterr().err == ""


def test_missing_directory_and_ending(tmp_path: Path) -> None:
    assert_fails(tmp_path / "none.png", "no such file")
    (tmp_path / "folder.tif").mkdir()
    assert_fails(tmp_path / "folder.tif", "is a directory")
    assert_fails(tmp_path / "a.gif", "unsupported ending")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.png"
    big_file(path)
    monkeypatch.setattr(Path, "open", refuse)
    assert_fails(path, "permission denied")


def test_complex_values(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.ones((4, 4), np.complex64))
    assert_fails(path, "complex64")


def test_no_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    big_file(path)
    data = bytearray(path.read_bytes())
    data[16:20] = bytes(4)
    path.write_bytes(data)
    assert_fails(path, "")


@pytest.mark.parametrize("name", NAMES)
def test_pixel_limit(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    big_file(path)
    monkeypatch.setattr("reunet.io.limits.MAX_PIXELS", 200 * 200)
    read_image(path)
    monkeypatch.setattr("reunet.io.limits.MAX_PIXELS", 200 * 200 - 1)
    assert_fails(path, "39,999")


def test_the_limit_is_ours_and_judged_from_the_header(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    big_file(path)
    data = bytearray(path.read_bytes())
    data[18:26] = struct.pack("<ii", 40_000, 30_000)
    path.write_bytes(data)
    assert_fails(path, "500,000,000")
    data[18:26] = struct.pack("<ii", 20_000, 20_000)  # above Pillow's limit, and truncated
    path.write_bytes(data)
    assert_fails(path, "truncated")


def test_errors_travel_between_processes() -> None:
    assert str(pickle.loads(pickle.dumps(ImageError("a: b; c")))) == "a: b; c"


def test_a_png_imports_no_tiff_reader(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(RGB8).save(path)
    code = (
        "import sys; from pathlib import Path; from reunet.io.images import read_image;"
        "read_image(Path(sys.argv[1]));"
        "print([m for m in ('tifffile', 'imagecodecs', 'torch', 'skimage') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


# --- names and labels


def test_list_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.tif", ".a.png", "c.txt", "d.jpeg", "e.bmp"):
        (tmp_path / name).touch()
    (tmp_path / "f.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["a.tif", "b.PNG", "d.jpeg", "e.bmp"]
    assert_fails(tmp_path / "none", "no such file", list_images)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("cell_1.png", "cell_1_label.tiff"),
        ("cell.ome.tif", "cell_label.tiff"),
        ("a b.c.d.TIFF", "a b_label.tiff"),
    ],
)
def test_label_path(name: str, label: str) -> None:
    assert label_path(Path("in") / name, Path("out")) == Path("out") / label


@pytest.mark.parametrize(
    ("highest", "dtype"),
    [(0, "u2"), (1, "u2"), (32768, "u2"), (65535, "u2"), (70000, "u4")],
)
def test_labels_round_trip(tmp_path: Path, highest: int, dtype: str) -> None:
    path = tmp_path / "a_label.tiff"
    instances = np.minimum(np.arange(300 * 250), highest).reshape(300, 250)
    write_label(path, instances)
    stored = tifffile.imread(path)
    assert stored.dtype == dtype
    np.testing.assert_array_equal(stored, instances)
    labels = read_label(path)
    assert labels.dtype == dtype
    np.testing.assert_array_equal(labels, instances)
    with tifffile.TiffFile(path) as tif:
        assert tif.pages.first.compression in (8, 32946)  # zlib, as the organisers ask
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("shape", [(1, 1), (500, 3), (3, 500), (1, 7)])
def test_labels_of_odd_shapes(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = tmp_path / "a_label.tiff"
    write_label(path, np.ones(shape, bool))
    assert tifffile.imread(path).shape == shape
    assert read_label(path).shape == shape


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    path = tmp_path / "a_label.tiff"
    write_label(path, np.ones((4, 4), int))
    before = path.read_bytes()

    def fail_midway(file: Path, *_: object, **__: object) -> None:
        Path(file).write_bytes(b"half")
        raise failure

    monkeypatch.setattr(tifffile, "imwrite", fail_midway)
    with pytest.raises(ImageError if isinstance(failure, OSError) else KeyboardInterrupt) as caught:
        write_label(path, np.zeros((4, 4), int))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    if isinstance(failure, OSError):
        assert str(caught.value).startswith(f"{path}: no space left on device; ")


def test_write_into_nowhere(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder, cause in (("none", "no such file"), ("file", "not a directory")):
        path = tmp_path / folder / "a_label.tiff"
        assert_fails(path, cause, lambda p: write_label(p, np.ones((2, 2), int)))


@pytest.mark.parametrize(
    "wrong",
    [
        np.ones((2, 2, 2), int),
        np.ones((2, 2)),
        -np.ones((2, 2), int),
        np.full((2, 2), 2**32),
        np.ones((0, 4), int),
    ],
    ids=["3-D", "float", "negative", "beyond uint32", "empty"],
)
def test_only_labels_are_written(tmp_path: Path, wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="labels must"):
        write_label(tmp_path / "a_label.tiff", wrong)
    assert not list(tmp_path.iterdir())


def test_read_label_kinds(tmp_path: Path) -> None:
    instances = RNG.integers(0, 200, (H, W))
    path = tmp_path / "a.png"
    for dtype in (np.uint8, np.uint16):
        path.write_bytes(imagecodecs.png_encode(instances.astype(dtype)))
        np.testing.assert_array_equal(read_label(path), instances)
    palette = Image.fromarray(instances.astype(np.uint8), mode="P")
    palette.putpalette(RNG.bytes(768))
    palette.save(path)
    np.testing.assert_array_equal(read_label(path), instances)
    path = tmp_path / "a.tif"
    for kind in ("f4", "i8"):
        tifffile.imwrite(path, instances.astype(kind))
        np.testing.assert_array_equal(read_label(path), instances)
    tifffile.imwrite(path, (instances + 2**32).astype(np.uint64))
    assert read_label(path).max() == instances.max() + 2**32


@pytest.mark.parametrize(
    ("stored", "cause"),
    [
        (RGB8, "shape"),
        (STACK, "planes"),
        (np.full((4, 4), 0.5), "fractions"),
        (np.full((4, 4), np.nan), "fractions"),
        (np.full((4, 4), -1), "negative"),
    ],
    ids=["rgb", "stack", "fractions", "nan", "negative"],
)
def test_read_label_refuses(tmp_path: Path, stored: np.ndarray, cause: str) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, stored)
    assert_fails(path, cause, read_label)


def test_pages_of_no_samples_are_no_images(tmp_path: Path) -> None:
    """What the fuzzer made of an alpha channel that was all there was."""
    with pytest.raises(ImageError, match="has no pixels") as error:
        native(tmp_path / "a.tif", np.empty((61, 53, 0), np.uint16))
    assert "a.tif" in str(error.value)
