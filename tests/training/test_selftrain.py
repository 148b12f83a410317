"""Self-training, its parts; the rounds as the train script runs them are in test_chain."""

import csv
import errno
import json
import math
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner
from PIL import Image
from scipy import ndimage
from scipy.special import softmax

from conftest import SAMPLES
from processes import TOGETHER, descendants, left_of
from reunet import load_model, predict
from reunet.inference.normalise import normalise_channels
from reunet.inference.scale import typical_diameter
from reunet.inference.size import Estimate
from reunet.inference.sliding_window import Maps, stored_field
from reunet.inference.tiles import Tiling
from reunet.instances.decode import decode
from reunet.instances.encode import INTERIOR, encode
from reunet.instances.weight_map import weight_map
from reunet.io.images import read_image, read_label
from reunet.metric import score_pair
from reunet.model import default_weights
from reunet.network.unet import build
from reunet.training import layout
from reunet.training.__main__ import main
from reunet.training.data import dataset, sampling
from reunet.training.data.field import distance_field
from reunet.training.fit import estimate, jobs
from reunet.training.fit.loss import IGNORE
from reunet.training.fit.start import start_tensors
from reunet.training.fit.trainer import nnUNetTrainerReUNet
from reunet.training.presets import PRESETS, ROUNDS
from reunet.training.release.history import load_checkpoint, started_from, summary
from reunet.training.selftrain import pseudo, rounds, teacher, unlabelled
from reunet.training.selftrain.expected import Expected, expectations, why_rejected
from reunet.training.selftrain.parallel import run_each
from reunet.training.selftrain.steady import SAME, differing, without_unsteady

TINY = PRESETS["tiny"]
TEACHER = Path("teacher.pth")  # not asked where images keep their size


class Trained(Exception):
    """Raised in place of a training."""


