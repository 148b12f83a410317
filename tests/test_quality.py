"""Levels of quality: what each does, and that single flags have the last word."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from reunet import Options, cli, load_model, predict
from reunet.run.resume import settings_line

NOISE = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)


def test_fast_is_the_first_fold_without_mirror_images_and_says_so(bundle: Path) -> None:
    model = load_model(bundle, "cpu")
    found = predict(NOISE, model, quality="fast")
    alone = predict(NOISE, model.first(1), tta=False)
    np.testing.assert_array_equal(found.labels, alone.labels)
    assert found.agreement is None
    assert f"quality fast: fold {model.folds[0]} alone" in found.notes
    assert not any("fast" in note for note in predict(NOISE, model.first(1), quality="fast").notes)


@pytest.mark.parametrize(
    ("options", "mirror", "step"),
    [
        (Options(quality="fast"), False, 0.75),
        (Options(), True, 0.75),
        (Options(quality="best"), True, 0.5),
        (Options(quality="best", tta=False), False, 0.5),
        (Options(quality="fast", tta=True, step=1.0), True, 1.0),
    ],
)
def test_what_a_level_gives_the_sliding_window(options: Options, mirror: bool, step: float) -> None:
    tiling = load_model(device="cpu").tiling(options)
    assert (tiling.mirror, tiling.step) == (mirror, step)


def test_levels_are_told_apart_by_the_origin_but_not_from_the_same_flags(bundle: Path) -> None:
    model = load_model(bundle, "cpu", ["0"])
    lines = [settings_line(model, Options(quality=q)) for q in ("fast", "standard")]
    assert len({*lines}) == 2
    assert settings_line(model, Options(tta=False)) == lines[0]


def test_an_unknown_level_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="quality 'good' does not exist"):
        Options(quality="good")
    tifffile.imwrite(tmp_path / "a.tif", NOISE)
    arguments = ["predict", str(tmp_path / "a.tif"), str(tmp_path / "out"), "--quality", "good"]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 2
    assert "--quality" in result.output
