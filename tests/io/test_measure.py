"""Measurements of cells against scikit-image and SciPy, which take one cell at a time."""

import time
from collections.abc import Iterator

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from reunet.io.export import measure as module
from reunet.io.export.measure import Cells, measure

regionprops = pytest.importorskip("skimage.measure").regionprops
perimeter_crofton = pytest.importorskip("skimage.measure").perimeter_crofton


def scenes() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Noise of few labels (parts, holes, everything at the frame) and some round cells."""
    rng = np.random.default_rng(5)
    for _ in range(25):
        shape = tuple(rng.integers(1, 22, 2))
        labels = rng.integers(0, rng.integers(2, 5), shape) * rng.choice([1, 7])
        yield labels.astype(np.int32), rng.integers(0, 60_000, (*shape, 3)).astype(np.uint16)
    y, x = np.mgrid[:90, :120]
    discs = [(y - cy) ** 2 + (x - cx) ** 2 < r**2 for cy, cx, r in ((20, 30, 12), (60, 80, 25))]
    yield discs[0] * 3 + discs[1] * 1, rng.normal(0, 1, (90, 120, 3)).astype(np.float32)


def check(cells: Cells, labels: np.ndarray, image: np.ndarray) -> None:
    properties = regionprops(labels, image)
    assert cells.ids.tolist() == [p.label for p in properties]
    height, width = labels.shape
    for n, p in enumerate(properties):
        top, left, bottom, right = p.bbox
        assert cells.area[n] == p.area
        assert cells.box[n].tolist() == [left, top, right, bottom]
        assert cells.centroid[n] == pytest.approx([p.centroid[1] + 0.5, p.centroid[0] + 0.5])
        assert cells.diameter[n] == pytest.approx(p.equivalent_diameter_area)
        assert cells.eccentricity[n] == pytest.approx(p.eccentricity, abs=1e-5)
        assert cells.perimeter[n] == pytest.approx(perimeter_crofton(np.pad(p.image, 1), 4))
        corners = [np.argwhere(p.image) + d for d in ([0, 0], [0, 1], [1, 0], [1, 1])]
        assert cells.solidity[n] == pytest.approx(
            p.area / ConvexHull(np.concatenate(corners)).volume
        )
        assert cells.on_frame[n] == (min(top, left) == 0 or bottom == height or right == width)
        assert cells.mean[n] == pytest.approx(p.intensity_mean, rel=1e-5, abs=1e-5)
        assert cells.low[n].tolist() == p.intensity_min.tolist()
        assert cells.high[n].tolist() == p.intensity_max.tolist()


@pytest.mark.parametrize("band", [1, 50, 2**22])
def test_every_measure_is_that_of_the_references(
    band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BAND", band)
    for labels, image in scenes():
        check(measure(labels, lambda top, bottom, image=image: image[top:bottom]), labels, image)


def test_grey_channels_are_measured_like_others() -> None:
    labels, image = next(scenes())
    grey = np.repeat(image[..., :1], 3, axis=2)
    check(measure(labels, lambda top, bottom: grey[top:bottom]), labels, grey)


def test_nothing_to_measure() -> None:
    cells = measure(np.zeros((5, 7), np.uint16), lambda top, bottom: np.zeros((bottom - top, 7, 3)))
    assert len(cells) == 0
    assert cells.box.shape == (0, 4)
    assert len(cells.diameter) == len(cells.solidity) == 0


def test_huge_ids_cost_no_memory() -> None:
    labels = np.zeros((40, 40), np.uint32)
    labels[3:9, 3:9], labels[20:30, 20:30] = 4_000_000_000, 7
    cells = measure(labels)
    assert cells.ids.tolist() == [7, 4_000_000_000]
    assert cells.area.tolist() == [100, 36]
    assert cells.mean.shape == (2, 0)  # without an image no intensities


def many_cells() -> np.ndarray:
    """About 100 000 cells of irregular outline, 100 Mpx."""
    grid, pitch = 317, 31
    y, x = np.mgrid[:pitch, :pitch] - pitch // 2
    angle = np.arctan2(y, x)
    edges = [12 + 2 * np.sin(3 * angle + s) + 1.5 * np.cos(5 * angle + s) for s in range(40)]
    shapes = [np.hypot(y, x) < edge for edge in edges]
    rows = [
        np.hstack(
            [shapes[(row * grid + n) % 40] * np.int32(row * grid + n + 1) for n in range(grid)]
        )
        for row in range(grid)
    ]
    return np.vstack(rows)


@pytest.mark.slow
def test_100_000_cells_take_less_than_20_seconds() -> None:
    labels = many_cells()
    image = np.random.default_rng(1).integers(0, 255, (*labels.shape, 3), np.uint8)
    start = time.process_time()
    cells = measure(labels, lambda top, bottom: image[top:bottom])
    assert len(cells) == 317**2
    assert time.process_time() - start < 20
