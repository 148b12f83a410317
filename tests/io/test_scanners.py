"""Slides by OpenSlide: Hamamatsu's .ndpi and Ventana's .bif, put together here by their public
descriptions (`slide_files`). The references are what Pillow and tifffile decode of the same JPEG,
and the picture that overlapping tiles were cut from.
"""

import hashlib
import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from slide_files import MACRO, TILE, Area, Page, jpeg_page, write_bif, write_ndpi

from conftest import DATA, SAMPLE_IMAGES
from reunet.errors import ImageError
from reunet.io import slides, source
from reunet.io.images import planes_of, read_image, read_pixel_size
from reunet.io.region import MARGIN, parse_region
from reunet.io.selection import Selection
from reunet.io.source import open_source, slide_shape, stream
from reunet.run.resume import image_hash

SMEAR = np.asarray(Image.open(DATA / "images/blood.png").convert("RGB"))
BLOOD = np.pad(SMEAR, ((0, 100), (0, 200), (0, 0)), mode="symmetric")
PICTURE = np.ascontiguousarray(BLOOD[:208, :320])  # whole blocks of the JPEG, as scanners store
NUCLEI = SAMPLE_IMAGES / "dsb2018__00ae65c1c6631ae6.png"
BLOCKS = 4  # of a JPEG between two restart markers
OVERLAP = 14  # px, of tiles
STEP = TILE - OVERLAP
MOSAIC = np.ascontiguousarray(BLOOD[: OVERLAP + 3 * STEP, : OVERLAP + 4 * STEP])


def pages(picture: np.ndarray = PICTURE, **options: object) -> list[Page]:
    """A slide at two sizes, and the picture of the glass."""
    half = np.ascontiguousarray(picture[::2, ::2])
    full = jpeg_page(picture, BLOCKS, **options)
    return [full, jpeg_page(half, 0), jpeg_page(half[:64, :128], 0, MACRO)]


def decoded(page: Page) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.jpeg)).convert("RGB"))


def in_bands(path: Path, region: str | None = None) -> np.ndarray:
    part = parse_region(region) if region else None
    return np.concatenate([band.pixels for band in stream(path, region=part).bands()])


@pytest.fixture
def openslide() -> object:
    return pytest.importorskip("openslide", reason="needs pip install 'reunet[slides]'")


@pytest.fixture
def without_openslide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slides, "ROWS", 24)
    monkeypatch.setattr(slides, "COLUMNS", 96)
    monkeypatch.setattr(slides, "UNKNOWN_TILE", 40)


# -- Hamamatsu


@pytest.mark.usefixtures("openslide")
def test_an_ndpi_is_what_other_readers_decode(tmp_path: Path) -> None:
    import openslide

    written = pages()
    path = write_ndpi(tmp_path / "a.ndpi", written)
    assert openslide.OpenSlide.detect_format(path) == "hamamatsu"
    picture = read_image(path)
    assert np.array_equal(picture.pixels, decoded(written[0]))
    assert np.array_equal(picture.pixels, tifffile.imread(path, series=0))
    assert picture.notes == ()
    assert planes_of(path) == {}
    size = read_pixel_size(path)
    assert size is not None
    assert (size.x, size.y, size.source) == (0.5, 0.5, "Hamamatsu")


@pytest.mark.usefixtures("openslide")
def test_thinned_colours_differ_where_the_jpeg_begins_anew_alone(tmp_path: Path) -> None:
    """OpenSlide smooths colours within a tile, other readers across its edge."""
    written = pages(subsampling=1)
    path = write_ndpi(tmp_path / "a.ndpi", written)
    unlike = (read_image(path).pixels != decoded(written[0])).any(axis=(0, 2))
    columns = np.flatnonzero(unlike)
    assert {*columns % (16 * BLOCKS)} <= {0, 16 * BLOCKS - 1}