def discs(seed: int, height: int = 90, width: int = 110) -> np.ndarray:
    """Some discs, (H, W) int32."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    cells = np.zeros((height, width), np.int32)
    for n in range(1, 7):
        centre = rng.uniform(12, height - 12), rng.uniform(12, width - 12)
        cells[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 10**2] = n
    return cells


def picture(seed: int) -> np.ndarray:
    """Those discs, bright on dark and noisy, with a black margin; (H, W) uint8."""
    noise = np.random.default_rng(seed).normal(60, 10, (90, 110))
    image = (noise + 120 * (discs(seed) > 0)).clip(1, 255).astype(np.uint8)
    image[:6] = image[:, 100:] = 0
    return image


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two labelled cases and a teacher of two folds that knows nothing, with all that rounds need
    to be begun; nothing is preprocessed."""
    labelled, root = tmp_path / "labelled", tmp_path / "root"
    for folder in ("images", "labels"):
        (labelled / folder).mkdir(parents=True)
    for seed in (1, 2):
        Image.fromarray(picture(seed)).save(labelled / "images" / f"case{seed}.png")
        tifffile.imwrite(labelled / "labels" / f"case{seed}_label.tiff", discs(seed))
    cases, left_out = dataset.convert(labelled / "images", labelled / "labels", root, "paper")
    assert not left_out
    sampling.write_folds(cases, root)
    base, raw = (root / part / layout.DATASET for part in ("preprocessed", "raw"))
    for target in (base / "dataset.json", layout.marker(root)):
        target.write_text((raw / "dataset.json").read_text())
    configuration = {"data_identifier": "nnUNetPlans_2d"}
    dataset.write_json(base / "plans_tiny.json", {"configurations": {"2d": configuration}})
    results = layout.results_folder(root, "tiny", "weightmap")
    for fold in (0, 1):
        torch.manual_seed(fold)
        (results / f"fold_{fold}").mkdir(parents=True)
        state = {"network_weights": build(TINY.architecture).state_dict()}
        torch.save(state, results / f"fold_{fold}" / layout.FINAL)
    dataset.write_json(results / "plans.json", {"reunet": {"preset": "tiny"}})
    dataset.write_json(results / "dataset.json", dataset.read_json(base / "dataset.json"))
    return root


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three unlabelled images."""
    folder = tmp_path / "unlabelled" / "images"
    folder.mkdir(parents=True)
    for seed in (3, 4, 5):
        Image.fromarray(picture(seed)).save(folder / f"image{seed}.png")
    return folder


@pytest.fixture
def plan(root: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> rounds.SelfTraining:
    """A plan whose work is done in this process; the trainings are left out."""

    def here(work: Callable[..., Any], tasks: dict[str, Any], *_: object) -> dict[str, Any]:
        return {name: work(*arguments) for name, arguments in tasks.items()}

    def train_fold(*_: object) -> None:
        raise Trained

    monkeypatch.setattr(rounds, "run_each", here)
    monkeypatch.setattr(rounds, "train_fold", train_fold)
    start = layout.results_folder(root, "tiny", "weightmap") / "fold_{fold}" / layout.FINAL
    return rounds.SelfTraining(
        root, images, (0, 1), jobs.Job("tiny", start=str(start)), pseudo.Labelling(tta=False)
    )


def open_blosc(path: Path) -> np.ndarray:
    return np.asarray(blosc2.open(str(path), mode="r")[:])


# -- unlabelled images


def test_images_of_the_labelled_set_are_left_out_by_content(root: Path, images: Path) -> None:
    """Another name, format and bit depth do not hide an image; another crop is another image."""
    labelled = picture(1)
    Image.fromarray(labelled).save(images / "other_name.bmp")
    tifffile.imwrite(images / "sixteen_bits.tif", labelled.astype(np.uint16) * 100)
    Image.fromarray(np.stack([labelled] * 3, axis=-1)).save(images / "colour.png")
    Image.fromarray(labelled[:, :90]).save(images / "crop.png")
    Image.fromarray(picture(3)).save(images / "twice.png")
    Image.fromarray(picture(6)).save(images / "image3.bmp")
    (images / "broken.png").write_bytes(b"\x89PNG")
    (images / "notes.txt").write_text("no image")
    found, left_out = unlabelled.store_images(images, root, "tiny", TEACHER)
    assert {image.name for image in found} == {
        "crop.png", "image3.bmp", "image4.png", "image5.png", "twice.png",
    }  # fmt: skip
    for name in ("other_name.bmp", "sixteen_bits.tif", "colour.png"):
        assert "labelled set too, as case1" in left_out[name]
    assert "called pseudo_image3 too" in left_out["image3.png"]
    assert "broken.png" in left_out
    assert all(str(images / name) in reason for name, reason in left_out.items())
    assert all("\n" not in reason for reason in left_out.values())


def test_two_unlabelled_images_alike_count_once(root: Path, images: Path) -> None:
    Image.fromarray(picture(3)).save(images / "twin.png")
    found, left_out = unlabelled.store_images(images, root, "tiny", TEACHER)
    assert len(found) == 3
    assert list(left_out) == ["twin.png"]
    assert "here twice, as image3.png" in left_out["twin.png"]


def test_images_of_other_folders_can_be_left_out(root: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "validation").mkdir()
    Image.fromarray(picture(4)).save(tmp_path / "validation" / "held_back.tif")
    others = [tmp_path / "validation"]
    found, left_out = unlabelled.store_images(images, root, "tiny", TEACHER, others)
    assert {image.name for image in found} == {"image3.png", "image5.png"}
    assert "held_back.tif" in left_out["image4.png"]


def test_no_name_hides_a_labelled_case(root: Path, images: Path) -> None:
    Image.fromarray(picture(7)).save(images / "case1.png")
    found, _ = unlabelled.store_images(images, root, "tiny", TEACHER)
    labelled = dataset.read_cases(root)
    assert len({image.case for image in found}) == 4
    assert not {image.case for image in found} & labelled.keys()


def test_images_are_stored_once_and_anew_when_they_change(root: Path, images: Path) -> None:
    first, _ = unlabelled.store_images(images, root, "tiny", TEACHER)
    folder = layout.unlabelled_folder(root)
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again, _ = unlabelled.store_images(images, root, "tiny", TEACHER)
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    Image.fromarray(picture(8)).save(images / "image4.png")
    changed, _ = unlabelled.store_images(images, root, "tiny", TEACHER)
    assert [a.digest == b.digest for a, b in zip(first, changed, strict=True)] == [1, 0, 1]


def test_names_that_begin_alike_are_cases_of_their_own(root: Path, images: Path) -> None:
    for n, name in enumerate(("2024.05.a.png", "2024.05.b.png")):
        Image.fromarray(picture(20 + n)).save(images / name)
    found, left_out = unlabelled.store_images(images, root, "tiny", TEACHER)
    assert not left_out
    assert {"pseudo_2024.05.a", "pseudo_2024.05.b"} <= {image.case for image in found}


# -- teacher


def pixelwise(tiles: np.ndarray) -> np.ndarray:
    """A network whose logits depend on nothing but the pixel itself."""
    return np.stack([tiles[:, 0], 2 * tiles[:, 1] - 1, 0.5 - tiles[:, 2]], axis=1)


@pytest.mark.parametrize("band", [10**9, 5000, 1])
def test_soft_output_is_the_softmax_of_the_mean_logits(
    band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher, "BAND_PIXELS", band)
    content = np.random.default_rng(0).normal(size=(3, 1, 333, 95)).astype(np.float32)

    def doubled(tiles: np.ndarray) -> np.ndarray:
        return 2 * pixelwise(tiles)

    tiling = Tiling(64, 32, 8)
    seen = teacher.look_at(content, [pixelwise, doubled], tiling)
    expected = softmax(1.5 * pixelwise(content[np.newaxis, :, 0])[0], axis=0)
    assert (seen.classes != expected.argmax(axis=0)).mean() < 1e-3  # ties
    np.testing.assert_allclose(seen.confidence, expected.max(axis=0), atol=1e-3)
    own = pixelwise(content[np.newaxis, :, 0])[0].argmax(axis=0)
    for classes in seen.maps.classes:  # twice the logits are the same classes
        assert (classes != own).mean() < 1e-3


@pytest.mark.parametrize("with_field", [True, False])
def test_a_cell_that_one_fold_of_three_sees_is_voted_down(with_field: bool) -> None:
    both, alone = np.zeros((2, 60, 80), np.int32)
    both[10:30, 10:30] = 1
    alone[both > 0] = 1
    alone[35:55, 40:60] = 2
    seen = [both, both, alone]
    classes = np.stack([encode(cells) for cells in seen])
    fields = np.stack([stored_field(distance_field(cells)) for cells in seen])
    maps = Maps(classes, fields if with_field else None)
    agreed = teacher.agreed_cells(maps, "paper")
    assert score_pair(both, agreed).f1 == 1
    assert agreed.max() == 1
    assert agreed[45, 50] == 0


def test_bands_cover_an_image_once_with_room_on_either_side() -> None:
    for height, width, tile in ((10_000, 10_000, 512), (5001, 4001, 512), (100, 20, 64)):
        seen = np.zeros(height, int)
        for outer, inner in teacher.bands(height, width, tile):
            seen[inner] += 1
            assert outer.start == max(0, inner.start - tile)
            assert outer.stop == min(height, inner.stop + tile)
            assert (outer.stop - outer.start) * width < 3 * teacher.BAND_PIXELS
        assert (seen == 1).all()


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("dataset.json", {"encoding": "thin"}, "encoding thin"),
        ("dataset.json", {"labels": {"background": 0, "cell": 1}}, "classes"),
        ("plans.json", {"reunet": {"preset": "compact"}}, "preset compact"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(
    plan: rounds.SelfTraining, file: str, change: dict[str, Any], words: str
) -> None:
    path = layout.results_folder(plan.root, "tiny", "weightmap") / file
    path.write_text(json.dumps(dataset.read_json(path) | change))
    with pytest.raises(ValueError, match=words):
        rounds.self_train(plan)
    assert not (plan.root / "rounds").exists()


def test_a_teacher_that_is_not_there_is_named(plan: rounds.SelfTraining) -> None:
    Path(plan.start.format(fold=1)).unlink()
    with pytest.raises(FileNotFoundError, match=r"fold_1.*train that stage first"):
        rounds.self_train(plan)


class Touch:
    """What a pickle can do: it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    path, touched = tmp_path / "checkpoint_final.pth", tmp_path / "touched"
    weights = {"weight": torch.ones(2)}
    log = {"losses": [np.float32(1), np.float64(2), np.int64(3), 4.0]}
    torch.save({"network_weights": weights, "logging": log}, path)
    assert load_checkpoint(path)["logging"] == log
    torch.save({"network_weights": weights, "logging": Touch(touched)}, path)
    with pytest.raises(ValueError, match=r"checkpoint_final.*no checkpoint of a training"):
        load_checkpoint(path)
    assert not touched.exists()
    torch.load(path, weights_only=False)  # so the file was dangerous
    assert touched.exists()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(path)


