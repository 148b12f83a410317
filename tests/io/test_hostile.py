"""Files made to do harm: none may hang, fill the memory, print, or end but as an ImageError."""

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from conftest import REUNET, ROOT
from reunet.errors import ImageError, one_line
from reunet.io.images import read_image
from reunet.io.labels import label_path, write_label

FUZZ = ROOT / "tests" / "fuzz" / "reader.py"
SECONDS = 10  # for any of these files, on a busy machine
BYTES = 2**25  # of memory for it
GREY = np.asarray(Image.open(ROOT / "tests" / "data" / "images" / "nuclei.png"))[:40, :50]
Tag = tuple[int, int, int, int]  # number, type (3 short, 4 long), count, value or its place
SHORT, LONG = 3, 4


def judge(folder: Path) -> dict[str, dict[str, Any]]:
    """What became of each file of a folder, read in one process with little memory and time."""
    if sys.platform != "linux":
        pytest.skip("the use of memory is read from /proc")
    files = sorted(folder.iterdir())
    command = [sys.executable, FUZZ, "--judge", *files]
    output = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True).stdout
    reports = [json.loads(line) for line in output.splitlines()]
    assert [report["file"] for report in reports] == [file.name for file in files]
    return {report["file"]: report for report in reports}


def assert_harmless(folder: Path, expected: dict[str, str]) -> None:
    """Every file ends as an ImageError that holds the text expected of it, soon."""
    reports = judge(folder)
    assert not [report for report in reports.values() if report["finding"]]
    assert not [report for report in reports.values() if report["seconds"] > SECONDS]
    assert not [report for report in reports.values() if report["bytes"] > BYTES]
    wrong = {
        n: reports[n]["text"] for n, text in expected.items() if text not in reports[n]["text"]
    }
    assert not wrong
    assert reports.keys() == expected.keys()


def directory(tags: Sequence[Tag], following: int = 0) -> bytes:
    """A directory of a classic little-endian TIFF."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags))
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", following)


def page(**changes: int) -> list[Tag]:
    """Tags of a grey page of 4 × 4 bytes, the header and what follows it."""
    values = {"width": 4, "height": 4, "bits": 8, "compression": 1, "offset": 8, "length": 16}
    values |= {"rows": 4, "samples": 1} | changes
    numbers = {"width": 256, "height": 257, "bits": 258, "compression": 259, "offset": 273}
    numbers |= {"samples": 277, "rows": 278, "length": 279, "planes": 284, "predictor": 317}
    return [(262, SHORT, 1, 1), *((numbers[k], LONG, 1, v) for k, v in values.items())]


def tiff(*directories: tuple[Sequence[Tag], int], content: bytes = bytes(16)) -> bytes:
    """A TIFF of directories, each with the index of the one that follows (-1: none)."""
    start = 8 + len(content)
    sizes = [len(directory(tags)) for tags, _ in directories]
    places = np.cumsum([start, *sizes]).tolist()
    chain = [directory(tags, places[n] if n >= 0 else 0) for tags, n in directories]
    return b"II*\0" + struct.pack("<I", start) + content + b"".join(chain)


def described(description: str, pixels: np.ndarray = GREY, **options: Any) -> bytes:
    """A TIFF with a description of anyone's making."""
    buffer = io.BytesIO()
    text = description.encode()
    tifffile.imwrite(buffer, pixels, metadata=None, description=text, **options)
    return buffer.getvalue()


def ome(inside: str) -> bytes:
    """A TIFF with an OME description."""
    name = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    return described(f'<?xml version="1.0"?><OME xmlns="{name}">{inside}</OME>')


def pixels(sizes: str, inside: str = "<TiffData/>") -> str:
    """An image of an OME description."""
    first = 'DimensionOrder="XYZCT" Type="uint8" SizeX="50" SizeY="40"'
    return f'<Image ID="Image:0"><Pixels {first} {sizes}>{inside}</Pixels></Image>'


ONE = 'SizeZ="1" SizeC="1" SizeT="1"'


