"""`python -m reunet.training`: what the train scripts call, one command a stage."""

import os
import sys
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import click

from reunet.cli_outputs import CannotStart
from reunet.training import layout
from reunet.training.cli_all import train_all
from reunet.training.cli_distil import distil
from reunet.training.cli_options import (
    FOLDER,
    dry_run_option,
    jobs_option,
    leave_out_option,
    meta_option,
    one_line,
    preset_option,
    root_option,
    split_option,
    training_options,
    without_option,
)
from reunet.training.fit.jobs import Job, describe, limit_processes
from reunet.training.fit.jobs import train as train_fold
from reunet.training.presets import (
    EARLY_STOP,
    PRESETS,
    PSEUDO_SHARE,
    REJECT,
    ROUNDS,
    STAGES,
    THRESHOLD,
)
from reunet.training.talk import deaf_children, into_file, one_line_when_interrupted


class Resumable(click.Group):
    """Commands that Ctrl-C ends with one line; started again, they go on."""

    def invoke(self, ctx: click.Context) -> Any:
        with one_line_when_interrupted():
            return super().invoke(ctx)


@click.group(cls=Resumable, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train Re-UNet with nnU-Net v2."""


main.add_command(distil)
main.add_command(train_all)


@main.command()
@click.argument("images", type=FOLDER)
@click.argument("labels", type=FOLDER)
@preset_option
@root_option
@click.option(
    "--encoding", type=click.Choice(["paper", "thin"]), default="paper", show_default=True
)
@split_option
@without_option
@click.option("--processes", default=2, show_default=True, help="Of nnU-Net's preprocessing.")
@dry_run_option
def prepare(
    images: Path,
    labels: Path,
    preset: str,
    root: Path,
    encoding: str,
    split: str,
    without: tuple[str, ...],
    processes: int,
    dry_run: bool,
) -> None:
    """Turn IMAGES and instance LABELS into a preprocessed nnU-Net data set with five folds."""
    os.environ.setdefault("nnUNet_def_n_proc", str(processes))
    from reunet.training.data import dataset, sampling
    from reunet.training.data.labels import folders_of

    for folder in (images, labels):
        if not folder.is_dir():
            raise CannotStart(f"{folder}: no such folder")
    try:
        if dry_run:
            from reunet.training.data.survey import tell

            tell(images, labels, without, click.echo)
            return
        size = PRESETS[preset].diameter
        images, labels = folders_of(images, labels)
        cases, left_out = dataset.convert(images, labels, root, encoding, size, without)
        for reason in left_out.values():
            click.echo(f"left out: {reason}", err=True)
        if not cases:
            raise CannotStart(f"{images}: no image with a label could be used")
        sampling.write_folds(cases, root, split)
        log = root / "nnunet.log"
        click.echo(f"preparing {len(cases)} images; what nnU-Net says goes to {log}")
        with deaf_children(), into_file(log):
            dataset.preprocess(root, preset, processes)
    except ValueError as error:
        raise CannotStart(str(error)) from error
    except (OSError, RuntimeError) as error:  # RuntimeError: nnU-Net's, when a process died
        sys.exit(f"error: {one_line(error)}: look to space and rights in {root} and start again")
    click.echo(f"{len(cases)} cases are ready in {root}, {len(left_out)} left out")


@main.command()
@training_options
@click.option("--start", help="Checkpoint to start from, {fold} its fold.  [default: none]")
def baseline(**options: Any) -> None:
    """Train the folds; each goes on where it was interrupted."""
    run("baseline", **options)


@main.command()
@training_options
@click.option("--unweighted", is_flag=True, help="For ablation: fine-tune without the weight map.")
@click.option(
    "--start", help="Checkpoint to start from, {fold} its fold.  [default: the baseline's]"
)
def weightmap(unweighted: bool, start: str | None, **options: Any) -> None:
    """Fine-tune the baseline's folds with the weight map in the Dice loss."""
    root, preset = options["root"].resolve(), options["preset"]
    start = start or str(layout.checkpoint(root, preset, "baseline"))
    run("weightmap", start=start, weight_dice=not unweighted, **options)


def run(
    stage: str,
    folds: list[int | str],
    root: Path,
    device: str,
    num_gpus: int,
    dry_run: bool,
    **options: Any,
) -> None:
    """Train the folds of a stage one after the other."""
    limit_processes(device)
    job = Job(stage=stage, **options)
    for fold in folds:
        try:
            if dry_run:
                click.echo(describe(root, job, fold, num_gpus, device))
                continue
            click.echo(f"trained: {train_fold(root, job, fold, device, num_gpus)}")
        except (OSError, ValueError, RuntimeError) as error:
            sys.exit(f"error: {one_line(error)}")


@main.command()
@click.option("--unlabelled", type=FOLDER, required=True, help="Folder of images without labels.")
@click.option("--rounds", type=click.IntRange(1, len(ROUNDS)), default=3, show_default=True)
@training_options
@jobs_option
@click.option(
    "--teacher",
    "start",
    help="Checkpoint of the first teacher, {fold} its fold.  [default: the weight-map stage's]",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=THRESHOLD,
    show_default=True,
    help="Ignore pixels that the teacher is less sure of.",
)
@click.option(
    "--vote/--average",
    default=None,
    help="Label by the cells that the folds agree on, or by the mean of what they see."
    "  [default: compact votes; paper averages]",
)
@click.option(
    "--steady/--one-scale",
    default=None,
    help="Ignore cells that are not found again at other scales.  [default: compact does]",
)
@click.option("--reject/--keep-all", default=REJECT, help="Leave out labels that cannot be right.")
@click.option(
    "--ratio",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Share of draws that are pseudo-labelled.  [default: compact 0.3; paper: all cases alike]",
)
@click.option(
    "--early-stop/--no-early-stop",
    default=EARLY_STOP,
    help="End when a round's students are no better than their teacher.",
)
@click.option("--tta/--no-tta", default=True, help="Label with mirroring.")
@click.option("--truth", type=FOLDER, help="True labels by name, for the F1 in pseudo.csv.")
@leave_out_option
def selftrain(
    dry_run: bool,
    ratio: float | None,
    vote: bool | None,
    steady: bool | None,
    root: Path,
    preset: str,
    start: str | None,
    folds: list[int | str],
    **options: Any,
) -> None:
    """Rounds of self-training: the folds label images and are trained on, with them."""
    from reunet.training.selftrain.forecast import forecast
    from reunet.training.selftrain.pseudo import Labelling
    from reunet.training.selftrain.rounds import SelfTraining, self_train

    def taken(kind: type) -> dict[str, Any]:
        """The options that are fields of a class."""
        return {f.name: options.pop(f.name) for f in fields(kind) if f.name in options}

    limit_processes(options["device"])
    root = root.resolve()
    share = ratio or (PSEUDO_SHARE if PRESETS[preset].balanced else None)
    teacher = start or str(layout.checkpoint(root, preset, "weightmap"))
    options["vote"] = PRESETS[preset].vote if vote is None else vote
    options["steady"] = PRESETS[preset].steady if steady is None else steady
    job = Job(preset, start=teacher, pseudo_share=share, **taken(Job))
    plan = SelfTraining(
        root, folds=tuple(folds), job=job, labelling=Labelling(**taken(Labelling)), **options
    )
    truth = plan.labelling.truth
    for folder in (plan.unlabelled, *plan.others, *([truth] if truth else [])):
        if not folder.is_dir():
            raise CannotStart(f"{folder}: no such folder")
    try:
        if dry_run:
            click.echo(forecast(plan))
        else:
            self_train(plan, click.echo)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {one_line(error)}")


@main.command()
@click.argument("images", type=FOLDER)
@click.argument("labels", type=FOLDER)
@preset_option
@root_option
@click.option("--hours", type=click.FloatRange(0, min_open=True), default=0.5, show_default=True)
@click.option("--start", type=FOLDER, help="Fold or size network to start from.  [default: none]")
@without_option
@dry_run_option
def size(
    images: Path,
    labels: Path,
    preset: str,
    root: Path,
    hours: float,
    start: Path | None,
    without: tuple[str, ...],
    dry_run: bool,
) -> None:
    """Train the network that estimates the size of cells; it goes on where it was interrupted."""
    from reunet.training.fit.size import read_samples, train_size

    output = layout.size_folder(root.resolve())
    arch = PRESETS[preset].architecture
    if PRESETS[preset].diameter is None:
        raise CannotStart(f"preset {preset}: its images keep their size: take another preset")
    try:
        samples, cases = read_samples(images, labels, without, partial(click.echo, err=True))
        if dry_run:
            click.echo(f"size: {len(samples)} images to learn from for {hours:g} h, into {output}")
            return
        trained = train_size(samples, cases, output, arch, hours=hours, start=start)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {one_line(error)}")
    click.echo(f"trained: {trained}")


@main.command()
@click.argument("bundle", type=FOLDER)
@preset_option
@root_option
@click.option("--stage", type=click.Choice(STAGES), help="[default: the last one trained]")
@click.option(
    "--with",
    "others",
    type=(FOLDER, click.Choice(STAGES)),
    multiple=True,
    metavar="ROOT STAGE",
    help="Also the folds of a stage that lie below another root.",
)
@click.option("--best", is_flag=True, help="The checkpoint of the best F1 instead of the last.")
@meta_option
@dry_run_option
def export(
    bundle: Path,
    preset: str,
    root: Path,
    stage: str | None,
    others: tuple[tuple[Path, str], ...],
    best: bool,
    meta: Path | None,
    dry_run: bool,
) -> None:
    """Write the trained folds of a stage, or of several, as the weight bundle BUNDLE."""
    from reunet.training.release.export import export as export_folds
    from reunet.training.release.export import last_stage, which

    stage = stage or last_stage(root, preset)
    folders = [layout.results_folder(r, preset, name) for r, name in ((root, stage), *others)]
    try:
        if dry_run:
            paths = [str(path) for folder in folders for path in which(folder, best).values()]
            click.echo("\n".join([f"{bundle} would hold {stage}:", *paths]))
            return
        folds = export_folds(folders, preset, bundle, best, meta)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {one_line(error)}")
    click.echo(f"{bundle}: folds {', '.join(folds)}")


if __name__ == "__main__":
    main()
