"""`report.html`: what a run found, on one page that needs neither a network nor a program.

Thumbnails are small JPEGs inside the page, charts are SVG, and all that is not plain HTML is a
script of some lines for sorting and filtering. `page.html` beside this module is its frame.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from reunet.io.atomic import replacing
from reunet.io.export.charts import histogram, lines
from reunet.io.export.overlay import paint, stretch_limits, view
from reunet.io.export.segmented import Segmented
from reunet.io.export.tables import image_row

if TYPE_CHECKING:
    from PIL.Image import Image

NAME = "report.html"
THUMBNAIL = 320  # px, longest side
QUALITY = 72  # of its JPEG
SORTED_BY = {0.5: "F1 at IoU 0.5", 0.75: "F1 at 0.75", 0.9: "F1 at 0.9"}


@dataclass(frozen=True)
class Accuracy:
    """How well images agree with their truth. Legend: T thresholds of IoU."""

    thresholds: tuple[float, ...]  # (T,) ascending
    by_image: Mapping[str, Mapping[str, Sequence[float]]]  # stem: f1, precision, recall: (T,) each


@dataclass(frozen=True)
class _Entry:
    """What the page keeps of one image."""

    row: dict[str, float | int | str | None]
    stem: str
    overlay: str  # path from the page
    thumbnail: str  # JPEG as base64
    cells: np.ndarray  # (3, N) float32: area, eccentricity, mean intensity


class Html:
    """Writer of `report.html`, a page about all images."""

    def __init__(
        self,
        folder: Path,
        accuracy: Accuracy | None = None,
    ) -> None:
        self._folder, self._accuracy = folder, accuracy
        self._origins: dict[str, None] = {}  # a set that keeps its order
        self._entries: list[_Entry] = []

    def add(self, found: Segmented) -> None:
        """Take up one image."""
        cells, size = found.cells, found.pixel_size
        if found.origin:
            self._origins[found.origin] = None
        kept = np.zeros((3, len(cells)), np.float32)
        kept[0] = cells.area * (size.area if size else 1)
        kept[1] = cells.eccentricity
        kept[2] = cells.mean.mean(axis=1) if cells.mean.shape[1] else np.nan
        overlay = found.beside(Path(), "_overlay.png").as_posix()
        self._entries.append(_Entry(image_row(found), found.stem, overlay, thumbnail(found), kept))

    def close(self) -> None:
        """Write the page, wholly or not at all. Raises ImageError."""
        frame = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
        title = f"Cells in {self._folder.resolve().name}"
        page = frame.substitute(
            title=escape(title),
            about="<br>".join(map(escape, self._origins)),
            figures=_figures(self._entries),
            charts=self._charts(),
            heads=self._heads(),
            rows="\n".join(self._row(entry) for entry in self._ranking()),
        )
        with replacing(self._folder / NAME) as temporary:
            temporary.write_text(page, encoding="utf-8", errors="backslashreplace")

    def _charts(self) -> str:
        values = [
            np.concatenate(parts) for parts in zip(*(e.cells for e in self._entries), strict=True)
        ]
        known = {entry.row["pixel_width_um"] is not None for entry in self._entries}
        charts = [self._accuracy_chart()]
        if values:
            if len(known) == 1:  # else px² and µm² would be mixed
                charts.append(histogram("Area", "µm²" if known == {True} else "px²", values[0]))
            charts.append(histogram("Eccentricity", "", values[1]))
            charts.append(histogram("Mean intensity", "as stored", values[2]))
        return "".join(charts) or "<p>No cells.</p>"

    def _accuracy_chart(self) -> str:
        scored = [s for e in self._entries if (s := self._scores(e))]
        if not self._accuracy or not scored:
            return ""
        names = {"F1": "f1", "precision": "precision", "recall": "recall"}
        series = {name: np.mean([s[key] for s in scored], axis=0) for name, key in names.items()}
        title = f"Agreement with the truth, mean of {len(scored)} images"
        return lines(title, "IoU at least", self._accuracy.thresholds, series)

    def _scores(self, entry: _Entry) -> Mapping[str, Sequence[float]] | None:
        return self._accuracy.by_image.get(entry.stem) if self._accuracy else None

    def _ranking(self) -> list[_Entry]:
        """Worst images first where there is a truth, otherwise as they came."""
        if not self._accuracy:
            return self._entries
        return sorted(self._entries, key=lambda e: s["f1"][0] if (s := self._scores(e)) else 2)

    def _shown_thresholds(self) -> list[tuple[int, str]]:
        told = self._accuracy.thresholds if self._accuracy else ()
        return [(n, SORTED_BY[round(t, 3)]) for n, t in enumerate(told) if round(t, 3) in SORTED_BY]

    def _heads(self) -> str:
        scores = [name for _, name in self._shown_thresholds()]
        numbers = [*scores, "Cells", "Density", "Median diameter", "Seconds"]
        heads = ['<th scope="col">Overlay</th>', _head("Image")]
        return "".join([*heads, *(_head(name, "number") for name in numbers), _head("Notes")])

    def _row(self, entry: _Entry) -> str:
        row, scores = entry.row, self._scores(entry)
        plane = "" if row["plane"] is None else f", plane {row['plane']}"
        name = escape(f"{row['image']}{plane}")
        f1 = [scores["f1"][n] if scores else None for n, _ in self._shown_thresholds()]
        cells = [
            f'<td>{self._picture(entry, name)}</td><th scope="row">{name}</th>',
            *(_number(value, "{:.3f}") for value in f1),
            _number(row["cells"], "{:,}"),
            _density(row),
            _diameter(row),
            _number(row["seconds"], "{:.1f}"),
            f'<td class="notes">{escape(str(row["notes"]))}</td>',
        ]
        return f"<tr>{''.join(cells)}</tr>"

    def _picture(self, entry: _Entry, name: str) -> str:
        source = f"data:image/jpeg;base64,{entry.thumbnail}"
        told = f"{name} with {entry.row['cells']} outlined cells"
        picture = f'<img loading="lazy" decoding="async" width="192" alt="{told}" src="{source}">'
        if (self._folder / entry.overlay).is_file():
            return f'<a href="{quote(entry.overlay, errors="surrogateescape")}">{picture}</a>'
        return picture


def thumbnail(found: Segmented) -> str:
    """A small overlay as JPEG in base64."""
    from PIL import Image as pillow

    shown = view(found, THUMBNAIL)
    picture = pillow.fromarray(paint(shown, stretch_limits(shown.pixels)))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return jpeg(picture)


def jpeg(picture: "Image") -> str:
    """A picture as JPEG in base64."""
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=QUALITY)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _figures(entries: Sequence[_Entry]) -> str:
    cells = [int(entry.row["cells"] or 0) for entry in entries]
    told = {
        "images": f"{len(entries):,}",
        "cells": f"{sum(cells):,}",
        "cells an image (median)": f"{np.median(cells):,.0f}" if cells else "–",
        "images without a cell": f"{cells.count(0):,}",
    }
    seconds = [float(s) for entry in entries if (s := entry.row["seconds"]) is not None]
    if seconds:
        told["seconds an image (median)"] = f"{np.median(seconds):.1f}"
    return "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in told.items())


def _head(name: str, kind: str = "text") -> str:
    return f'<th scope="col" class="{kind}"><button type="button">{name}</button></th>'


def _number(value: float | int | str | None, form: str) -> str:
    shown = "" if value is None else form.format(value)
    return f'<td class="number" data-value="{"" if value is None else value}">{shown}</td>'


def _density(row: Mapping[str, float | int | str | None]) -> str:
    if row["cells_per_mm2"] is not None:
        return _number(row["cells_per_mm2"], "{:,.0f} /mm²")
    return _number(row["cells_per_mpx"], "{:,.0f} /Mpx")


def _diameter(row: Mapping[str, float | int | str | None]) -> str:
    if row["median_diameter_um"] is not None:
        return _number(row["median_diameter_um"], "{:.2f} µm")
    return _number(row["median_diameter_px"], "{:.1f} px")
