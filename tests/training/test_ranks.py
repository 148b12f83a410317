"""One training in several processes: it learns what one process would, resumes, and ends whole."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from conftest import SAMPLES
from processes import TOGETHER, descendants, hear_and_die, left_of
from reunet.training import layout
from reunet.training.data.dataset import cases_folder, read_json, write_json
from reunet.training.fit.jobs import Job
from reunet.training.fit.loss import IGNORE, WeightedDiceCE
from reunet.training.fit.ranks import run_ranks
from reunet.training.fit.trainer import nnUNetTrainerReUNet
from reunet.training.talk import INTERRUPTED

RANKS, EACH, OUTPUTS, EDGE = 2, 2, 4, 24
ENVIRONMENT = {
    **{k: v for k, v in os.environ.items() if not k.startswith("nnUNet_")},
    "OMP_NUM_THREADS": "1",
    "nnUNet_compile": "f",  # compiling takes longer than the training
}

# -- the loss


def batch(weighted: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and targets of all ranks. Of the first rank's pixels most are unknown."""
    rng = torch.Generator().manual_seed(1)
    pictures = torch.rand(RANKS * EACH, 3, EDGE, EDGE, generator=rng)
    classes = torch.randint(3, (RANKS * EACH, 1, EDGE, EDGE), generator=rng).float()
    classes[:EACH, :, 5:] = IGNORE
    classes[-1] = classes[-1].clamp_max(0)  # background alone: the ranks' own Dice would differ
    maps = torch.rand(RANKS * EACH, 2, EDGE, EDGE, generator=rng) * 5
    maps[:, 1] /= 5
    if not weighted:
        maps[:, 0] = 1
    return pictures, torch.cat((classes, maps), dim=1)


def network() -> nn.Module:
    torch.manual_seed(2)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, OUTPUTS, 1)
    return nn.Sequential(*layers)


def share_of_loss(folder: Path) -> None:
    """What a rank does in an iteration; its losses and gradients go to a file."""
    rank = torch.distributed.get_rank()
    results = []
    for weighted in (False, True):
        pictures, targets = (part[rank * EACH :][:EACH] for part in batch(weighted))
        model = nn.parallel.DistributedDataParallel(network())
        loss = WeightedDiceCE(weighted, weighted, ddp=True)(model(pictures), targets)
        loss.backward()
        results.append((loss.item(), [p.grad for p in model.module.parameters()]))
    torch.save(results, folder / f"{rank}.pt")


@pytest.mark.slow
def test_ranks_learn_as_one_process_does_from_the_whole_batch(tmp_path: Path) -> None:
    """Losses and gradients, weighted and not, whatever pixels a rank has to ignore."""
    run_ranks(share_of_loss, (tmp_path,), RANKS, "cpu")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(RANKS)]
    for weighted, parts in zip((False, True), zip(*ranks, strict=True), strict=True):
        pictures, targets = batch(weighted)
        model = network()
        whole = WeightedDiceCE(weighted, weighted)(model(pictures), targets)
        whole.backward()
        assert np.mean([loss for loss, _ in parts]) == pytest.approx(whole.item(), rel=1e-5)
        assert parts[0][0] != pytest.approx(parts[1][0], rel=1e-2)
        for number, parameter in enumerate(model.parameters()):
            for _, gradients in parts:
                torch.testing.assert_close(gradients[number], parameter.grad, rtol=1e-4, atol=1e-6)


def fail(rank: int) -> None:
    if torch.distributed.get_rank() == rank:
        raise ValueError("no such thing")
    torch.distributed.barrier()  # the others wait for it


@pytest.mark.slow
def test_a_rank_that_fails_ends_all_with_one_line() -> None:
    with pytest.raises(RuntimeError, match=r"^ValueError: no such thing$"):
        run_ranks(fail, (1,), RANKS, "cpu")


# -- a training


def training(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "reunet.training", *map(str, arguments)]


