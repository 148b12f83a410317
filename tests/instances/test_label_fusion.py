"""Folds vote on cells: against a brute-force reference, and on cases whose result is plain."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import classify

from reunet import pipeline, segment
from reunet.inference.ensemble import Average, Network
from reunet.inference.normalise import normalise_channels
from reunet.inference.sliding_window import Maps
from reunet.instances.label_fusion import AGREEMENT, FREE, agreements, fuse
from reunet.instances.overlap import agreement, overlapping_pairs
from reunet.instances.regions import UNSEEN
from reunet.io.images import Picture, as_picture
from reunet.io.source import hold
from reunet.model import Model, load_model
from reunet.network.bundle import save_bundle
from reunet.network.unet import Architecture, build
from reunet.options import SMALLEST_CELL, Options
from reunet.pipeline import Seen, find_cells, see
from reunet.survey import survey

CLASSES_ALONE = Architecture(features=(4, 8, 8), dropout=0.0)  # no distance field beside them


def random_candidate(seed: int, shape: tuple[int, int] = (60, 80), cells: int = 25) -> np.ndarray:
    """Rectangles, numbered in the order of their first pixels; some overlap others in part."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int32)
    for cell in range(1, cells + 1):
        top, left = rng.integers(0, shape[0] - 4), rng.integers(0, shape[1] - 4)
        height, width = rng.integers(3, 16, 2)
        labels[top : top + height, left : left + width] = cell
    return in_order(labels)


def moved(labels: np.ndarray, seed: int) -> np.ndarray:
    """The same cells a little elsewhere, a few of them gone."""
    rng = np.random.default_rng(seed)
    shifted = np.roll(labels, rng.integers(-1, 2, 2), (0, 1))
    gone = rng.choice(int(labels.max()), 3) + 1
    return in_order(np.where(np.isin(shifted, gone), 0, shifted))


def in_order(labels: np.ndarray) -> np.ndarray:
    numbers: dict[int, int] = {0: 0}
    flat = [numbers.setdefault(int(cell), len(numbers)) for cell in labels.ravel()]
    return np.array(flat, np.int32).reshape(labels.shape)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def cells_of(labels: np.ndarray) -> list[np.ndarray]:
    return [labels == cell for cell in range(1, labels.max() + 1)]


def brute_force(candidates: list[np.ndarray]) -> np.ndarray:
    """By masks and over all pairs, as the docstrings of `label_fusion` say it."""
    ranked = []
    for voter, candidate in enumerate(candidates):
        for mask in cells_of(candidate):
            best = [
                1.0
                if other is candidate
                else max((iou(mask, m) for m in cells_of(other)), default=0)
                for other in candidates
            ]
            ranked.append((round(float(np.mean(best)), 9), voter, mask))
    result = np.zeros(candidates[0].shape, np.int32)
    for agreed, _, mask in sorted(ranked, key=lambda entry: -entry[0]):
        free = mask & (result == 0)
        if agreed >= AGREEMENT and free.sum() >= max(FREE * mask.sum(), SMALLEST_CELL):
            result[free] = result.max() + 1
    return in_order(result)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("voters", [2, 3, 5])
def test_the_cells_are_those_of_brute_force(voters: int, seed: int) -> None:
    truth = random_candidate(seed)
    candidates = [moved(truth, 100 * seed + voter) for voter in range(voters)]
    found = fuse(candidates)
    np.testing.assert_array_equal(found, brute_force(candidates))
    assert found.dtype == np.int32
    assert 0 < found.max() < sum(candidate.max() for candidate in candidates)


@pytest.mark.parametrize("seed", range(8))
def test_iou_is_that_of_masks(seed: int) -> None:
    one, other = random_candidate(seed), random_candidate(seed + 50)
    areas = np.bincount(one.ravel()), np.bincount(other.ravel())
    areas[0][[0, 3]] = areas[1][[0, 5]] = 0  # left out
    cells, others, values = overlapping_pairs(one, other, areas)
    pairs = zip(cells.tolist(), others.tolist(), strict=True)
    found = dict(zip(pairs, values.tolist(), strict=True))
    expected = {
        (a, b): iou(one == a, other == b)
        for a in range(1, one.max() + 1)
        for b in range(1, other.max() + 1)
        if a != 3 and b != 5 and ((one == a) & (other == b)).any()
    }
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(8))
def test_agreement_is_the_mean_of_the_best_iou_of_every_cell(seed: int) -> None:
    one, other = random_candidate(seed), random_candidate(seed + 50)
    masks = [[labels == n for n in np.unique(labels)[1:]] for labels in (one, other)]
    best = [max((iou(a, b) for b in masks[1]), default=0) for a in masks[0]]
    best += [max((iou(a, b) for a in masks[0]), default=0) for b in masks[1]]
    assert agreement(one, other) == pytest.approx(np.mean(best))
    assert agreement(other, one) == pytest.approx(np.mean(best))
    assert agreement(one, one) == 1


def test_agreement_without_cells_is_none() -> None:
    nothing, cells = np.zeros((4, 5), np.int32), np.ones((4, 5), np.int32)
    assert agreement(nothing, nothing) == agreement(nothing, cells) == 0


def halves() -> tuple[np.ndarray, np.ndarray]:
    """Two cells side by side, and the same merged into one."""
    apart = np.zeros((20, 40), np.int32)
    apart[4:16, 4:19], apart[4:16, 20:35] = 1, 2
    return apart, (apart > 0).astype(np.int32)


