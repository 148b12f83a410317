"""The README's picture: whole images, the outlines of the cells found in them, and their F1.

    python docs/gallery.py OUT.jpg LABELS IMAGE [IMAGE ...] [--weights BUNDLE]

LABELS is the folder of the true labels. Every image is shown whole, brought to `height` px, above
the same with outlines in yellow and its official F1.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from reunet import Model, load_model, segment
from reunet.inference.normalise import normalise_channels
from reunet.inference.scale import scale_image, scale_labels
from reunet.instances.encode import inner_boundary
from reunet.io.images import read_image, read_label
from reunet.metric import score_pair

GAP = 6  # px between pictures
CAPTION = 18  # px, height of the line with the F1
OUTLINE = (255, 230, 0)


def main() -> None:
    """Segment, draw, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--height", type=int, default=260)
    options = parser.parse_args()
    model = load_model(options.weights)
    columns = [column(path, options.labels, model, options.height) for path in options.images]
    spaced = [part for c in columns for part in (c, white(c.shape[0], GAP))][:-1]
    Image.fromarray(np.hstack(spaced)).save(options.out, quality=90)


def column(path: Path, labels: Path, model: Model, height: int) -> np.ndarray:
    """An image above the cells found in it and their F1. Returns (H, W, 3) uint8."""
    picture = read_image(path)
    found = segment(picture, model)
    f1 = score_pair(read_label(labels / f"{path.stem}_label.tiff"), found).f1
    print(f"{path.name}: {found.max()} cells, F1 {f1:.3f}")
    rows, columns = found.shape
    shape = height, round(columns * height / rows)
    shown = scale_image(normalise_channels(picture.pixels), shape)
    outlined = shown.copy()
    outlined[inner_boundary(scale_labels(found, shape))] = OUTLINE
    parts = [shown, white(GAP, shape[1]), outlined, caption(f"F1 {f1:.2f}", shape[1])]
    return np.vstack(parts)


def caption(text: str, width: int) -> np.ndarray:
    """A line of black on white."""
    line = Image.fromarray(white(CAPTION, width))
    ImageDraw.Draw(line).text((width // 2, CAPTION // 2), text, fill=(0, 0, 0), anchor="mm")
    return np.asarray(line)


def white(height: int, width: int) -> np.ndarray:
    """A white strip."""
    return np.full((height, width, 3), 255, np.uint8)


if __name__ == "__main__":
    main()
