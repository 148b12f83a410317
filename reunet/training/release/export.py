"""Trained nnU-Net folds -> a weight bundle that needs nothing of nnU-Net."""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from reunet.instances.decode import MIN_SEED, RING_OUTSIDE
from reunet.network.architecture import Architecture
from reunet.network.bundle import (
    CARD,
    SIZE,
    STUDENT,
    Bundle,
    load_tensors,
    open_bundle,
    save_bundle,
)
from reunet.options import SMALLEST_CELL
from reunet.training import layout
from reunet.training.fit.start import start_tensors
from reunet.training.presets import PRESETS, STAGES, Preset
from reunet.training.release.history import (
    commands,
    fold_of,
    history,
    lineage,
    load_checkpoint,
    pseudo_labelled,
    read_job,
    start_of,
    summary,
    unique_tensors,
)

PERMISSIVE = (
    "CC0-1.0", "MIT", "MIT (repository)", "Apache-2.0 (repository)", "BSD-style",
    "BSD-3-Clause (repository); images CC0",
)  # fmt: skip

OWN = "the trainer's own images"


def export(
    folders: Sequence[Path],
    preset: str,
    bundle: Path,
    best: bool,
    meta: Path | None,
    size_of: Bundle | None = None,
    own: Sequence[dict[str, Any]] = (),
) -> tuple[str, ...]:
    """Write trained folds as a bundle, a student with the folds that taught it.

    folders: results of stages (`layout.results_folder`), all of one encoding, whose folds go
    together. best: the checkpoint of the best instance F1 instead of the last. meta: a `meta.csv`
    of the training data, for the card's sources and licences; own: more entries of such sources.
    A fold that is still in training counts with its latest state. A bundle that the folds started
    from hands down its stages, its training data and, where none was trained below the same root,
    its size network; size_of: another bundle to take that from. Returns the names of the
    folds. Raises FileNotFoundError for a folder without any, ValueError for folders that do not
    go together and for another meta.csv.
    """
    checkpoints: dict[str, Path] = {}
    for folder in folders:
        found = with_teachers(which(folder, best))
        if twice := sorted(found.keys() & checkpoints.keys()):
            raise ValueError(f"{folder}: fold {twice[0]} is there twice: export them apart")
        checkpoints |= found
    dataset_json, *others = (json.loads((f / "dataset.json").read_text()) for f in folders)
    if any(other["encoding"] != dataset_json["encoding"] for other in others):
        raise ValueError(f"{folders[0]}: its encoding is not that of all: export them apart")
    chosen = PRESETS[preset]
    parent = started_bundle(checkpoints.values())
    size = _size_network(folders[0], chosen, [size_of, parent])
    learnt = _sources(meta, dataset_json["cases"]) if meta else [*own]
    sources = [*learnt, *pseudo_sources(checkpoints.values(), meta)]
    earlier = parent.about.get("training_data", []) if parent else []
    known = sources if meta or own else []
    if parent:
        known = merged(earlier, sources) if earlier and known else []
    in_time = sorted(checkpoints, key=lambda fold: fold == STUDENT)  # the student comes last
    trained = [stage for fold in in_time for stage in history(checkpoints[fold])]
    prepare = f"python -m reunet.training prepare --encoding {dataset_json['encoding']}"
    about = {
        "name": f"reunet-{preset}",
        **how_to_use(chosen, dataset_json),
        "stages": [*(parent.about.get("stages", []) if parent else []), *summary(trained)],
        **({"size_network": size[1]} if size else {}),
        "training_data": merged(earlier, sources),
        "training_command": [prepare, *commands(trained)],
        "use": permitted_use(known),
    }
    folds = {
        fold: unique_tensors(load_checkpoint(path)["network_weights"])
        for fold, path in checkpoints.items()
    }
    save_bundle(bundle, chosen.architecture, folds, about, size=size[0] if size else None)
    return tuple(folds)


def how_to_use(preset: Preset, data: dict[str, Any]) -> dict[str, Any]:
    """What the card says to whoever predicts. data: the dataset.json."""
    encoding = data["encoding"]
    return {
        "input": "channels rescaled to 0..255 from percentiles 1 and 99, z-score per channel",
        "classes": list(data["labels"]),
        "encoding": encoding,
        "decoder": "field" if preset.architecture.field else "regrow",
        "decoder_parameters": {
            "min_seed_px": MIN_SEED[encoding],
            "ring_outside_px": RING_OUTSIDE[encoding],
            "min_cell_px": SMALLEST_CELL,
        },
        "tile": preset.tile,
        "step": preset.step,
        **({"diameter": preset.diameter} if preset.diameter else {}),
        "smallest": preset.patch,
    }