# -- pseudo-labels


def labelling(plan: rounds.SelfTraining, **changes: Any) -> rounds.SelfTraining:
    """The plan with another way of labelling."""
    return replace(plan, labelling=replace(plan.labelling, **changes))


def store(plan: rounds.SelfTraining, **options: Any) -> tuple[pseudo.Round, Any, Any, Any]:
    """Store discs as the pseudo-label of the first image, confident above row 40 only."""
    image = unlabelled.store_images(plan.unlabelled, plan.root, "tiny", TEACHER)[0][0]
    how = pseudo.Round(
        replace(plan.labelling, **options),
        plan.root, "tiny", "round1", "paper", plan.unlabelled, {}, "cpu", expected={},
    )  # fmt: skip
    parts = [how.folder / part for part in ("labels", "overlays", "rows")]
    for path in (*parts, how.target):
        path.mkdir(parents=True, exist_ok=True)
    classes = encode(discs(3))[6:, :100]
    confidence = np.full(classes.shape, 0.9, np.float16)
    confidence[40:] = 0.6
    seen = teacher.Opinion(classes, confidence, Maps(classes[np.newaxis]))
    return how, image, classes, pseudo.store_label(how, image, seen)


def test_cells_of_one_scale_alone_are_unsteady() -> None:
    """By the definition, pixel by pixel and cell by cell."""
    rng = np.random.default_rng(5)
    maps = [np.kron(rng.integers(0, 9, (6, 8)), np.ones((5, 5), np.int32)) for _ in range(3)]
    maps[1] = np.where(rng.random(maps[0].shape) < 0.2, maps[1], maps[0])  # much as the first

    def steady(cell: int) -> bool:
        one = maps[0] == cell
        return any(
            (one & (other == n)).sum() / (one | (other == n)).sum() >= SAME
            for other in maps[1:]
            for n in range(1, 9)
        )

    sure = [cell for cell in range(1, 9) if steady(cell)]
    assert 0 < len(sure) < 8
    expected = np.any(maps, axis=0) & ~np.isin(maps[0], sure)
    np.testing.assert_array_equal(differing(maps[0], maps[1:]), expected)


def test_a_cell_that_one_scale_alone_shows_is_marked() -> None:
    """The network sees the dim square in the image as it is, and the bright ones at all scales."""
    content = np.zeros((3, 1, 96, 96), np.float32)
    content[:, 0, 8:40, 8:40] = 1
    content[:, 0, 52:88, 52:88] = 0.5
    seen_at = []

    def network(tiles: np.ndarray) -> np.ndarray:
        seen_at.append(tiles.shape[-1])
        least = 0.3 if len(seen_at) == 1 else 0.7
        none = np.zeros_like(tiles[:, 0])
        return np.stack([none, np.where(tiles[:, 0] > least, 5.0, -5.0), none - 9], axis=1)

    def cells_of(seen: teacher.Opinion) -> np.ndarray:
        return np.asarray(ndimage.label(seen.classes == INTERIOR)[0], np.int32)

    tiling = Tiling(256, 96, 8, views=1)
    seen = teacher.look_at(content, [network], tiling)
    marked = without_unsteady(seen, content, [network], tiling, cells_of)
    assert seen_at == [96, 128, 96]  # px, edges of tiles that hold 96, 125 and 74
    np.testing.assert_array_equal(marked.unsteady, content[0, 0] == 0.5)


