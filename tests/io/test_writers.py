"""Outputs beside labels, read again by other means than those that wrote them."""

import csv
import json
import shutil
import subprocess
import time
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reunet.cli_outputs import NEEDS
from reunet.errors import ImageError
from reunet.io.export import stream
from reunet.io.export.coco import Coco
from reunet.io.export.geojson import MEASURED, GeoJson
from reunet.io.export.overlay import distinct, outline, view
from reunet.io.export.segmented import Segmented
from reunet.io.export.tables import CELL_COLUMNS, IMAGE_COLUMNS, Tables, is_grey
from reunet.io.export.verdict import FALSE, HIT, MISS, write_verdict
from reunet.io.export.writers import WRITERS, writing
from reunet.io.labels import write_label
from reunet.io.pixel_size import PixelSize

IMAGEJ = Path("/usr/share/java/ij.jar")


def scene(**changes: object) -> Segmented:
    """Four cells: a square, one of two parts, one with a hole, and a pixel on the frame."""
    labels = np.zeros((40, 50), np.uint16)
    labels[5:15, 5:15] = 1
    labels[2:6, 30:36] = labels[8:12, 30:36] = 4
    labels[20:36, 20:36] = 7
    labels[25:30, 25:30] = 0
    labels[39, 49] = 9
    y, x = np.mgrid[:40, :50]
    pixels = np.stack([y * 6, x * 5, 200 - y], axis=2).astype(np.uint8)
    about = {"open_rows": lambda: lambda top, bottom: pixels[top:bottom], **changes}
    return Segmented(Path("a.png"), Path("a_label.tiff"), labels, **about)


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def write(name: str, folder: Path, *images: Segmented) -> Path:
    """Let one of WRITERS write the images."""
    with writing({name: WRITERS[name]}, folder) as add:
        assert [add(image) for image in images] == [()] * len(images)
    return folder


def test_tables_hold_px_and_micrometres(tmp_path: Path) -> None:
    size = PixelSize(0.5, 0.25, "OME")
    agreement = np.linspace(0, 0.9, 10)
    write("table", tmp_path, scene(pixel_size=size, agreement=agreement, seconds=1.5))
    cells = rows_of(tmp_path / "cells.csv")
    assert [*cells[0]] == [*CELL_COLUMNS]
    square = cells[0]
    assert (square["id"], square["area_px"], square["on_frame"]) == ("1", "100", "0")
    assert float(square["x_px"]) == float(square["y_px"]) == 10
    assert (float(square["x_um"]), float(square["y_um"])) == (5, 2.5)
    assert float(square["area_um2"]) == 100 * 0.125
    assert float(square["diameter_um"]) == pytest.approx(2 * np.sqrt(12.5 / np.pi), abs=1e-4)
    assert float(square["mean_1"]) == pytest.approx(6 * np.mean(range(5, 15)))
    assert float(square["agreement"]) == pytest.approx(0.1)
    assert [row["on_frame"] for row in cells] == ["0", "0", "0", "1"]
    (image,) = rows_of(tmp_path / "images.csv")
    assert [*image] == [*IMAGE_COLUMNS]
    assert (image["cells"], image["seconds"], image["pixel_size_from"]) == ("4", "1.5", "OME")
    assert float(image["cells_per_mm2"]) == pytest.approx(4 / (40 * 50 * 0.125e-6))


def test_without_a_pixel_size_or_an_image_columns_stay_empty(tmp_path: Path) -> None:
    write("table", tmp_path, scene(open_rows=None))
    for row in rows_of(tmp_path / "cells.csv"):
        assert not any(row[name] for name in CELL_COLUMNS if "um" in name or "mean" in name)
        assert row["agreement"] == ""


def test_of_a_grey_image_one_channel_is_told(tmp_path: Path) -> None:
    grey = np.full((40, 50, 3), 7, np.uint8)
    found = scene(open_rows=lambda: lambda top, bottom: grey[top:bottom])
    assert is_grey(found)
    write("table", tmp_path, found)
    for row in rows_of(tmp_path / "cells.csv"):
        assert (row["mean_1"], row["mean_2"], row["max_3"]) == ("7.0", "", "")


def test_names_and_notes_with_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    name = 'a, "b"\n\udcfc.png'
    found = scene(notes=('say "no", please', "second"))
    found = Segmented(Path(name), Path("x_label.tiff"), found.labels, notes=found.notes)
    write("table", tmp_path, found, scene())
    first, second = rows_of(tmp_path / "images.csv")
    assert first["image"] == name.replace("\udcfc", "\\udcfc")
    assert first["notes"] == 'say "no", please; second'
    assert second["image"] == "a.png"


