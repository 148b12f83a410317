"""What a lab's folders hold, before anything is made of it: pairs, cells and their sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from reunet.errors import ImageError
from reunet.inference.scale import typical_diameter
from reunet.io.collection import Labels
from reunet.io.meta import read_meta
from reunet.training.data.labels import NoLabel, folders_of, label_of, read_pair, training_images

LEAST_IMAGES = 2  # one to learn from, one to tell what was learnt


@dataclass(frozen=True)
class Pair:
    """A labelled image. diameter: px, of its typical cell; held_out: by a `meta.csv`."""

    case: str
    image: Path
    label: Path
    cells: int
    diameter: float
    held_out: bool


@dataclass(frozen=True)
class Survey:
    """The pairs of two folders; left_out: why others cannot be used; unlabelled: how many images
    have no label."""

    images: Path
    labels: Path
    pairs: tuple[Pair, ...]
    left_out: tuple[str, ...]
    unlabelled: int

    @property
    def held_out(self) -> list[Pair]:
        """Those that a `meta.csv` keeps out of training."""
        return [pair for pair in self.pairs if pair.held_out]

    def line(self) -> str:
        """Images, cells and sizes in one line."""
        diameters = np.quantile([pair.diameter for pair in self.pairs], [0, 0.5, 1])
        cells = sum(pair.cells for pair in self.pairs)
        others = f"; {self.unlabelled} without a label are passed over" if self.unlabelled else ""
        return (
            f"found {len(self.pairs)} images with labels, {cells} cells, typically "
            f"{diameters[1]:.0f} px wide ({diameters[0]:.0f} to {diameters[2]:.0f}){others}"
        )


def survey(images: Path, labels: Path) -> Survey:
    """Read all pairs of two folders.

    Raises ValueError where there are too few to train, and ImageError for folders that cannot be
    listed.
    """
    for folder in (images, labels):
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
    images, labels = folders_of(images, labels)
    found, meta = Labels(labels), read_meta(images)
    pairs: list[Pair] = []
    left_out, unlabelled = list[str](), 0
    for path, case in training_images(images).items():
        try:
            if any(pair.case == case for pair in pairs):
                raise ImageError(f"{path}: another image is called {case} too: rename one")
            label = label_of(found, labels, path)
            instances = read_pair(path, label)[1]
        except NoLabel:
            unlabelled += 1
            continue
        except ImageError as error:
            left_out.append(str(error))
            continue
        held_out = meta.get(case, {}).get("split", "train") != "train"
        cells = len(np.unique(instances[instances > 0]))
        pairs.append(Pair(case, path, label, cells, typical_diameter(instances), held_out))
    if not pairs and not left_out:
        raise ValueError(
            f"{images}: no image with a label in {labels}: a label of a.png is called "
            f"a_label.tiff, a_masks.png, a_seg.npy, or a.png in a folder of its own"
        )
    return Survey(images, labels, tuple(pairs), tuple(left_out), unlabelled)


def check_enough(found: Survey) -> None:
    """Raises ValueError where there are too few images to learn from and to be judged by."""
    learnt = len(found.pairs) - len(found.held_out)
    if len(found.pairs) == 0:
        raise ValueError(f"{found.images}: no image can be used: see above")
    if learnt < LEAST_IMAGES:
        kept = f", {len(found.held_out)} kept out by meta.csv" if found.held_out else ""
        raise ValueError(
            f"{found.images}: {learnt} labelled image to learn from{kept}: label a second one, so "
            f"that one can be held out to tell what the training brought"
        )


def tell(images: Path, labels: Path, without: Sequence[str], say: Callable[[str], object]) -> None:
    """Say what two folders hold to learn from, and what cannot be used of it.

    without: sources of the meta.csv that are left out, as are images that it keeps for validation.
    """
    found, meta = survey(images, labels), read_meta(images)
    for reason in found.left_out:
        say(f"left out: {reason}")
    learnt = tuple(
        pair
        for pair in found.pairs
        if not pair.held_out and meta.get(pair.case, {}).get("source") not in without
    )
    if learnt:
        say(replace(found, pairs=learnt).line())
