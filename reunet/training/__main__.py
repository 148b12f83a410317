"""`python -m reunet.training`: what the train scripts call, one command a stage."""

import os
import sys
from pathlib import Path

import click

from reunet.training.presets import PRESETS

FOLDER = click.Path(path_type=Path)
preset_option = click.option(
    "--preset", type=click.Choice(list(PRESETS)), default="compact", show_default=True
)
root_option = click.option(
    "--root", type=FOLDER, default=Path("runs/nnunet"), show_default=True,
    help="Where nnU-Net's raw, preprocessed and results folders lie.",
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train Re-UNet with nnU-Net v2."""


@main.command()
@click.argument("images", type=FOLDER)
@click.argument("labels", type=FOLDER)
@preset_option
@root_option
@click.option(
    "--encoding", type=click.Choice(["paper", "thin"]), default="paper", show_default=True
)
@click.option("--processes", default=2, show_default=True, help="Of nnU-Net's preprocessing.")
def prepare(
    images: Path, labels: Path, preset: str, root: Path, encoding: str, processes: int
) -> None:
    """Turn IMAGES and instance LABELS into a preprocessed nnU-Net data set with five folds."""
    from reunet.training import dataset

    for folder in (images, labels):
        if not folder.is_dir():
            raise click.UsageError(f"{folder}: no such folder")
    cases, left_out = dataset.convert(images, labels, root, encoding)
    for reason in left_out.values():
        click.echo(f"left out: {reason}", err=True)
    if not cases:
        raise click.UsageError(f"{images}: no image with a label could be used")
    dataset.preprocess(root, preset, processes)
    dataset.write_folds(cases, root / "preprocessed" / dataset.DATASET)
    click.echo(f"{len(cases)} cases are ready in {root}, {len(left_out)} left out")


@main.command()
@preset_option
@root_option
@click.option("--folds", default="all", show_default=True, help="all: one network on every case.")
@click.option("--hours", type=float, help="End after this time, the learning rate at zero.")
@click.option("--epochs", type=int, help="Instead of the preset's.")
@click.option("--device", default="cpu", show_default=True)
def train(
    preset: str, root: Path, folds: str, hours: float | None, epochs: int | None, device: str
) -> None:
    """Train the folds named, such as 0,1,2; each goes on where it was interrupted."""
    # nnU-Net's processes for augmentation: more than the cores would only slow the network down
    os.environ.setdefault("nnUNet_n_proc_DA", "1" if device == "cpu" else "8")
    os.environ.setdefault("nnUNet_def_n_proc", "2")
    from reunet.training.trainer import train as train_fold

    for fold in folds.split(","):
        name = int(fold) if fold.isdigit() else fold
        click.echo(f"trained: {train_fold(root, preset, name, device, hours, epochs)}")


@main.command()
@click.argument("bundle", type=FOLDER)
@preset_option
@root_option
@click.option("--meta", type=FOLDER, help="meta.csv of the training data, for the card.")
def export(bundle: Path, preset: str, root: Path, meta: Path | None) -> None:
    """Write the trained folds as the weight bundle BUNDLE."""
    from reunet.training.export import export as export_folds

    try:
        folds = export_folds(root, preset, bundle, meta)
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    click.echo(f"{bundle}: folds {', '.join(folds)}")


if __name__ == "__main__":
    main()