@pytest.mark.usefixtures("openslide", "small_blocks")
@pytest.mark.parametrize("region", ["3,5,7,9", "100,70,60,55", "319,207,1,1", "-50,-50,5000,5000"])
def test_bands_and_regions_are_parts_of_the_whole(region: str, tmp_path: Path) -> None:
    for path in (
        write_ndpi(tmp_path / "a.ndpi", pages()),
        write_bif(tmp_path / "a.bif", [Area(MOSAIC, 0, 0, 0, 0)], OVERLAP),
    ):
        whole = read_image(path).pixels
        assert len([*stream(path).bands()]) > 2
        assert np.array_equal(in_bands(path), whole)
        x, y, width, height = map(int, region.split(","))
        if x < whole.shape[1] and y < whole.shape[0]:
            rows = slice(max(0, y - MARGIN), y + height + MARGIN)
            columns = slice(max(0, x - MARGIN), x + width + MARGIN)
            assert np.array_equal(in_bands(path, region), whole[rows, columns])


@pytest.mark.usefixtures("small_blocks")
def test_of_a_region_nothing_else_is_decoded(
    openslide: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_ndpi(tmp_path / "a.ndpi", pages())
    read: list[tuple[int, int]] = []
    original = openslide.OpenSlide.read_region  # type: ignore[attr-defined]

    def note(slide: object, at: tuple[int, int], level: int, size: tuple[int, int]) -> object:
        if level == 0:
            read.append(size)
        return original(slide, at, level, size)

    monkeypatch.setattr(openslide.OpenSlide, "read_region", note)  # type: ignore[attr-defined]
    part = in_bands(path, "100,70,60,55")
    assert sum(width * height for width, height in read) == part.shape[0] * part.shape[1]
    assert max(width for width, _ in read) <= 96
    assert max(height for _, height in read) <= 24


@pytest.mark.usefixtures("openslide")
def test_channels_and_planes_are_those_of_a_picture(tmp_path: Path) -> None:
    path = write_ndpi(tmp_path / "a.ndpi", pages())
    whole = read_image(path).pixels
    for wanted in (2, "blue"):
        assert np.array_equal(
            read_image(path, Selection((wanted,), 0)).pixels[..., 0], whole[..., 2]
        )
    with pytest.raises(ImageError, match="has a single plane, there is no plane 1"):
        read_image(path, Selection(plane=1))
    with pytest.raises(ImageError, match="has no channel 3"):
        read_image(path, Selection((3,)))


@pytest.mark.usefixtures("openslide")
def test_of_focal_planes_the_one_in_focus_counts(tmp_path: Path) -> None:
    blurred = np.ascontiguousarray(PICTURE[::-1])
    full, *less = pages()
    deep = [jpeg_page(blurred, BLOCKS, focus=focus) for focus in (-2000, 2000)]
    path = write_ndpi(tmp_path / "a.ndpi", [full, *deep, *less])
    picture = read_image(path)
    assert np.array_equal(picture.pixels, decoded(full))
    assert picture.notes == ("of 3 focal planes the one in focus is used",)


@pytest.mark.usefixtures("openslide")
def test_the_contents_decide_not_the_ending(tmp_path: Path) -> None:
    written = pages()
    path = write_ndpi(tmp_path / "a.tif", written)
    assert np.array_equal(read_image(path).pixels, decoded(written[0]))


# -- Ventana


@pytest.mark.usefixtures("openslide")
def test_overlapping_tiles_become_the_picture_they_were_cut_from(tmp_path: Path) -> None:
    path = write_bif(tmp_path / "a.bif", [Area(MOSAIC, 0, 0, 0, 0)], OVERLAP)
    picture = read_image(path)
    assert np.array_equal(picture.pixels, MOSAIC)
    assert picture.notes == ()
    size = read_pixel_size(path)
    assert size is not None
    assert (size.x, size.y, size.source) == (0.25, 0.25, "Ventana")


@pytest.mark.usefixtures("openslide", "small_blocks")
def test_what_was_not_scanned_is_white(tmp_path: Path) -> None:
    """Two areas, the second 100 px above and 300 px right of the first; rows count upwards."""
    second = MOSAIC[: OVERLAP + 2 * STEP, : OVERLAP + STEP]
    areas = [Area(MOSAIC, 0, 0, 0, 0), Area(second, 300, 100, 5, 4)]
    path = write_bif(tmp_path / "a.bif", areas, OVERLAP)
    wanted = np.full((100 + len(second), 300 + second.shape[1], 3), 255, np.uint8)
    wanted[-len(MOSAIC) :, : MOSAIC.shape[1]] = MOSAIC
    wanted[: len(second), 300:] = second
    picture = read_image(path)
    assert np.array_equal(picture.pixels, wanted)
    assert picture.notes == ("what was not scanned is white",)
    assert np.array_equal(in_bands(path), wanted)


@pytest.mark.usefixtures("openslide", "small_blocks")
def test_tiles_between_pixels_are_the_same_in_bands(tmp_path: Path) -> None:
    """OpenSlide lays tiles at their mean distance, which is no whole number as a rule."""
    path = write_bif(tmp_path / "a.bif", [Area(MOSAIC, 0, 0, 0, 0)], OVERLAP)
    told = path.read_bytes()
    path.write_bytes(told.replace(b'OverlapX="14"', b'OverlapX="19"', 1))
    whole = read_image(path).pixels
    assert whole.shape[1] != MOSAIC.shape[1]
    assert np.array_equal(in_bands(path), whole)


def test_a_ground_shows_through_by_the_alpha() -> None:
    block = Image.fromarray(
        np.array([[[10, 20, 30, 255], [10, 20, 30, 51], [9, 9, 9, 0]]], np.uint8)
    )
    found = np.asarray(slides._on("64c8FA", block), int)
    ground, share = np.array([0x64, 0xC8, 0xFA]), 51 / 255
    wanted = [[10, 20, 30], share * np.array([10, 20, 30]) + (1 - share) * ground, ground]
    assert np.abs(found[0] - wanted).max() <= 1
    assert slides._background({"openslide.background-color": "64c8FA"}) == "64c8FA"
    assert slides._background({"openslide.background-color": "sky"}) == "FFFFFF"


# -- what is not there


@pytest.mark.usefixtures("without_openslide")
def test_without_the_extra_an_ndpi_says_what_to_install(tmp_path: Path) -> None:
    path = write_ndpi(tmp_path / "a.ndpi", pages())
    wanted = "a slide of Hamamatsu needs OpenSlide; pip install 'reunet[slides]', or export"
    for read in (read_image, slide_shape, open_source):
        with pytest.raises(ImageError) as error:
            read(path)  # type: ignore[operator]
        assert str(error.value).startswith(f"{path}: {wanted}")
    assert read_pixel_size(path) is None


@pytest.mark.usefixtures("without_openslide")
def test_without_the_extra_tiles_lie_as_they_are_stored(tmp_path: Path) -> None:
    path = write_bif(tmp_path / "a.bif", [Area(MOSAIC, 0, 0, 0, 0)], OVERLAP)
    picture = read_image(path)
    assert picture.pixels.shape == (3 * TILE, 4 * TILE, 3)
    note = "its tiles overlap and are not stitched: pip install 'reunet[slides]' does it"
    assert note in picture.notes
    assert note in next(iter(stream(path).bands())).notes


@pytest.mark.usefixtures("openslide")
def test_a_label_tells_whether_tiles_were_stitched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--resume` makes it again where the extra came in between."""
    bif = write_bif(tmp_path / "a.bif", [Area(MOSAIC, 0, 0, 0, 0)], OVERLAP)
    ndpi = write_ndpi(tmp_path / "a.ndpi", pages())
    stitched, hamamatsu = image_hash(bif), image_hash(ndpi)
    monkeypatch.setitem(sys.modules, "openslide", None)
    assert image_hash(bif) != stitched
    assert image_hash(ndpi) == hamamatsu == hashlib.sha256(ndpi.read_bytes()).hexdigest()[:16]


def test_plain_tiffs_do_not_load_openslide(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PICTURE, photometric="rgb")
    code = (
        "import sys; from pathlib import Path; from reunet.io.source import open_source;"
        "open_source(Path(sys.argv[1])); print('openslide' in sys.modules)"
    )
    output = subprocess.check_output([sys.executable, "-c", code, path], text=True)
    assert output.strip() == "False"


# -- damage


def files(folder: Path) -> Sequence[Path]:
    return (
        write_ndpi(folder / "a.ndpi", pages()),
        write_bif(folder / "a.bif", [Area(MOSAIC, 0, 0, 0, 0)], OVERLAP, compression="jpeg"),
    )


@pytest.mark.usefixtures("openslide")
def test_a_truncated_slide_is_an_error_or_whole(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for path in files(tmp_path):
        content, whole = path.read_bytes(), read_image(path).pixels
        cut = tmp_path / f"cut{path.suffix}"
        errors = []
        for part in range(32):
            cut.write_bytes(content[: len(content) * part // 32])
            try:
                assert np.array_equal(read_image(cut).pixels, whole)
            except ImageError as error:
                errors.append(str(error))
        assert len(errors) > 16
        assert all(error.startswith(f"{cut}: ") and "; " in error for error in errors)
        assert not any("\n" in error for error in errors)
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("openslide")
def test_a_hole_in_the_pixels_is_an_error(tmp_path: Path) -> None:
    path = write_ndpi(tmp_path / "a.ndpi", pages())
    content = bytearray(path.read_bytes())
    middle = len(pages()[0].jpeg) // 2
    content[middle : middle + 2000] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(ImageError, match="a part is damaged or missing"):
        read_image(path)
    with pytest.raises(ImageError, match="a part is damaged or missing"):
        in_bands(path)


@pytest.mark.usefixtures("openslide")
def test_sizes_are_judged_before_openslide_sees_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_ndpi(tmp_path / "a.ndpi", [jpeg_page(PICTURE, BLOCKS)._replace(width=2**31)])
    with pytest.raises(ImageError, match="above the limit"):
        read_image(path)
    path = write_ndpi(tmp_path / "b.ndpi", [jpeg_page(PICTURE, 0)])
    assert read_image(path).pixels.shape == PICTURE.shape
    monkeypatch.setattr(slides, "MAX_TILE", PICTURE[..., 0].size - 1)
    with pytest.raises(ImageError, match="stored in pieces of 208 × 320 px; export it as TIFF"):
        read_image(path)


# -- the whole way


def predict(images: Path, labels: Path, *options: str) -> dict[str, np.ndarray]:
    """Labels by the names of images."""
    command = [sys.executable, "-m", "reunet", "predict", images, labels, "--quality", "fast"]
    run = subprocess.run([*command, "--device", "cpu", *options], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return {path.name.split("_")[0]: tifffile.imread(path) for path in labels.glob("*.tiff")}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Slides, and a plain picture of the same pixels for each."""
    folder, nuclei = tmp_path / "images", np.asarray(Image.open(NUCLEI))
    folder.mkdir()
    written = pages(nuclei)
    write_ndpi(folder / "slide.ndpi", written)
    Image.fromarray(decoded(written[0])).save(folder / "plain.png")
    whole = nuclei[: OVERLAP + 4 * STEP, : OVERLAP + 5 * STEP]
    write_bif(folder / "tiles.bif", [Area(whole, 0, 0, 0, 0)], OVERLAP)
    Image.fromarray(whole).save(folder / "mosaic.png")
    return folder


@pytest.mark.usefixtures("openslide")
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--region", "60,50,120,100"),
        pytest.param(("--workers", "2"), marks=pytest.mark.slow),  # processes take time to start
    ],
)
def test_predict_gives_the_labels_of_a_png(
    options: tuple[str, ...], images: Path, tmp_path: Path
) -> None:
    if "--workers" in options:
        pytest.importorskip("distributed")
    labels = tmp_path / "labels"
    found = predict(images, labels, *options)
    assert found["plain"].max() > 3
    assert np.array_equal(found["slide"], found["plain"])
    assert np.array_equal(found["tiles"], found["mosaic"])
    if not options:
        before = {path: path.stat().st_mtime_ns for path in labels.iterdir()}
        predict(images, labels, "--resume")
        assert {path: path.stat().st_mtime_ns for path in labels.iterdir()} == before


@pytest.mark.usefixtures("openslide")
def test_from_a_size_on_it_is_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_ndpi(tmp_path / "a.ndpi", pages())
    assert slide_shape(path) is None
    assert open_source(path).picture is not None
    monkeypatch.setattr(source, "SLIDE_PIXELS", 1000)
    assert slide_shape(path) == PICTURE.shape[:2]
    streamed = open_source(path)
    assert streamed.picture is None
    assert not streamed.has_alpha


@pytest.mark.usefixtures("openslide")
def test_to_open_an_ndpi_decodes_no_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has a single size would be read whole each time it is opened."""
    import openslide

    path = write_ndpi(tmp_path / "a.ndpi", [jpeg_page(PICTURE, BLOCKS)])
    monkeypatch.setattr(openslide.OpenSlide, "read_region", None)
    with slides.open_plane(path, True, lambda *_: None) as planes:
        assert planes.notes == []
