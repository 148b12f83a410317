"""How often cells of a confidence are right: `python -m benchmarks.accuracy.confidence DATA [N]`.

DATA holds images, labels and a meta.csv; N validation images of each modality are drawn (5). A cell
is right where its IoU with a true one is 0.5 or more. Prints the share of right cells by confidence
and the area under the ROC curve: how often a right cell has a higher confidence than a wrong one.
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

from benchmarks.choices.tiles import draw
from reunet import Model, load_model, predict
from reunet.io.images import list_images, read_label

STEPS = (0, 0.7, 0.8, 0.9, 0.95, 1.01)


def are_right(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Whether each cell of `found`, (H, W) with cells 1..N, has a true one: (N,) bool."""
    n, m = int(found.max()) + 1, int(true.max()) + 1
    both = np.bincount((found.astype(np.int64) * m + true).ravel(), minlength=n * m).reshape(n, m)
    either = both.sum(1, keepdims=True) + both.sum(0, keepdims=True) - both
    right: np.ndarray = (both / np.maximum(either, 1))[1:, 1:].max(axis=1, initial=0) >= 0.5
    return right


def of_image(image: Path, truth: Path, model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Confidence of each cell found, and whether it is right."""
    result = predict(image, model, tta=False, probabilities=True)
    assert result.confidence is not None
    return result.confidence[1:], are_right(result.labels, read_label(truth))


def main(data: Path, count: int) -> None:
    """Predict, compare and print."""
    model, files = load_model(), {path.stem: path for path in list_images(data / "images")}
    pairs = [
        of_image(files[name], data / "labels" / f"{name}_label.tiff", model)
        for name in draw(data, count, val=True, column="modality")
    ]
    confidence, right = (np.concatenate(part) for part in zip(*pairs, strict=True))
    for low, high in pairwise(STEPS):
        inside = (confidence >= low) & (confidence < high)
        share = f"{right[inside].mean():.3f} right" if inside.any() else ""
        print(f"{low:4.2f} to {min(high, 1):4.2f}: {inside.sum():5d} cells, {share}")
    higher = confidence[right][:, None] > confidence[~right]
    print(f"{len(pairs)} images, area under the ROC curve {higher.mean():.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 5)
