"""What a checkpoint went through: the stages before it, found by the starts that they recorded."""

import pickle
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reunet.network.bundle import STUDENT
from reunet.training import layout
from reunet.training.data.dataset import read_json
from reunet.training.fit.log import F1, TrainingLog
from reunet.training.presets import DISTIL, PRESETS, ROUNDS


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What nnU-Net saved of a training, on the CPU.

    Checkpoints are pickles, and one named with `--start` or `--teacher` may come from anywhere:
    nothing is unpickled but tensors and the numbers of nnU-Net's log. Raises ValueError for a file
    that holds anything else or is damaged.
    """
    number: Any = np.float64(0).__reduce__()[0]  # what NumPy's numbers are unpickled with
    kinds = (type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64))
    try:
        with torch.serialization.safe_globals([number, np.dtype, *kinds]):
            checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path}: no checkpoint of a training, or damaged: name another"
        ) from error
    return checkpoint


def unique_tensors(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """nnU-Net's state dict with every tensor once.

    nnU-Net registers the encoder and each convolution a second time under other names, which
    makes a copy of all keys almost three times as large.
    """
    return {
        name: tensor
        for name, tensor in state.items()
        if not name.startswith("decoder.encoder.") and ".all_modules." not in name
    }


def read_job(checkpoint: Path) -> dict[str, Any]:
    """The job that a checkpoint is of: the fields of `jobs.Job`, and what its round notes."""
    place = layout.trained(checkpoint)
    job: dict[str, Any] = read_json(place.plans).get("reunet", {})
    note = layout.about_round(place.root, job.get("stage", ""))
    return {**read_json(note), **job} if note.exists() else job


def fold_of(checkpoint: Path) -> str:
    """The fold that a checkpoint is of."""
    return layout.trained(checkpoint).fold


def start_of(checkpoint: Path) -> Path | None:
    """The checkpoint that a training took its first weights from, wherever it lies."""
    start = read_job(checkpoint).get("start")
    return Path(start.format(fold=fold_of(checkpoint))) if start else None


def lineage(checkpoint: Path) -> list[Path]:
    """A checkpoint and those before it that still exist, the first stage first."""
    start = start_of(checkpoint)
    trained_here = start and start.suffix == ".pth" and start.exists()  # no bundle's fold
    earlier = lineage(start) if start and trained_here else []
    return [*earlier, checkpoint]


def history(checkpoint: Path) -> list[dict[str, Any]]:
    """One entry for each stage of one fold, the first stage first."""
    return [stage_of(path) for path in lineage(checkpoint)]


def stage_of(checkpoint: Path) -> dict[str, Any]:
    """Stage, fold, job, epochs, hours, last loss and last instance F1 of a training.

    The F1 is that of the fold's own validation cases, None where nothing was held back (fold
    `all`) or looked at.
    """
    content, job, fold = load_checkpoint(checkpoint), read_job(checkpoint), fold_of(checkpoint)
    log, epochs = content["logging"], int(content["current_epoch"])
    times = zip(log["epoch_start_timestamps"], log["epoch_end_timestamps"], strict=False)
    rows = TrainingLog(checkpoint.parent).rows()
    f1 = [row[F1] for row in rows if F1 in row and row["epoch"] < epochs and fold != "all"]
    return {
        "name": job.get("stage", "baseline"),
        "fold": STUDENT if job.get("teachers") else fold,
        "job": job,
        "epochs": epochs,
        "hours": sum(end - start for start, end in times) / 3600,
        "loss": float(log["train_losses"][-1]),
        "f1": f1[-1] if f1 else None,
        "start": start_of(checkpoint),
        "checkpoint": checkpoint,
    }


def summary(trained: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The card's `stages`: the entries of `history`, put together by stage and root.

    epochs, iterations and final_train_loss are means over the folds, hours their sum;
    validation_f1 is the mean over the folds of each one's own validation cases.
    """
    by_stage: dict[tuple[str, Path], dict[Path, dict[str, Any]]] = defaultdict(dict)
    for stage in trained:
        path = stage["checkpoint"].resolve()  # folds may share a start
        by_stage[stage["name"], layout.trained(path).root][path] = stage
    return [summary_of(name, [*entries.values()]) for (name, _), entries in by_stage.items()]


