"""Trained nnU-Net folds -> a weight bundle that needs nothing of nnU-Net."""

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from reunet.instances import MIN_OBJECT, MIN_SEED, RING_OUTSIDE
from reunet.training.jobs import BEST, FINAL, LATEST
from reunet.training.presets import PRESETS
from reunet.weights import save_bundle

PERMISSIVE = (
    "CC0-1.0", "MIT", "MIT (repository)", "Apache-2.0 (repository)", "BSD-style",
    "BSD-3-Clause (repository); images CC0",
)  # fmt: skip


def export(
    folder: Path, preset: str, bundle: Path, best: bool, meta: Path | None
) -> tuple[str, ...]:
    """Write the trained folds of a stage as a bundle.

    folder: the stage's results (`jobs.results_folder`). best: the checkpoint of the best instance
    F1 instead of the last. meta: a `meta.csv` of the training data, for the card's sources and
    licences. A fold that is still in training counts with its latest state. Returns the names of
    the folds. Raises FileNotFoundError where there are none, ValueError for another meta.csv.
    """
    wanted = (BEST,) if best else (FINAL, LATEST)
    checkpoints = {
        fold.name.removeprefix("fold_"): path
        for fold in sorted(folder.glob("fold_*"))
        if (path := next((fold / name for name in wanted if (fold / name).exists()), None))
    }
    if not checkpoints:
        raise FileNotFoundError(f"{folder}: holds no trained fold: train one first")
    dataset_json = json.loads((folder / "dataset.json").read_text())
    chosen = PRESETS[preset]
    sources = _sources(meta) if meta else []
    stages = [s for fold, path in checkpoints.items() for s in history(path, fold)]
    prepare = f"python -m reunet.training prepare --encoding {dataset_json['encoding']}"
    about = {
        "name": f"reunet-{preset}",
        "input": "channels rescaled to 0..255 from percentiles 1 and 99, z-score per channel",
        "classes": list(dataset_json["labels"]),
        "encoding": dataset_json["encoding"],
        "decoder": "regrow",
        "decoder_parameters": {
            "min_seed_px": MIN_SEED[dataset_json["encoding"]],
            "ring_outside_px": RING_OUTSIDE[dataset_json["encoding"]],
            "min_cell_px": MIN_OBJECT,
        },
        "tile": chosen.tile,
        "smallest": chosen.patch,
        "stages": stages,
        "training_data": sources,
        "training_command": [prepare, *dict.fromkeys(s["command"] for s in stages)],
        "use": permitted_use(sources),
    }
    folds = {
        fold: unique_tensors(_load(path)["network_weights"]) for fold, path in checkpoints.items()
    }
    save_bundle(bundle, chosen.architecture, folds, about)
    return tuple(folds)


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


def _load(path: Path) -> dict[str, Any]:
    # written by our own training on this machine; the pickled part is nnU-Net's log
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    return checkpoint


def history(checkpoint: Path, fold: str) -> list[dict[str, Any]]:
    """What a checkpoint went through, first stage first: name, epochs, hours, final loss."""
    plans = json.loads((checkpoint.parents[1] / "plans.json").read_text())
    job = plans.get("reunet", {})
    earlier = Path(job["start"].format(fold=fold)) if job.get("start") else None
    content = _load(checkpoint)
    log = content["logging"]
    times = zip(log["epoch_start_timestamps"], log["epoch_end_timestamps"], strict=False)
    stage = {
        "name": job.get("stage", "baseline"),
        "fold": fold,
        "command": command(job),
        "epochs": content["current_epoch"],
        "hours": round(sum(end - start for start, end in times) / 3600, 2),
        "final_train_loss": round(float(log["train_losses"][-1]), 4),
    }
    return [*(history(earlier, fold) if earlier and earlier.exists() else []), stage]


def command(job: dict[str, Any]) -> str:
    """The command line of a job, as far as it decides what is learnt."""
    stage = job.get("stage", "baseline")
    options = [f"--preset {job.get('preset', 'compact')}"]
    options += [f"--{name} {job[name]}" for name in ("hours", "epochs") if job.get(name)]
    options += ["--weight-ce"] * bool(job.get("weight_ce"))
    options += ["--unweighted"] * (stage == "weightmap" and not job.get("weight_dice"))
    return f"python -m reunet.training {stage} {' '.join(options)}"


def permitted_use(sources: list[dict[str, Any]]) -> str:
    """What the licences of the training data leave open, for the card."""
    if not sources:
        return "unknown: the card does not name the training data"
    closed = [s["source"] for s in sources if s["licence"] not in PERMISSIVE]
    if not closed:
        return "free: all training data are permissively licensed"
    return f"research only: not permissively licensed are {', '.join(closed)}"


def _sources(meta: Path) -> list[dict[str, Any]]:
    """Every source of the training part: images, modality and licence."""
    images: dict[tuple[str, str, str], int] = defaultdict(int)
    with meta.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                about = row["source"], row["modality"], row["licence"]
            except KeyError as error:
                raise ValueError(f"{meta}: has no column {error}: needed for the card") from error
            if row.get("split", "train") == "train":
                images[about] += 1
    return [
        {"source": source, "modality": modality, "images": count, "licence": licence}
        for (source, modality, licence), count in sorted(images.items())
    ]
