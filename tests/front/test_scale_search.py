"""The scale that the network is surest of: found from wrong estimates, and from right ones kept."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import SAMPLES
from reunet import Model, load_model, predict, scale_search
from reunet.inference.normalise import normalise_channels
from reunet.inference.scale import scale_image, typical_diameter
from reunet.inference.size import Estimate, views_of
from reunet.inference.sliding_window import Maps, stored_field
from reunet.io.images import read_image, read_label
from reunet.options import Options
from reunet.run.resume import settings_line
from reunet.scale_search import FACTORS, Found, search_scale, surest_diameter

SMALL, LARGE = 20, 60  # % of the pixels that are cells: few, and as many as in a crowd


def drawn(cells: int, share: int = SMALL) -> np.ndarray:
    """As many cells next to each other, on a share of 1000 pixels in per cent."""
    labels = np.zeros(1000, np.int32)
    labels[: 10 * share] = 1 + np.arange(10 * share) * cells // (10 * share)
    return labels


NOTHING = Found(0.0, 0.0, np.zeros(1000, np.int32))


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(device="cpu")


def network_for(true: float, asked: list[float]) -> scale_search.Look:
    """Sure of cells near their true size, and drawn to it in what it measures."""

    def look(diameter: float) -> Found:
        asked.append(diameter)
        confidence = 0.9 - 0.2 * abs(math.log(diameter / true))
        return Found(confidence, math.sqrt(diameter * true), drawn(4))

    return look


@pytest.mark.parametrize("factor", [1.0, *FACTORS])
def test_the_true_size_is_found_from_a_wrong_estimate(factor: float) -> None:
    asked: list[float] = []
    assert surest_diameter(20, network_for(20 * factor, asked)) == pytest.approx(20 * factor)
    assert asked == [20, *(20 * f for f in FACTORS)]


@pytest.mark.parametrize("factor", [1.0, *FACTORS])
def test_cells_that_are_found_again_at_the_next_scale_win(factor: float) -> None:
    """Whole cells are; elsewhere each scale finds its own parts of cells, or heaps of them."""

    def look(diameter: float) -> Found:
        steps = abs(round(2 * math.log2(diameter / (20 * factor))))
        cells = 6 if steps <= 1 else 6 * 4**steps
        return Found(0.7 + 0.06 * steps, diameter, drawn(cells))

    found = surest_diameter(20, look)
    assert abs(math.log2(found / (20 * factor))) <= 0.5 + 1e-9, "the true scale, or the next one"
    assert look(found).cells.max() == 6


def test_who_is_much_surer_wins_where_nothing_is_found_again() -> None:
    def look(diameter: float) -> Found:
        return Found(0.9 if diameter > 25 else 0.5, diameter, drawn(round(10 * diameter)))

    assert surest_diameter(20, look, [0.5, 1.5]) == 30


def test_scales_that_cannot_be_shown_are_not_asked() -> None:
    asked: list[float] = []
    surest_diameter(20, network_for(20, asked), [2.0])
    assert asked == [20, 40]
    del asked[:]
    assert surest_diameter(20, network_for(40, asked), []) == 20
    assert asked == [20]


def test_who_is_sure_at_once_is_asked_once() -> None:
    asked: list[float] = []

    def look(diameter: float) -> Found:
        asked.append(diameter)
        return Found(0.98, diameter, drawn(4))

    assert surest_diameter(33, look) == 33
    assert asked == [33]


def test_where_no_cell_is_found_at_any_scale_the_estimate_stays() -> None:
    assert surest_diameter(33, lambda _: NOTHING) == 33


def test_in_a_crowd_no_larger_size_is_tried() -> None:
    """Seen smaller, neighbours are taken for one cell, and with confidence."""

    def look(share: int, sign: int) -> scale_search.Look:
        return lambda d: Found(0.6 + sign * d / 200, d, drawn(4, share))

    assert surest_diameter(20, look(LARGE, 1)) == 20
    assert surest_diameter(20, look(SMALL, 1)) > 20
    assert surest_diameter(20, look(LARGE, -1)) < 20


def test_cells_at_a_larger_scale_alone_are_found() -> None:
    def look(diameter: float) -> Found:
        return Found(0.9, diameter, drawn(4)) if diameter > 15 else NOTHING

    assert surest_diameter(10, look) > 15


@pytest.mark.parametrize("path", sorted((SAMPLES / "images").iterdir()), ids=lambda p: p.stem)
def test_half_the_true_size_is_mended_and_the_true_size_kept(path: Path, model: Model) -> None:
    """With the network that ships, on images whose cells are labelled."""
    name = f"{path.name.partition('.')[0]}_label.tiff"
    true = typical_diameter(read_label(SAMPLES / "labels" / name))
    image = normalise_channels(read_image(path).pixels)
    views, of, middle = views_of(image), (image.shape[0], image.shape[1]), [(0.5, 0.5)]

    def found(estimate: float) -> float:
        return search_scale(views, Estimate(estimate, middle), of, model, Options()) / true

    assert 0.7 < found(true / 2) < 1.1
    assert found(true) == pytest.approx(1)


def test_views_of_a_large_image_are_looked_at_together(model: Model) -> None:
    """One of them shows no cell; cells of two parts count as cells of their own."""
    image = normalise_channels(read_image(next((SAMPLES / "images").glob("bbbc*"))).pixels)
    views = [np.zeros_like(image), image, image[::-1]]
    estimate = Estimate(15.0, [(0.5, 0.5)] * 3)
    assert search_scale(views, estimate, (1560, 696), model, Options()) == pytest.approx(30)


def test_cells_too_small_to_be_enlarged_enough_are_measured_as_they_are(model: Model) -> None:
    """Brought to 30 px the zoom would be 6; it is 4 at most, and an estimate that fits stays."""
    image = normalise_channels(read_image(next((SAMPLES / "images").glob("bbbc*"))).pixels)
    small = scale_image(image, (image.shape[0] // 6, image.shape[1] // 6))
    estimate = Estimate(5.0, [(0.5, 0.5)])
    assert search_scale([small], estimate, small.shape[:2], model, Options()) == 5


def test_unsure_cells_do_not_count(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be dropped from the labels of the image tells nothing of its scale."""
    at, discs = np.mgrid[:200, :200], np.zeros((200, 200))
    for row, column in ((50, 50), (50, 150), (150, 50), (150, 150)):
        discs = np.maximum(discs, 1 - np.hypot(at[0] - row, at[1] - column) / 20)
    inside = discs > 0

    def found(last: int) -> Found:
        sure = np.where(inside, 240, 0).astype(np.uint8)
        sure[100:, 100:][inside[100:, 100:]] = last
        maps = Maps(inside[None].astype(np.uint8), stored_field(discs)[None], sure[None])
        monkeypatch.setattr(scale_search, "map_image", lambda *_: maps)
        looks: list[scale_search.Look] = []
        monkeypatch.setattr(scale_search, "surest_diameter", lambda _, look, __: looks.append(look))
        view = np.full((200, 200, 3), 100, np.uint8)
        search_scale([view], Estimate(30.0, [(0.5, 0.5)]), (200, 200), model, Options())
        return looks[0](30.0)

    assert found(last=240).cells.max() == 4
    assert found(last=150).cells.max() == 3
    assert found(last=150).confidence == pytest.approx(240 / 255)


def test_fast_takes_the_estimate_as_it_is(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    path = next((SAMPLES / "images").glob("bbbc*"))
    monkeypatch.setattr("reunet.survey.search_scale", lambda *_: 60.0)
    assert predict(path, model).diameter == 60
    assert predict(path, model, quality="fast").diameter != 60


def test_labels_of_a_searched_scale_are_told_from_others(model: Model) -> None:
    """`--resume` keeps none that were made at the estimate as it is."""
    searched, as_estimated = Options(tta=False), Options(quality="fast")
    assert settings_line(model, searched) != settings_line(model, as_estimated)
    given = [replace(options, diameter=30.0) for options in (searched, as_estimated)]
    assert settings_line(model, given[0]) == settings_line(model, given[1])
