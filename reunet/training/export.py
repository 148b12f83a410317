"""Trained nnU-Net folds -> a weight bundle that needs nothing of nnU-Net."""

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from reunet.training.dataset import CONFIGURATION, DATASET, plans_name
from reunet.training.presets import PRESETS
from reunet.weights import save_bundle

TRAINER = "nnUNetTrainerReUNet"
CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_latest.pth")
TILE = {"paper": 1024, "compact": 512}  # px at inference; the compact patch is cut small for speed


def export(root: Path, preset: str, bundle: Path, meta: Path | None) -> list[str]:
    """Write the finished folds of a training (or else its latest state) as a bundle.

    root: the training's folder. meta: a `meta.csv` of the training data, for the card's sources
    and licences. Returns the names of the folds. Raises FileNotFoundError where there are none.
    """
    results = root / "results" / DATASET / f"{TRAINER}__{plans_name(preset)}__{CONFIGURATION}"
    checkpoints = {
        folder.name.removeprefix("fold_"): _load(path)
        for folder in sorted(results.glob("fold_*"))
        if (path := _checkpoint(folder))
    }
    if not checkpoints:
        raise FileNotFoundError(f"{results}: holds no trained fold: train one first")
    dataset_json = json.loads((results / "dataset.json").read_text())
    chosen = PRESETS[preset]
    about = {
        "name": f"reunet-{preset}",
        "input": "channels rescaled to 0..255 from percentiles 1 and 99, z-score per channel",
        "classes": list(dataset_json["labels"]),
        "encoding": dataset_json["encoding"],
        "decoder": "regrow",
        "tile": TILE[preset],
        "smallest": chosen.patch,
        "stages": [_stage("baseline", fold, c) for fold, c in checkpoints.items()],
        "training_data": _sources(meta) if meta else [],
        "training_command": f"sh train_scripts/2_train_baseline.sh --preset {preset}",
        "use": "research only: some sources of the training data are non-commercial or unlicensed",
    }
    folds = {fold: unique_tensors(c["network_weights"]) for fold, c in checkpoints.items()}
    save_bundle(bundle, chosen.architecture, folds, about)
    return list(folds)


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
    return next((fold / name for name in CHECKPOINTS if (fold / name).exists()), None)


def _load(path: Path) -> dict[str, Any]:
    # written by our own training on this machine; the pickled part is nnU-Net's log
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    return checkpoint


def _stage(name: str, fold: str, checkpoint: dict[str, Any]) -> dict[str, Any]:
    log = checkpoint["logging"]
    times = zip(log["epoch_start_timestamps"], log["epoch_end_timestamps"], strict=False)
    return {
        "name": name,
        "fold": fold,
        "epochs": checkpoint["current_epoch"],
        "hours": round(sum(end - start for start, end in times) / 3600, 2),
        "final_train_loss": round(float(log["train_losses"][-1]), 4),
    }


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
