"""Rounds of self-training: teacher, pseudo-labels, student, which is the next teacher (§2.6).

A round lives in three places: `rounds/roundN` (labels, overlays, tables), `preprocessed`
(its cases: the labelled ones, linked, and the pseudo-labelled) and `results` (its students). It
is complete when `rounds/roundN/complete.json` stands there; a complete round is not run again.
"""

import csv
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from reunet.io.atomic import replacing
from reunet.training import layout
from reunet.training.data.dataset import cases_folder, read_json, write_json
from reunet.training.fit import jobs
from reunet.training.fit.validate import fold_f1
from reunet.training.presets import EARLY_STOP, ROUNDS, STAGES
from reunet.training.selftrain.expected import expectations
from reunet.training.selftrain.parallel import run_each
from reunet.training.selftrain.pseudo import Labelling, Round, is_labelled, label_images
from reunet.training.selftrain.teacher import find_teacher
from reunet.training.selftrain.unlabelled import UnlabelledImage, store_images

F1_EVERY = 20  # epochs: in a round hardly more than the look at the end
COLUMNS = (
    "image", "case", "diameter", "cells", "median_diameter", "mean_confidence", "kept_share", "f1",
    "rejected",
)  # fmt: skip
ENDS = (".b2nd", "_seg.b2nd", ".pkl")  # of the files of a case
Say = Callable[[str], None]


@dataclass(frozen=True)
class SelfTraining:
    """What is asked for.

    job: the training of the students; its start, with `{fold}` for the fold, is the first teacher.
    labelling: how a teacher's labels are made. early_stop: end when the students are no better
    than their teacher. jobs: processes side by side. others: folders of images that must not be
    learnt from.
    """

    root: Path
    unlabelled: Path
    folds: tuple[int | str, ...]
    job: jobs.Job
    labelling: Labelling = field(default_factory=Labelling)
    rounds: int = len(ROUNDS)
    device: str = "cpu"
    num_gpus: int = 1
    jobs: int = 1
    early_stop: bool = EARLY_STOP
    others: tuple[Path, ...] = ()

    @property
    def preset(self) -> str:
        """The network and schedule of all rounds."""
        return self.job.preset

    @property
    def start(self) -> str:
        """The first teacher's checkpoints."""
        assert self.job.start, "self-training starts from a teacher"
        return self.job.start


def self_train(plan: SelfTraining, say: Say = print) -> None:
    """Run the rounds; each goes on where it was interrupted, a complete one is passed over.

    Raises FileNotFoundError where something has to be trained first, ValueError for what cannot be
    done, OSError where nothing can be written and RuntimeError for a failed training, each in one
    line. What was finished before stays.
    """
    layout.use_folder(plan.root)
    for fold in plan.folds:
        jobs.check(plan.root, replace(plan.job, start=None), fold, plan.num_gpus, plan.device)
    teacher = next(iter(find_teacher(plan.root, plan.preset, plan.folds, plan.start).values()))
    images, left_out = store_images(
        plan.unlabelled, plan.root, plan.preset, teacher, plan.others, plan.device
    )
    for reason in left_out.values():
        say(f"left out: {reason}")
    if not images:
        raise ValueError(f"{plan.unlabelled}: no image could be used: see above")
    start = plan.start
    for stage in ROUNDS[: plan.rounds]:
        done = run_round(plan, stage, start, images, left_out, say)
        if plan.early_stop and not done["helped"]:
            say(f"{stage}: no better than its teacher, which stays the best: no more rounds")
            return
        start = str(layout.checkpoint(plan.root, plan.preset, stage))


