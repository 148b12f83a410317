"""What it gives to let the folds vote on cells, by the agreement that is asked for.

    python -m benchmarks.choices.voting DATA [--weights BUNDLE] [--each 4]

DATA is a folder with images/, labels/ and a meta.csv; --each images of every source whose split is
not `val` are segmented by every fold, without mirroring. The table has the folds on their own, the
mean of their logits, and votes with several values of AGREEMENT and FREE: by it those of
`reunet/instances/voting.py` were chosen. The images were trained on, where folds agree more than
elsewhere.
"""

import argparse
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.choices.tiles import draw
from benchmarks.speed.timing import print_table
from reunet.inference.normalise import normalise_channels
from reunet.inference.sliding_window import CLASSES, Maps, most_probable, predict_logits
from reunet.instances import voting
from reunet.io.images import read_image, read_label
from reunet.metric import score_pair
from reunet.model import Model, default_weights, load_model
from reunet.options import Options
from reunet.pipeline import Seen, find_cells

AGREEMENTS = (0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8)
FREE = (0.5, 0.8)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, default=default_weights())
    parser.add_argument("--each", type=int, default=4, help="images of a source")
    options = parser.parse_args()
    model = load_model(options.weights, "cpu")
    names = draw(options.data, options.each, val=False, column="source")
    scores = [f1_of(options.data, name, model) for name in names]
    rows = [(way, f"{np.mean([f1[way] for f1 in scores]):.3f}") for way in scores[0]]
    print_table(("", f"F1 of {len(scores)} images"), rows)


def f1_of(data: Path, name: str, model: Model) -> dict[str, float]:
    """F1 of one image by every way."""
    image = normalise_channels(read_image(data / "images" / f"{name}.png").pixels)
    truth = read_label(data / "labels" / f"{name}_label.tiff")
    tiling = model.tiling(Options(tta=False))
    logits = [predict_logits(image, fold, tiling) for fold in model.ensembles(vote=True)]
    class_maps = [most_probable(of_fold[:CLASSES]) for of_fold in logits]
    average = most_probable(np.mean(logits, axis=0)[:CLASSES])

    def f1(*maps: np.ndarray) -> float:
        seen = Seen(Maps(np.stack(maps)), image.shape[:2])
        found, _ = find_cells(seen, model.bundle, Options(decoder="regrow"))
        return score_pair(truth, found).f1

    scores = {"mean of the folds": float(np.mean([f1(classes) for classes in class_maps]))}
    scores["logits averaged"] = f1(average)
    for voting.AGREEMENT, voting.FREE in product(AGREEMENTS, FREE):
        scores[f"votes, agreement {voting.AGREEMENT}, free {voting.FREE}"] = f1(*class_maps)
    return scores


if __name__ == "__main__":
    main()