def test_unsteady_pixels_teach_nothing_and_are_no_cell(plan: rounds.SelfTraining) -> None:
    how, image, classes, row = store(plan)
    before = open_blosc(how.target / f"{image.case}_seg.b2nd")[0, 0]
    instances = decode(classes, "regrow", "paper")
    gone = instances == 1
    seen = teacher.Opinion(
        classes, np.ones(classes.shape, np.float16), Maps(classes[np.newaxis]), unsteady=gone
    )
    less = pseudo.store_label(how, image, seen)
    after = open_blosc(how.target / f"{image.case}_seg.b2nd")[0, 0]
    np.testing.assert_array_equal(after, np.where(gone, IGNORE, before))
    assert less["cells"] == row["cells"] - 1
    label = read_label(how.folder / "labels" / "image3_label.tiff")
    assert np.unique(label).tolist() == list(range(row["cells"]))


def test_a_pseudo_label_is_one_hot_with_its_own_weight_map(plan: rounds.SelfTraining) -> None:
    how, image, classes, row = store(plan)
    stored = open_blosc(how.target / f"{image.case}_seg.b2nd")
    assert stored.dtype == np.int16
    np.testing.assert_array_equal(stored[0, 0], classes)
    whole = np.pad(classes, ((6, 0), (0, 10)))
    instances = decode(whole, "regrow", "paper")
    expected = weight_map(instances, whole)[6:, :100]
    np.testing.assert_allclose(stored[1, 0] / dataset.MAP_SCALE, expected, atol=6e-4)
    label = read_label(how.folder / "labels" / "image3_label.tiff")
    np.testing.assert_array_equal(label, instances)
    assert row["cells"] == instances.max()
    assert row["kept_share"] == 1
    assert row["mean_confidence"] == pytest.approx((40 * 0.9 + 44 * 0.6) / 84, abs=1e-3)
    assert row["rejected"] == ""
    with (how.target / f"{image.case}.pkl").open("rb") as file:
        locations = pickle.load(file)["class_locations"]
    for label, places in locations.items():
        assert len(places) == (classes == label).sum()
        assert (stored[0][tuple(places[:, 1:].T)] == label).all()


def test_where_folds_vote_the_classes_are_those_of_the_cells_they_agree_on(
    plan: rounds.SelfTraining,
) -> None:
    how, image, classes, row = store(plan, vote=True)
    stored = open_blosc(how.target / f"{image.case}_seg.b2nd")
    instances = read_label(how.folder / "labels" / "image3_label.tiff")[6:, :100]
    np.testing.assert_array_equal(instances, decode(classes, "regrow", "paper"))
    np.testing.assert_array_equal(stored[0, 0], encode(instances))
    assert row["cells"] == instances.max()


def test_pixels_under_the_threshold_are_ignored(plan: rounds.SelfTraining) -> None:
    how, image, classes, row = store(plan, threshold=0.7, reject=False)
    stored = open_blosc(how.target / f"{image.case}_seg.b2nd")[0, 0]
    np.testing.assert_array_equal(stored[:40], classes[:40])
    assert (stored[40:] == IGNORE).all()
    assert row["kept_share"] == pytest.approx(40 / 84, abs=1e-3)


def test_an_image_the_teacher_is_unsure_of_is_rejected(plan: rounds.SelfTraining) -> None:
    how, _, _, row = store(plan, threshold=0.7)
    assert "confident" in row["rejected"]
    assert not list(how.target.iterdir())
    assert (how.folder / "labels" / "image3_label.tiff").exists()  # to look at


@pytest.mark.parametrize(
    ("cells", "kept", "words"),
    [
        (30, 1.0, ""), (1300, 1.0, ""), (0, 1.0, "no cell"), (1400, 1.0, "1400 cells"),
        (30, 0.49, "confident"), (30, 0.5, ""),
    ],
)  # fmt: skip
def test_rejected_are_labels_that_cannot_be_right(cells: int, kept: float, words: str) -> None:
    row = {"cells": cells, "kept_share": kept, "median_diameter": 20.0}
    why = why_rejected(row, 512 * 512, None)
    assert bool(why) == bool(words)
    assert words in why


@pytest.mark.parametrize(
    ("cells", "diameter", "modality", "words"),
    [
        (14, 20.0, "bf", ""),
        (300, 20.0, "bf", "300 cells, where by the labelled images 46 would be many"),
        (45, 20.0, "bf", ""),
        (300, 20.0, "pc", ""),  # two labelled images are no measure: all are
        (60, 8.0, "pc", "60 specks of 8.0 px"),
        (60, 11.0, "pc", ""),
        (30, 8.0, "pc", ""),  # few small ones may be all there is
    ],
)
def test_rejected_is_what_labelled_images_of_the_modality_never_show(
    cells: int, diameter: float, modality: str, words: str
) -> None:
    """A dozen cells in each brightfield image of a megapixel, 400 elsewhere."""
    known = {"bf": Expected(12.0, 18.0), "": Expected(400.0, 20.0)}
    row = {"cells": cells, "kept_share": 1.0, "median_diameter": diameter}
    why = why_rejected(row, 10**6, known.get(modality) or known[""])
    assert words in why
    assert bool(why) == bool(words)


