"""Options that several commands of `python -m reunet.training` take."""

from collections.abc import Callable
from pathlib import Path

import click

from reunet.training.presets import PRESETS, SPLITS

FOLDER = click.Path(path_type=Path)
ALL_FOLDS = "0,1,2,3,4"
preset_option = click.option(
    "--preset", type=click.Choice(list(PRESETS)), default="compact", show_default=True
)
root_option = click.option(
    "--root", type=FOLDER, default=Path("runs/nnunet"), show_default=True,
    help="Where nnU-Net's raw, preprocessed and results folders lie.",
)  # fmt: skip

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Say what would be done and what it takes; do nothing."
)


def parse_folds(_: click.Context, __: click.Parameter, value: str) -> list[int | str]:
    """`0,2` or `all`. Raises click.BadParameter for anything else."""
    names = [name.strip() for name in value.split(",")]
    if not all(name == "all" or name.isdigit() for name in names):
        raise click.BadParameter(f"{value!r}: name folds such as 0,2 or all")
    return [name if name == "all" else int(name) for name in names]


ABOVE_ZERO = click.FloatRange(0, min_open=True)
folds_option = click.option(
    "--folds", default=ALL_FOLDS, show_default=True, callback=parse_folds,
    help="Such as 0,2; or `all`: one network trained on every case.",
)  # fmt: skip
epochs_option = click.option("--epochs", type=click.IntRange(1), help="Instead of the preset's.")
device_option = click.option("--device", type=click.Choice(["cpu", "cuda", "mps"]), default="cpu")
gpus_option = click.option(
    "--num-gpus", type=click.IntRange(1), default=1, help="2 on: nnU-Net's DDP."
)
jobs_option = click.option(
    "--jobs", type=click.IntRange(1), default=1, help="Processes side by side."
)
without_option = click.option(
    "--without", multiple=True, metavar="SOURCE", help="Source in the meta.csv to leave out."
)
split_option = click.option(
    "--split", type=click.Choice(SPLITS), default=SPLITS[0], show_default=True,
    help="What folds hold back: images of all sources, or all images of some sources.",
)  # fmt: skip
meta_option = click.option(
    "--meta", type=FOLDER, help="meta.csv of the training data, for the card."
)
leave_out_option = click.option(
    "--leave-out",
    "others",
    type=FOLDER,
    multiple=True,
    help="Folder of images that must not be learnt from, such as those for validation.",
)


def training_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that every training command takes."""
    options = (
        preset_option,
        root_option,
        folds_option,
        click.option("--hours", type=ABOVE_ZERO, help="End a fold then, the rate at zero."),
        epochs_option,
        click.option("--patch", type=click.IntRange(32), help="Edge in px, not the preset's."),
        device_option,
        gpus_option,
        click.option("--weight-ce", is_flag=True, help="Weight the cross-entropy too."),
        dry_run_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


def one_line(error: Exception) -> str:
    """What an exception says, without line breaks."""
    return " ".join(str(error).split())