def run_round(
    plan: SelfTraining,
    stage: str,
    start: str,
    images: list[UnlabelledImage],
    left_out: dict[str, str],
    say: Say,
) -> dict[str, Any]:
    """One round. start: the teacher's checkpoints. Returns what its marker says."""
    folder = layout.round_folder(plan.root, stage)
    begin(plan, stage, start)
    marker = layout.round_marker(plan.root, stage)
    if marker.exists():
        say(f"{stage}: complete already")
        return dict(read_json(marker))
    chosen = layout.pseudo_cases_file(plan.root, plan.preset, stage)
    if not chosen.exists():  # from here on the round's cases stay the same
        rows = label_all(plan, stage, start, images, say)
        write_table(folder / "pseudo.csv", rows, left_out)
        accepted = [row["case"] for row in rows if not row["rejected"]]
        if not accepted:
            raise ValueError(f"{folder / 'pseudo.csv'}: every image was rejected: see there")
        link_cases(plan.root, plan.preset, stage, accepted)
        write_json(chosen, accepted)
    job = student_job(plan, stage, start, chosen)
    say(f"{stage}: training {len(plan.folds)} folds with {len(read_json(chosen))} pseudo-labels")
    train = {f"fold_{k}": (plan.root, job, k, plan.device, plan.num_gpus) for k in plan.folds}
    run_each(train_fold, train, plan.jobs, folder / "logs")
    return finish(plan, stage, start, images, say)


