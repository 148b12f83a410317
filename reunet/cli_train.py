"""`reunet train`: weights fine-tuned on a lab's own labelled images."""

import sys
from pathlib import Path

import click

from reunet.cli_outputs import FOLDER, CannotStart

INSTALL = (
    "training needs nnU-Net, which is not installed: pip install 'reunet[train]' "
    "(in a checkout: pip install -r requirements-train.txt); 2.1 GB with PyTorch, some minutes"
)


@click.command()
@click.argument("images", metavar="IMAGES", type=FOLDER)
@click.argument("labels", metavar="LABELS", type=FOLDER)
@click.argument("out", metavar="OUT", type=FOLDER)
@click.option(
    "--start",
    default="shipped",
    show_default=True,
    metavar="shipped|BUNDLE|none",
    help="The weights to begin with: those that ship, a folder of others, or none.",
)
@click.option(
    "--hours",
    type=click.FloatRange(0, min_open=True),
    default=0.5,
    show_default=True,
    help="Time to train, on two cores or a GPU.",
)
@click.option(
    "--device", type=click.Choice(["cpu", "cuda", "mps"]), default="cpu", show_default=True
)
@click.option("--dry-run", is_flag=True, help="Say what was found and what would be done.")
def train(
    images: Path, labels: Path, out: Path, start: str, hours: float, device: str, dry_run: bool
) -> None:
    """Fine-tune weights on IMAGES and LABELS; they are written into the folder OUT.

    LABELS holds a_label.tiff, a_masks.png, a_seg.npy (Cellpose; LABELS may be IMAGES) or a.tif
    (StarDist's masks) for a.png. A fifth of the images is held out to tell what training brought.
    Interrupted, the same command goes on where it was.

    \b
    reunet train images masks my_weights --hours 1
    reunet predict others labels --weights my_weights
    """
    from importlib.util import find_spec

    if not find_spec("nnunetv2") or not find_spec("torch"):
        raise CannotStart(INSTALL)
    from reunet.errors import reason
    from reunet.training.lab import Lab, train_lab
    from reunet.training.talk import one_line_when_interrupted

    with one_line_when_interrupted():
        try:
            train_lab(Lab(images, labels, out, start, hours, device), click.echo, dry_run)
        except ValueError as error:
            raise CannotStart(str(error)) from error
        except (OSError, RuntimeError) as error:
            told = " ".join(str(error).split())
            if isinstance(error, OSError) and error.filename:
                told = f"{error.filename}: {reason(error)}: look to space and rights there"
            sys.exit(f"error: {told}")
