"""Which cases are validated on, and how often each is drawn in training."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from reunet.training import layout
from reunet.training.data.dataset import Cases, read_json, write_json
from reunet.training.presets import SPLITS

FOLDS, FOLD_SEED = 5, 12345
Fold = dict[str, list[str]]  # names of cases: `train`, `val`
DRAWS = 20_000  # entries of a list that stands for probabilities


def write_folds(cases: Cases, root: Path, split: str = SPLITS[0]) -> None:
    """Five seeded folds of cases, and what is known of the cases.

    split: of SPLITS. `image`: stratified by modality and source, a group is never split over two;
    where every stratum is smaller than the number of folds, they are drawn without regard to them.
    `source`: stratified by modality, a source is never split over two, so that a fold is judged by
    images of sources that it has not seen. Fewer groups or sources than five make fewer folds.
    Raises ValueError for a single one, and where the same cases lie there in other folds.
    """
    by_source = split == "source"
    groups = {n: case["source" if by_source else "group"] for n, case in cases.items()}
    strata = {n: c["modality"] + ("" if by_source else f"/{c['source']}") for n, c in cases.items()}
    if len({*groups.values()}) < 2:
        kind = "source" if by_source else "group"
        raise ValueError(f"{root}: all images are of one {kind}: there is nothing to validate on")
    folds = draw_folds(sorted(cases), groups, strata)
    check_folds(layout.folds_file(root), folds)
    layout.preprocessed(root).mkdir(parents=True, exist_ok=True)
    write_json(layout.folds_file(root), folds)
    write_json(layout.cases_file(root), cases)


def draw_folds(names: list[str], groups: dict[str, str], strata: dict[str, str]) -> list[Fold]:
    """Folds of names, the same at every call; groups, strata: by name."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    by_name = np.array(names)
    group_of, stratum_of = [groups[n] for n in names], [strata[n] for n in names]
    count = min(FOLDS, len({*group_of}))
    kind = StratifiedGroupKFold if max(Counter(stratum_of).values()) >= count else GroupKFold
    splitter = kind(count, shuffle=True, random_state=FOLD_SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # strata smaller than the folds are many
        drawn = [*splitter.split(by_name, stratum_of, group_of)]
    return [{"train": by_name[t].tolist(), "val": by_name[v].tolist()} for t, v in drawn]


def check_folds(path: Path, folds: list[Fold]) -> None:
    """Raises ValueError where a file holds the same cases in other folds: what was trained on them
    would go on with images that it is judged by."""
    there = read_json(path) if path.exists() else folds
    if there != folds and _names(there) == _names(folds):
        raise ValueError(f"{path}: holds these images in other folds: name another --root")


def _names(folds: list[Fold]) -> set[str]:
    return {name for fold in folds for name in fold["val"]}


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
