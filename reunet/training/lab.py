"""`reunet train`: a lab's own images -> weights fine-tuned for them, in one resumable command.

The folder OUT becomes a weight bundle; OUT/training holds the work, which may be deleted once the
command has ended. Each step passes over what an earlier start of the command has done.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reunet.model import default_weights
from reunet.network.bundle import CARD, SIZE, Bundle, fold_file, open_bundle
from reunet.training import layout
from reunet.training.data.labels import read_instances
from reunet.training.data.survey import Pair, Survey, check_enough, survey
from reunet.training.fit.jobs import Job, limit_processes, train
from reunet.training.presets import PRESETS
from reunet.training.release.export import OWN, export, same_network
from reunet.training.release.held_out import Comparison, compare
from reunet.training.talk import deaf_children, into_file, told_seconds

STAGE = "weightmap"
FULL_RATE_FROM = 0.25  # h
SIZE_SHARE, SIZE_LR = 1 / 6, 3e-4  # of the time, for the network that estimates the size of cells
SHIPPED, NOTHING = "shipped", "none"
DEFAULT_PRESET = "compact"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Lab:
    """What is asked for. start: `shipped`, `none` or the folder of a bundle."""

    images: Path
    labels: Path
    out: Path
    start: str = SHIPPED
    hours: float = 0.5
    device: str = "cpu"

    @property
    def root(self) -> Path:
        """Of the training."""
        return self.out / "training"


@dataclass(frozen=True)
class Start:
    """The weights to begin with: a bundle's first fold, or none; and the bundle that lends its
    size network."""

    preset: str
    bundle: Bundle | None
    size_of: Bundle

    @property
    def weights(self) -> Path | None:
        """The file of the fold."""
        return self.bundle.folder / fold_file(self.bundle.folds[0]) if self.bundle else None

    @property
    def digest(self) -> str:
        """What tells these weights from others."""
        return self.bundle.about["sha256"][fold_file(self.bundle.folds[0])] if self.bundle else ""


def choose_start(name: str) -> Start:
    """The weights of a name. Raises ValueError for a bundle that cannot be trained on here."""
    shipped = open_bundle(default_weights("cpu"))
    if name == NOTHING:
        return Start(DEFAULT_PRESET, None, shipped)
    bundle = shipped if name == SHIPPED else open_bundle(Path(name).resolve())
    fitting = [
        preset
        for preset, about in PRESETS.items()
        if same_network(bundle.architecture, about.architecture)
        and not about.retraining.halve_every
    ]
    if not fitting:
        raise ValueError(
            f"{bundle.folder}: weights of another architecture: start from shipped weights, from "
            f"a bundle of preset {DEFAULT_PRESET}, or from none"
        )
    return Start(fitting[0], bundle, bundle if bundle.has_size else shipped)


def train_lab(asked: Lab, say: Say = print, dry_run: bool = False) -> Comparison | None:
    """Prepare, fine-tune, export and compare; dry_run: say what would be done, and do nothing.

    Raises ValueError and OSError with one line for what cannot be used or done.
    """
    found = survey(asked.images, asked.labels)
    for reason in found.left_out:
        say(f"left out: {reason}")
    check_enough(found)
    start = choose_start(asked.start)
    for line in (found.line(), *plan(asked, found, start)):
        say(line)
    if dry_run:
        return None
    begin(asked, found, start)
    held_out = prepare(asked, found, start, say)
    limit_processes(asked.device)
    weights = str(start.weights) if start.weights else None
    every = 10**6 if found.held_out else 5  # of fold `all` the F1 would be that of learnt images
    hours = asked.hours * (1 - size_share(start))
    # One laboratory's microscopes and stains are what there is to learn.
    job = Job(
        start.preset, STAGE, weights, hours, weight_dice=True, f1_every=every, recolour=False,
        rate=rate_of(hours) if weights else 1.0,
    )  # fmt: skip
    if (trained_in(asked, found, start) / layout.FINAL).exists():
        again = f"to train on, name another folder, with --start {asked.out}"
        say(f"{asked.out}: is trained already; {again}")
    train(asked.root, job, fold_of(found), asked.device)
    learn_sizes(asked, [pair for pair in found.pairs if pair not in held_out], start, say)
    hand_over(asked, found, start, len(held_out))
    result = compare(held_out, start.bundle, asked.out)
    for line in result.lines():
        say(line)
    say(f"{asked.out}: the weights; reunet predict IMAGES LABELS --weights {asked.out}")
    return result


def plan(asked: Lab, found: Survey, start: Start) -> tuple[str, str]:
    """What will be done, in two lines."""
    held = len(found.held_out) or max(1, round(len(found.pairs) / 5))
    wanted = PRESETS[start.preset].diameter
    size = f"cells brought to {wanted:.0f} px" if wanted else "images at their own size"
    begins = f"from {start.bundle.folder}" if start.bundle else "from weights drawn at random"
    seconds = asked.hours * 3600
    return (
        f"plan: {len(found.pairs) - held} to learn from, {size}; about {held} held out to tell "
        f"what that brought",
        f"plan: train for {told_seconds(seconds)} on {asked.device}, {begins}; then write "
        f"{asked.out} and compare",
    )


def begin(asked: Lab, found: Survey, start: Start) -> None:
    """Note what the training is made of.

    Raises ValueError where another was begun there, and for a device that is not here.
    """
    from reunet.training.data.dataset import read_json, write_json
    from reunet.training.fit.device import check_device

    check_device(asked.device)
    about = {"images": str(found.images), "labels": str(found.labels), "start": start.digest}
    about = {k: str(Path(v).resolve()) if k != "start" else v for k, v in about.items()}
    note = asked.root / "about.json"
    if note.exists() and (there := read_json(note)) != about:
        differing = ", ".join(name for name in about if there.get(name) != about[name])
        raise ValueError(f"{asked.out}: was begun with other {differing}: name another folder")
    if asked.out.exists() and not asked.out.is_dir():
        raise ValueError(f"{asked.out}: is a file: name a folder")
    if not note.exists() and asked.out.exists() and any(asked.out.iterdir()):
        raise ValueError(f"{asked.out}: holds other files: name a new folder")
    asked.root.mkdir(parents=True, exist_ok=True)
    write_json(note, about)


def prepare(asked: Lab, found: Survey, start: Start, say: Say) -> list[Pair]:
    """The data set as training reads it. Returns the pairs that are held out."""
    processes = min(4, os.cpu_count() or 1)
    os.environ.setdefault("nnUNet_def_n_proc", str(processes))
    layout.use_folder(asked.root)
    log = asked.root / "nnunet.log"
    say(f"preparing {len(found.pairs)} images; what nnU-Net says goes to {log}")
    with deaf_children(), into_file(log):  # its import prints, too
        from reunet.training.data import dataset, sampling

        encoding = start.bundle.encoding if start.bundle else "paper"
        wanted = PRESETS[start.preset].diameter
        cases, _ = dataset.convert(found.images, found.labels, asked.root, encoding, wanted)
        sampling.write_folds(cases, asked.root)
        dataset.preprocess(asked.root, start.preset, processes)
        judged = {*dataset.read_json(layout.folds_file(asked.root))[0]["val"]}
    return found.held_out or [pair for pair in found.pairs if pair.case in judged]


def fold_of(found: Survey) -> str | int:
    """The fold of the data that is trained: all, or the first of five, which holds a fifth back."""
    return "all" if found.held_out else 0


def trained_in(asked: Lab, found: Survey, start: Start) -> Path:
    """The folder of the fold's checkpoints."""
    return layout.fold_folder(asked.root, start.preset, STAGE, fold_of(found))


