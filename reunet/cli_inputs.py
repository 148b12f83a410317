"""Which images `reunet predict` is to segment, and where their labels go."""

import glob
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reunet.cli_outputs import CannotStart, checked

if TYPE_CHECKING:
    from reunet.io.region import Region
    from reunet.io.selection import Selection


@dataclass(frozen=True)
class Found:
    """Images in order, and the label that each gets."""

    images: list[Path]
    labels: Mapping[Path, Path]


def _channels(text: str) -> "Selection":
    from reunet.io.selection import selection_of

    return selection_of(text, None)


def _plane(text: str) -> "Selection":
    from reunet.io.selection import selection_of

    return selection_of(None, text)


def _region(text: str) -> "Region":
    from reunet.io.region import parse_region

    return parse_region(text)


def input_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say what of the inputs is looked at."""
    options = (
        click.option(
            "--channels",
            metavar="N[,N]|NAME",
            callback=checked(_channels),
            help="Channels to look at, from 0, or by name.  [default: the first three]",
        ),
        click.option(
            "--plane",
            metavar="N|middle|max|all",
            callback=checked(_plane),
            help="Plane of a stack, from 0; the brightest values; all, each.  [default: the first]",
        ),
        click.option(
            "--region",
            metavar="X,Y,W,H|FILE",
            callback=checked(_region),
            help="Part to look at: in px, or polygons of a .geojson file.  [default: all]",
        ),
        click.option(
            "--recursive", is_flag=True, help="Also sub-folders, which OUTPUT will mirror."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def find_inputs(
    sources: Sequence[Path], output: Path, recursive: bool, quiet: bool = False
) -> Found:
    """The images that are named, or lie in folders that are, and the labels that they get.

    What a folder holds besides is told on the standard error, in one line a folder, unless quiet.
    Raises CannotStart where there is none, or OUTPUT lies in an input folder.
    """
    from reunet.errors import ImageError
    from reunet.io.collection import label_paths

    try:
        if output.exists() and not output.is_dir():
            raise CannotStart(f"{output}: is a file: name a folder for the labels")
        named = [path for source in sources for path in _named(source)]
        labels: dict[Path, Path] = {}
        single = [path for path in named if _is_one(path)]
        labels |= label_paths(list(dict.fromkeys(single)), output)
        for folder in dict.fromkeys(path for path in named if not _is_one(path)):
            root = folder if recursive else None
            labels |= label_paths(_in_folder(folder, output, recursive, quiet), output, root)
    except (ImageError, OSError) as error:
        raise CannotStart(str(error)) from error
    return Found([*labels], labels)


def _named(source: Path) -> list[Path]:
    """A path, or the paths that a pattern fits. Raises CannotStart for none."""
    if source.exists():
        return [source]
    found = sorted(Path(path) for path in glob.glob(str(source), recursive=True))  # noqa: PTH207
    if not found:
        raise CannotStart(f"{source}: no such file or folder")
    return found


def _is_one(path: Path) -> bool:
    """Whether a path is an image: a file, or the folder that an OME-Zarr is."""
    from reunet.io.images import ENDINGS

    is_image = path.suffix.lower() in ENDINGS
    if path.is_dir():
        return is_image and path.suffix.lower() == ".zarr"
    if not is_image:
        raise CannotStart(f"{path}: is no image ({', '.join(ENDINGS)}): convert it")
    return True


def _in_folder(folder: Path, output: Path, recursive: bool, quiet: bool) -> list[Path]:
    from reunet.errors import one_line
    from reunet.io.collection import own_labels, passed_over
    from reunet.io.images import ENDINGS, list_images

    if output.resolve().is_relative_to(folder.resolve()):
        raise CannotStart(f"{output}: lies inside the input folder: name one outside it")
    images: list[Path] = []
    for part in _folders(folder) if recursive else [folder]:
        listed = list_images(part)
        own = own_labels(listed)
        chosen = [image for image in listed if image not in own]
        images += chosen
        others = passed_over(part, chosen, sub_folders=not recursive)
        if others and not quiet:
            click.echo(one_line(f"note: {part}: passed over {others}"), err=True)
    if not images:
        raise CannotStart(f"{folder}: holds no images ({', '.join(ENDINGS)})")
    return images


def _folders(folder: Path) -> Iterator[Path]:
    """A folder and those below it, by name; hidden ones, links and OME-Zarrs are left out."""
    yield folder
    for path in sorted(folder.iterdir()):
        hidden = path.name.startswith(".") or path.suffix.lower() == ".zarr"
        if path.is_dir() and not path.is_symlink() and not hidden:
            yield from _folders(path)
