"""The floor: what Otsu's threshold and a watershed reach on the validation images.

    python benchmarks/classical_floor.py DATA OUT

Reads DATA/labelled (or DATA itself where it holds meta.csv), segments every image with
`split == val`, writes OUT/NAME_label.tiff and prints F1 by modality. Nothing is learnt and no
truth is looked at; the constants below were chosen on training images.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage
from skimage import filters, io, measure, morphology, segmentation

from reunet.metric import read_modalities, score_folder, summarise
from reunet.normalise import normalise_channels

IMAGE_SIGMA = 1  # px, takes the camera noise off before the threshold
DISTANCE_SIGMA = 2  # px, takes the ragged outline's ridges off the distance map
PEAK_HEIGHT = 0.75  # px a peak of the distance map must stand out to be a cell of its own
MIN_CELL = 16  # px, the smallest object the challenge's own scripts keep


def segment(pixels: np.ndarray) -> np.ndarray:
    """Cells of one picture. pixels: (H, W) or (H, W, C), any real dtype. Returns (H, W) int32."""
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]  # (H, W, 1)
    grey = normalise_channels(pixels).mean(axis=-1)  # (H, W)
    return split_touching(find_foreground(grey))


def find_foreground(grey: np.ndarray) -> np.ndarray:
    """The side of Otsu's threshold that covers less of the picture. Returns (H, W) bool.

    Cells may be brighter than their surroundings (fluorescence) or darker (stains). In most
    pictures they fill less than half, so the smaller side is taken for them, the brighter one
    where both are alike.
    """
    smooth = ndimage.gaussian_filter(grey, IMAGE_SIGMA)
    if smooth.min() == smooth.max():
        return np.zeros(grey.shape, bool)
    bright: np.ndarray = smooth > filters.threshold_otsu(smooth)
    return bright if bright.mean() <= 0.5 else ~bright


def split_touching(foreground: np.ndarray) -> np.ndarray:
    """Watershed from the peaks of the distance to the background. Returns (H, W) int32."""
    filled = ndimage.binary_fill_holes(foreground)
    solid = morphology.remove_small_objects(filled, max_size=MIN_CELL - 1)
    distance = ndimage.gaussian_filter(ndimage.distance_transform_edt(solid), DISTANCE_SIGMA)
    markers = measure.label(morphology.h_maxima(distance, PEAK_HEIGHT))
    cells: np.ndarray = segmentation.watershed(-distance, markers, mask=solid)
    return cells.astype(np.int32)


def validation_names(data: Path) -> list[str]:
    """Names of the images of the validation part, in the order of meta.csv."""
    with (data / "meta.csv").open(newline="", encoding="utf-8") as file:
        return [row["name"] for row in csv.DictReader(file) if row["split"] == "val"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Segment, write, score and print. Returns the exit status: 1 if an image has no score."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="data folder, with labelled/meta.csv in it")
    parser.add_argument("out", type=Path, help="folder for the segmentations")
    options = parser.parse_args(arguments)
    nested = options.data / "labelled"
    data = nested if nested.is_dir() else options.data
    if not (data / "meta.csv").is_file():
        parser.error(f"{data}: no meta.csv there; give the folder that holds labelled/")
    options.out.mkdir(parents=True, exist_ok=True)
    names = validation_names(data)
    for name in names:
        cells = segment(io.imread(data / "images" / f"{name}.png"))
        tifffile.imwrite(options.out / f"{name}_label.tiff", cells, compression="zlib")
    evaluation = score_folder(data / "labels", options.out)
    for reason in evaluation.failed.values():
        print(reason, file=sys.stderr)
    scores = {name: evaluation.scores[name] for name in names if name in evaluation.scores}
    print(summarise(scores, read_modalities(data / "labels")))
    return 1 if len(scores) < len(names) else 0


if __name__ == "__main__":
    sys.exit(main())
