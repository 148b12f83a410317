"""The README's picture: an image of each modality and the outlines of the cells found in it.

    python benchmarks/gallery.py OUT.jpg IMAGE [IMAGE ...] [--weights BUNDLE] [--edge 256]

Every image is shown from its centre, `edge` px wide and high (a smaller one enlarged by a whole
factor), above the same with outlines.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from reunet.images import read_image
from reunet.normalise import normalise_channels
from reunet.pipeline import load_model, segment
from reunet.targets import inner_boundary

GAP = 6  # px between pictures
OUTLINE = (255, 230, 0)


def main() -> None:
    """Segment, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--edge", type=int, default=256)
    options = parser.parse_args()
    model = load_model(options.weights)
    columns = []
    for path in options.images:
        picture = read_image(path)
        instances = segment(picture, model)
        print(f"{path.name}: {instances.max()} cells")
        shown = square(normalise_channels(picture.pixels), options.edge)
        columns.append(
            np.vstack(
                [shown, gap(GAP, options.edge), outlined(shown, square(instances, options.edge))]
            )
        )
    spaced = [part for c in columns for part in (c, gap(c.shape[0], GAP))][:-1]
    Image.fromarray(np.hstack(spaced)).save(options.out, quality=90)


def square(image: np.ndarray, edge: int) -> np.ndarray:
    """The centre of an image, enlarged by a whole factor where it is smaller than `edge` px."""
    factor = max(1, -(-edge // min(image.shape[:2])))
    large = image.repeat(factor, axis=0).repeat(factor, axis=1)
    top, left = (large.shape[0] - edge) // 2, (large.shape[1] - edge) // 2
    return large[top : top + edge, left : left + edge]


def outlined(shown: np.ndarray, instances: np.ndarray) -> np.ndarray:
    """The picture with the rim of every cell in colour. Returns (H, W, 3) uint8."""
    picture = shown.copy()
    picture[inner_boundary(instances)] = OUTLINE
    return picture


def gap(height: int, width: int) -> np.ndarray:
    """A white strip."""
    return np.full((height, width, 3), 255, np.uint8)


if __name__ == "__main__":
    main()
