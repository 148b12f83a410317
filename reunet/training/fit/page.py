"""`predictions.html` in a fold's folder: the truth of some images beside what is found in them.

A look at it says what a figure does not: whether touching cells come apart, whether debris is taken
for cells, whether the labels themselves are right. It is written anew whenever the instance F1 is
looked at, of the same images each time, and needs neither a network nor another file.
"""

from collections.abc import Collection, Iterable, Iterator
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from reunet.io.atomic import replacing
from reunet.io.export.html import jpeg
from reunet.io.export.overlay import View, paint, stretch_limits
from reunet.io.export.verdict import FALSE, HIT, MISS
from reunet.metric import compact
from reunet.run.outputs import hits
from reunet.training.fit.validate import Validated

NAME = "predictions.html"
MOST_SHOWN = 8
WINDOW = 448  # px a side of what is shown of an image, where most of its cells lie
RGB = tuple[int, int, int]


class Page:
    """Takes up the named cases as they pass by."""

    def __init__(self, names: Collection[str]) -> None:
        self.names, self.rows = names, list[tuple[float, str]]()

    def watch(self, validated: Iterable[Validated]) -> Iterator[Validated]:
        """Pass on all cases."""
        for case in validated:
            if case.name in self.names:
                self.rows.append((case.score.f1, row(case)))
            yield case

    def write(self, folder: Path, epoch: int, what: str) -> None:
        """Write the page, the worst image first. what: whether images were held out."""
        rows = "\n".join(told for _, told in sorted(self.rows))
        colours = {name: f"rgb{rgb}" for name, rgb in (("hit", HIT), ("miss", MISS), ("no", FALSE))}
        page = FRAME.substitute(colours, epoch=epoch, what=what, count=len(self.rows), rows=rows)
        with replacing(folder / NAME) as temporary:
            temporary.write_text(page, encoding="utf-8")


def row(case: Validated) -> str:
    """A row of the table: name, F1 and counts; truth and prediction over the image."""
    truth, predicted = pictures(case)
    name, score = escape(case.name), case.score
    counts = f"{score.n_true} true cells, {score.n_pred} found, {score.tp} of them right"
    return (
        f"<tr><th>{name}<p>{escape(case.modality)}</p><p>F1 {score.f1:.3f}</p><p>{counts}</p></th>"
        f'<td><img alt="truth of {name}" src="data:image/jpeg;base64,{truth}"></td>'
        f'<td><img alt="cells found in {name}" src="data:image/jpeg;base64,{predicted}"></td></tr>'
    )


def pictures(case: Validated) -> tuple[str, str]:
    """Truth and prediction as JPEG in base64: hits, misses and false cells in their colours."""
    truth, found = compact(case.truth), compact(case.found)
    of_truth, of_found = hits(truth, found)
    return outlined(case, truth, of_truth, MISS), outlined(case, found, of_found, FALSE)


def outlined(case: Validated, labels: np.ndarray, hit: np.ndarray, other: RGB) -> str:
    """The outlines of labels over the image, in blue those of the ids in `hit`."""
    from PIL import Image

    def colours(ids: np.ndarray, _: np.ndarray) -> np.ndarray:
        return np.where(np.isin(ids, hit)[:, np.newaxis], HIT, other).astype(np.uint8)

    window = busiest(case.truth)
    shown = View(case.picture[window], labels[window])
    return jpeg(Image.fromarray(paint(shown, stretch_limits(case.picture), colours)))


def busiest(labels: np.ndarray) -> tuple[slice, slice]:
    """WINDOW × WINDOW px around the middle of the cells, or what there is of them."""
    places = np.argwhere(labels)
    middle = np.median(places, axis=0) if len(places) else np.array(labels.shape) / 2
    first = np.clip(middle - WINDOW / 2, 0, np.maximum(np.array(labels.shape) - WINDOW, 0))
    top, left = first.astype(int)
    return slice(top, top + WINDOW), slice(left, left + WINDOW)


FRAME = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Predictions after epoch $epoch</title>
<style>
body { margin: 1.5rem; font: 15px/1.4 system-ui, sans-serif; }
table { border-collapse: collapse; }
th, td { padding: .4rem; vertical-align: top; text-align: left; }
th p { margin: .2rem 0; font-weight: 400; } td img { max-width: 38vw; height: auto; }
i { font-style: normal; padding: 0 .3rem; color: #000; }
</style></head><body>
<h1>Predictions after epoch $epoch</h1>
<p>$count images that are $what, the worst first, at the size of cells that training brings them to;
of a large one the part where most cells lie.
<i style="background:$hit">found</i> <i style="background:$miss">missed</i>
<i style="background:$no">not in the truth</i></p>
<table><thead><tr><th></th><th>truth</th><th>found</th></tr></thead><tbody>
$rows
</tbody></table></body></html>
""")
