"""Distillation: the folds teach one student, which is nearly as good and as fast as one of them.

The student learns from the labelled cases' truth and from what the folds see in them and in
unlabelled images (`fit.teachers`). Folds that were trained on from one network have weights whose
mean is a good network itself (Wortsman et al. 2022, "Model soups"): that is where it starts.
"""

import hashlib
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from reunet.io.atomic import replacing
from reunet.io.images import list_images
from reunet.training import layout
from reunet.training.data.dataset import with_maps, write_blosc, write_json
from reunet.training.fit import jobs
from reunet.training.fit.loss import IGNORE
from reunet.training.fit.start import Tensors, load_network, start_tensors
from reunet.training.presets import DISTIL, PRESETS
from reunet.training.release.history import lineage, start_of
from reunet.training.selftrain.rounds import link_cases
from reunet.training.selftrain.teacher import find_teacher
from reunet.training.selftrain.unlabelled import UnlabelledImage, store_images

EVERY_CASE = "all"  # nothing is held back from the student: its figures are those of other images
NEVER = 10**6  # epochs between two looks at the F1, which would be that of learnt images
Say = Callable[[str], None]


@dataclass(frozen=True)
class Distillation:
    """What is asked for.

    stage: whose folds teach. job: of the student; start: None is `first_weights`. unlabelled:
    folder of images without labels, others: folders of images that must not be learnt from.
    """

    root: Path
    stage: str
    folds: tuple[int | str, ...]
    job: jobs.Job
    unlabelled: Path | None = None
    others: tuple[Path, ...] = ()
    device: str = "cpu"
    num_gpus: int = 1

    @property
    def teachers(self) -> dict[str, Path]:
        """The teachers' checkpoints by fold, looked through.

        Raises FileNotFoundError where a fold is not trained, ValueError for one of another preset,
        encoding or architecture.
        """
        start = str(layout.checkpoint(self.root, self.job.preset, self.stage))
        found = find_teacher(self.root, self.job.preset, self.folds, start)
        for path in found.values():
            load_network(path, self.job.preset)
        return found


def distil(plan: Distillation, say: Say = print) -> Path:
    """Train the student, from where an interrupted run stopped. Returns its folder.

    Raises FileNotFoundError, ValueError, OSError or RuntimeError, each in one line.
    """
    layout.use_folder(plan.root)
    preset, teachers = plan.job.preset, plan.teachers
    jobs.check(plan.root, plan.job, EVERY_CASE, plan.num_gpus, plan.device)
    images: list[UnlabelledImage] = []
    if plan.unlabelled:
        first = next(iter(teachers.values()))
        images, left_out = store_images(
            plan.unlabelled, plan.root, preset, first, plan.others, plan.device
        )
        for reason in left_out.values():
            say(f"left out: {reason}")
    start = plan.job.start or first_weights(plan, teachers)
    store_cases(plan, images)
    job = replace(
        plan.job,
        start=start,
        teachers=[str(path) for path in teachers.values()],
        pseudo_labels=digest(teachers.values(), images),
    )
    say(f"{DISTIL}: {len(teachers)} folds of {plan.stage} teach, with {len(images)} images more")
    return jobs.train(plan.root, job, EVERY_CASE, plan.device, plan.num_gpus)


def student_of(job: jobs.Job) -> jobs.Job:
    """The training of a student, of a job that says how long and how."""
    return replace(job, stage=DISTIL, weight_dice=True, f1_every=NEVER)


def describe(plan: Distillation) -> str:
    """What would be done, in one line. Raises what `distil` raises before it begins."""
    preset, teachers = PRESETS[plan.job.preset], plan.teachers
    jobs.check(plan.root, plan.job, EVERY_CASE, plan.num_gpus, plan.device)
    count = len(list_images(plan.unlabelled)) if plan.unlabelled else 0
    length = f"{plan.job.hours:g} h" if plan.job.hours else None
    epochs = plan.job.epochs or preset.schedule(DISTIL).epochs
    output = layout.fold_folder(plan.root, plan.job.preset, DISTIL, EVERY_CASE)
    state = "is trained already" if (output / layout.FINAL).exists() else "to be trained"
    return (
        f"{DISTIL}: the student of {len(teachers)} folds of {plan.stage}, {state}, "
        f"{length or f'{epochs} epochs'} on {plan.device}, with {count} unlabelled images, "
        f"starts from {plan.job.start or start_in_words(teachers)}, in {output}"
    )


def first_weights(plan: Distillation, teachers: dict[str, Path]) -> str:
    """Path of the weights that the student starts from: the mean of the teachers', or a teacher's.

    The mean of networks that were never one is no network: then it is the first teacher.
    """
    if not of_one_network(teachers.values()):
        return str(next(iter(teachers.values())))
    path = layout.soup_file(plan.root, plan.job.preset, DISTIL)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(soup(teachers.values())))
    return str(path)


def start_in_words(teachers: dict[str, Path]) -> str:
    """Of `first_weights`."""
    if of_one_network(teachers.values()):
        return "the mean of their weights"
    return f"fold {next(iter(teachers))}"


def of_one_network(checkpoints: Iterable[Path]) -> bool:
    """Whether several trainings began, stages ago, with the same weights."""
    starts = {start_of(lineage(path)[0]) for path in checkpoints}
    return len(starts) == 1 and None not in starts


def soup(checkpoints: Iterable[Path]) -> Tensors:
    """The mean of several networks' weights."""
    states = [start_tensors(path) for path in checkpoints]
    return {name: torch.stack([s[name] for s in states]).mean(dim=0) for name in states[0]}


def store_cases(plan: Distillation, images: list[UnlabelledImage]) -> None:
    """Lay out the stage's cases: the labelled ones, linked, and unlabelled ones of which no pixel
    has a known class: of them the teachers alone teach."""
    root, preset = plan.root, plan.job.preset
    folder = layout.round_cases(root, preset, DISTIL)
    folder.mkdir(exist_ok=True)
    names = [image.case for image in images]
    link_cases(root, preset, DISTIL, names)
    for case in names:
        _store_unknown(layout.unlabelled_folder(root) / case, folder / case, PRESETS[preset].patch)
    write_json(layout.pseudo_cases_file(root, preset, DISTIL), names)


def _store_unknown(image: Path, case: Path, edge: int) -> None:
    """The segmentation of an unlabelled image: unknown throughout. Both without their endings."""
    about = pickle.loads(image.with_name(f"{image.name}.pkl").read_bytes())
    rows, columns = (end - start for start, end in about["bbox_used_for_cropping"][1:])
    nothing = np.zeros((rows, columns), np.float32)
    unknown = with_maps(np.full(nothing.shape, IGNORE, np.int16), nothing, nothing)
    write_blosc(case.with_name(f"{case.name}_seg.b2nd"), unknown, (edge, edge))
    about["class_locations"] = {}  # patches are drawn anywhere
    case.with_name(f"{case.name}.pkl").write_bytes(pickle.dumps(about))


def digest(teachers: Iterable[Path], images: Iterable[UnlabelledImage]) -> str:
    """What tells these teachers and unlabelled images from others."""
    parts = [*(str(path.stat().st_mtime_ns) for path in teachers), *(i.digest for i in images)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