def even_odd(points: list[list[int]], shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centres lie in a closed ring, by the crossings of its upright sides."""
    crossings = np.zeros((shape[0], shape[1] + 1), bool)
    for (x, y), (_, following) in pairwise(points):
        crossings[min(y, following) : max(y, following), x] ^= True
    inside: np.ndarray = np.logical_xor.accumulate(crossings, axis=1)[:, :-1]
    return inside


def test_geojson_is_the_mask_again(tmp_path: Path) -> None:
    found = scene(pixel_size=PixelSize(0.5, 0.5, "OME"))
    write("geojson", tmp_path, found)
    collection = json.loads((tmp_path / "a.geojson").read_text(encoding="utf-8"))
    assert collection["type"] == "FeatureCollection"
    again = np.zeros_like(found.labels)
    for feature in collection["features"]:
        assert (feature["type"], feature["properties"]["objectType"]) == ("Feature", "detection")
        geometry = feature["geometry"]
        many = geometry["type"] == "MultiPolygon"
        for part in geometry["coordinates"] if many else [geometry["coordinates"]]:
            assert all(ring[0] == ring[-1] for ring in part)
            rings = [even_odd(ring, again.shape) for ring in part]
            assert not any((hole & ~rings[0]).any() for hole in rings[1:])
            again[np.logical_xor.reduce(rings)] = int(feature["properties"]["name"])
    np.testing.assert_array_equal(again, found.labels)
    kinds = [feature["geometry"]["type"] for feature in collection["features"]]
    assert kinds == ["Polygon", "MultiPolygon", "Polygon", "Polygon"]
    measured = collection["features"][0]["properties"]["measurements"]
    assert measured["Area px^2"] == 100
    assert measured["Area µm^2"] == 25
    assert set(measured) <= set(MEASURED.values())


def test_coco_is_the_mask_again(tmp_path: Path) -> None:
    found = scene()
    write("coco", tmp_path, found, scene())
    data = json.loads((tmp_path / "coco.json").read_text(encoding="utf-8"))
    assert [image["id"] for image in data["images"]] == [1, 2]
    assert [a["id"] for a in data["annotations"]] == list(range(1, 9))
    again = np.zeros_like(found.labels)
    for annotation in data["annotations"][:4]:
        assert (annotation["image_id"], annotation["category_id"]) == (1, 1)
        shape = annotation["segmentation"]
        if isinstance(shape, dict):  # run lengths, column by column, of 0 and 1 by turns
            runs = np.repeat(np.arange(len(shape["counts"])) % 2, shape["counts"])
            mask = runs.reshape(shape["size"][::-1]).T.astype(bool)
        else:
            points = [list(zip(p[::2], p[1::2], strict=True)) for p in shape]
            mask = np.logical_or.reduce([even_odd([*p, p[0]], again.shape) for p in points])
        assert mask.sum() == annotation["area"]
        ys, xs = np.nonzero(mask)
        box = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
        assert annotation["bbox"] == box
        again[mask] = annotation["cell"]
    np.testing.assert_array_equal(again, found.labels)


MACRO = """
told = split(getArgument(), "|");
newImage("image", "8-bit black", parseInt(told[1]), parseInt(told[2]), 1);
roiManager("Open", told[0]);
print("count " + roiManager("count"));
for (n = 0; n < roiManager("count"); n++) {
    roiManager("select", n);
    getStatistics(area);
    print(Roi.getName + " " + area);
}
"""


LOOK = """
open(getArgument());
getPixelSize(unit, width, height);
getStatistics(area, mean, least, most);
print(bitDepth() + " " + least + " " + most + " " + width + " " + height + " " + unit);
"""


def imagej(macro: str, argument: str, folder: Path) -> list[str]:
    """What a macro prints. With Xvfb, because ImageJ has no ROI manager without a screen."""
    if not IMAGEJ.exists() or not shutil.which("java") or not shutil.which("xvfb-run"):
        pytest.skip("needs ImageJ, Java and Xvfb: apt-get install imagej openjdk-17-jre xvfb")
    (folder / "macro.ijm").write_text(macro)
    java = ["xvfb-run", "-a", "java", f"-Duser.home={folder}", "-jar", IMAGEJ]
    command = [*java, "-batch", folder / "macro.ijm", argument]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [line for line in ran.stdout.splitlines() if line]


def test_imagej_opens_the_rois(tmp_path: Path) -> None:
    """As many as there are cells, and each of the very area."""
    pytest.importorskip("roifile", reason="needs roifile: pip install 'reunet[roi]'")
    found = scene()
    write("roi", tmp_path, found)
    height, width = found.labels.shape
    count, *lines = imagej(MACRO, f"{tmp_path / 'a_rois.zip'}|{width}|{height}", tmp_path)
    assert count == "count 4"
    areas = dict(line.split() for line in lines)
    told = {int(name): int(area) for name, area in areas.items()}
    assert told == dict(zip(found.cells.ids.tolist(), found.cells.area.tolist(), strict=True))


def test_imagej_opens_the_labels(tmp_path: Path) -> None:
    """Sixteen bits with a background of 0, and the size of a pixel in micrometres."""
    labels, size = scene().labels, PixelSize(0.5, 0.25, "OME")
    write_label(tmp_path / "a_label.tiff", labels, "from here", pixel_size=size)
    (told,) = imagej(LOOK, str(tmp_path / "a_label.tiff"), tmp_path)
    assert told == "16 0 9 0.5 0.25 µm"


def test_a_roi_a_cell_named_by_its_id(tmp_path: Path) -> None:
    roifile = pytest.importorskip("roifile", reason="needs roifile: pip install 'reunet[roi]'")
    write("roi", tmp_path, scene())
    with zipfile.ZipFile(tmp_path / "a_rois.zip") as file:
        assert file.namelist() == ["1.roi", "4.roi", "7.roi", "9.roi"]
    square, *_ = roifile.roiread(tmp_path / "a_rois.zip")
    assert sorted(map(tuple, square.coordinates().tolist())) == [(5, 5), (5, 15), (15, 5), (15, 15)]


def test_overlays_show_contours_and_leave_the_rest(tmp_path: Path) -> None:
    found = scene()
    write("overlays", tmp_path, found)
    picture = np.asarray(Image.open(tmp_path / "a_overlay.png"))
    factor = picture.shape[0] // 40
    assert picture.shape == (40 * factor, 50 * factor, 3)
    without = write("overlays", tmp_path / "b", scene_without_cells(tmp_path)) / "a_overlay.png"
    changed = (picture != np.asarray(Image.open(without))).any(axis=2)
    labels = found.labels.repeat(factor, axis=0).repeat(factor, axis=1)
    assert not changed[labels == 0].any()
    assert changed[5 * factor, 5 * factor : 15 * factor].all()  # the upper edge of the square
    assert not changed[10 * factor, 10 * factor]  # its middle


def scene_without_cells(tmp_path: Path) -> Segmented:
    (tmp_path / "b").mkdir()
    found = scene()
    return Segmented(found.image, found.label, np.zeros_like(found.labels), found.open_rows)


def test_contours_lie_inside_cells_and_are_as_wide_as_asked() -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[2:18, 2:10], labels[2:18, 10:18] = 1, 2
    for width in (1, 2, 3):
        edge = outline(labels, width)
        assert not edge[labels == 0].any()
        assert edge[10].sum() == 4 * width


@pytest.mark.parametrize("bright", [False, True])
def test_colours_of_ids_in_a_row_are_far_apart(bright: bool) -> None:
    colours = distinct(np.arange(1, 60), np.full(59, bright)).astype(int)
    for step in (1, 2, 3):
        assert np.abs(colours[step:] - colours[:-step]).sum(axis=1).min() > 90


def test_slides_become_a_reduced_picture_and_crops_of_where_cells_are(tmp_path: Path) -> None:
    labels = np.zeros((3000, 5001), np.int32)
    labels[2100:2120, 4200:4220], labels[2150:2170, 4200:4220] = 1, 2
    labels[100:120, 50:70] = 3
    pixels = np.broadcast_to(np.arange(5001, dtype=np.uint16)[:, np.newaxis], (3000, 5001, 3))
    found = Segmented(
        Path("s.tif"), Path("s_label.tiff"), labels, lambda: lambda top, bottom: pixels[top:bottom]
    )
    write("overlays", tmp_path, found)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "s_overlay.png", "s_overlay_1.png", "s_overlay_2.png",
    ]  # fmt: skip
    whole = view(found, 2048)
    assert whole.labels.shape == whole.pixels.shape[:2] == (1000, 1667)
    assert whole.pixels[7, 500:503, 0].tolist() == [1501, 1504, 1507]  # means of three
    assert Image.open(tmp_path / "s_overlay_1.png").size == (5001 - 4096, 3000 - 2048)


def test_hits_misses_and_false_cells_have_colours_of_their_own(tmp_path: Path) -> None:
    predicted, truth = np.zeros((700, 700), np.uint16), np.zeros((700, 700), np.uint16)
    predicted[100:150, 100:150] = truth[100:150, 100:151] = 1
    truth[300:350, 300:350], predicted[500:550, 500:550] = 2, 2
    found = Segmented(Path("a.png"), Path("a_label.tiff"), predicted)
    hits = np.array([1]), np.array([1])
    write_verdict(tmp_path / "a.png", found, truth, hits)
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    for place, colour in ((100, HIT), (300, MISS), (500, FALSE)):
        assert tuple(picture[place, place + 10]) == colour
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 4  # and black


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A disk that fills up: no file takes more than so many bytes."""
    room = 4000

    class Full:
        def __init__(self, file: object) -> None:
            self.file = file

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def write(self, data: bytes) -> int:
            left = room - self.file.tell()  # type: ignore[attr-defined]
            if left <= 0:
                raise OSError(28, "No space left on device")
            return int(self.file.write(data[:left]))  # type: ignore[attr-defined]

    begin = stream.Stream.__init__

    def opened(self: stream.Stream, path: Path) -> None:
        begin(self, path)
        self._file = Full(self._file)  # type: ignore[assignment]

    monkeypatch.setattr(stream.Stream, "__init__", opened)
    return room


def test_a_full_disk_costs_an_image_not_the_table(little_room: int, tmp_path: Path) -> None:
    assert little_room
    with writing({"table": Tables}, tmp_path) as add:
        failures = [add(scene()) for _ in range(12)]
    assert failures[0] == ()
    (line,) = failures[-1]
    assert "no space left on device" in line
    assert "\n" not in line
    rows = rows_of(tmp_path / "cells.csv")
    assert len(rows) == 4 * failures.count(())
    assert all(None not in row.values() for row in rows)
    assert not [file for file in tmp_path.iterdir() if file.suffix == ".tmp"]


@pytest.mark.usefixtures("little_room")
def test_a_full_disk_leaves_no_half_file_and_the_old_one(tmp_path: Path) -> None:
    old = tmp_path / "a.geojson"
    old.write_text("old")
    labels = np.arange(1, 401, dtype=np.uint16).reshape(20, 20)
    with pytest.raises(ImageError, match="no space left"):
        GeoJson(tmp_path).add(Segmented(Path("a.png"), Path("a_label.tiff"), labels))
    assert [file.name for file in tmp_path.iterdir()] == ["a.geojson"]
    assert old.read_text() == "old"


def test_what_fails_for_one_writer_touches_no_other(tmp_path: Path) -> None:
    class Failing:
        def __init__(self, folder: Path) -> None:
            pass

        def add(self, _: Segmented) -> None:
            raise ImageError("bad day; try again")

        def close(self) -> None:
            raise ImageError("no close; try again")

    makers = {"failing": Failing, "table": Tables, "coco": Coco}
    with pytest.raises(ImageError, match="no close"), writing(makers, tmp_path) as add:
        assert add(scene()) == ("bad day; try again",)
    assert len(rows_of(tmp_path / "cells.csv")) == 4
    assert len(json.loads((tmp_path / "coco.json").read_text())["annotations"]) == 4


def test_an_interrupt_keeps_the_lines_of_finished_images(tmp_path: Path) -> None:
    def run() -> None:
        with writing({"table": Tables}, tmp_path) as add:
            add(scene())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(rows_of(tmp_path / "images.csv")) == 1


def test_parquet_holds_what_the_table_holds(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pip install 'reunet[parquet]'")
    images = scene(pixel_size=PixelSize(0.5, 0.5, "OME")), scene(open_rows=None)
    write("table", tmp_path, *images)
    write("parquet", tmp_path, *images)
    rows = parquet.read_table(tmp_path / "cells.parquet").to_pylist()
    assert len(rows) == 8
    for row, line in zip(rows, rows_of(tmp_path / "cells.csv"), strict=True):
        assert {k: "" if v is None else v for k, v in row.items()} == {
            k: type(row[k])(v) if v else "" for k, v in line.items()
        }
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", WRITERS)
def test_an_image_without_cells(name: str, tmp_path: Path) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    empty = Segmented(Path("e.png"), Path("e_label.tiff"), np.zeros((30, 20), np.uint16))
    write(name, tmp_path, empty)
    assert not list(tmp_path.glob(".*"))
    if name in ("geojson", "coco"):
        (file,) = tmp_path.iterdir()
        data = json.loads(file.read_text())
        assert data.get("features", data.get("annotations")) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table", "geojson", "coco"])
def test_200_000_cells_of_a_pixel_or_two(name: str, tmp_path: Path) -> None:
    labels = np.zeros((800, 2000), np.uint32)
    labels[::2, ::4] = labels[::2, 1::4] = np.arange(1, 200_001).reshape(400, 500)
    write(name, tmp_path, Segmented(Path("s.png"), Path("s_label.tiff"), labels))
    file = max(tmp_path.iterdir(), key=lambda file: file.stat().st_size)
    assert sum(1 for _ in file.open()) > 200_000


@pytest.mark.slow
def test_geojson_of_100_000_cells_takes_less_than_20_seconds(tmp_path: Path) -> None:
    from test_measure import many_cells

    found = Segmented(Path("s.tif"), Path("s_label.tiff"), many_cells())
    start = time.process_time()
    GeoJson(tmp_path).add(found)
    assert time.process_time() - start < 20
    assert len((tmp_path / "s.geojson").read_text().splitlines()) == 317**2 + 2