def started_bundle(checkpoints: Iterable[Path]) -> Bundle | None:
    """The bundle that the first stage of a fold started from, if it still lies there."""
    for checkpoint in checkpoints:
        start = start_of(lineage(checkpoint)[0])
        if start and start.suffix != ".pth" and (start.parent / CARD).exists():
            return open_bundle(start.parent)
    return None


def same_network(one: Architecture, other: Architecture) -> bool:
    """Whether weights fit, but for a distance field that one of them may lack."""
    return replace(one, field=other.field, dropout=other.dropout) == other


def merged(earlier: list[dict[str, Any]], later: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sources of training data, each once: what is said of one later counts."""
    found = {(s["source"], s["modality"], s.get("labels")): s for s in (*earlier, *later)}
    return [found[key] for key in found]


def _size_network(
    folder: Path, preset: Preset, donors: Sequence[Bundle | None]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Tensors of the size network, and what the card says of it.

    That trained below the same root, or else of the first of the bundles that has one for the
    preset's architecture.
    """
    path = layout.size_file(layout.root_of(folder))
    if not preset.diameter:
        return None
    if not path.exists():
        for donor in donors:
            if donor and donor.has_size and same_network(donor.architecture, preset.architecture):
                return dict(load_tensors(donor, SIZE)), dict(donor.about.get("size_network", {}))
        return None
    state = torch.load(path, weights_only=True)
    about = {"iterations": state["iteration"], "hours": round(state["seconds"] / 3600, 2)}
    about |= {"started_from": state["start"]} if state.get("start") else {}
    return dict(start_tensors(path)), about


def last_stage(root: Path, preset: str, but: str = "") -> str:
    """The last stage of which a fold has a checkpoint; the first where none has. but: a stage that
    is passed over."""
    trained = [
        stage
        for stage in STAGES
        if stage != but
        and any(layout.results_folder(root, preset, stage).glob("fold_*/checkpoint_*.pth"))
    ]
    return trained[-1] if trained else STAGES[0]


def which(folder: Path, best: bool) -> dict[str, Path]:
    """The checkpoint of every fold of a stage that would be exported.

    Raises FileNotFoundError where there is none.
    """
    names = (layout.BEST,) if best else (layout.FINAL, layout.LATEST)
    found = {
        fold.name.removeprefix("fold_"): path
        for fold in sorted(folder.glob("fold_*"))
        if (path := next((fold / name for name in names if (fold / name).exists()), None))
    }
    if not found:
        raise FileNotFoundError(f"{folder}: holds no trained fold: train one first")
    return found


def with_teachers(found: dict[str, Path]) -> dict[str, Path]:
    """The checkpoints of a stage by fold; of a distillation the student, called so, and behind it
    the folds that taught it. Raises FileNotFoundError where one of these is gone."""
    teachers = [Path(t) for path in found.values() for t in read_job(path).get("teachers", [])]
    if not teachers:
        return found
    if gone := [path for path in teachers if not path.exists()]:
        raise FileNotFoundError(f"{gone[0]}: taught the student and is gone: train it again")
    (student,) = found.values()
    return {STUDENT: student, **{fold_of(path): path for path in teachers}}


def permitted_use(sources: list[dict[str, Any]]) -> str:
    """What the licences of the training data leave open, for the card."""
    if not sources:
        return "unknown: the card does not name the training data"
    closed = [s["source"] for s in sources if s["licence"] not in (*PERMISSIVE, OWN)]
    if not closed:
        return "free: all training data are permissively licensed"
    return f"research only: not permissively licensed are {', '.join(closed)}"


def pseudo_sources(checkpoints: Iterable[Path], meta: Path | None) -> list[dict[str, Any]]:
    """Every source of pseudo-labelled images; the licence is that of the source in `meta`."""
    licences = {s["source"]: s["licence"] for s in (_sources(meta) if meta else [])}
    images = {image["digest"]: image for path in checkpoints for image in pseudo_labelled(path)}
    counts = Counter((i["source"], i["modality"]) for i in images.values())
    return [
        {
            "source": source,
            "modality": modality,
            "images": count,
            "licence": licences.get(source, "none stated"),
            "labels": "pseudo-labels",
        }
        for (source, modality), count in sorted(counts.items())
    ]


def _sources(meta: Path, cases: Container[str] | None = None) -> list[dict[str, Any]]:
    """Every source of the training part: images, modality and licence.

    cases: names of those that were learnt from, sources may have been left out (None: all).
    """
    images: dict[tuple[str, str, str], int] = defaultdict(int)
    with meta.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                about = row["source"], row["modality"], row["licence"]
            except KeyError as error:
                raise ValueError(f"{meta}: has no column {error}: needed for the card") from error
            learnt = cases is None or "name" not in row or row["name"] in cases
            if learnt and row.get("split", "train") == "train":
                images[about] += 1
    return [
        {"source": source, "modality": modality, "images": count, "licence": licence}
        for (source, modality, licence), count in sorted(images.items())
    ]
