"""Trained nnU-Net folds -> a weight bundle that needs nothing of nnU-Net."""

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from reunet.training.jobs import FINAL, LATEST, results_folder
from reunet.training.presets import PRESETS
from reunet.weights import save_bundle

SCRIPTS = {
    "baseline": "2_train_baseline.sh",
    "weightmap": "3_finetune_weightmap.sh",
    "retrain": "4_self_train.sh",
}


def export(root: Path, preset: str, stage: str, bundle: Path, meta: Path | None) -> tuple[str, ...]:
    """Write the trained folds of a stage as a bundle.

    root: the training's folder. meta: a `meta.csv` of the training data, for the card's sources
    and licences. A fold that is still in training counts with its latest state. Returns the names
    of the folds. Raises FileNotFoundError where there are none.
    """
    folder = results_folder(root, preset, stage)
    checkpoints = {
        fold.name.removeprefix("fold_"): path
        for fold in sorted(folder.glob("fold_*"))
        if (path := _checkpoint(fold))
    }
    if not checkpoints:
        raise FileNotFoundError(f"{folder}: holds no trained fold: train one first")
    dataset_json = json.loads((folder / "dataset.json").read_text())
    chosen = PRESETS[preset]
    about = {
        "name": f"reunet-{preset}",
        "input": "channels rescaled to 0..255 from percentiles 1 and 99, z-score per channel",
        "classes": list(dataset_json["labels"]),
        "encoding": dataset_json["encoding"],
        "decoder": "regrow",
        "tile": chosen.tile,
        "smallest": chosen.patch,
        "stages": [s for fold, path in checkpoints.items() for s in history(path, fold)],
        "training_data": _sources(meta) if meta else [],
        "training_command": f"sh train_scripts/{SCRIPTS[stage]} --preset {preset}",
        "use": "research only: some sources of the training data are non-commercial or unlicensed",
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


def _checkpoint(fold: Path) -> Path | None:
    return next((fold / name for name in (FINAL, LATEST) if (fold / name).exists()), None)


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
        "epochs": content["current_epoch"],
        "hours": round(sum(end - start for start, end in times) / 3600, 2),
        "final_train_loss": round(float(log["train_losses"][-1]), 4),
    }
    return [*(history(earlier, fold) if earlier and earlier.exists() else []), stage]


def _sources(meta: Path) -> list[dict[str, Any]]:
    """Every source of the training part: images, modality and licence."""
    images: dict[tuple[str, str, str], int] = defaultdict(int)
    with meta.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] == "train":
                images[row["source"], row["modality"], row["licence"]] += 1
    return [
        {"source": source, "modality": modality, "images": count, "licence": licence}
        for (source, modality, licence), count in sorted(images.items())
    ]
