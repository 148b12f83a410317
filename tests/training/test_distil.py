"""A student of several folds: its loss, its teachers, its start, and the whole way to labels."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from test_chain import ENVIRONMENT, crop_samples, script, write_unlabelled
from torch import Tensor
from torch.nn import functional as F

from reunet import load_model, predict
from reunet.io.images import list_images
from reunet.network.architecture import parameter_shapes
from reunet.network.bundle import load_tensors, open_bundle
from reunet.network.unet import build
from reunet.training import layout
from reunet.training.__main__ import main
from reunet.training.data.dataset import read_json, write_json
from reunet.training.fit.loss import IGNORE, TaughtLoss, WeightedDiceCE
from reunet.training.fit.start import load_network
from reunet.training.fit.teachers import Teachers, soft_output
from reunet.training.presets import DISTIL, PRESETS
from reunet.training.selftrain.distil import of_one_network, soup

TINY = PRESETS["tiny"].architecture
CPU = torch.device("cpu")


def put_fold(root: Path, fold: int, start: str | None = None, stage: str = "weightmap") -> Path:
    """A checkpoint of random weights, with the plans that tell what it is."""
    torch.manual_seed(fold)
    path = layout.checkpoint(root, "tiny", stage, fold)
    path.parent.mkdir(parents=True)
    layout.preprocessed(root).mkdir(parents=True, exist_ok=True)
    torch.save({"network_weights": build(TINY).state_dict()}, path)
    write_json(path.parents[1] / "plans.json", {"reunet": {"preset": "tiny", "start": start}})
    about = {"labels": {"background": 0}, "encoding": "paper"}
    write_json(path.parents[1] / "dataset.json", about)
    write_json(layout.description(root), about)
    return path


@pytest.fixture
def folds(tmp_path: Path) -> list[Path]:
    return [put_fold(tmp_path, fold) for fold in (0, 1)]


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Mean over pixels of KL(p || q), classes along axis 1."""
    return float((p * (np.log(p) - np.log(q))).sum(axis=1).mean())


def targets(soft: Tensor, label: int) -> Tensor:
    """One class throughout, weights 1, no field, and a teacher's soft output."""
    count, _, height, width = soft.shape
    known = torch.ones(count, 3, height, width)
    known[:, 0], known[:, 2] = label, 0
    return torch.cat((known, soft), dim=1)


def test_where_no_label_is_known_the_loss_is_the_distance_to_the_teacher() -> None:
    torch.manual_seed(0)
    logits, soft = torch.randn(2, 4, 8, 9), torch.rand(2, 4, 8, 9)
    soft[:, :3] /= soft[:, :3].sum(dim=1, keepdim=True)
    loss = TaughtLoss(WeightedDiceCE(True))
    mine = logits[:, :3].softmax(dim=1).numpy()
    error = np.abs((logits - soft)[:, 3].numpy())
    field = np.where(error < 0.1, error**2 / 0.2, error - 0.05).mean()
    expected = divergence(soft[:, :3].numpy(), mine) + 4 * field
    unknown = loss(logits, targets(soft, IGNORE))
    nothing = WeightedDiceCE(True)(logits, targets(soft, IGNORE)[:, :3])  # Dice of no pixel at all
    assert float(unknown - nothing) == pytest.approx(expected, rel=1e-4)


def test_who_sees_what_the_teacher_sees_learns_from_the_truth_alone() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 8, 9)
    soft = torch.cat((logits[:, :3].softmax(dim=1), logits[:, 3:]), dim=1)
    truth = WeightedDiceCE(True)
    for target in (targets(soft, 1), targets(soft, 1)[:, :3]):
        found = float(TaughtLoss(truth)(logits, target))
        assert found == pytest.approx(float(truth(logits, targets(soft, 1)[:, :3])), abs=1e-5)


def test_a_batch_is_taught_by_one_fold_at_a_time_and_by_all_of_them_in_the_mean(
    folds: list[Path],
) -> None:
    networks = [load_network(path, "tiny") for path in folds]
    batch = {"data": torch.randn(2, 3, 32, 32), "keys": ["a", "b"]}
    batch["target"] = [torch.ones(2, 3, n, n) for n in (32, 16)]
    seen = [soft_output(network, batch["data"]) for network in networks]
    torch.testing.assert_close(seen[0].sum(dim=1), torch.ones(2, 32, 32))
    teachers = Teachers([str(path) for path in folds], "tiny", CPU)
    asked = []
    for _ in range(40):
        fine, coarse = (t[:, 3:] for t in teachers.teach(batch)["target"])
        who = [n for n, one in enumerate(seen) if torch.allclose(fine, one, atol=1e-6)]
        assert len(who) == 1
        asked += who
        torch.testing.assert_close(coarse, F.avg_pool2d(fine, 2))
    assert 8 <= sum(asked) <= 32  # of a fair coin: but for one in 20 000
    assert batch["target"][0].shape == (2, 3, 32, 32)
    assert Teachers([], "tiny", CPU).teach(batch) is batch


def test_the_start_is_the_mean_of_folds_that_were_one_network(
    folds: list[Path], tmp_path: Path
) -> None:
    states = [torch.load(path)["network_weights"] for path in folds]
    found = soup(folds)
    assert {*found} == {*parameter_shapes(TINY)}
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, (states[0][name] + states[1][name]) / 2)
    assert not of_one_network(folds)  # drawn at random, each
    shared = [put_fold(tmp_path / "s", fold, "weights/compact/fold_all.pth") for fold in (0, 1)]
    assert of_one_network(shared)
    apart = [put_fold(tmp_path / "a", fold, "weights/compact/fold_{fold}.pth") for fold in (0, 1)]
    assert not of_one_network(apart)


