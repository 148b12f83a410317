"""OME-Zarr, against files that the reference library ome-zarr writes, and read back by it."""

from pathlib import Path

import numpy as np
import pytest

from reunet.errors import ImageError
from reunet.io.images import list_images, planes_of, read_image, read_pixel_size
from reunet.io.omezarr import write_labels
from reunet.io.pixel_size import PixelSize
from reunet.io.selection import Selection

zarr = pytest.importorskip("zarr")
pytest.importorskip("ome_zarr")
RNG = np.random.default_rng(18)
STACK = RNG.integers(0, 60000, (2, 3, 4, 300, 200), np.uint16)  # T, C, Z, Y, X


def write(path: Path, array: np.ndarray, axes: str, version: str) -> Path:
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.writer import write_image

    form = FormatV04() if version == "0.4" else FormatV05()
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    write_image(
        array, group, axes=axes, fmt=form, scale_factors=[{"y": 2, "x": 2}],
        scale={a: 500.0 if a in "yx" else 1.0 for a in axes},
    )  # fmt: skip
    about = group.attrs.asdict() if version == "0.4" else dict(group.attrs["ome"])
    for axis in about["multiscales"][0]["axes"]:
        if axis["name"] in "yx":
            axis["unit"] = "nanometer"
    about["omero"] = {"channels": [{"label": name} for name in ("DAPI", "GFP", "RFP")]}
    group.attrs.update(about if version == "0.4" else {"ome": about})
    return path


@pytest.fixture(scope="module", params=["0.4", "0.5"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("zarr") / "a.zarr", STACK, "tczyx", request.param)


def test_full_size_channels_and_planes(stack: Path) -> None:
    assert planes_of(stack) == {"T": 2, "Z": 4}
    picture = read_image(stack)
    assert np.array_equal(picture.pixels, STACK[0, :, 0].transpose(1, 2, 0))
    assert "axis Z holds 4 planes, the first is used" in picture.notes
    for plane in (6, "max"):
        planes = STACK.transpose(0, 2, 1, 3, 4).reshape(8, 3, 300, 200)
        wanted = planes.max(axis=0) if plane == "max" else planes[6]
        found = read_image(stack, Selection((1,), plane)).pixels
        assert np.array_equal(found[..., 0], wanted[1])


def test_names_and_sizes_are_read(stack: Path) -> None:
    by_name = read_image(stack, Selection(("RFP",), 0)).pixels
    assert np.array_equal(by_name[..., 0], STACK[0, 2, 0])
    size = read_pixel_size(stack)
    assert size is not None
    assert (size.x, size.y) == pytest.approx((0.5, 0.5))


def test_a_folder_of_them_is_listed(stack: Path) -> None:
    assert list_images(stack.parent) == [stack]
    assert list_images(stack) == []


def test_a_damaged_one_is_one_clear_line(tmp_path: Path) -> None:
    image = write(tmp_path / "a.zarr", STACK[0, :, 0], "cyx", "0.5")
    chunk = next(p for p in sorted((image / "s0" / "c").rglob("*")) if p.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-20])
    with pytest.raises(ImageError, match="missing or damaged") as error:
        read_image(image)
    assert "\n" not in str(error.value)
    (image / "zarr.json").write_text("{")
    with pytest.raises(ImageError, match="tells of no image"):
        read_image(image)
    (image / "zarr.json").unlink()
    with pytest.raises(ImageError, match="is no OME-Zarr image"):
        read_image(image)


def test_a_path_that_leads_out_is_refused(tmp_path: Path) -> None:
    image = write(tmp_path / "a.zarr", STACK[0, :, 0], "cyx", "0.5")
    about = image / "zarr.json"
    about.write_text(about.read_text().replace('"path": "s0"', '"path": "../b.zarr/s0"'))
    with pytest.raises(ImageError, match="lie elsewhere"):
        read_image(image)


def test_labels_are_read_back_by_the_reference(tmp_path: Path) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    labels = RNG.integers(0, 70000, (2500, 1200), np.int32)
    path = tmp_path / "a_label.zarr"
    write_labels(path, labels, "weights 1", PixelSize(0.5, 0.25, "given"))
    location = parse_url(path)
    assert location is not None
    node = next(iter(Reader(location)()))
    levels = [np.asarray(level) for level in node.data]
    assert np.array_equal(levels[0], labels)
    assert np.array_equal(levels[1], labels[::2, ::2])
    assert len(levels) == 3
    size = read_pixel_size(path)
    assert size is not None
    assert (size.x, size.y) == (0.5, 0.25)