def test_expectations_are_measured_on_the_labelled_cases(root: Path) -> None:
    """Two cases of one modality: too few to speak for it alone, so they speak for all."""
    cells = [int(discs(seed).max()) - _hidden(seed) for seed in (1, 2)]
    (found,) = expectations(root).items()
    assert found[0] == ""
    assert found[1].densest == pytest.approx(max(cells) / (90 * 110) * 1e6)
    assert found[1].smallest == pytest.approx(20, abs=0.5)


def _hidden(seed: int) -> int:
    """Discs that others cover."""
    return int(discs(seed).max()) - (len(np.unique(discs(seed))) - 1)


def test_unlabelled_images_are_brought_to_the_size_of_cells(
    root: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As labelled ones are, by the estimate; label and overlay have the size of the image."""
    monkeypatch.setitem(PRESETS, "tiny", replace(TINY, diameter=30.0))

    def estimator(*asked: object) -> Callable[[np.ndarray], float]:
        assert asked == (root, "tiny", TEACHER, "cpu")
        return lambda _: 20.0

    monkeypatch.setattr(unlabelled, "estimator", estimator)
    found, left_out = unlabelled.store_images(images, root, "tiny", TEACHER)
    assert not left_out
    image = found[0]
    assert (image.height, image.width, image.diameter, image.brought_to) == (90, 110, 20.0, 30.0)
    folder = layout.unlabelled_folder(root)
    with (folder / f"{image.case}.pkl").open("rb") as file:
        assert pickle.load(file)["shape_before_cropping"] == (1, 135, 165)
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert unlabelled.store_images(images, root, "tiny", TEACHER)[0] == found
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    how = pseudo.Round(
        pseudo.Labelling(reject=False),
        root, "tiny", "round1", "paper", images, {}, "cpu", expected={},
    )  # fmt: skip
    for part in ("labels", "overlays", "rows"):
        (how.folder / part).mkdir(parents=True)
    how.target.mkdir(parents=True)
    larger = np.kron(discs(3), np.ones((3, 3), np.int32))[::2, ::2]  # 1.5 times
    content = open_blosc(folder / f"{image.case}.b2nd").shape[-2:]
    classes = encode(larger)[135 - content[0] :, : content[1]]
    sure = np.ones(classes.shape, np.float16)
    pseudo.store_label(how, image, teacher.Opinion(classes, sure, Maps(classes[np.newaxis])))
    label = read_label(how.folder / "labels" / "image3_label.tiff")
    assert label.shape == (90, 110)
    truth = np.where(picture(3) > 0, discs(3), 0)
    assert score_pair(truth, label).f1 > 0.8
    stored = open_blosc(how.target / f"{image.case}_seg.b2nd")
    assert stored.shape[-2:] == content
    monkeypatch.setitem(PRESETS, "tiny", TINY)  # a preset without a size stores them anew
    assert unlabelled.store_images(images, root, "tiny", TEACHER)[0][0].brought_to is None


def test_a_labelled_image_is_known_again_at_any_size(tmp_path: Path) -> None:
    """Its digest is that of the picture before its cells were brought to a size."""
    labelled, root = tmp_path / "labelled", tmp_path / "scaled"
    labelled.mkdir()
    Image.fromarray(picture(3)).save(labelled / "same.png")
    tifffile.imwrite(labelled / "same_label.tiff", discs(3))
    dataset.convert(labelled, labelled, root, "paper", diameter=30.0)
    digests = unlabelled.labelled_digests(root)
    assert dataset.pixel_digest(normalise_channels(np.stack([picture(3)] * 3, -1))) in digests


def test_the_size_network_is_that_of_the_root_or_the_shipped_one(tmp_path: Path) -> None:
    assert estimate.size_weights(tmp_path).name == "size.safetensors"
    network = estimate.load_size_network(tmp_path, "compact")
    assert network(np.zeros((1, 3, 256, 320), np.float32)).shape == (1, 2, 32, 40)
    layout.size_folder(tmp_path).mkdir(parents=True)
    torch.save({"weights": {}}, layout.size_file(tmp_path))
    with pytest.raises(ValueError, match=r"size\.pth: no size network of this architecture"):
        estimate.load_size_network(tmp_path, "compact")


def test_a_teacher_searches_for_the_size_as_predict_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the networks that ship; an estimate that is half of the true size is mended."""
    shipped = default_weights("cpu") / "fold_all.safetensors"
    checkpoint = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": start_tensors(shipped)}, checkpoint)
    measure = estimate.estimator(tmp_path, "compact", checkpoint)
    path = next((SAMPLES / "images").glob("bbbc039*"))
    image = normalise_channels(read_image(path).pixels)
    found = predict(path, load_model(precision="f32")).diameter
    assert measure(image) == pytest.approx(found, rel=0.01)
    true = typical_diameter(read_label(SAMPLES / "labels" / f"{path.stem}_label.tiff"))
    half = Estimate(true / 2, [(0.5, 0.5)])
    monkeypatch.setattr(estimate, "estimate_size", lambda *_: half)
    assert measure(image) == pytest.approx(true)
    monkeypatch.setattr(estimate, "estimate_size", lambda *_: None)
    assert measure(image) is None


def test_the_first_fold_of_the_first_teacher_finds_the_sizes(
    plan: rounds.SelfTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    def store_images(*arguments: object) -> tuple[list[object], dict[str, str]]:
        asked.append(arguments)
        return [], {}

    monkeypatch.setattr(rounds, "store_images", store_images)
    with pytest.raises(ValueError, match="no image could be used"):
        rounds.self_train(plan)
    teacher = Path(plan.start.format(fold=plan.folds[0]))
    assert asked == [(plan.unlabelled, plan.root, "tiny", teacher, (), "cpu")]


def test_class_locations_are_few_and_right() -> None:
    targets = np.random.default_rng(0).integers(0, 4, (400, 300))
    for label, places in pseudo.class_locations(targets).items():
        assert places.shape == (pseudo.LOCATIONS, 4)
        assert not places[:, :2].any()
        assert (targets[places[:, 2], places[:, 3]] == label).all()
        assert len(np.unique(places, axis=0)) == len(places)
    assert all(p.shape == (0, 4) for p in pseudo.class_locations(np.zeros((9, 9))).values())


def test_the_overlay_outlines_the_middle_of_a_large_image(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1500, 300, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    cells = np.zeros(image.shape[:2], np.int32)
    cells[700:760, 100:140] = 1
    ignored = np.zeros(cells.shape, bool)
    ignored[:, 200:] = True
    pseudo.write_overlay(tmp_path / "overlay.png", tmp_path / "image.png", cells, ignored)
    shown = np.asarray(Image.open(tmp_path / "overlay.png"))
    top = (1500 - 1024) // 2
    expected = normalise_channels(image)[top : top + 1024]
    assert shown.shape == (1024, 300, 3)
    np.testing.assert_array_equal(shown[:100, :200], expected[:100, :200])
    np.testing.assert_array_equal(shown[:, 200:], expected[:, 200:] // 2)
    assert (shown[700 - top, 100:140] == pseudo.OUTLINE).all()
    assert not (shown[705 - top, 105:135] == pseudo.OUTLINE).all(axis=1).any()


# -- rounds


def test_a_round_leaves_labels_overlays_and_a_table(plan: rounds.SelfTraining) -> None:
    (plan.unlabelled / "broken.png").write_bytes(b"\x89PNG")
    truth = plan.root / "truth"
    truth.mkdir()
    tifffile.imwrite(truth / "image4_label.tiff", discs(4))
    plan = labelling(plan, truth=truth, reject=False)
    said: list[str] = []
    with pytest.raises(Trained):
        rounds.self_train(plan, said.append)
    assert any("broken.png" in line for line in said)
    folder = plan.root / "rounds" / "round1"
    with (folder / "pseudo.csv").open(newline="") as file:
        table = {row["image"]: row for row in csv.DictReader(file)}
    assert set(table) == {"image3.png", "image4.png", "image5.png", "broken.png"}
    assert "broken.png" in table["broken.png"]["rejected"]
    for name in ("image3", "image4", "image5"):
        label = read_label(folder / "labels" / f"{name}_label.tiff")
        assert int(table[f"{name}.png"]["cells"]) == label.max()
        assert (folder / "overlays" / f"pseudo_{name}.png").exists()
    found = read_label(folder / "labels" / "image4_label.tiff")
    assert float(table["image4.png"]["f1"]) == pytest.approx(
        score_pair(discs(4), found).f1, abs=1e-4
    )
    assert table["image3.png"]["f1"] == ""


def test_the_students_train_on_both_kinds_and_validate_on_the_labelled(
    plan: rounds.SelfTraining,
) -> None:
    with pytest.raises(Trained):
        rounds.self_train(labelling(plan, reject=False))
    base = plan.root / "preprocessed" / layout.DATASET
    labelled = set(dataset.read_cases(plan.root))
    trainer: Any = object.__new__(nnUNetTrainerReUNet)
    trainer.preprocessed_dataset_folder_base = str(base)
    trainer.preprocessed_dataset_folder = str(layout.round_cases(plan.root, "tiny", "round1"))
    trainer.root = plan.root
    trainer.folder_with_segs_from_previous_stage = None
    trainer.print_to_log_file = lambda *_: None
    everything = labelled | {f"pseudo_image{n}" for n in (3, 4, 5)}

    class Cases:
        def __init__(self, *_: object, **__: object) -> None:
            self.identifiers = sorted(everything)

        @staticmethod
        def get_identifiers(_: str) -> list[str]:
            return sorted(everything)

    trainer.dataset_class = Cases
    for stage in ("weightmap", "round1"):
        trainer.job = {"preset": "tiny", "stage": stage}
        for fold in (0, 1, "all"):
            trainer.fold = fold
            train, val = trainer.do_split()
            assert set(val) <= labelled
            assert val
            assert set(train) - labelled == (everything - labelled if stage == "round1" else set())
            assert fold == "all" or not set(train) & set(val)
    dataset.write_json(layout.pseudo_cases_file(plan.root, "tiny", "round1"), ["case1"])
    with pytest.raises(AssertionError, match="labelled case"):
        trainer.do_split()


def test_a_full_disk_keeps_what_is_finished_and_goes_on_there(
    plan: rounds.SelfTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = labelling(plan, reject=False)
    written = []
    real = pseudo.write_blosc

    def full(path: Path, *arguments: Any) -> None:
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, *arguments)
        written.append(path.name)

    monkeypatch.setattr(pseudo, "write_blosc", full)
    with pytest.raises(OSError, match="No space left"):
        rounds.self_train(plan)
    folder = plan.root / "rounds" / "round1"
    assert len(list((folder / "rows").iterdir())) == 2
    assert not (folder / "pseudo.csv").exists()
    monkeypatch.setattr(pseudo, "write_blosc", real)
    said: list[str] = []
    with pytest.raises(Trained):
        rounds.self_train(plan, said.append)
    assert "round1: labelling 1 of 3 images" in said
    assert len(list((folder / "rows").iterdir())) == 3


def test_a_disk_that_is_full_is_no_bug_of_blosc(tmp_path: Path) -> None:
    """A real one: blosc2 itself says no more than that something went wrong."""
    code = (
        "import resource, signal, numpy as np; from pathlib import Path\n"
        "from reunet.training.data.dataset import write_blosc\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "noise = np.random.default_rng(0).normal(size=(3, 1, 300, 300)).astype(np.float32)\n"
        f"write_blosc(Path({str(tmp_path / 'case.b2nd')!r}), noise, (128, 128))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "OSError" in result.stderr
    assert "look to space" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_round_begun_with_something_else_is_refused(plan: rounds.SelfTraining) -> None:
    with pytest.raises(Trained):
        rounds.self_train(labelling(plan, reject=False))
    with pytest.raises(ValueError, match="another threshold"):
        rounds.self_train(labelling(plan, reject=False, threshold=0.9))
    os.utime(plan.start.format(fold=0), (1, 1))
    with pytest.raises(ValueError, match="another teacher"):
        rounds.self_train(labelling(plan, reject=False))


def test_a_round_without_a_usable_label_says_so(plan: rounds.SelfTraining) -> None:
    with pytest.raises(ValueError, match="every image was rejected"):
        rounds.self_train(labelling(plan, threshold=1.0))


@pytest.mark.parametrize(
    ("early_stop", "expected"), [(False, ["round1", "round2", "round3"]), (True, ["round1"])]
)
def test_students_that_did_not_help_end_the_rounds_if_asked(
    plan: rounds.SelfTraining,
    monkeypatch: pytest.MonkeyPatch,
    early_stop: bool,
    expected: list[str],
) -> None:
    run = []

    def run_round(_: object, stage: str, start: str, *__: object) -> dict[str, Any]:
        run.append((stage, start))
        return {"helped": False}

    monkeypatch.setattr(rounds, "run_round", run_round)
    rounds.self_train(replace(plan, early_stop=early_stop))
    assert [stage for stage, _ in run] == expected
    assert run[0][1] == plan.start
    for stage, (_, start) in zip(ROUNDS, run[1:], strict=False):
        assert f"plans_tiny_{stage}__" in start  # the students before are the teachers


def copy_of_teacher(root: Path, job: jobs.Job, fold: int, *_: object) -> None:
    """In place of a training: the student is its teacher."""
    assert job.start
    teacher = Path(job.start.format(fold=fold))
    output = layout.results_folder(root, "tiny", job.stage)
    (output / f"fold_{fold}").mkdir(parents=True)
    (output / f"fold_{fold}" / layout.FINAL).write_bytes(teacher.read_bytes())
    for name in ("plans.json", "dataset.json"):
        (output / name).write_text((teacher.parents[1] / name).read_text())


def test_a_round_that_nothing_can_judge_says_so(
    plan: rounds.SelfTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "fold_f1", lambda *_: None)  # as of fold `all`
    monkeypatch.setattr(rounds, "train_fold", copy_of_teacher)
    said: list[str] = []
    rounds.self_train(replace(labelling(plan, reject=False), rounds=1), said.append)
    assert said[-1] == "round1: complete; no image was held back to judge it by"


def test_a_complete_round_tells_whether_it_helped(
    plan: rounds.SelfTraining, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {"weightmap": 0.5, "round1": 0.6, "round2": 0.55}

    def fold_f1(_: Path, __: str, checkpoint: Path, fold: str, ___: str) -> float:
        stage = checkpoint.parents[1].name.split("__")[1].removeprefix("plans_tiny_")
        return figures[stage] + 0.01 * int(fold)

    monkeypatch.setattr(rounds, "fold_f1", fold_f1)
    monkeypatch.setattr(rounds, "train_fold", copy_of_teacher)
    said: list[str] = []
    rounds.self_train(replace(labelling(plan, reject=False), early_stop=True), said.append)
    assert [line for line in said if "warning" in line] == [
        "warning: round2: worse than its teacher: export that one, with --stage round1"
    ]
    assert dataset.read_json(plan.root / "rounds" / "round1" / "complete.json")["helped"]
    assert not dataset.read_json(plan.root / "rounds" / "round2" / "complete.json")["helped"]
    assert not (plan.root / "rounds" / "round3").exists()
    with (plan.root / "rounds" / "round2" / "folds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["fold"] for row in rows] == ["0", "1"]
    assert [float(row["teacher_f1"]) for row in rows] == pytest.approx([0.6, 0.61])
    assert [float(row["student_f1"]) for row in rows] == pytest.approx([0.55, 0.56])
    said.clear()
    rounds.self_train(replace(labelling(plan, reject=False), early_stop=True), said.append)
    assert [line for line in said if "complete already" in line] == [
        "round1: complete already",
        "round2: complete already",
    ]
    assert not any("training" in line for line in said)


# -- the command


def test_bad_folders_are_one_line(plan: rounds.SelfTraining, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    options = ["--preset", "tiny", "--root", str(plan.root), "--folds", "0,1"]
    for folder, code in ((empty, 1), (tmp_path / "nowhere", 2)):
        result = CliRunner().invoke(main, ["selftrain", "--unlabelled", str(folder), *options])
        assert result.exit_code == code
        assert str(folder) in result.output
        assert result.output.strip().count("\n") == 0


def test_a_dry_run_says_what_it_takes_and_writes_nothing(plan: rounds.SelfTraining) -> None:
    base = plan.root / "preprocessed" / layout.DATASET / "nnUNetPlans_2d"
    base.mkdir()
    for case in ("case1", "case2"):
        dataset.write_blosc(base / f"{case}.b2nd", np.ones((3, 1, 84, 100), np.float32), (128, 128))
        for ending in ("_seg.b2nd", ".pkl"):
            (base / f"{case}{ending}").write_bytes(bytes(8400))
    before = {path: path.stat().st_mtime_ns for path in plan.root.rglob("*")}
    result = CliRunner().invoke(
        main,
        ["selftrain", "--unlabelled", str(plan.unlabelled), "--preset", "tiny", "--root",
         str(plan.root), "--folds", "0,1", "--jobs", "1", "--hours", "0.5", "--dry-run"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "3 of 3 images" in result.output
    assert "1.00 h for the training" in result.output
    assert {path: path.stat().st_mtime_ns for path in plan.root.rglob("*")} == before


# -- processes


def test_work_is_done_in_processes_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    tasks: dict[str, tuple[Any, ...]] = {"root": (4,), "two": (2,)}
    assert run_each(math.sqrt, tasks, 2, tmp_path) == {"root": 2.0, "two": math.sqrt(2)}
    assert os.environ["OMP_NUM_THREADS"] == str(max(1, (os.cpu_count() or 1) // 2))
    assert {path.name for path in tmp_path.iterdir()} == {"root.log", "two.log"}


def test_a_failure_is_one_line_and_begins_nothing_more(tmp_path: Path) -> None:
    tasks: dict[str, tuple[Any, ...]] = {"first": (-1,), "second": (4,)}
    with pytest.raises(RuntimeError, match=r"first: .*math domain"):
        run_each(math.sqrt, tasks, 1, tmp_path)
    assert not (tmp_path / "second.log").exists()
    with pytest.raises(RuntimeError, match=r"gone: its process died, see the end of .*gone\.log"):
        run_each(os._exit, {"gone": (3,)}, 1, tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_nothing_goes_on_where_the_caller_was_killed(tmp_path: Path) -> None:
    code = (
        "import time; from pathlib import Path\n"
        "from reunet.training.selftrain.parallel import run_each\n"
        "if __name__ == '__main__':\n"
        f"    run_each(time.sleep, {{'long': (60,)}}, 1, Path({str(tmp_path)!r}))\n"
    )
    (tmp_path / "caller.py").write_text(code)
    caller = subprocess.Popen([sys.executable, str(tmp_path / "caller.py")], **TOGETHER)
    deadline = time.monotonic() + 60
    while not (tmp_path / "long.log").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    pids = descendants(caller.pid)
    assert pids
    os.kill(caller.pid, signal.SIGKILL)
    caller.wait()
    assert not left_of(pids)


# -- the card


def test_the_card_sums_up_each_stage() -> None:
    def entry(
        name: str, fold: str, f1: float | None, start: Path | None, root: str = "here"
    ) -> dict[str, Any]:
        checkpoint = Path(f"/{root}/results/data/{name}/fold_{fold}/checkpoint_final.pth")
        return {
            "name": name, "fold": fold, "job": {"preset": "compact"}, "epochs": 5, "hours": 0.25,
            "loss": -0.5, "f1": f1, "start": start, "checkpoint": checkpoint,
        }  # fmt: skip

    shared = entry("baseline", "all", None, None)
    tuned = [entry("weightmap", f, 0.6 + int(f) / 10, shared["checkpoint"]) for f in "02"]
    other = entry("baseline", "3", 0.5, None, root="there")
    stages = summary([shared, tuned[0], shared, tuned[1], other])
    assert [stage["name"] for stage in stages] == ["baseline", "weightmap", "baseline"]
    assert stages[2]["folds"] == ["3"]  # trained apart from the others: an entry of its own
    assert stages[0]["folds"] == ["all"]
    assert stages[0]["hours"] == 0.25  # the baseline that both started from counts once
    assert stages[0]["validation_f1"] is None
    assert stages[1]["hours"] == 0.5
    assert stages[1]["iterations"] == 500
    assert stages[1]["validation_f1"] == pytest.approx(0.7)
    assert "fold all" in stages[1]["started_from"]
    assert "random" in started_from([shared])
