"""The parts of training, each against a reference or by hand; the whole chain is in test_chain."""

import csv
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from click.testing import CliRunner
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from PIL import Image
from torch.nn import functional as F

from conftest import SAMPLES
from processes import left_of
from reunet.errors import ImageError
from reunet.training import layout
from reunet.training.__main__ import main
from reunet.training.cli_all import hours_of
from reunet.training.data import dataset, sampling
from reunet.training.fit import jobs, size
from reunet.training.fit.augment import (
    MAP_SCALE,
    P_GREY,
    P_HALOS,
    P_RELIEF,
    P_ZOOM,
    Beginning,
    Recolour,
    Zoom,
    halos,
    relief,
    slope,
    widen_zoom,
    with_maps,
)
from reunet.training.fit.log import F1, TrainingLog, epoch_line
from reunet.training.fit.loss import IGNORE, WeightedDiceCE, add_maps
from reunet.training.fit.schedule import halving, warm_cosine
from reunet.training.fit.trainer import nnUNetTrainerReUNet
from reunet.training.fit.validate import MOST_CASES, pick_cases
from reunet.training.presets import PRESETS

# -- loss (paper §2.5)

CLASSES = torch.tensor([[0, 0, 1, 1], [0, 2, 2, 1], [0, 2, 2, 1], [0, 0, 0, 0]])
WEIGHTS = torch.tensor([[1.0, 1, 2, 2], [1, 5, 5, 2], [1, 5, 5, 2], [1, 1, 1, 1]])
PROBABILITIES = (0.2, 0.5, 0.3)  # of background, interior, boundary, at every pixel
LOGITS = torch.log(torch.tensor(PROBABILITIES))[None, :, None, None].expand(1, 3, 4, 4)


def test_loss_by_hand() -> None:
    """8 background, 4 interior and 4 boundary pixels; weights sum to 8·1 + 4·2 + 4·5 = 36."""
    target = torch.stack([CLASSES, WEIGHTS])[None]
    interior = 2 * (0.5 * 8) / (0.5 * 36 + 8)  # 2 Σ w·u·y / (Σ w·u + Σ w·y)
    boundary = 2 * (0.3 * 20) / (0.3 * 36 + 20)
    dice = -(interior + boundary) / 2
    entropy = -(8 * math.log(0.2) + 4 * math.log(0.5) + 4 * math.log(0.3)) / 16
    assert WeightedDiceCE(True)(LOGITS, target).item() == pytest.approx(dice + entropy, abs=1e-5)

    interior, boundary = 2 * (0.5 * 4) / (0.5 * 16 + 4), 2 * (0.3 * 4) / (0.3 * 16 + 4)
    plain = -(interior + boundary) / 2 + entropy
    assert WeightedDiceCE(False)(LOGITS, target).item() == pytest.approx(plain, abs=1e-5)
    assert WeightedDiceCE(True)(LOGITS, target[:, :1]).item() == pytest.approx(plain, abs=1e-5)

    weighted = -(8 * math.log(0.2) + 4 * 2 * math.log(0.5) + 4 * 5 * math.log(0.3)) / 36
    both = WeightedDiceCE(True, weight_ce=True)(LOGITS, target).item()
    assert both == pytest.approx(dice + weighted, abs=1e-5)


def test_unweighted_loss_is_nnunets() -> None:
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    torch.manual_seed(0)
    logits, classes = torch.randn(2, 3, 16, 16), torch.randint(0, 3, (2, 1, 16, 16))
    dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    theirs = DC_and_CE_loss(dice, {}, dice_class=MemoryEfficientSoftDiceLoss)(logits, classes)
    assert torch.allclose(WeightedDiceCE(False)(logits, classes), theirs)


@pytest.mark.parametrize("ignored", [0.0, 0.4, 1.0])
def test_ignored_pixels_are_nnunets_ignore_label(ignored: float) -> None:
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    torch.manual_seed(0)
    logits, classes = torch.randn(2, 3, 16, 16), torch.randint(0, 3, (2, 1, 16, 16))
    classes[torch.rand(classes.shape) < ignored] = IGNORE
    dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": False, "ddp": False}
    theirs = DC_and_CE_loss(dice, {}, 1, 1, IGNORE, dice_class=MemoryEfficientSoftDiceLoss)
    assert torch.allclose(WeightedDiceCE(False)(logits, classes), theirs(logits, classes))


@pytest.mark.parametrize("weight_ce", [False, True])
def test_ignored_pixels_teach_nothing(weight_ce: bool) -> None:
    """Whatever their weight, neither their logits nor their own class move the loss."""
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 8, 8, requires_grad=True)
    classes, weights = torch.randint(0, 3, (1, 1, 8, 8)).float(), 10 * torch.rand(1, 1, 8, 8)
    classes[..., :3] = IGNORE
    loss = WeightedDiceCE(True, weight_ce)
    whole = loss(logits, torch.cat((classes, weights), dim=1))
    whole.backward()
    assert logits.grad is not None
    assert not logits.grad[..., :3].any()
    assert logits.grad[..., 3:].all()
    cut = loss(logits[..., 3:], torch.cat((classes, weights), dim=1)[..., 3:])
    assert torch.allclose(whole, cut)