def test_directories_and_tags(tmp_path: Path) -> None:
    plain = page()
    chain = [(plain, n + 1) for n in range(200)]
    million = struct.pack("<I", 8) * 1_000_000
    shared = [*page(), (33000, LONG, 10**6, 8)]
    expected = {}

    def add(name: str, content: bytes, error: str) -> None:
        (tmp_path / f"{name}.tif").write_bytes(content)
        expected[f"{name}.tif"] = error

    circle = "run in a circle"
    add("circle-of-one", tiff((plain, 0)), circle)
    add("circle-of-three", tiff((plain, 1), (plain, 2), (plain, 1)), circle)
    add("circle-after-200", tiff(*chain, (plain, 150)), circle)
    add("circle-of-empty-ones", tiff(([], 1), ([], 0)), circle)
    add("6000-pages", tiff(*((plain, n + 1) for n in range(5999)), (plain, -1)), "more than 5000")
    below = [*plain, (330, LONG, 4000, 8)]
    content = struct.pack("<I", 8) * 4000
    add("sub-pages", tiff((below, 1), (below, -1), content=content), "more than 5000")
    many = tiff(*((shared, n + 1) for n in range(99)), (shared, -1), content=million)
    add("shared-values", many, "claim more bytes")
    add("no-sub-pages", tiff(([*plain, (330, LONG, 2**31, 8)], -1)), "smaller versions")
    for name, changes, error in (
        ("no-width", {"width": 0}, "; "),
        ("no-height", {"height": 0}, "; "),
        ("wide", {"width": 2**32 - 1}, "; "),
        ("tall", {"height": 2**32 - 1, "rows": 2**32 - 1}, "above the limit"),
        ("rows-0", {"rows": 0}, "; "),
        ("negative-offset", {"offset": 2**32 - 16}, "truncated"),
        ("huge-length", {"length": 2**31, "compression": 8}, "truncated"),
        ("65535-samples", {"samples": 65535, "width": 1000, "height": 1000}, "above the limit"),
        ("0-bits", {"bits": 0}, "; "),
        ("shorter-than-the-page", {"length": 15}, "pixels are missing"),
        ("predictor-alone", {"predictor": 2}, "no compression"),
        ("predictor-of-floats", {"predictor": 3, "compression": 8}, "no floats"),
        ("planes-of-anything", {"planes": 7, "samples": 3}, "channels are apart"),
        ("bits-of-anything", {"bits": 2**31}, "; "),
        ("compression-of-anything", {"compression": 60000}, "compressed by 60000"),
    ):
        add(name, tiff((page(**changes), -1)), error)
    for count in (2**31, 2**32 - 1):
        tags = [tag for tag in plain if tag[0] != 273]
        add(f"{count}-offsets", tiff(([*tags, (273, LONG, count, 8)], -1)), "; ")
    add("metamorph", tiff(([*plain, (33629, 5, 10**6, 8)], -1), content=million * 6), "planes")
    assert_harmless(tmp_path, expected)


def test_as_many_strips_as_rows_are_read_in_time(tmp_path: Path) -> None:
    count = 10**5
    tall = page(width=1, height=count, rows=1)
    tags = [tag for tag in tall if tag[0] not in (273, 279)]
    tags += [(273, LONG, count, 8), (279, LONG, count, 8 + 4 * count)]
    places = np.full(count, 8, "<u4").tobytes() + np.full(count, 1, "<u4").tobytes()
    (tmp_path / "strips.tif").write_bytes(tiff((tags, -1), content=places))
    report = judge(tmp_path)["strips.tif"]
    assert not report["finding"], report
    assert report["text"] == f"({count}, 1, 3) uint8"
    assert report["seconds"] < 2 * SECONDS


