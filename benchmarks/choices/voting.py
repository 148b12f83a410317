"""What it gives to let the folds vote on cells, by the agreement that is asked for.

    python -m benchmarks.choices.voting DATA [--weights BUNDLE] [--each 4]

DATA is a folder with images/, labels/ and a meta.csv; --each images of every source whose split is
not `val` are segmented by every fold, without mirroring. The table has the folds on their own, the
mean of their logits, and votes with several values of AGREEMENT and FREE: by it those of
`reunet/instances/label_fusion.py` were chosen. The images were trained on, where folds agree more
than elsewhere.
"""

import argparse
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.choices.tiles import draw
from benchmarks.speed.timing import print_table
from reunet.instances import label_fusion
from reunet.io.images import read_image, read_label
from reunet.io.source import hold
from reunet.metric import score_pair
from reunet.model import Model, default_weights, load_model
from reunet.options import Options
from reunet.pipeline import Seen, find_cells, see
from reunet.survey import survey

AGREEMENTS = (0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8)
FREE = (0.5, 0.8)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", type=Path, default=default_weights())
    parser.add_argument("--each", type=int, default=4, help="images of a source")
    options = parser.parse_args()
    model = load_model(options.weights, "cpu").at("best")
    names = draw(options.data, options.each, val=False, column="source")
    scores = [f1_of(options.data, name, model) for name in names]
    rows = [(way, f"{np.mean([f1[way] for f1 in scores]):.3f}") for way in scores[0]]
    print_table(("", f"F1 of {len(scores)} images"), rows)


def f1_of(data: Path, name: str, model: Model) -> dict[str, float]:
    """F1 of one image by every way, by the very steps of `reunet.segment`."""
    source = hold(read_image(data / "images" / f"{name}.png"))
    truth = read_label(data / "labels" / f"{name}_label.tiff")
    voting, averaging = Options(tta=False), Options(tta=False, vote=False)
    view = survey(source, model, voting)

    def f1(seen: Seen) -> float:
        return score_pair(truth, find_cells(seen, model.bundle, voting)[0]).f1

    alone = [replace(model, networks=(network,)) for network in model.networks]
    scores = {"mean of the folds": float(np.mean([f1(see(view, m, voting)) for m in alone]))}
    scores["logits averaged"] = f1(see(view, model, averaging))
    seen = see(view, model, voting)
    for label_fusion.AGREEMENT, label_fusion.FREE in product(AGREEMENTS, FREE):
        way = f"votes, agreement {label_fusion.AGREEMENT}, free {label_fusion.FREE}"
        scores[way] = f1(replace(seen, out=()))
    return scores


if __name__ == "__main__":
    main()
