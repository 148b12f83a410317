"""Cells that are not wanted, against taking them one by one."""

import numpy as np
import pytest

from reunet import filters as module
from reunet.filters import MinArea, filter_cells, parse_min_area


@pytest.mark.parametrize("band", [1, 2**22])
@pytest.mark.parametrize("edge", [False, True])
@pytest.mark.parametrize("least", [0, 1, 6, 1000])
def test_against_one_cell_at_a_time(
    least: int, edge: bool, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BAND", band)
    rng = np.random.default_rng(least)
    labels = np.kron(rng.integers(0, 30, (12, 14)), np.ones((2, 1), int)).astype(np.int32)
    expected, ids = np.zeros_like(labels), []
    for cell in np.unique(labels[labels > 0]):
        mask = labels == cell
        cut = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
        if mask.sum() >= least and not (edge and cut):
            ids.append(cell)
            expected[mask] = len(ids)
    assert filter_cells(labels, least, edge).tolist() == ids
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30", MinArea(30)),
        ("30px", MinArea(30)),
        ("20um2", MinArea(20, True)),
        ("20.5 µm²", MinArea(20.5, True)),
        ("7um^2", MinArea(7, True)),
    ],
)
def test_areas_are_read(text: str, expected: MinArea) -> None:
    assert parse_min_area(text) == expected


@pytest.mark.parametrize("text", ["", "-3", "a", "3 mm", "nan", "1e3"])
def test_what_is_no_area_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="20um2"):
        parse_min_area(text)


def test_micrometres_need_a_pixel_size() -> None:
    assert MinArea(20, True).in_pixels(0.25) == 80
    assert MinArea(20).in_pixels(None) == 20
    with pytest.raises(ValueError, match="--pixel-size"):
        MinArea(20, True).in_pixels(None)
