"""`--channels` and `--plane` as the reader takes them, against arrays made here."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from reunet.errors import ImageError
from reunet.io.images import planes_of, read_image
from reunet.io.selection import Selection, parse_channels, parse_plane

RNG = np.random.default_rng(18)
STACK = RNG.integers(0, 60000, (2, 5, 4, 40, 50), np.uint16)  # T, Z, C, Y, X
NAMES = ["DAPI", "GFP", "gfp", "Cy5"]


@pytest.fixture(scope="module")
def ome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ome") / "stack.ome.tif"
    tifffile.imwrite(path, STACK, metadata={"axes": "TZCYX", "Channel": {"Name": NAMES}})
    return path


def pixels(path: Path, **wanted: object) -> np.ndarray:
    return read_image(path, Selection(**wanted)).pixels  # type: ignore[arg-type]


def test_a_channel_by_number_or_name(ome: Path) -> None:
    for channel, number in ((2, 2), ("Cy5", 3), ("cy5", 3), ("GFP", 1), ("gfp", 2)):
        found = pixels(ome, channels=(channel,))
        assert np.array_equal(found, np.repeat(STACK[0, 0, number][..., None], 3, axis=2))
    pair = pixels(ome, channels=(3, "DAPI"))
    assert np.array_equal(pair[..., 0], STACK[0, 0, 3])
    assert np.array_equal(pair[..., 1], STACK[0, 0, 0])
    assert not pair[..., 2].any()


def test_planes_count_in_the_files_order(ome: Path) -> None:
    assert planes_of(ome) == {"T": 2, "Z": 5}
    flat = STACK.reshape(10, 4, 40, 50)
    for plane, number in ((0, 0), (7, 7), ("middle", 7)):
        assert np.array_equal(pixels(ome, plane=plane)[..., 0], flat[number, 0])
    brightest = pixels(ome, plane="max", channels=(1,))
    assert np.array_equal(brightest[..., 0], flat[:, 1].max(axis=0))


def test_what_is_asked_for_needs_no_note_and_what_is_assumed_does(ome: Path) -> None:
    told = read_image(ome).notes
    assert "axis Z holds 5 planes, the first is used" in told
    assert "4 channels, the first 3 are used" in told
    assert not read_image(ome, Selection((1,), 3)).notes
    assert read_image(ome, Selection((1,), "middle")).notes == (
        "plane 7 of 0 to 9 is used, the middle one",
    )


@pytest.mark.parametrize("kind", ["contig", "separate", "planes", "imagej", "shaped"])
def test_every_layout_of_a_tiff_gives_the_same_channels(kind: str, tmp_path: Path) -> None:
    path, image = tmp_path / "a.tif", STACK[0, 0, :3]
    if kind == "contig":
        tifffile.imwrite(path, image.transpose(1, 2, 0), photometric="rgb")
    elif kind == "separate":
        tifffile.imwrite(path, image, photometric="rgb", planarconfig="separate")
    elif kind == "planes":
        tifffile.imwrite(path, image, metadata={"axes": "CYX"}, ome=True)
    elif kind == "imagej":
        tifffile.imwrite(path, image, imagej=True, metadata={"axes": "CYX"})
    else:
        tifffile.imwrite(path, image, metadata={"axes": "CYX"}, tile=(16, 16), compression="zlib")
    found = pixels(path, channels=(2, 0))
    assert np.array_equal(found[..., 0], image[2])
    assert np.array_equal(found[..., 1], image[0])


def test_a_stack_without_a_description(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK[0, :, 0], metadata=None)
    assert np.array_equal(pixels(path, plane=3)[..., 0], STACK[0, 3, 0])
    assert np.array_equal(pixels(path, plane="max")[..., 0], STACK[0, :, 0].max(axis=0))


def test_colours_of_plain_files(tmp_path: Path) -> None:
    path, image = tmp_path / "a.png", RNG.integers(0, 255, (20, 30, 3), np.uint8)
    Image.fromarray(image).save(path)
    for channel, number in ((1, 1), ("blue", 2)):
        assert np.array_equal(pixels(path, channels=(channel,))[..., 1], image[..., number])
    for plane in (0, "middle", "max"):
        assert np.array_equal(pixels(path, plane=plane), image)


def test_what_is_not_there_is_told(ome: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(path)
    for file, wanted, words in (
        (ome, {"channels": (4,)}, "no channel 4 (it has 0 DAPI, 1 GFP, 2 gfp, 3 Cy5)"),
        (ome, {"channels": ("Gfp",)}, "has 2 channels called 'Gfp'"),
        (ome, {"channels": ("RFP",)}, "no channel RFP"),
        (ome, {"plane": 10}, "has planes 0 to 9, there is no plane 10"),
        (path, {"plane": 1}, "has a single plane"),
        (path, {"channels": (1,)}, "has no channel 1 (it has 0)"),
    ):
        with pytest.raises(ImageError) as error:
            pixels(file, **wanted)
        assert words in str(error.value)
        assert str(error.value).startswith(f"{file}: ")


def test_words_of_the_command_line() -> None:
    assert parse_channels("0,DAPI") == (0, "DAPI")
    assert parse_plane("12") == 12
    assert parse_plane("max") == "max"
    for text in ("", "1,,2", "1,2,3,4"):
        with pytest.raises(ValueError, match="channels"):
            parse_channels(text)
    for text in ("-1", "last", ""):
        with pytest.raises(ValueError, match="plane"):
            parse_plane(text)


@pytest.mark.parametrize("ending", [".svs", ".ndpi", ".scn", ".bif", ".SVS"])
def test_slides_of_scanners_are_tiffs(ending: str, tmp_path: Path) -> None:
    image = RNG.integers(0, 255, (96, 128, 3), np.uint8)
    plain, slide = tmp_path / "a.tif", tmp_path / f"b{ending}"
    for path in (plain, slide):
        with tifffile.TiffWriter(path, bigtiff=True) as file:
            told = "Aperio Image Library v11.2.1\r\n128x96 |AppMag = 40|MPP = 0.25"
            file.write(image, tile=(32, 32), compression="jpeg", description=told, metadata=None)
            file.write(image[::2, ::2], subfiletype=1, metadata=None)
    assert np.array_equal(pixels(slide), pixels(plain))