def bombs() -> Iterator[tuple[str, bytes, str]]:
    """Name, content and the error expected of files that would decode to gigabytes."""
    zeros = bytes(100_000_000)
    for name, number, packed in (
        ("deflate", 8, zlib.compress(zeros, 1)),
        ("lzw", 5, imagecodecs.lzw_encode(zeros[:20_000_000])),
        ("zstd", 50000, imagecodecs.zstd_encode(zeros)),
        ("lzma", 34925, imagecodecs.lzma_encode(zeros[:20_000_000], level=0)),
        ("packbits", 32773, b"\x81\0" * 1_000_000),
    ):
        small = page(compression=number, length=len(packed))
        yield f"{name}.tif", tiff((small, -1), content=packed), ""
    lerc = imagecodecs.lerc_encode(np.zeros((10_000, 10_000), np.uint8))
    other = "claims another size"
    photo = imagecodecs.jpeg8_encode(GREY)
    frame = photo.index(b"\xff\xc0")
    photo = photo[: frame + 5] + struct.pack(">HH", 65_000, 65_000) + photo[frame + 9 :]
    wide = imagecodecs.jpeg2k_encode(GREY)
    wide = wide[:8] + struct.pack(">II", 60_000, 60_000) + wide[16:]
    for name, number, packed in (("lerc", 34887, lerc), ("jpeg", 7, photo), ("jp2", 34712, wide)):
        small = page(compression=number, length=len(packed))
        yield f"{name}.tif", tiff((small, -1), content=packed), other
    tile = [*page()[:1], *(t for t in page(compression=8) if t[0] in (256, 257, 258, 259, 277))]
    packed = zlib.compress(zeros, 1)
    tile += [(322, LONG, 1, 60_000), (323, LONG, 1, 60_000), (324, LONG, 1, 8)]
    tile += [(325, LONG, 1, len(packed))]
    yield "tile.tif", tiff((tile, -1), content=packed), "above the limit"
    comment = (b"zTXt", b"Comment\0\0" + zlib.compress(zeros, 1))
    adam7 = header(1, 1, 16, b"\0\0\0\1")
    yield "scans.jpg", many_scans(), "more than 100 scans"
    yield "huge.jpg", photo, "above the limit"
    yield "huge.png", a_png(header(2**31 - 1, 2**31 - 1), zlib.compress(b"")), "above the limit"
    yield "little.png", a_png(header(2000, 2000), zlib.compress(b"\0" * 2001)), "rows are missing"
    yield "text.png", a_png(header(1, 1), zlib.compress(b"\0\0"), comment), "; "
    yield "deep.png", a_png(header(1, 1, 16), zlib.compress(zeros, 1)), "; "
    yield "deep-interlaced.png", a_png(adam7, zlib.compress(zeros, 1)), "; "
    runs = bytearray(
        struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 0, 0, 0, 54, 40, 1, 1, 1, 8, 1, *[0] * 5)
    )
    runs[18:26] = struct.pack("<ii", 60_000_000, 1)
    yield "runs.bmp", bytes(runs) + b"\1\0\0\0" * 100, "above the limit"


def header(width: int, height: int, bits: int = 8, methods: bytes = b"\0\0\0\0") -> bytes:
    """Of a PNG. methods: colour type, compression, filter, interlacing."""
    return struct.pack(">2IB", width, height, bits) + methods


def a_png(start: bytes, idat: bytes, *before: tuple[bytes, bytes]) -> bytes:
    """A PNG that says what it likes. start: its header; before: chunks before the pixels."""
    chunks = [(b"IHDR", start), *before, (b"IDAT", idat), (b"IEND", b"")]
    lengths = [struct.pack(">I", len(content)) for _, content in chunks]
    sums = [struct.pack(">I", zlib.crc32(kind + content)) for kind, content in chunks]
    parts = zip(lengths, chunks, sums, strict=True)
    return b"\x89PNG\r\n\x1a\n" + b"".join(n + kind + c + s for n, (kind, c), s in parts)


def many_scans() -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    buffer = io.BytesIO()
    Image.fromarray(GREY).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * 500 + content[-2:]


def test_bombs(tmp_path: Path) -> None:
    expected = {}
    for name, content, error in bombs():
        assert len(content) < 3_000_000, name
        (tmp_path / name).write_bytes(content)
        expected[name] = error
    assert_harmless(tmp_path, expected)


