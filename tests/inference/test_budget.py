"""The plan that fits a time: best first, never more than it says."""

from dataclasses import replace
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np
import pytest
from as_nnunet import tile_windows
from click.testing import CliRunner

from conftest import SAMPLE_IMAGES
from reunet import segment
from reunet.cli import main
from reunet.inference.budget import (
    RESERVE,
    Plan,
    allowance,
    choose,
    fit,
    plans,
    seconds_since_start,
)
from reunet.inference.tiles import WIDE_STEP, Tiling
from reunet.io.images import list_images, read_label
from reunet.model import load_model
from reunet.options import Options
from reunet.run.batch import segment_files

SHAPE, TILING = (1500, 2000), Tiling(tile=512, smallest=320, divisor=32)


@pytest.mark.parametrize("plan", list(plans(3, second_pass=False)), ids=str)
@pytest.mark.parametrize("shape", [(512, 512), (641, 512), SHAPE, (3001, 700)])
def test_the_work_is_tiles_times_folds_and_mirror_images(
    plan: Plan, shape: tuple[int, int]
) -> None:
    tile = TILING.edge(shape[0]), TILING.edge(shape[1])
    tiles = len(list(tile_windows(shape, tile, plan.step)))
    expected = tiles * prod(tile) * plan.folds * plan.views
    assert plan.pixels(shape, TILING) == expected


@pytest.mark.parametrize("look", [True, False])
def test_plans_get_cheaper_and_end_with_the_least(look: bool) -> None:
    costs = [plan.pixels(SHAPE, TILING) for plan in plans(5) if plan.second_pass == look]
    assert all(better > worse for better, worse in pairwise(costs))
    first, *_, least = plans(5)
    assert first == Plan(5, 4, second_pass=True)
    assert least == Plan(1, 1, WIDE_STEP)


def test_folds_are_given_up_last_and_the_second_look_after_mirroring() -> None:
    order = list(plans(5))
    assert [plan.folds for plan in order] == [5] * 6 + [4, 3, 2, 1]
    assert [(plan.views, plan.second_pass) for plan in order[:5]] == [
        (4, True), (1, True), (1, True), (4, False), (1, False)
    ]  # fmt: skip
    assert {plan.views for plan in plans(5, views=2)} == {1, 2}
    assert {plan.views for plan in plans(5, views=1)} == {1}
    assert not any(plan.second_pass for plan in plans(5, second_pass=False))


@pytest.mark.parametrize("seconds", [0.1, 1, 5, 10, 30, 100, 1000])
def test_the_choice_fits_and_no_better_one_would(seconds: float) -> None:
    per_pixel = 0.25 / 512**2
    plan, fits = choose(seconds, per_pixel, SHAPE, TILING, plans(5))
    usable = seconds * (1 - RESERVE)
    order = list(plans(5))
    for better in order[: order.index(plan)]:
        assert better.pixels(SHAPE, TILING) * per_pixel > usable
    assert fits == (plan.pixels(SHAPE, TILING) * per_pixel <= usable)
    assert fits or plan == order[-1]


def test_challenge_gives_ten_seconds_and_then_ten_a_megapixel() -> None:
    assert allowance("challenge", (10, 10)) == 10
    assert allowance("challenge", (1000, 1000)) == 10
    assert allowance("challenge", (2000, 3000)) == pytest.approx(60)
    assert allowance("2.5", (2000, 3000)) == 2.5


@pytest.mark.parametrize("budget", ["", "soon", "0", "-1", "nan", "inf"])
def test_other_budgets_are_refused(budget: str) -> None:
    with pytest.raises(ValueError, match="give challenge or seconds"):
        allowance(budget, SHAPE)


def test_the_process_has_an_age() -> None:
    first = seconds_since_start()
    assert 0 < first < 3600
    assert seconds_since_start() >= first


@pytest.mark.parametrize(("seconds", "tta"), [(1e6, True), (1e6, False), (1e-6, True)])
def test_fit_takes_all_there_is_time_for(seconds: float, tta: bool) -> None:
    model, options = load_model(device="cpu"), Options(tta=tta, step=0.5)
    three = replace(model, networks=model.networks[:1] * 3, folds=("a", "b", "c"))
    few, asked, note = fit(three, options, SHAPE, seconds, tile_seconds={})
    if seconds > 1:
        assert (len(few.networks), asked.tta) == (3, tta)
        assert "longer than allowed" not in note
    else:
        assert (few.folds, asked.tta) == (("a",), False)
        assert asked.step > options.step
        assert "longer than allowed" in note


def test_a_pace_is_measured_once_a_tile() -> None:
    calls = []

    def network(tiles: np.ndarray) -> np.ndarray:
        calls.append(tiles.shape[2:])
        return tiles

    model = replace(load_model(device="cpu"), networks=(network,))
    model = replace(model, bundle=replace(model.bundle, tile=512, smallest=320))
    tile_seconds: dict[tuple[int, int], float] = {}
    for shape in (SHAPE, SHAPE, (100, 100), (3000, 3000)):
        fit(model, Options(), shape, 10, tile_seconds)
    assert sorted(set(calls)) == sorted(tile_seconds)
    assert len(calls) == 2 * len(tile_seconds) == 4


def test_too_small_a_budget_does_the_least_and_says_so(tmp_path: Path) -> None:
    image = list_images(SAMPLE_IMAGES)[0]
    model = load_model(device="cpu")
    [outcome] = segment_files([image], tmp_path, model, Options(budget="0.001"))
    assert outcome.error is None
    assert any("longer than allowed" in note for note in outcome.notes)
    least = segment(image, model.first(1), tta=False, step=0.75, enlarge=False)
    np.testing.assert_array_equal(read_label(outcome.label), least)


def test_a_bad_budget_starts_nothing(tmp_path: Path) -> None:
    arguments = ["predict", str(SAMPLE_IMAGES), str(tmp_path / "out"), "--budget", "soon"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "give challenge or seconds" in result.output
    assert not (tmp_path / "out").exists()
