"""Which cases are validated on, and how often each is drawn in training."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from reunet.training import layout
from reunet.training.data.dataset import Cases, write_json

FOLDS, FOLD_SEED = 5, 12345
DRAWS = 20_000  # entries of a list that stands for probabilities


def write_folds(cases: Cases, root: Path) -> None:
    """Five seeded folds, stratified by modality and source; a group is never split over two.

    Where every stratum is smaller than the number of folds, folds are drawn without regard to
    them; fewer groups than five make fewer folds. Raises ValueError for a single group.
    """
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    names = np.array(sorted(cases))
    strata = [cases[n]["modality"] + "/" + cases[n]["source"] for n in names]
    groups = [cases[n]["group"] for n in names]
    count = min(FOLDS, len(set(groups)))
    if count < 2:
        raise ValueError(f"{root}: all images are of one group: there is nothing to validate on")
    kind = StratifiedGroupKFold if max(Counter(strata).values()) >= count else GroupKFold
    splitter = kind(count, shuffle=True, random_state=FOLD_SEED)
    folds = [
        {"train": names[train].tolist(), "val": names[val].tolist()}
        for train, val in splitter.split(names, strata, groups)
    ]
    layout.preprocessed(root).mkdir(parents=True, exist_ok=True)
    write_json(layout.folds_file(root), folds)
    write_json(layout.cases_file(root), cases)


def balanced(names: Iterable[str], cases: Cases, patch: int, draws: int = DRAWS) -> list[str]:
    """Names repeated so that a uniform draw is even over modalities.

    Within a modality a source has the weight √n, n being the patches that its images fill, one at
    least for each: neither does a source of 244 images drown the others, nor is one of a single
    crop shown as often as one of whole fields. patch: px, edge. Every name stands in the result at
    least once.
    """
    by_source: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in names:
        about = cases.get(name, {"modality": "unknown", "source": "unknown"})
        by_source[about["modality"]][about["source"]].append(name)

    def weight(members: list[str]) -> float:
        pixels = (int(cases.get(name, {}).get("pixels", 0)) for name in members)
        return float(sum(max(1.0, n / patch**2) for n in pixels) ** 0.5)

    repeated = []
    for sources in by_source.values():
        total = sum(weight(members) for members in sources.values())
        for members in sources.values():
            share = weight(members) / total / len(by_source)  # of all draws
            repeated += members * max(1, round(draws * share / len(members)))
    return repeated


def mixed(labelled: list[str], pseudo: list[str], share: float | None) -> list[str]:
    """Names repeated so that of uniform draws a share falls on pseudo-labelled cases.

    labelled: names, repeated already or not. pseudo: names, all drawn alike. share: in 0..1, both
    excluded; None draws every entry alike, as nnU-Net does.
    """
    if share is None or not pseudo:
        return [*labelled, *pseudo]
    labelled = labelled * -(-DRAWS // len(labelled))  # rounded up

    def repeats(times: int) -> int:
        return max(1, round(times * len(labelled) * share / (1 - share) / len(pseudo)))

    def error(times: int) -> float:
        drawn = repeats(times) * len(pseudo)
        return abs(drawn / (times * len(labelled) + drawn) - share)

    times = min(range(1, 5), key=error)
    return labelled * times + pseudo * repeats(times)
