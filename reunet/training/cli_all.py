"""`python -m reunet.training all`: every step from images and labels to a bundle, in turn.

Each step is the command of its name, which passes over what it has done before and goes on where it
was interrupted: started again, so does the whole.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from reunet.network.bundle import CARD
from reunet.training import layout
from reunet.training.cli_options import (
    ABOVE_ZERO,
    FOLDER,
    device_option,
    dry_run_option,
    epochs_option,
    folds_option,
    gpus_option,
    jobs_option,
    leave_out_option,
    meta_option,
    preset_option,
    root_option,
    split_option,
    without_option,
)
from reunet.training.presets import DISTIL, PRESETS, ROUNDS

# of the time, by step
SHARES = {"baseline": 0.4, "weightmap": 0.15, "size": 0.05, "selftrain": 0.3, DISTIL: 0.1}
Folds = list[int | str]


@dataclass(frozen=True)
class Step:
    """A command of `python -m reunet.training`: its options, and what it has done so far."""

    name: str
    options: dict[str, Any]
    state: Callable[[], str]


@click.command("all")
@click.argument("images", type=FOLDER)
@click.argument("labels", type=FOLDER)
@click.argument("bundle", type=FOLDER)
@preset_option
@root_option
@click.option("--unlabelled", type=FOLDER, help="Images without labels.  [default: no rounds]")
@folds_option
@click.option("--hours", type=ABOVE_ZERO, help="Of all steps together.  [default: epochs]")
@epochs_option
@split_option
@without_option
@leave_out_option
@meta_option
@jobs_option
@device_option
@gpus_option
@dry_run_option
@click.pass_context
def train_all(ctx: click.Context, /, dry_run: bool, **asked: Any) -> None:
    """From IMAGES and LABELS to the weight bundle BUNDLE: all steps, one after the other.

    Prepare, the folds' baseline, the weight map, the size network, three rounds of self-training,
    the student, export. An interrupted run goes on where it was.
    """
    asked["root"] = asked["root"].resolve()
    steps = [*steps_of(asked)]
    if dry_run:
        for number, step in enumerate(steps, 1):
            click.echo(f"{number}. {step.name}: {step.state()}{length(step)}")
        return
    assert ctx.parent
    group = ctx.parent.command
    assert isinstance(group, click.Group)
    for number, step in enumerate(steps, 1):
        click.echo(f"== {number} of {len(steps)}: {step.name}")
        ctx.invoke(group.commands[step.name], **step.options)


def steps_of(asked: dict[str, Any]) -> Iterator[Step]:
    """What is to be done, in its order. asked: the options of `train_all`."""
    root, preset, folds = asked["root"], asked["preset"], asked["folds"]
    place = {"root": root, "preset": preset}
    data = {name: asked[name] for name in ("images", "labels", "without")}
    training = {name: asked[name] for name in ("folds", "epochs", "device", "num_gpus")}
    unlabelled = {name: asked[name] for name in ("unlabelled", "others")}
    takes_place = {"size": PRESETS[preset].diameter, "selftrain": asked["unlabelled"]}
    left_out = [stage for stage, reason in takes_place.items() if not reason]
    hours = hours_of(asked["hours"], len(folds), asked["jobs"], left_out)

    def trained(stage: str) -> Callable[[], str]:
        return lambda: folds_trained(root, preset, stage, folds)

    options: dict[str, Any] = {**data, "split": asked["split"]}
    yield Step("prepare", {**place, **options}, lambda: prepared(root, preset))
    for stage in ("baseline", "weightmap"):
        yield Step(stage, {**place, **training, "hours": hours[stage]}, trained(stage))
    if PRESETS[preset].diameter:
        start = layout.checkpoint(root, preset, "weightmap", folds[0])
        options = {**data, "start": start, **({"hours": h} if (h := hours["size"]) else {})}
        done = layout.size_file(root)
        yield Step("size", {**place, **options}, lambda: one(done.exists()))
    if asked["unlabelled"]:
        options = {**training, **unlabelled, "jobs": asked["jobs"], "hours": hours["selftrain"]}
        yield Step("selftrain", {**place, **options}, lambda: rounds_done(root))
    stage = ROUNDS[-1] if asked["unlabelled"] else "weightmap"
    options = {**training, **unlabelled, "stage": stage, "hours": hours[DISTIL]}
    yield Step(DISTIL, {**place, **options}, lambda: folds_trained(root, preset, DISTIL, ["all"]))
    options = {"bundle": asked["bundle"], "stage": DISTIL, "meta": asked["meta"]}
    yield Step("export", {**place, **options}, lambda: exported(asked["bundle"], root, preset))


def hours_of(
    hours: float | None, folds: int, jobs: int, left_out: Collection[str] = ()
) -> dict[str, float | None]:
    """Of one fold in each stage; None where the preset's epochs decide.

    Rounds train `jobs` folds side by side, the other stages one after the other. left_out: stages
    that do not take place; their hours are the others'.
    """
    if hours is None:
        return dict.fromkeys(SHARES)
    hours /= sum(share for stage, share in SHARES.items() if stage not in left_out)
    turns = {"baseline": folds, "weightmap": folds, "selftrain": len(ROUNDS) * -(-folds // jobs)}
    return {stage: hours * share / turns.get(stage, 1) for stage, share in SHARES.items()}


def length(step: Step) -> str:
    """How long a fold of a step is trained, where that is asked for."""
    hours = step.options.get("hours")
    return f", {hours:.2g} h each" if hours else ""


def one(done: bool) -> str:
    """The state of what is one piece."""
    return "done" if done else "to be done"


def prepared(root: Path, preset: str) -> str:
    """Whether the data set is there; whether images have changed since, `prepare` finds out."""
    from reunet.training.data.dataset import is_complete

    return one(is_complete(root) and layout.plans_file(root, preset).exists())


def folds_trained(root: Path, preset: str, stage: str, folds: Folds) -> str:
    """How many folds of a stage are trained."""
    places = [layout.fold_folder(root, preset, stage, fold) for fold in folds]
    done = sum((place / layout.FINAL).exists() for place in places)
    begun = sum((place / layout.LATEST).exists() for place in places)
    return f"{done} of {len(folds)} trained" + f", {begun} begun" * bool(begun)


def rounds_done(root: Path) -> str:
    """How many rounds are complete."""
    done = sum(layout.round_marker(root, stage).exists() for stage in ROUNDS)
    return f"{done} of {len(ROUNDS)} rounds complete"


def exported(bundle: Path, root: Path, preset: str) -> str:
    """Whether the bundle is there, and younger than the student."""
    card = bundle / CARD
    student = layout.checkpoint(root, preset, DISTIL, "all")
    both = card.exists() and student.exists()
    return one(both and card.stat().st_mtime_ns > student.stat().st_mtime_ns)
