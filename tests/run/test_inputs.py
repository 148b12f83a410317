"""What `reunet predict` takes for input: several files, patterns, sub-folders, planes, channels."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from PIL import Image

from conftest import SAMPLE_IMAGES
from reunet.cli import main
from reunet.io.images import read_image

SAMPLE = sorted(SAMPLE_IMAGES.glob("*.png"))[0]


def predict(*arguments: object) -> Result:
    names = [str(argument) for argument in arguments]
    return CliRunner().invoke(main, ["predict", *names, "--no-tta", "--device", "cpu"])


def cells(label: Path) -> np.ndarray:
    return tifffile.imread(label)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The labels of the sample."""
    out = tmp_path_factory.mktemp("alone")
    assert predict(SAMPLE, out).exit_code == 0
    return cells(out / f"{SAMPLE.stem}_label.tiff")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample in the second of three channels, in planes 1 and 2 of three."""
    grey = read_image(SAMPLE).pixels
    planes = np.zeros((3, 3, *grey.shape[:2]), grey.dtype)
    planes[1:, 1] = grey[..., 0]
    path = tmp_path_factory.mktemp("stack") / "stack.ome.tif"
    names = {"Name": ["DIC", "DAPI", "GFP"]}
    tifffile.imwrite(path, planes, metadata={"axes": "ZCYX", "Channel": names})
    return path


def test_sub_folders_are_mirrored(alone: np.ndarray, tmp_path: Path) -> None:
    for name in ("a", "b/c"):
        (tmp_path / "in" / name).mkdir(parents=True)
        shutil.copy(SAMPLE, tmp_path / "in" / name / "x.png")
    (tmp_path / "in/b/notes.txt").write_text("")
    result = predict(tmp_path / "in", tmp_path / "out", "--recursive")
    assert result.exit_code == 0, result.output
    for name in ("a", "b/c"):
        assert np.array_equal(cells(tmp_path / "out" / name / "x_label.tiff"), alone)
    assert "passed over 1 other file (.txt)" in result.output
    flat = predict(tmp_path / "in", tmp_path / "flat")
    assert flat.exit_code == 2
    assert "holds no images" in flat.output


def test_several_inputs_and_patterns(alone: np.ndarray, tmp_path: Path) -> None:
    for name in ("a1.png", "a2.png", "b.png"):
        shutil.copy(SAMPLE, tmp_path / name)
    result = predict(tmp_path / "a*.png", tmp_path / "b.png", tmp_path / "out")
    assert result.exit_code == 0, result.output
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["a1_label.tiff", "a2_label.tiff", "b_label.tiff"]
    assert all(np.array_equal(cells(path), alone) for path in (tmp_path / "out").iterdir())
    nothing = predict(tmp_path / "c*.png", tmp_path / "out")
    assert nothing.exit_code == 2
    assert "no such file" in nothing.output


def test_two_inputs_of_one_name_are_one_label(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(SAMPLE, tmp_path / folder / "x.png")
    result = predict(tmp_path / "a", tmp_path / "b", tmp_path / "out")
    assert result.exit_code == 1
    assert result.output.count("would overwrite that of x.png") == 1


def test_a_channel_and_a_plane(stack: Path, alone: np.ndarray, tmp_path: Path) -> None:
    for number, (channel, plane) in enumerate((("1", 1), ("DAPI", "middle"), ("1", "max"))):
        out = tmp_path / str(number)
        result = predict(stack, out, "--channels", channel, "--plane", plane)
        assert result.exit_code == 0, result.output
        assert np.array_equal(cells(out / "stack_label.tiff"), alone)


def test_all_planes_are_a_stack_of_labels(stack: Path, alone: np.ndarray, tmp_path: Path) -> None:
    arguments = (stack, tmp_path, "--channels", "DAPI", "--plane", "all")
    assert predict(*arguments).exit_code == 0
    with tifffile.TiffFile(tmp_path / "stack_label.tiff") as file:
        assert file.series[0].axes == "ZYX"
        found = file.asarray()
    assert np.array_equal(found, np.stack([np.zeros_like(alone), alone, alone]))
    again = predict(*arguments, "--resume").output
    assert f"1 of 1 images (1 kept), {2 * alone.max()} cells" in again
    other = predict(*arguments[:3], "2", *arguments[4:], "--resume")
    assert "kept" not in other.output


def test_what_is_not_there_is_an_error_of_that_image(stack: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(stack, folder)
    shutil.copy(SAMPLE, folder / "x.png")
    result = predict(folder, tmp_path / "out", "--plane", "2")
    assert result.exit_code == 1
    assert "x.png: has a single plane, there is no plane 2" in result.output
    assert (tmp_path / "out/stack_label.tiff").exists()
    for wrong in (("--plane", "top"), ("--channels", "1,,2")):
        assert predict(folder, tmp_path / "out", *wrong).exit_code == 2


def test_an_ome_zarr_goes_in_and_out(alone: np.ndarray, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    pixels = read_image(SAMPLE).pixels
    image = tmp_path / "a.zarr"
    group = zarr.open_group(image, mode="w", zarr_format=3)
    group.create_array("0", data=pixels.transpose(2, 0, 1), chunks=(1, 64, 64))
    axes = [{"name": "c", "type": "channel"}, *({"name": a, "type": "space"} for a in "yx")]
    datasets = [{"path": "0", "coordinateTransformations": []}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    for number in range(2):  # the second time in its own place
        result = predict(image, tmp_path / "out", "--export", "zarr")
        assert result.exit_code == 0, (number, result.output)
    assert np.array_equal(cells(tmp_path / "out/a_label.tiff"), alone)
    written = zarr.open_group(tmp_path / "out/a_label.zarr", mode="r")
    assert np.array_equal(np.asarray(written["0"]), alone)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a_label.tiff", "a_label.zarr",
    ]  # fmt: skip
    assert "1 kept" in predict(image, tmp_path / "out", "--resume").output


def test_a_slide_is_streamed_by_channel(tmp_path: Path) -> None:
    """The bands of a source are what `read_image` reads, whatever is selected."""
    from reunet.io.selection import Selection
    from reunet.io.source import stream

    stored = np.random.default_rng(0).integers(0, 60000, (2, 5, 700, 90), np.uint16)
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, stored, metadata={"axes": "ZCYX"}, tile=(64, 64), compression="zlib")
    for selection in (Selection((4,), 1), Selection((3, 0), "max"), Selection()):
        bands = [picture.pixels for picture in stream(path, selection).bands()]
        assert len(bands) > 1
        assert np.array_equal(np.concatenate(bands), read_image(path, selection).pixels)


def test_outputs_look_at_the_same_channel(stack: Path, tmp_path: Path) -> None:
    result = predict(stack, tmp_path, "--channels", "1", "--plane", "1", "--overlays")
    assert result.exit_code == 0, result.output
    picture = next(path for path in tmp_path.iterdir() if path.suffix == ".png")
    assert np.asarray(Image.open(picture)).max() > 100
