"""`python -m reunet.training distil`: one student of all folds."""

import sys
from pathlib import Path
from typing import Any

import click

from reunet.cli_outputs import CannotStart
from reunet.training.cli_options import FOLDER, leave_out_option, one_line, training_options
from reunet.training.fit.jobs import Job, limit_processes
from reunet.training.presets import DISTIL, PRESETS, PSEUDO_SHARE, STAGES


@click.command()
@training_options
@click.option("--unlabelled", type=FOLDER, help="Folder of images without labels to learn from.")
@click.option(
    "--stage",
    type=click.Choice([stage for stage in STAGES if stage != DISTIL]),
    help="Whose folds teach.  [default: the last one trained]",
)
@click.option(
    "--start",
    help="Checkpoint or fold of a bundle to start from.  [default: the mean of the folds' weights "
    "where these began with one network, else the first fold]",
)
@leave_out_option
def distil(
    root: Path,
    preset: str,
    folds: list[int | str],
    stage: str | None,
    unlabelled: Path | None,
    others: tuple[Path, ...],
    device: str,
    num_gpus: int,
    dry_run: bool,
    **options: Any,
) -> None:
    """Train one network on what the folds see: as fast as one, nearly as good as all."""
    from reunet.training.release.export import last_stage
    from reunet.training.selftrain.distil import Distillation, describe, student_of
    from reunet.training.selftrain.distil import distil as distil_folds

    limit_processes(device)
    root = root.resolve()
    for folder in (*([unlabelled] if unlabelled else []), *others):
        if not folder.is_dir():
            raise CannotStart(f"{folder}: no such folder")
    share = PSEUDO_SHARE if PRESETS[preset].balanced else None
    try:
        plan = Distillation(
            root,
            stage or last_stage(root, preset, but=DISTIL),
            tuple(folds),
            student_of(Job(preset, pseudo_share=share, **options)),
            unlabelled,
            others,
            device,
            num_gpus,
        )
        if dry_run:
            click.echo(describe(plan))
        else:
            click.echo(f"trained: {distil_folds(plan, click.echo)}")
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {one_line(error)}")
