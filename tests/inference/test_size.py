"""The estimate of the cells' size, by a network that measures what it is shown."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import ndimage

from reunet.inference.size import (
    PARTS,
    REFERENCE,
    STRIDE,
    WHOLE,
    SizeNetwork,
    estimate_size,
    views_of,
)
from reunet.network import openvino_backend, torch_backend
from reunet.network.architecture import SIZE_OUTPUTS, Architecture, size_parameter_shapes

ARCH = Architecture(features=(4, 8, 8, 8, 8, 8), dropout=0.0)


def picture(diameter: float, shape: tuple[int, int], gap: float = 2.0) -> np.ndarray:
    """Bright discs on a dark ground. (H, W, 3) uint8."""
    rows, columns = (np.mod(np.arange(n), diameter * gap) - diameter * gap / 2 for n in shape)
    disc = np.hypot(rows[:, np.newaxis], columns) < diameter / 2
    return np.repeat(np.where(disc, 220, 30).astype(np.uint8)[..., np.newaxis], 3, axis=2)


def estimate_diameter(views: Sequence[np.ndarray], network: SizeNetwork) -> float | None:
    """Of the typical cell, px; None: none is seen."""
    estimate = estimate_size(views, network)
    return estimate.diameter if estimate else None


def measuring(view: np.ndarray) -> np.ndarray:
    """A network that measures the discs it is shown: cells are brighter than the mean."""
    bright = view[0, 0] > 0.5
    labels, _ = ndimage.label(bright)
    areas = np.bincount(labels.ravel())
    logs = np.log2(np.maximum(np.sqrt(4 / np.pi * areas), 1) / REFERENCE)
    half = STRIDE // 2
    presence = np.where(bright, 6.0, -6.0)[half::STRIDE, half::STRIDE]
    size = np.where(labels > 0, logs[labels], 0)[half::STRIDE, half::STRIDE]
    return np.stack([presence, size])[np.newaxis].astype(np.float32)


@pytest.mark.parametrize("diameter", [12, 20, 45, 90, 200])
@pytest.mark.parametrize("shape", [(300, 420), (900, 700), (2000, 1500)])
def test_what_is_measured_is_found(diameter: float, shape: tuple[int, int]) -> None:
    found = estimate_diameter(views_of(picture(diameter, shape)), measuring)
    assert found == pytest.approx(diameter, rel=0.15)


def test_large_pictures_are_looked_at_in_parts() -> None:
    image = np.zeros((WHOLE + 1, 3000, 3), np.uint8)
    image[1300:1700, 900:2100] = picture(25, (400, 1200))
    views = views_of(image)
    assert len(views) == PARTS
    assert views[0].std() > 0
    assert estimate_diameter(views, measuring) == pytest.approx(25, rel=0.15)


def test_of_two_populations_the_one_with_more_area_counts() -> None:
    image = picture(60, (600, 600))
    image[:200] = picture(15, (200, 600))
    assert estimate_diameter(views_of(image), measuring) == pytest.approx(60, rel=0.2)


def test_nothing_seen_is_no_size() -> None:
    def blind(view: np.ndarray) -> np.ndarray:
        shape = (1, SIZE_OUTPUTS, view.shape[2] // STRIDE, view.shape[3] // STRIDE)
        return np.full(shape, -6, np.float32)

    for shape in ((1, 1), (50, 900), (3000, 3000)):
        assert estimate_diameter(views_of(np.zeros((*shape, 3), np.uint8)), blind) is None


def test_a_third_look_where_the_first_two_differ() -> None:
    """A network that is wrong by 2 on what it is shown far too small comes right in the end."""
    looks = []

    def wrong_when_small(view: np.ndarray) -> np.ndarray:
        output = measuring(view)
        looks.append(view.shape)
        output[:, 1] += np.where(output[:, 1] < -1.2, 1, 0)
        return output

    image = picture(60, (2200, 2200))  # 12 px in the first look
    assert estimate_diameter([image], wrong_when_small) == pytest.approx(60, rel=0.2)
    assert len(looks) == 3


@pytest.mark.parametrize(
    ("diameter", "edge", "expected"),
    [(30, 448, 1), (34, 512, 1), (60, 512, 2), (12, 448, 2), (34, 1200, 2)],
)
def test_cells_that_are_shown_at_the_right_size_need_one_look(
    diameter: float, edge: int, expected: int
) -> None:
    """At a zoom of 0.875 cells of 34 px are near 30; of a picture of 1200 px too little is seen."""
    looks = []

    def counting(view: np.ndarray) -> np.ndarray:
        looks.append(view.shape)
        return measuring(view)

    found = estimate_diameter(views_of(picture(diameter, (edge, edge))), counting)
    assert found == pytest.approx(diameter, rel=0.15)
    assert len(looks) == expected


@pytest.mark.parametrize("edges", [(256, 256), (448, 320)])
def test_openvino_and_pytorch_agree(edges: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.normal(0, 0.2, shape).astype(np.float32)
        for name, shape in size_parameter_shapes(ARCH).items()
    }
    view = rng.normal(size=(1, 3, *edges)).astype(np.float32)
    ours = openvino_backend.build_size_network(ARCH, tensors)(view)
    theirs = torch_backend.build_size_network(ARCH, tensors)(view)
    assert ours.shape == (1, SIZE_OUTPUTS, edges[0] // STRIDE, edges[1] // STRIDE)
    np.testing.assert_allclose(ours, theirs, atol=1e-3)