def test_descriptions(tmp_path: Path) -> None:
    laughs = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(10))
    entities = f'<!DOCTYPE OME [<!ENTITY a0 "ha">{laughs}]>'
    modulo = '<ModuloAlongZ Type="angle" Start="0" End="1e12"/>'
    modulo = f'<Value><Modulo Namespace="">{modulo}</Modulo></Value>'
    note = '<XMLAnnotation ID="A" Namespace="openmicroscopy.org/omero/dimension/modulo">'
    files = {
        "planes": (ome(pixels('SizeZ="1" SizeC="1" SizeT="2000000000"')), "too many planes"),
        "count": (ome(pixels(ONE, '<TiffData IFD="0" PlaneCount="2000000000"/>')), "too many"),
        "blocks": (ome(pixels(ONE, "<TiffData/>" * 3)), "(40, 50, 3)"),
        "million-blocks": (ome(pixels(ONE, "<TiffData/>" * 110_000)), "too many"),
        "modulo": (
            ome(f"<StructuredAnnotations>{note}{modulo}</XMLAnnotation></StructuredAnnotations>"),
            "too many",
        ),
        "laughs": (
            described(f'<?xml version="1.0"?>{entities}<OME>&a10;</OME>'),
            "language of its own",
        ),
        "numbers": (ome(pixels('SizeZ="1" SizeC="one" SizeT="1"')), "(40, 50, 3)"),
        "shaped": (described(json.dumps({"shape": [10**9, 40, 50]})), "(40, 50, 3)"),
        "nested": (described('{"shape": ' + "[" * 100_000), "RecursionError"),
        "imagej": (described("ImageJ=1.53\nimages=1000000000\nslices=1000000000\n"), "(40, 50, 3)"),
        "channels": (
            described("ImageJ=1.53\nimages=3\nchannels=3\nmode=composite\n"),
            "channels are missing",
        ),
        "leica": (described('<?xml version="1.0"?><scn xmlns="x"/>'), "(40, 50, 3)"),
    }
    for name, (content, _) in files.items():
        (tmp_path / f"{name}.tif").write_bytes(content)
    assert_harmless(tmp_path, {f"{name}.tif": text for name, (_, text) in files.items()})


def test_findings_of_the_fuzz_runs(tmp_path: Path) -> None:
    """What `tests/fuzz/reader.py` found, boiled down."""
    rows = zlib.compress(bytes(3 * 5))  # of 2 × 3 pixels of 16 bits
    exif = b"MM\0*\0\0\0\x08\0\1" + struct.pack(">HHII", 274, 3, 2**32 - 1, 6) + bytes(4)
    photo = io.BytesIO()
    Image.fromarray(GREY).save(photo, "JPEG", exif=b"Exif\0\0" + exif)
    wide = (b"IHDR", header(60_000, 60_000, 16))
    files = {
        # libpng told the standard error what it thought of these
        "compression.png": (a_png(header(2, 3, 16, b"\0\7\0\0"), rows), "header is damaged"),
        "filter.png": (a_png(header(2, 3, 16, b"\0\0\7\0"), rows), "header is damaged"),
        "colour.png": (a_png(header(2, 3, 16, b"\5\0\0\0"), rows), "header is damaged"),
        "interlaced.png": (a_png(header(2, 3, 16, b"\0\0\0\1"), rows + rows), "; "),
        # and a second header, of another size, was believed
        "two-headers.png": (a_png(header(2, 3, 16), rows, wide), "(3, 2, 3) uint16"),
        # a warning by Pillow, of a tag that nobody asked for
        "exif.jpg": (photo.getvalue(), "(40, 50, 3) uint8"),
        # as many rows black as were missing
        "rows.png": (a_png(header(2, 3), zlib.compress(bytes(6))), "rows are missing"),
        "rows-16.png": (a_png(header(2, 3, 16), zlib.compress(bytes(10))), "rows are missing"),
        # a tuple, repeated as often as the picture has rows
        "depth.tif": (
            tiff(([*page(height=2**28, rows=1), (32997, LONG, 4, 8)], -1)),
            "one number each",
        ),
        # channels of 1 and of 8 bits, decoded by turns the one way and the other
        "channels.tif": (
            tiff(
                *(
                    ([*page(bits=bits), (305, 2, 16, 24)], n)
                    for n, bits in ((1, 1), (2, 8), (-1, 8))
                ),
                content=bytes(16) + b"PerkinElmer-QPI\0",
            ),
            "different ways",
        ),
        "rows.tif": (
            tiff(([*(t for t in page(width=2**26) if t[0] not in (257, 278)), (278, 4, 4, 8)], -1)),
            "; ",
        ),
        "half-rows.tif": (
            tiff(([*(t for t in page(height=8) if t[0] != 278), (278, 11, 1, 0x40900000)], -1)),
            "one number each",
        ),
        # a warning by NumPy, of colours that no integer holds
        "palette.tif": (
            tiff(
                ([(262, SHORT, 1, 3), *page()[1:], (320, 11, 768, 8)], -1),
                content=np.full(768, 2e37, "<f4").tobytes(),
            ),
            "whole numbers",
        ),
        # and of a division by zero
        "metamorph.tif": (
            tiff(([*page(), (33629, 5, 1, 8), (33628, LONG, 1, 8)], -1), content=bytes(48)),
            "(4, 4, 3) uint8",
        ),
    }
    for name, (content, _) in files.items():
        (tmp_path / name).write_bytes(content)
    assert_harmless(tmp_path, {name: text for name, (_, text) in files.items()})


