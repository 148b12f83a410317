"""Traced polygons: rasterised by scikit-image they are the mask, and they are valid polygons."""

import numpy as np
import pytest

from reunet.io.export import contours as module
from reunet.io.export.contours import polygons, trace

polygon2mask = pytest.importorskip("skimage.draw").polygon2mask


def rasterised(labels: np.ndarray) -> np.ndarray:
    """Labels put together again from polygons. No two parts of cells may share a pixel."""
    again = np.zeros_like(labels)
    for cell, parts in polygons(trace(labels)):
        for outer, *holes in parts:
            # In pixel edges, the centre of the first pixel is at 0.5.
            inside = polygon2mask(labels.shape, outer[:, ::-1] - 0.5).astype(int)
            for hole in holes:
                inside -= polygon2mask(labels.shape, hole[:, ::-1] - 0.5)
            assert inside.min() >= 0, "a hole reaches out of its polygon"
            assert not again[inside == 1].any()
            again[inside == 1] = cell
    return again


def noise() -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    shapes = [tuple(rng.integers(1, 24, 2)) for _ in range(40)]
    return [(rng.integers(0, rng.integers(2, 5), s) * 3).astype(np.uint16) for s in shapes]


@pytest.mark.parametrize("band", [1, 40, 2**22])
def test_rasterised_again_they_are_the_mask(band: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BAND", band)
    for labels in noise():
        np.testing.assert_array_equal(rasterised(labels), labels)


def test_rings_turn_at_every_point_and_never_touch_themselves() -> None:
    for labels in noise():
        rings = trace(labels)
        for number in range(len(rings.label)):
            ring = rings.ring(number)
            steps = np.roll(ring, -1, axis=0) - ring
            upright = steps[:, 0] == 0
            assert (upright != (steps[:, 1] == 0)).all()  # along one axis each
            assert (upright != np.roll(upright, 1)).all()  # no three points in a line
            assert len(np.unique(ring, axis=0)) == len(ring)


def test_signed_areas_add_up_to_the_cells() -> None:
    for labels in noise():
        rings = trace(labels)
        areas = np.bincount(rings.label, rings.area, minlength=int(labels.max()) + 1)
        pixels = np.bincount(labels.ravel())
        assert areas[1:].tolist() == pixels[1:].tolist()


@pytest.mark.parametrize(
    ("picture", "parts", "holes"),
    [
        (["###", "#.#", "###"], 1, 1),
        (["#.", ".#"], 2, 0),
        (["####", "#.##", "##.#", "####"], 1, 2),  # two holes that touch at a corner
        (["###.", "#.#.", "##.."], 1, 1),
        (["#####", "#...#", "#.#.#", "#...#", "#####"], 2, 1),  # a part in a hole
        ([".##", "#.#", "###"], 1, 1),  # a hole that touches the outside at a corner
    ],
)
def test_parts_and_holes(picture: list[str], parts: int, holes: int) -> None:
    labels = np.array([[character == "#" for character in row] for row in picture]).astype(np.int32)
    ((_, found),) = polygons(trace(labels))
    assert len(found) == parts
    assert sum(len(part) - 1 for part in found) == holes
    np.testing.assert_array_equal(rasterised(labels), labels)


def test_a_square_has_four_points_clockwise_on_a_screen() -> None:
    labels = np.zeros((5, 6), np.uint8)
    labels[1:4, 2:5] = 9
    ((cell, ((ring,),)),) = polygons(trace(labels))
    assert cell == 9
    assert ring.tolist() == [[2, 1], [5, 1], [5, 4], [2, 4]]


def test_no_cells_no_rings() -> None:
    assert list(polygons(trace(np.zeros((4, 4), np.uint16)))) == []