def size_share(start: Start) -> float:
    """Share of the time that the size network gets: none where cells keep their size."""
    return SIZE_SHARE if PRESETS[start.preset].diameter else 0.0


def rate_of(hours: float) -> float:
    """Share of the preset's learning rate for weights that are good already.

    Minutes are too short for the network to settle again from what the full rate makes of it.
    """
    return min(1.0, hours / FULL_RATE_FROM)


def learn_sizes(asked: Lab, pairs: list[Pair], start: Start, say: Say) -> None:
    """Fine-tune the size network on the images that are learnt from."""
    from reunet.training.fit.size import Sample, train_size

    hours = asked.hours * size_share(start)
    if not hours:
        return
    say(f"the size of cells, too, is learnt from {len(pairs)} images")
    samples = [
        Sample(pair.image, read_instances(pair.label).astype(np.int32), pair.diameter)
        for pair in pairs
    ]
    alike = {"modality": "unknown", "source": "unknown"}
    cases = {str(n): alike | {"pixels": str(s.instances.size)} for n, s in enumerate(samples)}
    train_size(
        samples, cases, layout.size_folder(asked.root), PRESETS[start.preset].architecture,
        hours=hours, start=start.size_of.folder / fold_file(SIZE), first_lr=SIZE_LR,
        recolour=False,
    )  # fmt: skip


def hand_over(asked: Lab, found: Survey, start: Start, held_out: int) -> None:
    """Write the bundle into OUT, beside the work, unless it stands there already."""
    from reunet.training.fit import page

    folder = layout.results_folder(asked.root, start.preset, STAGE)
    place = trained_in(asked, found, start)
    card = asked.out / CARD
    if card.exists() and card.stat().st_mtime_ns > (place / layout.FINAL).stat().st_mtime_ns:
        return
    own = {
        "source": found.images.resolve().name,
        "modality": "unknown",
        "images": len(found.pairs) - held_out,
        "licence": OWN,
    }
    export([folder], start.preset, asked.out, False, None, start.size_of, [own])
    for shown in ("training.png", page.NAME):
        if (place / shown).exists():  # no page yet of an interrupted training whose time was over
            shutil.copyfile(place / shown, asked.out / shown)