def test_weights_keep_their_sum_at_lower_resolutions() -> None:
    maps = torch.rand(2, 64, 64)
    small = add_maps(torch.zeros(1, 16, 16, dtype=torch.int16), maps)
    assert small.shape == (3, 16, 16)
    assert torch.allclose(small[1:].mean(), maps.mean(), atol=1e-6)
    assert torch.equal(small[1:], F.avg_pool2d(maps, 4))


# -- schedule (tables 3 and 4)


@pytest.mark.parametrize(
    ("stage", "epoch", "rate"),
    [
        ("baseline", 0, 1e-2), ("baseline", 249, 1e-2),
        ("baseline", 250, 5e-3), ("baseline", 499, 5e-3),
        ("weightmap", 0, 3e-3), ("weightmap", 99, 3e-3),
        ("weightmap", 100, 1.5e-3), ("weightmap", 199, 1.5e-3),
        ("round1", 99, 3e-3), ("round3", 199, 1.5e-3),
    ],
)  # fmt: skip
def test_the_papers_learning_rates(stage: str, epoch: int, rate: float) -> None:
    schedule = PRESETS["paper"].schedule(stage)
    assert schedule.epochs == (500 if stage == "baseline" else 200)
    assert schedule.halve_every is not None
    assert schedule.first_lr * halving(epoch, schedule.halve_every) == pytest.approx(rate)


def test_the_cosine_rises_and_ends_at_zero() -> None:
    rates = [warm_cosine(p) for p in np.linspace(0, 1, 200)]
    top = int(np.argmax(rates))
    assert 0.1 < rates[0] < 0.3
    assert top <= 8
    assert all(np.diff(rates[top:]) <= 0)
    assert rates[-1] == pytest.approx(0, abs=1e-6)


# -- augmentation


