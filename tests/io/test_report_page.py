"""`report.html`: what is in it, and how it behaves in a browser (Chromium, where it is there)."""

import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reunet.io.export.html import Accuracy, Html
from reunet.io.export.segmented import Segmented
from reunet.io.pixel_size import PixelSize

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
browser = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: apt-get install chromium")


def field(number: int, cells: int, notes: tuple[str, ...] = (), side: int = 120) -> Segmented:
    """An image of so many square cells on noise."""
    rng = np.random.default_rng(number)
    labels = np.zeros((side, side), np.uint16)
    for cell in range(cells):
        y, x = divmod(cell, side // 12)
        labels[y * 12 + 2 : y * 12 + 6 + cell % 5, x * 12 + 2 : x * 12 + 10] = cell + 1
    pixels = (rng.normal(60, 9, (side, side, 3)) + 90 * (labels > 0)[..., None]).astype(np.uint8)
    name = f"field {number:03d}"
    return Segmented(
        Path(f"{name}.png"),
        Path(f"{name}_label.tiff"),
        labels,
        lambda: lambda top, bottom: pixels[top:bottom],
        notes=notes,
        seconds=float(number),
    )


def page(folder: Path, *images: Segmented, accuracy: Accuracy | None = None) -> Path:
    writer = Html(folder, accuracy)
    for image in images:
        writer.add(image)
    writer.close()
    return folder / "report.html"


class Elements(HTMLParser):
    """Elements with their attributes, and whether all that are opened are closed again."""

    VOID = ("meta", "img", "input", "rect", "polyline", "path", "link")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_the_page_stands_alone_and_is_whole(tmp_path: Path) -> None:
    text = page(tmp_path, field(1, 9), field(2, 0, ("<b>odd</b>",))).read_text(encoding="utf-8")
    elements = Elements(text)
    assert elements.open == []
    for _, attributes in elements.found:
        for name in ("src", "href", "srcset", "data"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "http" not in re.sub(r'src="data:[^"]*"', "", text)
    assert "&lt;b&gt;odd&lt;/b&gt;" in text
    assert len(elements.all("tr")) == 1 + 2


def test_it_can_be_read_aloud(tmp_path: Path) -> None:
    elements = Elements(page(tmp_path, field(1, 9), field(2, 5)).read_text(encoding="utf-8"))
    assert elements.all("html")[0]["lang"] == "en"
    assert all(picture["alt"] for picture in elements.all("img"))
    assert all(chart["aria-label"] and chart["role"] == "img" for chart in elements.all("svg"))
    assert {head["scope"] for head in elements.all("th")} == {"col", "row"}
    assert all(elements.all(tag) for tag in ("caption", "main", "label"))


def test_areas_of_images_with_and_without_a_pixel_size_are_not_mixed(tmp_path: Path) -> None:
    known = Segmented(
        Path("k.png"), Path("k_label.tiff"), field(1, 9).labels, None, PixelSize(1, 1, "")
    )
    assert "µm²" in page(tmp_path, known).read_text()
    mixed = page(tmp_path, known, field(2, 9)).read_text()
    assert ">Area<" not in mixed
    assert ">Eccentricity<" in mixed


def test_overlays_are_linked_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "field 001_overlay.png").touch()
    elements = Elements(page(tmp_path, field(1, 3), field(2, 3)).read_text())
    assert [link["href"] for link in elements.all("a")] == ["field%20001_overlay.png"]


def test_with_truth_the_worst_comes_first(tmp_path: Path) -> None:
    values = {"field 001": (0.9, 0.5), "field 002": (0.2, 0.1)}
    by_image = {n: {"f1": v, "precision": v, "recall": v} for n, v in values.items()}
    images = field(1, 3), field(2, 3), field(3, 3)
    text = page(tmp_path, *images, accuracy=Accuracy((0.5, 0.75), by_image)).read_text()
    rows = re.findall(r'<th scope="row">([^<]*)', text)
    assert rows == ["field 002.png", "field 001.png", "field 003.png"]
    assert "F1 0.55 at 0.5 and 0.30 at 0.75" in text


def in_browser(file: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    return subprocess.run(
        [CHROMIUM, *flags, f"--user-data-dir={profile}", *options, file.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip


SCRIPT = """<script>
const names = () => [...body.rows].filter(row => !row.hidden)
    .map(row => row.querySelector("th").textContent);
const button = name => [...document.querySelectorAll("th button")]
    .find(button => button.textContent === name);
const told = {loaded: performance.now()};  // ms since the page was asked for
button("Cells").click(); told.up = names();
button("Cells").click(); told.down = names();
told.sorted = button("Cells").parentElement.getAttribute("aria-sort");
button("Image").click(); told.byName = names();
const input = document.getElementById("filter");
input.value = " ODD "; input.dispatchEvent(new Event("input"));
told.filtered = names(); told.shown = shown.textContent;

document.title = JSON.stringify(told);
</script>"""


def told_by_browser(file: Path, tmp_path: Path) -> dict[str, object]:
    copy = tmp_path / "scripted.html"
    copy.write_text(file.read_text(encoding="utf-8") + SCRIPT, encoding="utf-8")
    page_text = in_browser(copy, tmp_path / "profile", "--dump-dom").stdout
    (title,) = re.findall(r"<title>(.*?)</title>", page_text)
    told: dict[str, object] = json.loads(title)
    return told


@browser
def test_the_table_is_sorted_and_filtered(tmp_path: Path) -> None:
    file = page(tmp_path, field(1, 20), field(2, 3, ("an odd one",)), field(3, 100))
    told = told_by_browser(file, tmp_path)
    one, two, three = (f"field {n:03d}.png" for n in (1, 2, 3))
    assert told["up"] == [two, one, three]
    assert told["down"] == [three, one, two]
    assert told["sorted"] == "descending"
    assert told["byName"] == [one, two, three]
    assert (told["filtered"], told["shown"]) == ([two], "1 of 3 images")


@browser
def test_it_is_drawn(tmp_path: Path) -> None:
    file, shot = page(tmp_path, field(1, 40), field(2, 60)), tmp_path / "shot.png"
    in_browser(file, tmp_path / "profile", "--window-size=1200,1300", f"--screenshot={shot}")
    picture = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert picture.shape == (1300, 1200, 3)
    blue = np.abs(picture - (47, 111, 176)).sum(axis=2) < 12
    assert blue.sum() > 2000  # bars of the charts
    assert picture[700:].std() > 10  # thumbnails


@browser
@pytest.mark.slow
def test_500_images_open_in_less_than_3_seconds(tmp_path: Path) -> None:
    pictures = [field(n, 200, side=400) for n in range(500)]
    file = page(tmp_path, *pictures)
    assert file.stat().st_size < 30e6
    start = time.perf_counter()
    told = told_by_browser(file, tmp_path)
    assert isinstance(told["loaded"], float)
    assert 0 < told["loaded"] < 3000, (told["loaded"], time.perf_counter() - start)