def summary_of(name: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """One stage of the card."""
    job = entries[0]["job"]
    preset = PRESETS[job.get("preset", "compact")]
    epochs = float(np.mean([entry["epochs"] for entry in entries]))
    f1 = [entry["f1"] for entry in entries if entry["f1"] is not None]
    return {
        "name": name,
        "folds": [entry["fold"] for entry in entries],
        "epochs": round(epochs),
        "iterations": round(epochs * preset.iterations_per_epoch),
        "patch": job.get("patch") or preset.patch,
        "hours": round(sum(entry["hours"] for entry in entries), 2),
        "validation_f1": round(float(np.mean(f1)), 4) if f1 else None,
        "final_train_loss": round(float(np.mean([entry["loss"] for entry in entries])), 4),
        "started_from": started_from(entries),
        **({"teachers": in_words(job["teachers"])} if job.get("teachers") else {}),
    }


def started_from(entries: list[dict[str, Any]]) -> str:
    """In words: stage and fold of the first weights."""
    starts = {e["start"].resolve() for e in entries if e["start"]}
    if not starts:
        return "weights drawn at random (He-normal)"
    if all(start.name == layout.SOUP for start in starts):
        return "the mean of the teachers' weights"
    if bundles := sorted(f"{s.parent.name}/{s.name}" for s in starts if s.suffix != ".pth"):
        return f"the bundle's {', '.join(bundles)}"
    return in_words(starts)


def in_words(checkpoints: Iterable[str | Path]) -> str:
    """Stage and folds of checkpoints."""
    paths = [Path(path) for path in checkpoints]
    known = [path for path in paths if layout.trained(path).plans.exists()]
    stages = {read_job(path).get("stage", "baseline") for path in known}
    folds = sorted(fold_of(path) for path in paths)
    return f"{' or '.join(sorted(stages)) or 'another training'}, fold {', '.join(folds)}"


def commands(trained: list[dict[str, Any]]) -> list[str]:
    """The command lines of the stages; that of a round stands for those before it like it."""
    lines: dict[str, str] = {}
    for stage in trained:
        job = stage["job"]
        verb = "selftrain" if stage["name"] in ROUNDS else stage["name"]
        same_for_all = {**job, "stage": ROUNDS[0]} if stage["name"] in ROUNDS else job
        lines[command(same_for_all, verb)] = command(job, verb)
    return [*lines.values()]


def command(job: dict[str, Any], verb: str) -> str:
    """The command line of a job, as far as it decides what is learnt."""
    stage = job.get("stage", "baseline")
    options = [f"--preset {job.get('preset', 'compact')}"]
    options += [f"--rounds {ROUNDS.index(stage) + 1}"] if stage in ROUNDS else []
    taken_over = "teacher" if stage in ROUNDS else "start"
    options += [f"--{taken_over} {fold}"] if (fold := bundle_start(job)) else []
    numbers = ("hours", "epochs", "patch", "threshold")
    options += [f"--{name} {job[name]}" for name in numbers if job.get(name)]
    options += [f"--ratio {job['pseudo_share']}"] if stage in ROUNDS and job["pseudo_share"] else []
    if teachers := [Path(path) for path in job.get("teachers", [])]:
        options += [f"--stage {read_job(teachers[0])['stage']}"]
        options += [f"--folds {','.join(fold_of(path) for path in teachers)}"]
    options += ["--weight-ce"] * bool(job.get("weight_ce"))
    options += ["--unweighted"] * (stage == "weightmap" and not job.get("weight_dice"))
    return f"python -m reunet.training {verb} {' '.join(options)}"


def bundle_start(job: dict[str, Any]) -> str:
    """Folder and file of the bundle's fold that a job took its first weights from; "" for none.

    What it took from a stage before needs no word, `started_from` names it.
    """
    start = Path(job.get("start") or "")
    is_fold = start.suffix == ".safetensors" and start.name != layout.SOUP
    return f"{start.parent.name}/{start.name}" if is_fold else ""


def pseudo_labelled(checkpoint: Path) -> list[dict[str, Any]]:
    """Rows of the tables of the pseudo-labelled images that a checkpoint has learnt from."""
    rows = []
    for path in lineage(checkpoint):
        job, root = read_job(path), layout.trained(path).root
        if (stage := job.get("stage")) in ROUNDS:
            cases = read_json(layout.pseudo_cases_file(root, job["preset"], stage))
            folder = layout.round_folder(root, stage)
            rows += [read_json(layout.row_file(folder, case)) for case in cases]
        if stage == DISTIL:
            learnt = {*read_json(layout.pseudo_cases_file(root, job["preset"], stage))}
            known = read_json(layout.unlabelled_record(root)) if learnt else []
            rows += [image for image in known if image["case"] in learnt]
    return rows
