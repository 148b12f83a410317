"""Images of small cells are looked at once more, enlarged, and only those."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import classify
from scipy import ndimage

from reunet import pipeline
from reunet.inference import budget, second_pass
from reunet.inference.ensemble import Average, Network
from reunet.inference.scale import typical_diameter
from reunet.inference.second_pass import (
    SMALL,
    are_small,
    classify_enlarged,
    enlarged,
)
from reunet.inference.tiles import Tiling
from reunet.instances.encode import INTERIOR
from reunet.io.images import Picture, as_picture
from reunet.io.source import hold
from reunet.model import Model, load_model
from reunet.network.architecture import Architecture
from reunet.network.bundle import save_bundle
from reunet.network.unet import build
from reunet.options import Options
from reunet.pipeline import see
from reunet.survey import survey

TILING = Tiling(tile=512, smallest=32, divisor=32, views=1)


def disks(diameter: int, gap: int, size: int = 240) -> np.ndarray:
    """Instances: disks in a grid, (size, size) int32."""
    labels = np.zeros((size, size), np.int32)
    step = diameter + gap
    y, x = np.mgrid[:step, :step] - (step - 1) / 2
    disk, count = (y**2 + x**2 <= diameter**2 / 4).astype(np.int32), size // step
    numbers = np.arange(1, count**2 + 1, dtype=np.int32).reshape(count, count)
    labels[: count * step, : count * step] = np.kron(numbers, disk)
    return labels


def pictured(labels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: bright red interiors, green rims, black background."""
    inside = labels > 0
    rim = np.zeros_like(inside)
    for axis in (0, 1):
        for shift in (-1, 1):
            rim |= inside & (np.roll(labels, shift, axis) != labels)
    return np.stack([200 * (inside & ~rim), 200 * rim, 40 * ~inside], axis=-1).astype(np.uint8)


def by_colour(tiles: np.ndarray) -> np.ndarray:
    """A network that sees interiors in red, boundaries in green."""
    return np.stack([tiles[:, 2], tiles[:, 0], tiles[:, 1]], axis=1)


