"""The results table: what its figures mean, and that it scores what `segment` returns."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import PICTURES, save_tiny_bundle

pytest.importorskip("skimage")  # of the classical floor

from benchmarks.accuracy import results, scoring
from benchmarks.accuracy.scoring import FLOOR, Way, score_all
from benchmarks.accuracy.summary import EVERY, HEADLINE, by_group, by_modality, change
from reunet import load_model, segment
from reunet.io.labels import write_label

F1 = {"a": 0.2, "b": 0.4, "c": 1.0, "d": 0.6, "e": 0.7}
MODALITY = {"a": "bf", "b": "bf", "c": "bf", "d": "pc", "e": "pc"}


def test_a_modality_counts_once_however_many_images_it_has() -> None:
    figures = by_modality(F1, MODALITY)
    assert list(figures) == ["bf", "pc", EVERY, HEADLINE]
    assert figures["bf"].mean == pytest.approx(1.6 / 3, abs=1e-4)
    assert figures["bf"].median == 0.4
    assert figures[EVERY].mean == pytest.approx(2.9 / 5, abs=1e-4)
    assert figures[HEADLINE].mean == pytest.approx((1.6 / 3 + 0.65) / 2, abs=1e-4)


def test_intervals_are_those_of_the_mean() -> None:
    values = np.random.default_rng(1).normal(0.6, 0.1, 400)
    f1 = {str(n): float(value) for n, value in enumerate(values)}
    images, figure = by_group(f1, dict.fromkeys(f1, "source"))["source"]
    half = 1.96 * values.std() / 400**0.5  # the normal approximation
    assert images == 400
    assert figure.low == pytest.approx(values.mean() - half, abs=half / 5)
    assert figure.high == pytest.approx(values.mean() + half, abs=half / 5)


def test_changes_are_counted() -> None:
    after = {**F1, "a": 0.4, "b": 0.3}
    told = change(F1, after)
    assert told == "2 images change, 1 of them to the better; their mean F1: 0.300 -> 0.350"
    assert change(F1, F1) == "no image changes"


@pytest.mark.parametrize("taught", [False, True])
def test_levels_and_ways_of_folds_are_not_mixed_up(
    taught: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student stands for the folds where a level is asked for, never where folds are."""
    folds = ("student", "0", "1") if taught else ("0", "1")
    bundle = save_tiny_bundle(tmp_path / "bundle", folds)
    monkeypatch.setattr("sys.argv", ["results", str(tmp_path), f"a={bundle}"])
    ways = {way.name: way for way in results.ways_of("a", bundle, True, results.parse())}
    assert [*ways][1:] == [
        *(f"a, fold {fold}" for fold in folds),
        *(f"a, {name}" for name in ("paper's way", "averaged", "votes", "fast", "best")),
        "a, what ships",
    ]
    for name in ("paper's way", "averaged", "votes"):
        assert ways[f"a, {name}"].folds == (("0", "1") if taught else None)
    for name in ("fast", "best", "what ships"):
        assert ways[f"a, {name}"].folds is None
    assert dict(ways["a, best"].choices) == {"quality": "best"}
    assert not ways["a, what ships"].choices


@pytest.fixture
def data(tmp_path: Path, bundle: Path) -> Path:
    """Two images whose truths are what the tiny network finds in them."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    model = load_model(bundle, "cpu")
    for name, ending, picture in (("a", "png", "nuclei"), ("b", "bmp", "blood")):
        path = folder / "images" / f"{name}.{ending}"
        Image.open(PICTURES / f"{picture}.png").save(path)
        write_label(folder / "labels" / f"{name}_label.tiff", segment(path, model, tta=False))
    return folder


def test_scores_are_of_what_segment_returns(data: Path, bundle: Path, tmp_path: Path) -> None:
    same = Way("same", bundle, choices=(("tta", False),), device="cpu", labels=tmp_path)
    other = Way("one fold", bundle, ("0",), (("vote", False),), "cpu")
    kept = tmp_path / "scores.csv"
    scores = score_all(data, ["a", "b"], [same, other, Way(FLOOR)], kept)
    found = [score for score in scores["same"].values() if score.true]  # all may touch the frame
    assert found
    assert {score.f1 for score in found} == {1.0}
    assert scores["one fold"] != scores["same"] != scores[FLOOR]
    assert (tmp_path / "a_label.tiff").exists()


def test_what_was_measured_is_kept(
    data: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    way, kept = Way("way", bundle, device="cpu"), tmp_path / "scores.csv"
    first = score_all(data, ["a"], [way], kept)
    monkeypatch.setattr(scoring, "score_image", None)
    assert score_all(data, ["a"], [way], kept) == first
    with pytest.raises(TypeError):
        score_all(data, ["a"], [Way("way", bundle, ("0",), device="cpu")], kept)