def test_what_cannot_teach_is_one_line(folds: list[Path], tmp_path: Path) -> None:
    def complaint(*arguments: str) -> str:
        command = ["distil", "--preset", "tiny", "--root", str(tmp_path), *arguments]
        result = CliRunner().invoke(main, command)
        assert result.exit_code
        assert "Traceback" not in result.output
        return result.output.strip().splitlines()[-1]

    assert "train that stage first" in complaint("--folds", "0,1,2")
    assert "train that stage first" in complaint("--folds", "0,1", "--stage", "round3")
    assert "no such folder" in complaint("--unlabelled", str(tmp_path / "none"))
    assert "1_prepare_data.sh" in complaint("--folds", "0,1")  # nothing is preprocessed
    torch.save({"network_weights": {"other": torch.zeros(3)}}, folds[1])
    assert "not the network of preset tiny" in complaint("--folds", "0,1")
    about = read_json(layout.description(tmp_path))
    write_json(layout.description(tmp_path), about | {"encoding": "thin"})
    assert "encoding" in complaint("--folds", "0,1")


# -- the whole way


class Way(NamedTuple):
    """Folders of a run of `all`, and what it said when it was started for the last time."""

    folder: Path
    said: str

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle"


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Way:
    """All steps with two tiny folds, interrupted in a round and while the student was trained."""
    folder = tmp_path_factory.mktemp("taught")
    crop_samples(folder / "data")
    write_unlabelled(folder / "unlabelled")
    command = [
        *(folder / "data" / "images", folder / "data" / "labels", folder / "bundle"),
        *("--preset", "tiny", "--root", folder / "root", "--folds", "0,1", "--epochs", "2"),
        *("--unlabelled", folder / "unlabelled", "--jobs", "2"),
    ]
    told = script("all.sh", *command, "--dry-run")
    assert "prepare: to be done" in told
    assert "baseline: 0 of 2 trained" in told
    assert not (folder / "root").exists()
    interrupt(command, "round2: training")
    told = script("all.sh", *command, "--dry-run").splitlines()
    states = ["done", "2 of 2 trained", "2 of 2 trained", "1 of 3 rounds complete"]
    assert [line.partition(": ")[2] for line in told][:4] == states
    interrupt(command, "distil, fold all", "epoch 0")
    said = script("all.sh", *command)
    told = script("all.sh", *command, "--dry-run").splitlines()
    assert told[-2:] == ["5. distil: 1 of 1 trained", "6. export: done"]
    return Way(folder, said)


def interrupt(arguments: list[str | Path], *marks: str) -> None:
    """Run `all` until it has said all of some things, one after the other."""
    command = [sys.executable, "-u", "-m", "reunet.training", "all", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout
        for mark in marks:
            assert any(line.startswith(mark) for line in process.stdout), mark
        os.kill(process.pid, signal.SIGTERM)  # SIGINT is not heard by who runs in the background
        process.stdout.read()
    assert process.returncode == 130


@pytest.mark.slow
def test_started_again_all_goes_on_where_it_was(taught: Way) -> None:
    lines = taught.said.splitlines()
    assert "round1: complete already" in lines
    assert "goes on at epoch 1" in lines  # of the student
    assert sum(line.startswith("epoch") for line in lines) == 1
    assert f"{taught.bundle}: folds student, 0, 1" in lines


@pytest.mark.slow
def test_the_bundle_holds_the_student_and_the_folds(taught: Way) -> None:
    bundle = open_bundle(taught.bundle)
    assert bundle.folds == ("student", "0", "1")
    state = torch.load(
        layout.checkpoint(taught.folder / "root", "tiny", DISTIL, "all"), weights_only=False
    )["network_weights"]
    for name, values in load_tensors(bundle, "student").items():
        np.testing.assert_array_equal(values, state[name].half().float().numpy())
    stages = bundle.about["stages"]
    assert [(s["name"], s["folds"]) for s in stages] == [
        *((s, ["0", "1"]) for s in ("baseline", "weightmap", "round1", "round2", "round3")),
        ("distil", ["student"]),
    ]
    assert stages[-1]["teachers"] == "round3, fold 0, 1"
    assert stages[-1]["started_from"] == "round3, fold 0"  # they began apart
    line = bundle.about["training_command"][-1]
    assert "distil --preset tiny --epochs 2 --stage round3 --folds 0,1" in line
    assert sum(s["images"] for s in bundle.about["training_data"] if s.get("labels")) == 4


@pytest.mark.slow
def test_the_student_segments_and_the_folds_are_the_best(taught: Way) -> None:
    model = load_model(taught.bundle, "cpu")
    image = list_images(taught.folder / "unlabelled")[0]
    standard, best = (predict(image, model, quality=q) for q in ("standard", "best"))
    assert standard.agreement is None
    assert best.agreement is not None
    alone = predict(image, load_model(taught.bundle, "cpu", ["student"]))
    np.testing.assert_array_equal(standard.labels, alone.labels)


@pytest.mark.slow
def test_other_teachers_do_not_go_on_with_a_student(taught: Way) -> None:
    command = ["distil", "--preset", "tiny", "--root", str(taught.folder / "root"), "--folds", "0"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 1
    assert "results of another" in result.output
    assert "teachers" in result.output
