"""The whole chain on real images: prepare, train, fine-tune, teach itself, export, predict.

A tiny network learns eight small crops by heart; everything runs as the train scripts run it.
"""

import csv
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from as_nnunet import logits_as_nnunet
from PIL import Image

from conftest import ROOT, SAMPLES
from processes import TOGETHER
from reunet import segment
from reunet.inference.normalise import normalise_channels, z_score
from reunet.inference.tiles import content_box
from reunet.io.images import list_images, read_image, read_label
from reunet.metric import score_pair
from reunet.model import load_model
from reunet.network.bundle import load_tensors, open_bundle
from reunet.network.torch_backend import build_network
from reunet.training import layout
from reunet.training.data import dataset
from reunet.training.fit.jobs import Job
from reunet.training.fit.trainer import nnUNetTrainerReUNet
from reunet.training.layout import FINAL, results_folder
from reunet.training.presets import PRESETS
from reunet.training.release.export import export

pytestmark = pytest.mark.slow
SCRIPTS = ROOT / "train_scripts"
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")},
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",
    "nnUNet_compile": "f",  # compiling takes longer than the training
}


def script(name: str, *arguments: str | Path) -> str:
    result = subprocess.run(
        ["sh", SCRIPTS / name, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        **TOGETHER,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


def crop_samples(folder: Path) -> None:
    """Upper and lower part of every sample, up to 200 × 240 px, with its labels."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for path in list_images(SAMPLES / "images"):
        image = np.asarray(Image.open(path))
        labels = read_label(SAMPLES / "labels" / f"{path.stem}_label.tiff")
        half = image.shape[0] // 2
        for part, top in (("a", 0), ("b", half)):
            window = slice(top, top + min(half, 200)), slice(0, 240)
            image = image.copy()
            image[window][:7] = image[window][:, :11] = 0  # black margins, which nnU-Net crops
            Image.fromarray(image[window]).save(folder / "images" / f"{path.stem}_{part}.png")
            tifffile.imwrite(folder / "labels" / f"{path.stem}_{part}_label.tiff", labels[window])


def write_unlabelled(folder: Path) -> None:
    """Parts of the samples that `crop_samples` leaves out, and one that it does not."""
    folder.mkdir()
    for path in list_images(SAMPLES / "images"):
        pixels = np.asarray(Image.open(path))[-150:, -180:].copy()
        pixels[:5] = 0
        Image.fromarray(pixels).save(folder / path.name)
    labelled = list_images(folder.parent / "data" / "images")[0]
    Image.open(labelled).save(folder / "labelled_too.bmp")


class Chain:
    """Folders of a chain that has run."""

    def __init__(self, folder: Path) -> None:
        self.data, self.root, self.bundle = folder / "data", folder / "root", folder / "bundle"
        self.unlabelled, self.student = folder / "unlabelled", folder / "student"
        self.said = ""  # by the rounds

    def fold(self, stage: str) -> Path:
        return results_folder(self.root, "tiny", stage) / "fold_0"

    def log(self, stage: str) -> list[dict[str, str]]:
        with (self.fold(stage) / "training.csv").open() as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    done = Chain(tmp_path_factory.mktemp("chain"))
    crop_samples(done.data)
    root = ("--root", done.root)
    tiny = ("--preset", "tiny", *root)
    script("1_prepare_data.sh", done.data / "images", done.data / "labels", *tiny)
    script("2_train_baseline.sh", *tiny, "--folds", "0")
    script("3_finetune_weightmap.sh", *tiny, "--folds", "0")
    script("5_export_weights.sh", done.bundle, *tiny, "--stage", "weightmap")
    write_unlabelled(done.unlabelled)
    done.said = self_train(done)
    script("5_export_weights.sh", done.student, *tiny, "--stage", "round2")
    return done


def self_train(chain: Chain) -> str:
    """Two rounds of one epoch."""
    return script(
        "4_self_train.sh", "--unlabelled", chain.unlabelled, "--rounds", "2", "--preset", "tiny",
        "--root", chain.root, "--folds", "0", "--epochs", "1", "--threshold", "0.4", "--keep-all",
        "--patch", "160",
    )  # fmt: skip


def test_training_loss_falls(chain: Chain) -> None:
    losses = [float(row["train_loss"]) for row in chain.log("baseline")]
    assert len(losses) == PRESETS["tiny"].baseline.epochs
    assert losses[-1] < losses[0] - 0.2
    assert (chain.fold("baseline") / "training.png").exists()
    assert (chain.fold("weightmap") / "checkpoint_best.pth").exists()
    page = (chain.fold("weightmap") / "predictions.html").read_text(encoding="utf-8")
    folds = json.loads(layout.folds_file(chain.root).read_text())
    assert sorted(re.findall(r"<th>([^<]+)<p>", page)) == folds[0]["val"]


def test_fine_tuning_starts_from_all_weights_of_the_baseline(chain: Chain) -> None:
    baseline, tuned = (
        torch.load(chain.fold(stage) / FINAL, map_location="cpu", weights_only=False)
        for stage in ("baseline", "weightmap")
    )
    plans = json.loads((chain.fold("weightmap").parent / "plans.json").read_text())
    assert plans["reunet"]["weight_dice"]
    first = float(chain.log("weightmap")[0]["val_loss"])
    untrained = float(chain.log("baseline")[0]["val_loss"])
    assert first < untrained  # heads that start anew would be worse than one epoch of baseline
    for name, tensor in tuned["network_weights"].items():
        if tensor.ndim < 2:  # a bias before an instance norm has no effect: it wanders
            continue
        before = baseline["network_weights"][name]
        alike = torch.cosine_similarity(tensor.flatten(), before.flatten(), dim=0)
        assert alike > 0.8, name  # of kernels drawn anew: within 0.1 of 0


def test_stored_weights_are_the_weight_map(chain: Chain) -> None:
    import blosc2

    from reunet.instances.encode import encode
    from reunet.instances.weight_map import weight_map

    folder = chain.root / "preprocessed" / layout.DATASET / "nnUNetPlans_2d"
    stored = sorted(folder.glob("*_seg.b2nd"))
    assert len(stored) == 8
    cropped = 0
    for path in stored:
        case = path.name.removesuffix("_seg.b2nd")
        instances = read_label(layout.instances_file(chain.root, case))
        classes = encode(instances)
        with (folder / f"{case}.pkl").open("rb") as file:
            box = pickle.load(file)["bbox_used_for_cropping"]
        window = tuple(slice(*edges) for edges in box[1:])
        both = np.asarray(blosc2.open(str(path))[:])[:, 0]
        # nnU-Net marks black background, which z-scoring could leave out, with -1
        np.testing.assert_array_equal(np.maximum(both[0], 0), classes[window])
        expected = weight_map(instances, classes)[window]
        np.testing.assert_allclose(both[1] / dataset.MAP_SCALE, expected, atol=6e-4)
        cropped += both.shape[1:] != classes.shape
    assert cropped >= 2


def test_exported_logits_are_nnunets(chain: Chain) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    folder = chain.fold("weightmap").parent
    checkpoint = torch.load(chain.fold("weightmap") / FINAL, weights_only=False)
    checkpoint["trainer_name"] = "nnUNetTrainer"  # the network is the plans': no need for ours
    checkpoint["network_weights"] = {
        name: tensor.half().float() for name, tensor in checkpoint["network_weights"].items()
    }  # as the bundle stores them
    torch.save(checkpoint, chain.fold("weightmap") / "checkpoint_half.pth")
    theirs = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    theirs.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_half.pth")
    bundle = open_bundle(chain.bundle)
    # PyTorch's, as nnU-Net's; OpenVINO adds up in another order
    mine = build_network(bundle.architecture, load_tensors(bundle, "0"), "cpu")
    patch = PRESETS["tiny"].patch
    for path in list_images(chain.data / "images")[::3]:
        channels = normalise_channels(read_image(path).pixels).transpose(2, 0, 1)
        scaled = z_score(channels[:, *content_box(channels)])
        expected = theirs.predict_logits_from_preprocessed_data(torch.from_numpy(scaled)[:, None])
        logits = logits_as_nnunet(scaled, [mine], patch)
        np.testing.assert_array_equal(logits, expected[:, 0].float().numpy())


def test_the_exported_model_has_learnt_its_images(chain: Chain) -> None:
    model = load_model(chain.bundle, "cpu")
    f1, constant = [], []
    for path in list_images(chain.data / "images"):
        truth = read_label(chain.data / "labels" / f"{path.stem}_label.tiff")
        f1.append(score_pair(truth, segment(path, model)).f1)
        constant.append(score_pair(truth, np.ones_like(truth)).f1)
    assert np.mean(f1) > np.mean(constant) + 0.1
    stages = json.loads((chain.bundle / "card.json").read_text())["stages"]
    assert [(s["name"], s["folds"]) for s in stages] == [("baseline", ["0"]), ("weightmap", ["0"])]


def test_the_students_card_tells_the_whole_way(chain: Chain) -> None:
    card = json.loads((chain.student / "card.json").read_text())
    stages = card["stages"]
    assert [s["name"] for s in stages] == ["baseline", "weightmap", "round1", "round2"]
    assert [s["epochs"] for s in stages] == [4, 2, 1, 1]
    assert [s["iterations"] for s in stages] == [120, 60, 30, 30]
    assert [s["patch"] for s in stages] == [128, 128, 160, 160]
    starts = [s["started_from"] for s in stages[1:]]
    assert starts == ["baseline, fold 0", "weightmap, fold 0", "round1, fold 0"]
    assert stages[-1]["validation_f1"] == pytest.approx(
        float(chain.log("round2")[-1]["f1_mean of modalities"]), abs=1e-4
    )
    assert "selftrain --preset tiny --rounds 2" in card["training_command"][-1]
    assert "--patch 160" in card["training_command"][-1]
    assert len(card["training_command"]) == 4  # prepare, and a line for each kind of stage
    pseudo = [s for s in card["training_data"] if s.get("labels") == "pseudo-labels"]
    assert sum(s["images"] for s in pseudo) == len(list_images(SAMPLES / "images"))
    model = load_model(chain.student, "cpu")
    image = list_images(chain.unlabelled)[0]
    assert segment(image, model).shape == read_image(image).pixels.shape[:2]


def test_folds_of_several_roots_make_one_bundle(chain: Chain, tmp_path: Path) -> None:
    """A fold 1 that was trained elsewhere: here a copy of fold 0's fine-tuning."""
    elsewhere = results_folder(tmp_path / "other", "tiny", "weightmap")
    there = chain.fold("weightmap")
    shutil.copytree(there.parent, elsewhere)
    (elsewhere / "fold_0").rename(elsewhere / "fold_1")
    folders = [chain.fold("round2").parent, elsewhere]
    bundle = tmp_path / "bundle"
    assert export(folders, "tiny", bundle, best=False, meta=None) == ("0", "1")
    for fold, source in (("0", chain.student), ("1", chain.bundle)):
        expected = load_tensors(open_bundle(source), "0")
        found = load_tensors(open_bundle(bundle), fold)
        assert found.keys() == expected.keys()
        assert all((found[name] == expected[name]).all() for name in expected)
    stages = json.loads((bundle / "card.json").read_text())["stages"]
    assert [(s["name"], s["folds"]) for s in stages] == [
        ("baseline", ["0"]), ("weightmap", ["0"]), ("round1", ["0"]), ("round2", ["0"]),
        ("weightmap", ["1"]),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="fold 0 is there twice"):
        export([folders[0], there.parent], "tiny", bundle, best=False, meta=None)
    about = elsewhere / "dataset.json"
    about.write_text(about.read_text().replace('"paper"', '"thin"'))
    with pytest.raises(ValueError, match="encoding"):
        export(folders, "tiny", bundle, best=False, meta=None)


def test_rounds_leave_labels_and_figures(chain: Chain) -> None:
    assert "labelled_too.bmp" in chain.said
    names = {path.stem for path in list_images(SAMPLES / "images")}
    for stage in ("round1", "round2"):
        folder = chain.root / "rounds" / stage
        with (folder / "pseudo.csv").open(newline="") as file:
            table = {row["image"].split(".")[0]: row for row in csv.DictReader(file)}
        assert table.keys() == names | {"labelled_too"}
        assert "labelled set" in table["labelled_too"]["rejected"]
        for name in names:
            label = read_label(folder / "labels" / f"{name}_label.tiff")
            image = read_image(chain.unlabelled / f"{name}.png")
            assert label.shape == image.pixels.shape[:2]
            assert int(table[name]["cells"]) == label.max()
            assert (folder / "overlays" / f"pseudo_{name}.png").exists()
        with (folder / "folds.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["fold"] for row in rows] == ["0"]
        logged = float(chain.log(stage)[-1]["f1_mean of modalities"])  # the same few images
        assert float(rows[0]["student_f1"]) == pytest.approx(logged, abs=0.02)


def test_a_student_starts_from_its_teacher(chain: Chain) -> None:
    teacher, student = (
        torch.load(chain.fold(stage) / FINAL, map_location="cpu", weights_only=False)
        for stage in ("weightmap", "round1")
    )
    for name, tensor in student["network_weights"].items():
        if tensor.ndim < 2:
            continue
        before = teacher["network_weights"][name]
        assert torch.cosine_similarity(tensor.flatten(), before.flatten(), dim=0) > 0.8, name
    job = json.loads((chain.fold("round2").parent / "plans.json").read_text())["reunet"]
    assert Path(job["start"].format(fold=0)) == chain.fold("round1") / FINAL
    assert job["weight_dice"]


def test_pseudo_labelled_cases_are_stored_as_nnunet_stores_labelled_ones(chain: Chain) -> None:
    """The image of a labelled case, stored as an unlabelled one: the same bits and properties."""
    import blosc2

    from reunet.training.selftrain.unlabelled import properties, store_images

    root = chain.root.parent / "again"
    base = root / "preprocessed" / layout.DATASET
    (root / "raw" / layout.DATASET).mkdir(parents=True)
    base.mkdir(parents=True)
    dataset.write_json(root / "raw" / layout.DATASET / "dataset.json", {"cases": {}})
    dataset.write_json(base / "cases.json", {})
    images, left_out = store_images(
        chain.data / "images", root, "tiny", chain.fold("baseline") / FINAL
    )
    assert len(images) == 8
    assert not left_out
    theirs = chain.root / "preprocessed" / layout.DATASET / "nnUNetPlans_2d"
    for image in images:
        case = image.case.removeprefix("pseudo_")
        mine, expected = (
            np.asarray(blosc2.open(str(folder / f"{name}.b2nd"), mode="r")[:])
            for folder, name in ((base / "unlabelled", image.case), (theirs, case))
        )
        assert mine.dtype == expected.dtype
        np.testing.assert_array_equal(mine, expected)
        with (base / "unlabelled" / f"{image.case}.pkl").open("rb") as file:
            about = pickle.load(file)
        with (theirs / f"{case}.pkl").open("rb") as file:
            known = pickle.load(file)
        assert set(known.pop("class_locations")) == {1, 2}
        assert about == known
    assert properties((5, 6), (slice(1, 4), slice(0, 6)))["bbox_used_for_cropping"][1] == [1, 4]


def test_training_sees_both_kinds_of_cases_in_their_share(chain: Chain) -> None:
    layout.use_folder(chain.root)
    os.environ["nnUNet_compile"] = "f"
    folder = chain.root / "preprocessed" / layout.DATASET
    plans = json.loads((folder / "plans_tiny_round1.json").read_text())
    plans["reunet"]["pseudo_share"] = 0.25
    description = json.loads((folder / "dataset.json").read_text())
    entry = {**plans, "continue_training": True}
    trainer = nnUNetTrainerReUNet(entry, "2d", 0, description, torch.device("cpu"))
    trainer.initialize()
    train, val = trainer.get_tr_and_val_datasets()
    pseudo = np.array([name.startswith("pseudo_") for name in train.identifiers])
    assert pseudo.mean() == pytest.approx(0.25, rel=0.05)
    assert not any(name.startswith("pseudo_") for name in [*val.identifiers])
    assert not any(name.startswith("pseudo_") for name in trainer.validator.dataset.identifiers)
    for name in set(train.identifiers):
        data, seg, _, about = train.load_case(name)
        assert (data.dtype, seg.dtype) == (np.float32, np.int16)
        assert (data.shape[0], seg.shape[0]) == (3, 3)
        assert data.shape[1:] == seg.shape[1:]
        assert all(places.shape[1] == 4 for places in about["class_locations"].values())


def test_a_finished_chain_does_nothing_again(chain: Chain) -> None:
    before = {
        p: p.stat().st_mtime_ns for p in chain.root.rglob("*") if p.suffix in (".pth", ".b2nd")
    }
    tiny = ("--preset", "tiny", "--root", chain.root)
    script("1_prepare_data.sh", chain.data / "images", chain.data / "labels", *tiny)
    script("2_train_baseline.sh", *tiny, "--folds", "0")
    said = self_train(chain)
    assert "round1: complete already" in said
    assert "round2: complete already" in said
    after = {
        p: p.stat().st_mtime_ns for p in chain.root.rglob("*") if p.suffix in (".pth", ".b2nd")
    }
    assert after == before


def test_an_interrupted_training_goes_on(chain: Chain) -> None:
    """Two epochs, then as if killed: the final checkpoint becomes the latest, two more follow."""
    tiny = ("--preset", "tiny", "--root", chain.root, "--folds", "1")
    script("2_train_baseline.sh", *tiny, "--epochs", "2")
    fold = results_folder(chain.root, "tiny", "baseline") / "fold_1"
    (fold / FINAL).rename(fold / "checkpoint_latest.pth")
    output = script("2_train_baseline.sh", *tiny, "--epochs", "4")
    assert "goes on at epoch 2" in output
    with (fold / "training.csv").open() as file:
        assert [float(row["epoch"]) for row in csv.DictReader(file)] == [0, 1, 2, 3]


def test_the_paper_preset_is_the_paper(chain: Chain) -> None:
    """Every row of the paper's tables, from the plans that step 1 writes."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    script(
        "1_prepare_data.sh", chain.data / "images", chain.data / "labels",
        "--preset", "paper", "--root", chain.root,
    )  # fmt: skip
    folder = chain.root / "preprocessed" / layout.DATASET
    plans = json.loads((folder / "plans_paper.json").read_text())
    planned = PlansManager(plans).get_configuration("2d")
    assert planned.patch_size == [1024, 1024]
    assert planned.batch_size == 2
    assert planned.network_arch_class_name.endswith(".PlainConvUNet")
    arguments = planned.network_arch_init_kwargs
    assert arguments["n_stages"] == 9
    assert arguments["features_per_stage"] == [32, 64, 128, 256, 480, 480, 480, 480, 480]
    assert arguments["dropout_op_kwargs"] == {"p": 0.1}

    layout.use_folder(chain.root)
    description = json.loads((folder / "dataset.json").read_text())
    os.environ["nnUNet_compile"] = "f"
    rates = {
        "baseline": {0: 1e-2, 249: 1e-2, 250: 5e-3, 499: 5e-3},
        "weightmap": {0: 3e-3, 99: 3e-3, 100: 1.5e-3, 199: 1.5e-3},
        "round3": {0: 3e-3, 99: 3e-3, 100: 1.5e-3, 199: 1.5e-3},
    }
    (folder / "plans_paper_round3_cases.json").write_text("[]")
    for stage, expected in rates.items():
        job = Job("paper", stage, weight_dice=stage != "baseline")
        entry = {**plans, "plans_name": job.plans_name, "reunet": vars(job)}
        entry["continue_training"] = False
        trainer = nnUNetTrainerReUNet(entry, "2d", 0, description, torch.device("cpu"))
        trainer.initialize()
        check_paper(trainer, epochs=500 if stage == "baseline" else 200, rates=expected)
        assert trainer.loss.loss.weight_dice == (stage != "baseline")


def check_paper(trainer: nnUNetTrainerReUNet, epochs: int, rates: dict[int, float]) -> None:
    """What the stages have in common."""
    assert trainer.num_epochs == epochs
    assert trainer.num_iterations_per_epoch == 250
    assert not trainer.preset.balanced
    assert trainer.preset.zoom is None
    assert sum(p.numel() for p in trainer.network.parameters()) == 52_564_152
    optimiser = trainer.optimizer.param_groups[0]
    assert isinstance(trainer.optimizer, torch.optim.SGD)
    assert (optimiser["momentum"], optimiser["nesterov"]) == (0.99, True)
    assert optimiser["weight_decay"] == 3e-5
    for epoch, rate in rates.items():
        trainer.lr_scheduler.step(epoch)
        assert optimiser["lr"] == pytest.approx(rate)
    weights = np.array([1 / 2**i for i in range(7)] + [0.0])
    np.testing.assert_allclose(trainer.loss.weight_factors, weights / weights.sum())
    assert not trainer.loss.loss.weight_ce
    convolution = trainer.plain_network().encoder.stages[3][0].convs[1].conv
    expected = np.sqrt(2 / (1 + 0.01**2) / (9 * convolution.in_channels))  # He, leaky ReLU
    assert convolution.weight.std().item() == pytest.approx(expected, rel=0.02)
    assert not convolution.bias.any()