def run(*arguments: object) -> str:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    result = subprocess.run(training(*arguments), env=ENVIRONMENT, **pipes, **TOGETHER)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert result.stderr == ""
    return result.stdout


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a training on the samples, with the baseline of fold 0."""
    folder = tmp_path_factory.mktemp("ranks")
    for kind in ("images", "labels"):
        shutil.copytree(SAMPLES / kind, folder / kind)
    tiny = "--preset", "tiny", "--root", folder / "root"
    run("prepare", folder / "images", folder / "labels", *tiny)
    run("baseline", *tiny, "--folds", "0", "--epochs", "2")
    return folder / "root"


def copy_of(root: Path, name: str) -> Path:
    return Path(shutil.copytree(root, root.with_name(name), symlinks=True))


def losses(root: Path) -> np.ndarray:
    """Of training and of what is held out, by epoch."""
    with (layout.fold_folder(root, "tiny", "weightmap", 0) / "training.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["epoch"]) for row in rows] == [*range(len(rows))]
    return np.array([[float(row[name]) for name in ("train_loss", "val_loss")] for row in rows])


def tune(root: Path, count: int, *options: object) -> list[object]:
    tiny = "--preset", "tiny", "--root", root, "--folds", "0", "--epochs", "4"
    return ["weightmap", *tiny, "--num-gpus", count, "--device", "cpu", *options]


@pytest.mark.slow
def test_the_loss_curve_is_that_of_one_process(taught: Path) -> None:
    curves = []
    for name, count in (("one", 1), ("again", 1), ("two", 2)):
        root = copy_of(taught, name)
        run(*tune(root, count))
        curves.append(losses(root))
    one, again, two = curves
    assert one.shape == two.shape == (4, 2)
    noise = np.abs(one - again).max()
    np.testing.assert_allclose(two, (one + again) / 2, atol=max(0.1, 2 * noise))
    assert two[-1, 0] < two[0, 0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
@pytest.mark.parametrize("count", [1, 2])
def test_whatever_ends_a_training_ends_it_whole_and_it_goes_on(taught: Path, count: int) -> None:
    """Killed in the first epoch it goes on after that, interrupted later it does so, too."""
    root = copy_of(taught, f"killed_{count}")
    for epoch, sent in enumerate((signal.SIGKILL, signal.SIGINT)):
        with subprocess.Popen(
            training(*tune(root, count)), env=ENVIRONMENT, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hear_and_die,
        ) as running:  # fmt: skip
            assert running.stdout
            assert running.stderr
            said = []
            while not (said and said[-1].startswith(f"epoch {epoch}:")):
                said.append(running.stdout.readline())
                assert said[-1], [*said, running.stderr.read()]
            started = descendants(running.pid)
            assert len(started) >= count * 2  # two loaders a rank
            if sent == signal.SIGKILL:
                running.kill()
            else:
                os.killpg(running.pid, signal.SIGINT)  # as a terminal does: its children, too
            assert not left_of(started)
            errors = running.stderr.read()
        if sent == signal.SIGINT:
            assert (errors, running.returncode) == (f"{INTERRUPTED}\n", 130)
        assert any("goes on at epoch" in line for line in said) == (epoch > 0)
    assert "goes on at epoch 2" in run(*tune(root, count))
    assert losses(root).shape == (4, 2)


def draw_batches(root: Path, plans: dict[str, object], folder: Path) -> None:
    """What a rank would learn from; the names, sizes and weights go to a file."""
    description = read_json(layout.description(root))
    trainer = nnUNetTrainerReUNet(plans, layout.CONFIGURATION, 0, description, torch.device("cpu"))
    trainer.initialize()
    loader, _ = trainer.get_dataloaders()
    drawn = [next(loader) for _ in range(60)]
    torch.save(
        {
            "keys": [str(key) for batch in drawn for key in batch["keys"]],
            "patches": [len(batch["data"]) for batch in drawn],
            "mean": [patch.mean().item() for batch in drawn for patch in batch["data"]],
            "heaviest": max(batch["target"][0][:, 1].max().item() for batch in drawn),
        },
        folder / f"{torch.distributed.get_rank()}.pt",
    )
    os._exit(0)  # without waiting for its loaders


@pytest.mark.slow
def test_ranks_share_the_batch_and_draw_from_all_cases(
    taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rank half a batch, labelled and pseudo-labelled cases in the share asked for, weights
    beside them, and no two ranks the same patches."""
    root = copy_of(taught, "round")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    layout.use_folder(root)
    there = cases_folder(root, "tiny")
    cases = layout.round_cases(root, "tiny", "round1")
    shutil.copytree(there, cases)
    case = read_json(layout.folds_file(root))[0]["train"][0]
    for path in there.glob(f"{case}*"):
        shutil.copy(path, cases / path.name.replace(case, "unlabelled"))
    write_json(layout.pseudo_cases_file(root, "tiny", "round1"), ["unlabelled"])
    job = Job("tiny", "round1", weight_dice=True, pseudo_share=0.5)
    plans = read_json(layout.plans_file(root, "tiny"))
    plans["configurations"][layout.CONFIGURATION]["data_identifier"] = cases.name
    plans |= {"plans_name": job.plans_name, "reunet": vars(job), "continue_training": False}
    run_ranks(draw_batches, (root, plans, root), RANKS, "cpu")
    ranks = [torch.load(root / f"{rank}.pt") for rank in range(RANKS)]
    learnt = {*read_json(layout.folds_file(root))[0]["train"], "unlabelled"}
    for rank in ranks:
        assert {*rank["patches"]} == {2}  # of the preset's four
        assert {*rank["keys"]} == learnt
        share = np.mean([key == "unlabelled" for key in rank["keys"]])
        assert share == pytest.approx(0.5, abs=0.18)  # four standard deviations of 120 draws
        assert rank["heaviest"] > 1
    assert ranks[0]["keys"] != ranks[1]["keys"]
    assert not {*ranks[0]["mean"]} & {*ranks[1]["mean"]}