def spying() -> tuple[list[tuple[int, ...]], Network]:
    """`by_colour`, and the (h, w) of the tiles that it is given."""
    seen: list[tuple[int, ...]] = []

    def network(tiles: np.ndarray) -> np.ndarray:
        seen.append(tiles.shape[2:])
        return by_colour(tiles)

    return seen, network


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Of a bundle without a size of cells, whose networks know the classes alone."""
    about = {"encoding": "paper", "decoder": "regrow", "tile": 512, "smallest": 320}
    arch = Architecture(features=(4, 8, 8, 8, 8, 8), dropout=0.0)
    save_bundle(tmp_path / "bundle", arch, {"0": build(arch).state_dict()}, about)
    return replace(load_model(tmp_path / "bundle", "cpu"), networks=(by_colour,), folds=("0",))


@pytest.mark.parametrize("diameter", [5, 12, 17, 20, 23, 24, 26, 27, 60])
def test_small_is_what_scikit_image_says(diameter: int) -> None:
    regionprops = pytest.importorskip("skimage.measure").regionprops
    labels = disks(diameter, 3)
    expected = np.median([cell.equivalent_diameter_area for cell in regionprops(labels)])
    assert typical_diameter(labels) == pytest.approx(expected)
    assert are_small(labels) == (expected < SMALL)


def test_no_cells_are_not_small() -> None:
    assert not are_small(np.zeros((9, 9), np.int32))


def test_many_specks_do_not_make_cells_small() -> None:
    labels = disks(60, 20)
    cells = labels.max()
    empty = np.flatnonzero(labels == 0)[::7]
    labels.flat[empty] = cells + 1 + np.arange(empty.size)
    assert empty.size > 100 * cells
    assert typical_diameter(labels) == pytest.approx(typical_diameter(disks(60, 20)))
    assert not are_small(labels)


@pytest.mark.parametrize("shape", [(240, 240), (101, 67), (1, 50), (700, 40)])
def test_the_class_map_has_the_images_shape(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    classes = classify_enlarged(image, Average([by_colour]), TILING)
    assert classes.shape == shape
    assert classes.dtype == np.uint8


def test_what_is_seen_enlarged_lies_where_it_was() -> None:
    labels = disks(16, 2)
    image = pictured(labels)
    once, twice = (f(image, Average([by_colour]), TILING) for f in (classify, classify_enlarged))
    assert (once == twice).mean() > 0.9
    cells = range(1, labels.max() + 1)
    centres = [ndimage.center_of_mass(seen == INTERIOR, labels, cells) for seen in (once, twice)]
    shift = np.subtract(*centres).mean(axis=0)
    np.testing.assert_allclose(shift, 0, atol=0.05)  # px


def look(picture: Picture, model: Model, enlarge: bool = True) -> None:
    options = Options(tta=False, enlarge=enlarge)
    see(survey(hold(picture), model, options), model, options)


@pytest.mark.parametrize(("diameter", "looks"), [(14, 2), (30, 1)])
def test_only_small_cells_get_a_second_look(model: Model, diameter: int, looks: int) -> None:
    seen, spy = spying()
    picture = as_picture(pictured(disks(diameter, 2, 330)))
    look(picture, replace(model, networks=(spy,)))
    assert seen == [(352, 352), (480, 480)][:looks]
    look(picture, replace(model, networks=(spy,)), enlarge=False)
    assert seen[looks:] == [(352, 352)]


def test_cells_cut_apart_by_a_field_get_one_look(tmp_path: Path) -> None:
    """A second pass makes a class map alone."""
    about = {"encoding": "paper", "decoder": "field", "tile": 512, "smallest": 320}
    arch = Architecture(features=(4, 8, 8, 8, 8, 8), dropout=0.0, field=True)
    save_bundle(tmp_path / "fields", arch, {"0": build(arch).state_dict()}, about)
    loaded = load_model(tmp_path / "fields", "cpu")
    seen: list[tuple[int, ...]] = []

    def network(tiles: np.ndarray) -> np.ndarray:
        seen.append(tiles.shape[2:])
        return np.concatenate([by_colour(tiles), tiles[:, :1]], axis=1)

    picture = as_picture(pictured(disks(14, 2, 330)))
    look(picture, replace(loaded, networks=(network,)))
    assert seen == [(352, 352)]
    options = Options(tta=False, decoder="regrow")
    see(survey(hold(picture), loaded, options), replace(loaded, networks=(network,)), options)
    assert seen == [(352, 352)] * 2


def test_an_array_of_dask_gets_a_second_look_too(model: Model) -> None:
    da = pytest.importorskip("dask.array")
    from reunet.dask import segment_dask

    seen, spy = spying()
    lazy = da.from_array(pictured(disks(14, 2, 330)), chunks=(100, 120, 3))
    segment_dask(lazy, replace(model, networks=(spy,)), tta=False)
    assert seen == [(352, 352), (480, 480)]


def test_huge_images_get_one_look(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "LARGEST", 240 * 240 - 1)
    monkeypatch.setattr(pipeline, "classify_enlarged", None)  # would fail
    look(as_picture(pictured(disks(14, 2))), model)


def test_a_budget_allows_it_where_there_is_time_for_both(model: Model) -> None:
    shape, tile = (512, 512), (512, 512)
    assert enlarged(shape) == (724, 724)  # one tile of 736 px, about 2.07 of 512 px
    passes = 1 + (736 / 512) ** 2
    for share, look in ((0.99, False), (1.01, True)):
        seconds = share * passes / (1 - budget.RESERVE)
        _, asked, note = budget.fit(model, Options(), shape, seconds, {tile: 1.0})
        assert not asked.tta
        assert asked.enlarge == look
        assert ("no second pass" in note) != look


@pytest.mark.parametrize(("edge", "tiles"), [(300, 1), (512, 1), (560, 4), (640, 9), (1024, 16)])
def test_a_budget_knows_the_tiles_of_the_second_look(edge: int, tiles: int) -> None:
    seen, spy = spying()
    image = pictured(disks(14, 2, edge))
    classify_enlarged(image, Average([spy]), TILING)
    assert len(seen) == tiles
    once, twice = (budget.Plan(1, views=1, second_pass=look) for look in (False, True))
    pixels = (plan.pixels((edge, edge), TILING) for plan in (twice, once))
    assert next(pixels) - next(pixels) == sum(height * width for height, width in seen)


def test_a_budget_does_not_wait_for_a_look_that_will_not_be(model: Model) -> None:
    shape = 2000, second_pass.LARGEST // 2000 + 1
    _, asked, note = budget.fit(model, Options(), shape, 1e6, {(512, 512): 1.0})
    assert not asked.enlarge
    assert "second pass" not in note