def augmented(weighted: bool, seed: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """nnU-Net's pipeline on a label whose weight is 2 in the disc and 1 around it."""
    np.random.seed(seed)  # noqa: NPY002 nnU-Net's generator
    torch.manual_seed(seed)
    scales = [[1.0, 1.0], [0.5, 0.5]]
    pipeline = nnUNetTrainer.get_training_transforms((64, 64), (-3.1, 3.1), scales, (0, 1), False)
    widen_zoom(pipeline, (0.5, 2.0))
    y, x = np.mgrid[:128, :128]
    disc = ((y - 64) ** 2 + (x - 64) ** 2 < 30**2).astype(np.int16)
    stored = [disc, (1 + disc) * MAP_SCALE, disc * MAP_SCALE]
    both = torch.from_numpy(np.stack(stored).astype(np.int16))
    image = torch.rand(3, 128, 128)
    out = with_maps(pipeline, weighted)(image=image, segmentation=both)
    return out["image"], out["segmentation"]


def test_the_weight_map_goes_through_the_same_transform_as_the_label() -> None:
    agree = []
    for seed in range(30):
        _, (fine, coarse) = augmented(True, seed)
        assert fine.shape == (3, 64, 64)
        assert coarse.shape == (3, 32, 32)
        inside = fine[1] > 0.5  # weights outside the picture are 0
        agree.append(((fine[1] - 1 - fine[0]).abs() < 0.5)[inside].float().mean().item())
    assert min(agree) > 0.97
    assert np.mean(agree) > 0.99


def test_intensity_transforms_leave_the_weights_alone() -> None:
    for seed in range(10):
        _, (fine, _) = augmented(True, seed)
        assert fine[1].min() >= 0
        assert fine[1].max() <= 2


def test_the_field_goes_through_the_same_transform_as_the_label() -> None:
    for seed in range(10):
        _, (fine, _) = augmented(False, seed)
        assert ((fine[2] - fine[0]).abs() < 0.5).float().mean() > 0.97


def test_all_weights_of_an_unweighted_training_are_one() -> None:
    image, (fine, coarse) = augmented(False, 3)
    assert image.shape == (3, 64, 64)
    for part in (fine, coarse):
        assert (part[1] == 1).all()
        assert set(part[0].unique().tolist()) <= {0, 1}


def draw(beginning: Beginning, queue: Any) -> None:
    np.random.seed(None)  # noqa: NPY002 as nnU-Net's loaders do
    beginning(image=torch.zeros(1))
    queue.put((os.getpid(), torch.rand(1).item()))
    time.sleep(300)


def start_loaders(kind: str, queue: Any) -> None:
    context, beginning = get_context(kind), Beginning()
    for _ in range(3):
        context.Process(target=draw, args=(beginning, queue)).start()
    time.sleep(300)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, and loaders that are forked")
@pytest.mark.parametrize("kind", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_loaders_draw_for_themselves_and_end_with_their_parent(kind: str) -> None:
    """Forked, they would all begin with the state of PyTorch's generator in their parent."""
    context = get_context("spawn")
    queue = context.Queue()
    parent = context.Process(target=start_loaders, args=(kind, queue))
    parent.start()
    told = dict(queue.get(timeout=200) for _ in range(3))
    assert len(set(told.values())) == len(told) == 3
    parent.kill()
    assert not left_of(set(told))


SERVING = """
import os, sys, time
from multiprocessing import get_context
from reunet.training.processes import end_with

def serve(connection, other, parent):
    other.close()
    end_with(parent)
    connection.send("ready")
    try:
        connection.recv()
    except EOFError:
        sys.excepthook(*sys.exc_info())  # as the thread does that gives batches away
    time.sleep(300)

here, there = get_context("fork").Pipe()
child = get_context("fork").Process(target=serve, args=(there, here, os.getpid()))
child.start()
there.close()
here.recv()
here.close()
time.sleep(float(sys.argv[1]))
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs loaders that are forked")
@pytest.mark.parametrize(("alive", "told"), [(0, False), (4, True)])
def test_a_lost_connection_is_told_unless_its_other_end_has_gone(alive: float, told: bool) -> None:
    """A killed training must not end in the tracebacks of loaders that outlive it by a second."""
    command = [sys.executable, "-c", SERVING, str(alive)]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    assert ended.stderr.endswith("EOFError\n") if told else not ended.stderr


def test_zoom_is_drawn_evenly_on_a_logarithmic_axis() -> None:
    np.random.seed(0)  # noqa: NPY002
    drawn = np.log2([Zoom((0.5, 2.0))(image=None, dim=0) for _ in range(4000)])
    assert drawn.min() > -1
    assert drawn.max() < 1
    assert abs(np.median(drawn)) < 0.05


def test_recoloured_images_stay_images_with_the_same_cells() -> None:
    """Every kind of it comes up; the labels are not looked at; nothing grows beyond bounds."""
    torch.manual_seed(0)
    image, cells = torch.randn(3, 40, 60), torch.randint(0, 3, (3, 40, 60), dtype=torch.int16)
    kinds = Counter[str]()
    for _ in range(400):
        before = image.clone(), cells.clone()
        given = {"image": image, "segmentation": cells}
        after = Recolour()(**given)["image"]
        assert (after.shape, after.dtype) == (image.shape, image.dtype)
        assert after.is_contiguous()
        assert torch.isfinite(after).all()
        assert 0.3 < after.std() < 2
        assert torch.equal(image, before[0])
        assert torch.equal(cells, before[1])
        grey = torch.equal(after[0], after[1])
        kinds["as it was"] += torch.equal(after, image)
        kinds["inverted"] += torch.equal(after, -image)
        kinds["grey"] += grey
        kinds["swapped"] += not grey and sorted(after.flatten(1).sum(1).tolist()) == sorted(
            image.flatten(1).sum(1).tolist()
        )
    assert kinds["as it was"] > 40
    assert min(kinds.values()) > 8
    assert kinds["grey"] / 400 == pytest.approx(
        1 - (1 - P_GREY) * (1 - P_RELIEF - P_HALOS), abs=0.1
    )


@pytest.mark.parametrize("optics", [relief, halos])
def test_what_is_even_has_neither_relief_nor_halos(optics: Callable[..., torch.Tensor]) -> None:
    disk = torch.from_numpy(np.hypot(*np.mgrid[-64:64, -64:64]) < 10).float()[None]
    for _ in range(20):
        seen = optics(disk)
        assert seen.abs()[:, :2].max() < 1e-6  # far from the disk
        assert seen.min() < -0.1  # a dark side or rim …
        assert seen.max() > 0.1  # … and a bright one
        assert seen.sum().abs() < 0.05 * seen.abs().sum()  # as much of both


def test_uneven_light_is_none_on_the_whole() -> None:
    for _ in range(20):
        light = slope(torch.zeros(3, 30, 50))
        assert light.shape == (30, 50)
        assert light.mean().abs() < 1e-5
        assert light.abs().max() <= math.sqrt(2)


def test_nnunets_pipeline_starts_with_the_spatial_transform() -> None:
    pipeline = nnUNetTrainer.get_training_transforms((64, 64), (0, 0), None, (0, 1), False)
    assert isinstance(pipeline.transforms[0], BasicTransform)
    widen_zoom(pipeline, (0.5, 2.0))
    assert pipeline.transforms[0].p_scaling == P_ZOOM


# -- data set


def cases_of(counts: dict[tuple[str, str], int]) -> dataset.Cases:
    return {
        f"{m}-{s}-{i}": {"modality": m, "source": s, "group": f"{s}{i // 3}"}
        for (m, s), n in counts.items()
        for i in range(n)
    }


CASES = cases_of({("fluo", "a"): 240, ("fluo", "b"): 15, ("pc", "c"): 30, ("dic", "d"): 9})


def test_sampling_is_even_over_modalities() -> None:
    drawn = sampling.balanced(CASES, CASES, 256)
    assert set(drawn) == set(CASES)
    counts = {m: sum(CASES[n]["modality"] == m for n in drawn) for m in ("fluo", "pc", "dic")}
    assert max(counts.values()) / min(counts.values()) < 1.05
    a, b = (sum(CASES[n]["source"] == s for n in drawn) for s in "ab")
    assert a / b == pytest.approx(math.sqrt(240 / 15), rel=0.05)


@pytest.mark.parametrize(("labelled", "pseudo"), [(822, 205), (822, 1725), (40, 3), (9, 30_000)])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_pseudo_labelled_cases_have_their_share_of_the_draws(
    labelled: int, pseudo: int, share: float
) -> None:
    names = [f"a{i}" for i in range(labelled)], [f"pseudo_{i}" for i in range(pseudo)]
    drawn = Counter(sampling.mixed(*names, share))
    assert drawn.keys() == {*names[0], *names[1]}
    assert len({drawn[name] for name in names[1]}) == 1
    taken = sum(drawn[name] for name in names[1]) / drawn.total()
    assert taken == pytest.approx(share, rel=0.15) or (taken > share and drawn[names[1][0]] == 1)


def test_without_a_share_every_case_is_drawn_alike() -> None:
    assert Counter(sampling.mixed(["a", "b"], ["c"], None)) == {"a": 1, "b": 1, "c": 1}
    assert sampling.mixed(["a", "b"], [], 0.3) == ["a", "b"]


def test_folds_are_stratified_and_never_split_a_group(tmp_path: Path) -> None:
    sampling.write_folds(CASES, tmp_path)
    folder = tmp_path / "preprocessed" / layout.DATASET
    folds = json.loads((folder / "splits_final.json").read_text())
    assert len(folds) == 5
    assert sorted(n for fold in folds for n in fold["val"]) == sorted(CASES)
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == sorted(CASES)
        groups = [{CASES[n]["group"] for n in fold[part]} for part in ("train", "val")]
        assert not groups[0] & groups[1]
        assert sum(CASES[n]["modality"] == "pc" for n in fold["val"]) in range(3, 10)
    sampling.write_folds(dict(reversed(CASES.items())), tmp_path)
    assert json.loads((folder / "splits_final.json").read_text()) == folds
    assert dataset.read_cases(tmp_path).keys() == CASES.keys()


def test_folds_of_few_and_scattered_images(tmp_path: Path) -> None:
    folder = tmp_path / "preprocessed" / layout.DATASET
    scattered = cases_of({("fluo", "a"): 3, ("pc", "b"): 3, ("bf", "c"): 4, ("dic", "d"): 2})
    sampling.write_folds(scattered, tmp_path)  # no stratum has five images, there are five groups
    folds = json.loads((folder / "splits_final.json").read_text())
    assert sorted(n for fold in folds for n in fold["val"]) == sorted(scattered)
    two = cases_of({("fluo", "a"): 6})
    sampling.write_folds(two, tmp_path)
    assert len(json.loads((folder / "splits_final.json").read_text())) == 2
    with pytest.raises(ValueError, match="one group"):
        sampling.write_folds(cases_of({("fluo", "a"): 2}), tmp_path)


def test_folds_by_source_hold_back_whole_sources(tmp_path: Path) -> None:
    modalities = ["fluo", "pc", "bf"] * 4
    cases = cases_of({(modality, f"s{n}"): 3 + n for n, modality in enumerate(modalities)})
    sampling.write_folds(cases, tmp_path, "source")
    folds = dataset.read_json(layout.folds_file(tmp_path))
    assert len(folds) == 5
    for fold in folds:
        parts = (fold["train"], fold["val"])
        trained, judged = ({cases[name]["source"] for name in part} for part in parts)
        assert judged
        assert not trained & judged
        assert {*fold["train"], *fold["val"]} == {*cases}
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(cases)
    with pytest.raises(ValueError, match="in other folds: name another --root"):
        sampling.write_folds(cases, tmp_path)  # trained ones would be judged by what they saw
    assert dataset.read_json(layout.folds_file(tmp_path)) == folds
    with pytest.raises(ValueError, match="one source"):
        sampling.write_folds(cases_of({("fluo", "a"): 9}), tmp_path / "other", "source")


def test_validation_looks_at_every_modality() -> None:
    picked = pick_cases(CASES, CASES)
    assert picked == pick_cases(list(reversed(CASES)), CASES)
    assert len(picked) <= MOST_CASES
    assert {CASES[n]["modality"] for n in picked} == {"fluo", "pc", "dic"}


@pytest.fixture
def labelled(tmp_path: Path) -> tuple[Path, Path]:
    """One good pair and one of everything that must be left out."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    images.mkdir()
    labels.mkdir()
    cells = np.zeros((40, 50), np.int32)
    cells[5:20, 5:20], cells[22:35, 22:40] = 1, 70_000
    for name in ("good", "colour", "fractions", "shifted", "unlabelled", "nocells", "twice"):
        Image.fromarray(np.arange(2000, dtype=np.uint8).reshape(40, 50)).save(
            images / f"{name}.png"
        )
    tifffile.imwrite(images / "twice.tif", np.zeros((40, 50), np.uint8))
    (images / "broken.png").write_bytes(b"\x89PNG")
    for name in ("good", "twice", "broken"):
        tifffile.imwrite(labels / f"{name}_label.tiff", cells)
    tifffile.imwrite(labels / "colour_label.tiff", np.zeros((40, 50, 3), np.uint8))
    tifffile.imwrite(labels / "fractions_label.tiff", cells * np.float32(0.5) + np.float32(0.25))
    tifffile.imwrite(labels / "shifted_label.tiff", cells[1:])
    tifffile.imwrite(labels / "nocells_label.tiff", cells * 0)
    return images, labels


def test_bad_pairs_are_left_out_by_name(labelled: tuple[Path, Path], tmp_path: Path) -> None:
    cases, left_out = dataset.convert(*labelled, tmp_path / "root", "paper")
    assert sorted(cases) == ["good", "twice"]
    assert {name: reason.split(": ")[1] for name, reason in left_out.items()}.keys() == {
        "broken.png", "colour.png", "fractions.png", "nocells.png",
        "shifted.png", "twice.tif", "unlabelled.png",
    }  # fmt: skip
    for name, words in {
        "twice.tif": "called twice too",
        "unlabelled.png": "no label for unlabelled",
        "nocells.png": "no cell",
        "shifted.png": "(39, 50)",
        "fractions.png": "fractions",
    }.items():
        assert words in left_out[name]
    assert all("\n" not in reason for reason in left_out.values())
    raw = tmp_path / "root" / "raw" / layout.DATASET
    assert len(list((raw / "imagesTr").iterdir())) == 3 * 2
    assert not list(raw.rglob(".part*"))


def test_conversion_resumes_and_keeps_to_one_encoding(
    labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    root = tmp_path / "root"
    first, _ = dataset.convert(*labelled, root, "paper")
    files = {p: p.stat().st_mtime_ns for p in (root / "raw").rglob("*.nii.gz")}
    lost = next(p for p in files if p.parent.name == "labelsTr")
    lost.unlink()
    again, _ = dataset.convert(*labelled, root, "paper")
    assert again == first
    assert lost.exists()
    untouched = [p for p in files if not p.name.startswith(lost.name.split(".")[0])]
    assert untouched
    assert all(p.stat().st_mtime_ns == files[p] for p in untouched)
    with pytest.raises(ValueError, match="'encoding': 'paper'"):
        dataset.convert(*labelled, root, "thin")


def test_conversion_follows_the_data(labelled: tuple[Path, Path], tmp_path: Path) -> None:
    images, labels = labelled
    root = tmp_path / "root"
    raw = root / "raw" / layout.DATASET

    def description() -> str:
        return (raw / "dataset.json").read_text()

    dataset.convert(images, labels, root, "paper")
    before = description()
    dataset.convert(images, labels, root, "paper")
    assert description() == before
    cells = np.zeros((40, 50), np.uint16)
    cells[3:30, 3:30] = 1
    tifffile.imwrite(labels / "good_label.tiff", cells)
    dataset.convert(images, labels, root, "paper")
    assert description() != before  # so that all is preprocessed anew
    (images / "twice.png").unlink()
    (images / "twice.tif").unlink()
    dataset.convert(images, labels, root, "paper")
    assert not list(raw.rglob("twice*"))
    assert len(list(raw.rglob("good*"))) == 6  # channels, classes, instances, digest


def test_labels_beyond_any_number_are_left_out_by_name(
    labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    cells = np.zeros((40, 50), np.uint32)
    cells[3:30, 3:30] = 2**31
    tifffile.imwrite(labelled[1] / "good_label.tiff", cells)
    cases, left_out = dataset.convert(*labelled, tmp_path / "root", "paper")
    assert list(cases) == ["twice"]
    assert "good_label.tiff" in left_out["good.png"]


def test_a_full_disk_is_one_line_and_leaves_nothing_half_done(
    labelled: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object, path: str, *__: object) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("sitk::ERROR: no space\nleft on device")

    monkeypatch.setattr(dataset.sitk, "WriteImage", full)
    root = tmp_path / "root"
    result = CliRunner().invoke(main, ["prepare", *map(str, labelled), "--root", str(root)])
    assert result.exit_code == 1
    assert result.output.startswith("error: ")
    assert "look to space" in result.output
    assert result.output.strip().count("\n") == 0
    assert [p.name for p in root.rglob("*") if p.is_file()] == ["dataset.json"]
    monkeypatch.undo()
    assert len(dataset.convert(*labelled, root, "paper", PRESETS["compact"].diameter)[0]) == 2


def test_training_before_preparing_is_one_line(tmp_path: Path) -> None:
    for stage, hint in (("baseline", "1_prepare_data.sh"), ("weightmap", "1_prepare_data.sh")):
        result = CliRunner().invoke(main, [stage, "--root", str(tmp_path)])
        assert result.exit_code == 1
        assert hint in result.output


def test_meta_keeps_validation_images_out(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).symlink_to(SAMPLES / folder)
    with (SAMPLES / "meta.csv").open() as file:
        rows = list(csv.DictReader(file))
    rows[0]["split"] = "train"
    with (tmp_path / "meta.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    cases, left_out = dataset.convert(
        tmp_path / "images", tmp_path / "labels", tmp_path / "root", "thin"
    )
    height, width = int(rows[0]["height"]), int(rows[0]["width"])
    about = {k: rows[0][k] for k in ("modality", "source", "group")}
    assert cases == {rows[0]["name"]: {**about, "pixels": str(height * width)}}
    assert not left_out


# -- log


def test_the_log_knows_the_best_epoch_and_survives_an_interruption(tmp_path: Path) -> None:
    def add(epoch: int, f1: float | None) -> bool:
        figures = {"epoch": epoch, "train_loss": 1.0 / (epoch + 1), "val_loss": 0.5}
        return TrainingLog(tmp_path).add(figures | ({} if f1 is None else {F1: f1}))

    assert not add(0, None)
    assert add(1, 0.3)
    assert not add(2, 0.2)
    assert add(3, 0.4)
    assert add(2, 0.35)  # interrupted after epoch 1: epochs 2 and 3 are run again
    assert [row["epoch"] for row in TrainingLog(tmp_path).rows()] == [0, 1, 2]
    assert Image.open(tmp_path / "training.png").size[0] > 300


def test_the_plot_marks_the_f1_of_each_modality(tmp_path: Path) -> None:
    """A point for each look at it; a single modality is the mean, and drawn once."""
    rows = [{"epoch": float(n), "train_loss": 0.1, "val_loss": 0.1} for n in range(8)]
    for n, row in enumerate(rows[3::4]):
        row |= {"f1_bf": 0.2 + n / 10, "f1_dic": 0.4, F1: 0.3}
    lines = {line.get_label(): line for line in TrainingLog(tmp_path)._figure(rows).axes[1].lines}
    assert sorted(lines) == ["bf", "dic", "mean of modalities"]
    assert {line.get_marker() for line in lines.values()} == {"o"}
    np.testing.assert_allclose(lines["bf"].get_xydata(), [[3, 0.2], [7, 0.3]])
    alone = [{k: v for k, v in row.items() if k != "f1_dic"} for row in rows]
    (line,) = TrainingLog(tmp_path)._figure(alone).axes[1].lines
    assert line.get_label() == "mean of modalities"


# -- jobs


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A root that passes for prepared, as far as `jobs.check` looks."""
    folder, raw = (tmp_path / part / layout.DATASET for part in ("preprocessed", "raw"))
    sampling.write_folds(CASES, tmp_path)
    raw.mkdir(parents=True)
    for path in (
        raw / "dataset.json",
        folder / "dataset.json",
        folder / Path(layout.marker(Path())).name,
    ):
        path.write_text('{"cases": {}}')
    for preset in PRESETS:
        (folder / f"plans_{preset}.json").write_text("{}")
    return tmp_path


def test_jobs_that_cannot_be_done(prepared: Path) -> None:
    jobs.check(prepared, jobs.Job("paper"), 0, 1, "cpu")
    jobs.check(prepared, jobs.Job("paper"), "all", 2, "cuda")
    with pytest.raises(ValueError, match="fold 5 does not exist"):
        jobs.check(prepared, jobs.Job("compact"), 5, 1, "cpu")
    with pytest.raises(ValueError, match="use --epochs"):
        jobs.check(prepared, jobs.Job("paper", hours=1), 0, 1, "cpu")
    with pytest.raises(ValueError, match="multiple of 32"):
        jobs.check(prepared, jobs.Job("compact", patch=336), 0, 1, "cpu")
    jobs.check(prepared, jobs.Job("compact"), 0, 3, "cpu")
    for job, count, device, said in (
        (jobs.Job("compact"), 4, "cuda", "a batch of 6 is shared evenly: choose 2, 3, 6"),
        (jobs.Job("paper", patch=1536), 2, "cpu", "a batch of 1 is shared evenly: choose 1"),
        (jobs.Job("compact", hours=1), 2, "cpu", "use --epochs, not --hours"),
        (jobs.Job("compact"), 2, "mps", "choose --device cuda or cpu, not mps"),
    ):
        with pytest.raises(ValueError, match=said):
            jobs.check(prepared, job, 0, count, device)
    with pytest.raises(FileNotFoundError, match="train that stage first"):
        jobs.check(prepared, jobs.Job("compact", "weightmap", start="/no/{fold}"), 0, 1, "cpu")
    with pytest.raises(FileNotFoundError, match="4_self_train"):
        jobs.check(prepared, jobs.Job("compact", "round1"), 0, 1, "cpu")
    (prepared / "raw" / layout.DATASET / "dataset.json").write_text('{"cases": {"a": 1}}')
    with pytest.raises(FileNotFoundError, match="1_prepare_data"):
        jobs.check(prepared, jobs.Job("compact"), 0, 1, "cpu")


@pytest.mark.parametrize(
    ("preset", "patch", "batch"),
    [("compact", 320, 4), ("compact", 448, 2), ("compact", 1024, 1), ("paper", 512, 8)],
)
def test_a_batch_of_other_patches_has_as_many_pixels(preset: str, patch: int, batch: int) -> None:
    assert PRESETS[preset].batch_of(patch) == batch


def test_results_of_another_job_are_not_taken_for_this_one(prepared: Path) -> None:
    job = jobs.Job("compact", "weightmap", weight_dice=True)
    output = layout.results_folder(prepared, "compact", "weightmap") / "fold_0"
    output.mkdir(parents=True)
    (output / layout.FINAL).touch()
    (output.parent / "plans.json").write_text(json.dumps({"reunet": vars(job)}))
    (output.parent / "dataset.json").write_text('{"cases": {}}')
    jobs.check_same(output, job, prepared)
    old = {
        name: value for name, value in vars(job).items() if not name.startswith(("pseudo", "patch"))
    }
    (output.parent / "plans.json").write_text(json.dumps({"reunet": old}))
    jobs.check_same(output, job, prepared)  # plans from before there were rounds
    with pytest.raises(ValueError, match="weight_dice"):
        jobs.check_same(output, jobs.Job("compact", "weightmap"), prepared)
    with pytest.raises(ValueError, match="patch"):
        jobs.check_same(output, replace(job, patch=448), prepared)
    (output.parent / "dataset.json").write_text('{"cases": {"gone": 1}}')
    with pytest.raises(ValueError, match="another state of the data"):
        jobs.check_same(output, job, prepared)


@pytest.mark.parametrize(
    "options",
    [["--folds", "0,x"], ["--hours", "0"], ["--epochs", "0"], ["--device", "tpu"]],
)
def test_options_that_make_no_sense(tmp_path: Path, options: list[str]) -> None:
    result = CliRunner().invoke(main, ["baseline", "--root", str(tmp_path), *options])
    assert result.exit_code == 2
    assert "Traceback" not in result.output


# -- what is said before anything is done


def test_export_takes_the_last_stage_that_was_trained(tmp_path: Path) -> None:
    from reunet.training.release.export import last_stage

    assert last_stage(tmp_path, "compact") == "baseline"
    for stage in ("round1", "baseline", "weightmap"):
        fold = layout.fold_folder(tmp_path, "compact", stage, 0)
        fold.mkdir(parents=True)
        if stage != "round1":  # begun, nothing saved yet
            (fold / layout.LATEST).touch()
    assert last_stage(tmp_path, "compact") == "weightmap"
    arguments = ["export", str(tmp_path / "bundle"), "--root", str(tmp_path), "--dry-run"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "would hold weightmap" in result.output
    assert str(layout.fold_folder(tmp_path, "compact", "weightmap", 0)) in result.output
    assert not (tmp_path / "bundle").exists()


def test_a_dry_run_of_prepare_does_nothing(labelled: tuple[Path, Path], tmp_path: Path) -> None:
    folders, root = [str(folder) for folder in labelled], tmp_path / "dry"
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(main, ["prepare", *folders, "--root", str(root), "--dry-run"])
    assert result.exit_code == 0
    assert "found 2 images with labels" in result.output
    assert "called twice too" in result.output
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_of_a_stage_tells_where_it_stands(prepared: Path) -> None:
    arguments = ["baseline", "--root", str(prepared), "--folds", "0", "--dry-run", "--hours", "2"]
    result = CliRunner().invoke(main, arguments)
    assert (
        "baseline, fold 0: 2 h of 100 iterations an epoch on cpu, from the start" in result.output
    )
    assert not (prepared / "results").exists()


def test_a_dry_run_of_the_size_network_does_nothing(
    labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    images, labels = labelled
    for path in images.iterdir():
        if path.stem != "good":
            path.unlink()
    before = sorted(tmp_path.rglob("*"))
    folders = [str(images), str(labels), "--root", str(tmp_path / "dry")]
    result = CliRunner().invoke(main, ["size", *folders, "--dry-run", "--hours", "2"])
    assert result.output.startswith("size: 1 images to learn from for 2 h, into ")
    assert sorted(tmp_path.rglob("*")) == before


def test_presets_whose_images_keep_their_size_have_no_size_network(
    labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    for preset in ("paper", "tiny"):
        place = ["--root", str(tmp_path / preset), "--preset", preset]
        result = CliRunner().invoke(main, ["size", *map(str, labelled), *place])
        assert result.exit_code != 0
        assert f"preset {preset}: its images keep their size" in result.output
        assert not (tmp_path / preset).exists()


def test_every_step_has_a_dry_run() -> None:
    for command in main.commands.values():
        assert "--dry-run" in {name for option in command.params for name in option.opts}


def test_a_training_is_told_in_one_line_an_epoch() -> None:
    figures = {"epoch": 3.0, "train_loss": 0.25, "val_loss": 0.5}
    assert epoch_line(figures) == "epoch 3: loss 0.250, held out 0.500"
    scores = {F1: 0.75, "f1_bf": 0.5, "f1_pc": 1.0}
    expected = "epoch 3: loss 0.250, held out 0.500, F1 0.750 (bf 0.500, pc 1.000)"
    assert epoch_line(figures | scores) == expected


@pytest.mark.parametrize("clock", [[False, False, True], [False, True], [True]])
def test_the_epoch_that_ends_a_training_is_the_one_that_is_scored(
    clock: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time may run out after an epoch has been told that it is not the last."""
    trainer = object.__new__(nnUNetTrainerReUNet)
    trainer.current_epoch, trainer.num_epochs, trainer.local_rank = 0, 100, 0
    trainer.num_val_iterations_per_epoch = 0
    answers, told_last = iter(clock), []
    called = ("on_train_start", "on_epoch_start", "on_train_epoch_start", "on_train_epoch_end")
    for name in (*called, "on_validation_epoch_start", "on_validation_epoch_end", "on_train_end"):
        monkeypatch.setattr(nnUNetTrainerReUNet, name, lambda *_: None)
    monkeypatch.setattr(nnUNetTrainer, "on_epoch_end", lambda _: None)
    monkeypatch.setattr(trainer, "epoch_batches", list)
    monkeypatch.setattr(trainer, "time_is_up", lambda: next(answers, True))
    monkeypatch.setattr(trainer, "note_epoch", lambda last: told_last.append(last) or "")
    trainer.run_training()
    assert told_last == [False] * (len(clock) - 2) + [True] * (len(clock) > 1)


def test_the_hours_end_within_an_epoch() -> None:
    """Of a hundred iterations of 6 s, two minutes have room for twenty."""
    trainer = object.__new__(nnUNetTrainerReUNet)
    trainer.hours, trainer.num_iterations_per_epoch = 120 / 3600, 100
    trainer.dataloader_train = iter(range(100))
    drawn: list[object] = []
    trainer.elapsed = lambda: 6.0 * len(drawn)  # type: ignore[method-assign]
    for batch in trainer.epoch_batches():
        drawn.append(batch)
    assert drawn == [*range(20)]
    trainer.hours = None
    trainer.dataloader_train = iter(range(100))
    assert len([*trainer.epoch_batches()]) == 100


# -- the size network's images


def pairs_on_disk(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for n in range(count):
        label = np.zeros((80, 80), np.uint16)
        label[20:50, 20:50] = 1
        Image.fromarray(rng.integers(0, 99, (80, 80, 3), np.uint8)).save(folder / f"{n}.png")
        tifffile.imwrite(folder / f"{n}_label.tiff", label)


def test_the_size_network_goes_on_without_images_that_cannot_be_used(tmp_path: Path) -> None:
    """As `prepare` does: a label that is missing is told at once, the rest as it is read."""
    pairs_on_disk(tmp_path, 4)
    (tmp_path / "0_label.tiff").unlink()
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:300])
    Image.new("RGB", (80, 70)).save(tmp_path / "2.png")
    told: list[str] = []
    samples, cases = size.read_samples(tmp_path, tmp_path, (), told.append)
    assert [sample.path.name for sample in samples] == ["1.png", "2.png", "3.png"]
    assert len(told) == 1
    threads = threading.active_count()
    drawn = size.batches(samples, cases, 0, told.append)
    for _ in range(3):
        image, presence, log_size = next(drawn)
        assert image.shape == (size.BATCH, 3, size.PATCH, size.PATCH)
        assert presence.shape == log_size.shape == (size.BATCH, size.PATCH, size.PATCH)
    assert len(told) == 3
    assert all(line.startswith("left out: ") for line in told)
    for n, line in enumerate(sorted(told[1:])):
        assert f"{n + 1}.png" in line
    assert threading.active_count() > threads
    del drawn
    assert threading.active_count() == threads, "what draws would abort the process as it ends"


def test_the_size_network_ends_where_no_image_can_be_read(tmp_path: Path) -> None:
    pairs_on_disk(tmp_path, 1)
    (tmp_path / "0.png").write_bytes(b"no image")
    samples, cases = size.read_samples(tmp_path, tmp_path, (), print)
    with pytest.raises(ImageError, match=r"0\.png"):
        next(size.batches(samples, cases, 0))


@pytest.mark.parametrize("left_out", [(), ("selftrain",), ("size", "selftrain")])
def test_hours_are_those_of_all_steps_together(left_out: tuple[str, ...]) -> None:
    each = hours_of(24.0, folds=5, jobs=2, left_out=left_out)
    turns = {"baseline": 5, "weightmap": 5, "selftrain": 3 * 3}
    spent = {stage: hours * turns.get(stage, 1) for stage, hours in each.items() if hours}
    assert sum(hours for stage, hours in spent.items() if stage not in left_out) == pytest.approx(
        24
    )