def begin(plan: SelfTraining, stage: str, start: str) -> None:
    """Note what a round is made with. Raises ValueError where it was begun with something else."""
    teacher = find_teacher(plan.root, plan.preset, plan.folds, start)
    about = {
        "preset": plan.preset,
        "vote": plan.labelling.vote,
        "threshold": plan.labelling.threshold,
        "steady": plan.labelling.steady,
        "reject": plan.labelling.reject,
        "share": plan.job.pseudo_share,
        "teacher": {fold: path.stat().st_mtime_ns for fold, path in teacher.items()},
    }
    folder, note = layout.round_folder(plan.root, stage), layout.about_round(plan.root, stage)
    there = {"steady": False, **read_json(note)} if note.exists() else about  # as it was once
    if there != about:
        differing = ", ".join(name for name in about if there.get(name) != about[name])
        raise ValueError(
            f"{folder}: begun with another {differing}: name another --root, or take the round's "
            f"folders in rounds, preprocessed and results away"
        )
    for part in ("labels", "overlays", "rows"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_json(note, about)


def label_all(
    plan: SelfTraining, stage: str, start: str, images: list[UnlabelledImage], say: Say
) -> list[dict[str, Any]]:
    """Let the teacher label the images that it has not labelled yet. Returns the table's rows."""
    folder = layout.round_folder(plan.root, stage)
    left = [image for image in images if not is_labelled(folder, image)]
    say(f"{stage}: labelling {len(left)} of {len(images)} images")
    task = Round(
        plan.labelling,
        plan.root,
        plan.preset,
        stage,
        encoding=read_json(layout.description(plan.root))["encoding"],
        images=plan.unlabelled,
        teacher=find_teacher(plan.root, plan.preset, plan.folds, start),
        device=plan.device,
        expected=expectations(plan.root) if left else {},
    )
    task.target.mkdir(exist_ok=True)
    left.sort(key=lambda image: image.height * image.width, reverse=True)
    shares = {f"label_{n}": (task, left[n :: plan.jobs]) for n in range(min(plan.jobs, len(left)))}
    run_each(label_images, shares, plan.jobs, folder / "logs")
    rows = [read_json(layout.row_file(folder, image.case)) for image in images]
    if rejected := sum(bool(row["rejected"]) for row in rows):
        say(f"{stage}: {rejected} of {len(rows)} labels cannot be right and are left out")
    return rows


def write_table(path: Path, rows: list[dict[str, Any]], left_out: dict[str, str]) -> None:
    """`pseudo.csv`: what became of each image; those left out are rejected with the reason."""
    others = [{"image": name, "rejected": reason} for name, reason in left_out.items()]
    write_csv(path, COLUMNS, [*rows, *others])


def write_csv(path: Path, columns: Iterable[str], rows: Iterable[dict[str, Any]]) -> None:
    """Write a table in one step; figures that a row lacks stay empty."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(columns), restval="", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def link_cases(root: Path, preset: str, stage: str, accepted: list[str]) -> None:
    """Lay the labelled cases, and the images of the unlabelled, into the folder of a stage."""
    labelled, store = cases_folder(root, preset), layout.unlabelled_folder(root)
    cases = read_json(layout.cases_file(root))
    files = [labelled / f"{case}{end}" for case in cases for end in ENDS]
    files += [store / f"{case}.b2nd" for case in accepted]
    folder = layout.round_cases(root, preset, stage)
    for file in files:
        link = folder / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(Path("..", file.parent.name, file.name))


def student_job(plan: SelfTraining, stage: str, start: str, chosen: Path) -> jobs.Job:
    """The training of a round's students; fold k starts from the teacher's fold k."""
    folder = layout.round_folder(plan.root, stage)
    digest = hashlib.sha256()
    for case in read_json(chosen):
        digest.update(layout.row_file(folder, case).read_bytes())
    return replace(
        plan.job,
        stage=stage,
        start=start,
        weight_dice=True,
        f1_every=F1_EVERY,
        pseudo_labels=digest.hexdigest(),
    )


def train_fold(root: Path, job: jobs.Job, fold: int | str, device: str, num_gpus: int) -> None:
    """`jobs.train`, for a process of its own."""
    jobs.train(root, job, fold, device, num_gpus)


def finish(
    plan: SelfTraining, stage: str, start: str, images: list[UnlabelledImage], say: Say
) -> dict[str, Any]:
    """Compare students and teacher on the validation folds and mark the round complete."""
    folder = layout.round_folder(plan.root, stage)
    student = layout.checkpoint(plan.root, plan.preset, stage)
    validated = {
        "teacher": validate_folds(plan, folder, start),
        "student": validate_folds(plan, folder, str(student)),
    }
    rows = [
        {"fold": fold, **{f"{who}_f1": f1[fold] for who, f1 in validated.items()}}
        for fold in validated["teacher"]
    ]
    write_csv(folder / "folds.csv", ("fold", "teacher_f1", "student_f1"), rows)
    means = {f"{who}_f1": mean_f1(f1) for who, f1 in validated.items()}
    before, after = means["teacher_f1"], means["student_f1"]
    helped = before is None or after is None or after > before
    labels = read_json(layout.pseudo_cases_file(plan.root, plan.preset, stage))
    used = [asdict(image) for image in images if image.case in set(labels)]
    done = {"stage": stage, "preset": plan.preset, **means, "helped": helped, "images": used}
    write_json(layout.round_marker(plan.root, stage), done)
    if before is None or after is None:
        say(f"{stage}: complete; no image was held back to judge it by")
        return done
    say(f"{stage}: F1 on the validation folds {after}, its teacher's {before}")
    if after < before:
        teacher = STAGES[STAGES.index(stage) - 1]
        say(f"warning: {stage}: worse than its teacher: export that one, with --stage {teacher}")
    return done


def mean_f1(f1: dict[str, float | None]) -> float | None:
    """Mean over the folds, None without a validated one."""
    known = [value for value in f1.values() if value is not None]
    return round(float(np.mean(known)), 4) if known else None


def validate_folds(plan: SelfTraining, folder: Path, checkpoints: str) -> dict[str, float | None]:
    """F1 of each fold's own validation part, kept over the rounds beside the checkpoints' names."""
    record = layout.f1_record(plan.root)
    known = read_json(record) if record.exists() else {}
    paths = {str(fold): Path(checkpoints.format(fold=fold)) for fold in plan.folds}
    keys = {fold: f"{path.resolve()} {path.stat().st_mtime_ns}" for fold, path in paths.items()}
    missing = {
        f"validate_{fold}": (plan.root, plan.preset, path, fold, plan.device)
        for fold, path in paths.items()
        if keys[fold] not in known
    }
    found = run_each(fold_f1, missing, plan.jobs, folder / "logs")
    known |= {keys[name.removeprefix("validate_")]: f1 for name, f1 in found.items()}
    write_json(record, known)
    return {fold: known[key] for fold, key in keys.items()}
