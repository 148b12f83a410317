"""Levels of quality: what each does, and that single flags have the last word."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from conftest import save_tiny_bundle
from reunet import Options, cli, load_model, predict
from reunet.doctor import weights_found
from reunet.errors import WeightsError
from reunet.options import QUALITIES
from reunet.run.report import describe
from reunet.run.resume import settings_line

NOISE = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)


def test_fast_is_the_first_fold_without_mirror_images_and_says_so(bundle: Path) -> None:
    model = load_model(bundle, "cpu")
    found = predict(NOISE, model, quality="fast")
    alone = predict(NOISE, model.first(1), tta=False)
    np.testing.assert_array_equal(found.labels, alone.labels)
    assert found.agreement is None
    assert f"quality fast: no student there, fold {model.folds[0]} alone" in found.notes
    assert not any("fast" in note for note in predict(NOISE, model.first(1), quality="fast").notes)


@pytest.mark.parametrize(
    ("options", "views", "step"),
    [
        (Options(quality="fast"), 1, 0.75),
        (Options(), 2, 0.75),
        (Options(quality="best"), 4, 0.5),
        (Options(quality="best", tta=False), 1, 0.5),
        (Options(quality="fast", tta=True, step=1.0), 4, 1.0),
    ],
)
def test_what_a_level_gives_the_sliding_window(options: Options, views: int, step: float) -> None:
    tiling = load_model(device="cpu").tiling(options)
    assert (tiling.views, tiling.step) == (views, step)


def test_levels_are_told_apart_by_the_origin_but_not_from_the_same_flags(bundle: Path) -> None:
    model = load_model(bundle, "cpu", ["0"])
    lines = [settings_line(model, Options(quality=q)) for q in ("fast", "standard")]
    assert len({*lines}) == 2
    assert settings_line(model, Options(tta=False)) == lines[0]


@pytest.fixture
def taught(tmp_path: Path) -> Path:
    """A bundle of a student and the two folds that taught it."""
    return save_tiny_bundle(tmp_path / "taught", ("0", "student", "1"))


@pytest.mark.parametrize(
    ("quality", "folds"), [("fast", "student"), ("standard", "student"), ("best", "0 1")]
)
def test_the_student_stands_for_the_folds_but_for_the_best(
    taught: Path, quality: str, folds: str
) -> None:
    model, options = load_model(taught, "cpu"), Options(quality=quality)
    found = predict(NOISE, model, options)
    alone = predict(NOISE, load_model(taught, "cpu", folds.split()), options)
    np.testing.assert_array_equal(found.labels, alone.labels)
    assert (found.agreement is None) == (quality != "best")
    assert found.notes == alone.notes
    assert not any("quality" in note for note in found.notes)
    assert settings_line(model, options) == settings_line(
        load_model(taught, "cpu", folds.split()), options
    )
    assert describe(model, options, {})["model"]["folds"] == folds.split()


def test_folds_that_are_named_are_taken(taught: Path) -> None:
    model = load_model(taught, "cpu", ["1"])
    assert [model.at(quality).folds for quality in QUALITIES] == [("1",)] * 3
    assert load_model(taught, "cpu", ["1", "0"]).at("standard").folds == ("1", "0")


def test_a_wheel_has_the_student_alone_and_says_so_when_asked_for_the_best(taught: Path) -> None:
    for fold in "01":
        (taught / f"fold_{fold}.safetensors").unlink()
    model = load_model(taught, "cpu")
    assert model.folds == ("student",)
    notes = predict(NOISE, model, quality="best").notes
    assert any(f"the student alone, {taught} lacks the folds" in note for note in notes)
    assert not predict(NOISE, model, quality="fast").notes
    assert weights_found(taught).state == "fine"
    with pytest.raises(WeightsError, match="fold_1"):
        load_model(taught, "cpu", ["1"])


def test_an_unknown_level_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="quality 'good' does not exist"):
        Options(quality="good")
    tifffile.imwrite(tmp_path / "a.tif", NOISE)
    arguments = ["predict", str(tmp_path / "a.tif"), str(tmp_path / "out"), "--quality", "good"]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 2
    assert "--quality" in result.output