def test_the_majority_decides_whether_cells_are_apart() -> None:
    apart, merged = halves()
    np.testing.assert_array_equal(fuse([merged, apart, apart]), apart)
    np.testing.assert_array_equal(fuse([merged, merged, apart]), merged)


def test_boundaries_a_few_pixels_apart_do_not_merge_cells(model: Model) -> None:
    """What votes are for: the mean of the same logits has no boundary left."""
    shape, gaps = (24, 60), (27, 30, 33)
    maps = []
    for gap in gaps:
        classes = np.zeros(shape, np.uint8)
        classes[2:22, 2:58] = 1
        classes[2:22, gap : gap + 2] = 2
        maps.append(classes)
    logits = np.mean([np.eye(3)[classes] for classes in maps], axis=0)
    average = logits.argmax(axis=-1).astype(np.uint8)
    for classes, cells in (([average], 1), (maps, 2)):
        seen = Seen(Maps(np.stack(classes)), shape)
        labels, _ = find_cells(seen, replace(model.bundle, encoding="thin"), Options())
        assert labels.max() == cells


def test_what_one_fold_alone_saw_is_dropped() -> None:
    apart, _ = halves()
    seen = apart.copy()
    seen[0:4, 36:40] = 3
    np.testing.assert_array_equal(fuse([seen, apart, apart]), apart)
    np.testing.assert_array_equal(fuse([apart, seen, seen]), in_order(seen))


@pytest.mark.parametrize("voters", [1, 2, 3, 5])
def test_unanimous_candidates_are_the_result(voters: int) -> None:
    candidate = random_candidate(1)
    candidate[
        np.isin(candidate, np.flatnonzero(np.bincount(candidate.ravel()) < SMALLEST_CELL))
    ] = 0
    candidate = in_order(candidate)
    np.testing.assert_array_equal(fuse([candidate] * voters), candidate)
    for values in agreements([candidate] * voters):
        np.testing.assert_allclose(values, np.arange(candidate.max() + 1) > 0)


def test_no_cells() -> None:
    empty, apart = np.zeros((20, 40), np.int32), halves()[0]
    assert not fuse([empty, empty]).any()
    assert not fuse([empty, apart, empty]).any()
    np.testing.assert_array_equal(fuse([empty, apart, apart]), apart)


def test_numbers_follow_first_pixels() -> None:
    truth = random_candidate(3)
    found = fuse([moved(truth, seed) for seed in range(3)])
    first = np.full(found.max() + 1, UNSEEN)
    np.minimum.at(first, found.ravel(), np.arange(found.size))
    assert (np.diff(first[1:]) > 0).all()


# --- in the pipeline


def seen_by(shift: int) -> Network:
    """A network that sees dark lines as boundaries, `shift` px to the right."""

    def network(tiles: np.ndarray) -> np.ndarray:
        grey = np.roll(tiles.mean(axis=1), shift, axis=-1)
        dark = grey < tiles.min() + 0.5 * np.ptp(tiles)
        return np.stack([np.full_like(grey, -9), np.where(dark, 0, 5), np.where(dark, 5, 0)], 1)

    return network


@pytest.fixture
def model(tmp_path: Path) -> Model:
    save_bundle(
        tmp_path / "bundle",
        CLASSES_ALONE,
        {"0": build(CLASSES_ALONE).state_dict()},
        {"encoding": "paper", "decoder": "regrow", "tile": 512, "smallest": 320},
    )
    shifts = (-4, 0, 4)
    networks = tuple(seen_by(shift) for shift in shifts)
    return replace(
        load_model(tmp_path / "bundle", "cpu"),
        networks=networks,
        folds=("0", "1", "2"),
    )


@pytest.fixture
def pixels() -> np.ndarray:
    """(320, 320, 3) uint8: bright with a dark line every 40 px, 3 px wide."""
    image = np.full((320, 320, 3), 200, np.uint8)
    image[:, 38::40] = image[:, 39::40] = image[:, 40::40] = 10
    return image


def class_maps(picture: Picture, model: Model, vote: bool = True) -> np.ndarray:
    options = Options(tta=False, enlarge=False, vote=vote)
    return see(survey(hold(picture), model, options), model, options).maps.classes


def test_each_fold_has_its_candidate(model: Model, pixels: np.ndarray) -> None:
    maps = class_maps(as_picture(pixels), model)
    assert [found.shape for found in maps] == [pixels.shape[:2]] * 3
    for network, found in zip(model.networks, maps, strict=True):
        alone = replace(model, networks=(network,))
        [expected] = class_maps(as_picture(pixels), alone)
        np.testing.assert_array_equal(found, expected)


def test_votes_keep_apart_what_the_average_merges(model: Model, pixels: np.ndarray) -> None:
    assert segment(pixels, model, tta=False, enlarge=False).max() == 8
    assert segment(pixels, model, tta=False, enlarge=False, vote=False).max() == 1


def test_the_average_is_that_of_the_logits(model: Model, pixels: np.ndarray) -> None:
    picture = as_picture(pixels)
    [found] = class_maps(picture, model, vote=False)
    image, tiling = normalise_channels(picture.pixels), model.tiling(Options(tta=False))
    np.testing.assert_array_equal(found, classify(image, Average(model.networks), tiling))


def test_huge_images_are_averaged(
    model: Model, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "LARGEST", 320 * 320 - 1)
    assert len(class_maps(as_picture(pixels), model)) == 1