def test_no_other_file_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OME and Micro-Manager name files that belong to an image; tifffile would read them."""
    secret, shown = tmp_path / "secret.tif", tmp_path / "folder" / "shown_MMStack.ome.tif"
    shown.parent.mkdir()
    tifffile.imwrite(secret, np.full(GREY.shape, 77, np.uint8))
    other = f'<UUID FileName="../{secret.name}">urn:1</UUID>'
    data = f'<TiffData IFD="0" PlaneCount="1">{other}</TiffData>'
    shown.write_bytes(ome(pixels('SizeZ="1" SizeC="2" SizeT="1"', data)))
    opened: list[str] = []
    real = tifffile.FileHandle.open

    def note(handle: tifffile.FileHandle) -> None:
        opened.append(str(handle._file))
        real(handle)

    monkeypatch.setattr(tifffile.FileHandle, "open", note)
    picture = read_image(shown)
    np.testing.assert_array_equal(picture.pixels[..., 0], GREY)
    assert {Path(name).name for name in opened} <= {shown.name}


def test_random_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    starts = (
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"BM",
        b"II*\0\x08\0\0\0",
        b"MM\0+\0\x08\0\0",
    )
    for number in range(120):
        ending = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")[number % 6]
        content = starts[number % 5] + rng.bytes(int(rng.integers(5000)))
        (tmp_path / f"{number}{ending}").write_bytes(content)
    reports = judge(tmp_path)
    assert not [report for report in reports.values() if report["finding"]]
    assert all("; " in report["text"] for report in reports.values())


@pytest.mark.parametrize(
    "name",
    [
        "..png",
        "...png",
        "..\\..\\up.png",
        "\\root.png",
        "C:\\up.png",
        "~.png",
        "%2e%2e%2fup.png",
        "a\n.png",
    ],
)
def test_no_label_leaves_its_folder(tmp_path: Path, name: str) -> None:
    path = label_path(tmp_path / "in" / name, tmp_path / "out")
    assert path.parent == tmp_path / "out"
    assert path.resolve().parent == (tmp_path / "out").resolve()


def test_a_label_replaces_a_link_and_not_what_it_points_to(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    label = tmp_path / "a_label.tiff"
    label.symlink_to(precious)
    write_label(label, np.ones((2, 2), int))
    assert precious.read_text() == "mine"
    assert not label.is_symlink()


def test_text_for_a_terminal() -> None:
    assert one_line("a  b ü 细.png") == "a  b ü 细.png"
    assert one_line("a\nb\x1b[31m\x07\u202e\udcff") == r"a\nb\x1b[31m\x07\u202e\udcff"


@pytest.mark.parametrize("command", ["predict", "evaluate", "weightmap"])
def test_messages_stay_on_their_line(tmp_path: Path, command: str) -> None:
    """Whatever the files are called."""
    strange = tmp_path / "a\n\x1b]0;mine\x07.png"
    strange.write_bytes(b"")
    options = {
        "predict": [strange, tmp_path / "out"],
        "evaluate": ["--gt", strange, "--seg", tmp_path],
        "weightmap": [strange, "-o", tmp_path / "map.png"],
    }[command]
    run = subprocess.run([REUNET, command, *options], capture_output=True, text=True)
    assert run.returncode in (1, 2)
    assert "mine" in run.stderr
    assert all(line.isprintable() for line in run.stderr.split("\n"))


def test_the_limit_can_be_raised_and_lowered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, GREY)
    for limit, error in (
        ("1999", "REUNET_MAX_PIXELS"),
        ("2000", ""),
        ("many", "is 'many'"),
        ("", ""),
    ):
        monkeypatch.setenv("REUNET_MAX_PIXELS", limit)
        if error:
            with pytest.raises(ImageError, match=error):
                read_image(path)
        else:
            assert read_image(path).pixels.shape == (40, 50, 3)
    tifffile.imwrite(path, np.dstack([GREY] * 3).astype(np.float64), photometric="rgb")
    monkeypatch.setenv("REUNET_MAX_PIXELS", "11999")
    with pytest.raises(ImageError, match="of 24 bytes are above the limit"):
        read_image(path)
    monkeypatch.setenv("REUNET_MAX_PIXELS", "12000")
    read_image(path)
