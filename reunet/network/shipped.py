"""Where the weights that come with reunet lie."""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
FOLDERS = (PACKAGE / "weights", PACKAGE.parent / "weights")  # of a wheel, of a checkout


def shipped_folder() -> Path:
    """The folder of the bundles: beside the modules of an installed wheel, else the checkout's."""
    return next((folder for folder in FOLDERS if folder.is_dir()), FOLDERS[-1])
