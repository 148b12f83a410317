"""`--region`: the cells of a part of an image, in the image's own coordinates.

The reference is the crop, cut out and segmented by hand; polygons are judged by Pillow's drawing of
them, enlarged, and by what our own GeoJSON export says of a mask.
"""

import json
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw
from scipy import ndimage

from conftest import REUNET, SAMPLE_IMAGES
from reunet import predict, segment
from reunet.errors import ImageError, ReUNetError
from reunet.io import source, tiff_rows
from reunet.io.export.contours import polygons, trace
from reunet.io.images import read_label
from reunet.io.region import MARGIN, Region, parse_region
from reunet.model import Model, load_model
from reunet.network.bundle import open_bundle
from reunet.options import Options
from reunet.run.batch import segment_files
from reunet.run.resume import settings_line

RNG = np.random.default_rng(5)
H, W = 700, 640
SIMPLE = Options(tta=False, enlarge=False, vote=False)
BLOBS = np.where(ndimage.gaussian_filter(RNG.standard_normal((H, W)), 6) > 0.02, 200, 40)
IMAGE = np.repeat(BLOBS.astype(np.uint8)[..., None], 3, axis=2)


def bright(tiles: np.ndarray) -> np.ndarray:
    """A network that looks at a pixel alone: what is read around it changes nothing."""
    grey = tiles.mean(axis=1)
    return np.stack([-grey, grey, np.full_like(grey, -9)], axis=1)


@pytest.fixture
def model(bundle: Path) -> Model:
    return Model(open_bundle(bundle), (bright,), ("0",), "cpu")


def by_hand(model: Model, rows: slice, columns: slice, inside: Any) -> np.ndarray:
    """Cells of a crop whose centres are inside, in the whole. inside: (y, x) of pixels -> bool."""
    crop = segment(IMAGE[rows, columns], model, SIMPLE)
    wanted, count = np.zeros((H, W), np.int32), 0
    numbers = np.arange(1, crop.max() + 1)
    for n, (y, x) in zip(numbers, ndimage.center_of_mass(crop, crop, numbers), strict=True):
        if inside(y + rows.start + 0.5, x + columns.start + 0.5):
            count += 1
            wanted[rows, columns][crop == n] = count
    return wanted


def test_a_rectangle_is_its_crop_and_margin(model: Model) -> None:
    x, y, w, h = 150, 100, 200, 230
    around = slice(y - MARGIN, y + h + MARGIN), slice(x - MARGIN, x + w + MARGIN)
    wanted = by_hand(model, *around, lambda b, a: y <= b < y + h and x <= a < x + w)
    assert wanted.max() > 10
    result = predict(IMAGE, model, SIMPLE, region=(x, y, w, h))
    assert np.array_equal(result.labels, wanted)
    assert "region 150,100,200,230 alone: cells whose centre lies in it" in result.notes


def test_regions_side_by_side_have_each_cell_once(model: Model) -> None:
    """Cut along 7 lines, through cells: together they are the image's cells."""
    whole = segment(IMAGE, model, SIMPLE)
    edges = [0, 91, 200, 340, 341, 342, 512, W]
    parts = [segment(IMAGE, model, SIMPLE, region=(a, 0, b - a, H)) for a, b in pairwise(edges)]
    small = ndimage.find_objects(whole)
    for n, place in enumerate(small, 1):
        if place[1].stop - place[1].start < MARGIN:  # a longer one is cut by what is read
            mask = whole == n
            found = [part for part in parts if part[mask].all()]
            assert len(found) == 1
            assert np.array_equal(found[0] == found[0][mask][0], mask)


@pytest.fixture
def small_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "ROWS", 24)
    monkeypatch.setattr(tiff_rows, "ROWS", 24)
    monkeypatch.setattr(source, "SLIDE_PIXELS", 20_000)


@pytest.mark.usefixtures("small_bands")
@pytest.mark.parametrize("region", [(150, 100, 200, 230), (150, 100, 9, 9)])
@pytest.mark.parametrize(
    "layout",
    [
        {"tile": (32, 48), "compression": "zlib"},
        {"tile": (32, 32)},
        {"rowsperstrip": 11, "compression": "lzw"},
        {"rowsperstrip": 7, "compression": "zlib", "planarconfig": "separate"},
        {},
    ],
)
def test_a_slide_is_read_where_the_region_lies(
    region: tuple[int, int, int, int], layout: dict[str, Any], model: Model, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path, read = tmp_path / "a.tif", set[int]()
    planes = layout.get("planarconfig") == "separate"
    tifffile.imwrite(
        path, IMAGE.transpose(2, 0, 1) if planes else IMAGE, photometric="rgb", **layout
    )
    read_segments = tifffile.FileHandle.read_segments

    def note(*args: Any, **kwargs: Any) -> Any:
        for data, number in read_segments(*args, **kwargs):
            read.add(number)
            yield data, number

    monkeypatch.setattr(tifffile.FileHandle, "read_segments", note)
    [outcome] = segment_files([path], tmp_path, model, replace(SIMPLE, region=region))
    assert outcome.error is None
    decoded = set(read)
    wanted = segment(IMAGE, model, SIMPLE, region=region)
    assert np.array_equal(read_label(outcome.label), wanted)
    if "tile" in layout and "compression" in layout:
        x, y, w, h = region
        rows = range((y - MARGIN) // 32, -(-(y + h + MARGIN) // 32))
        columns = range((x - MARGIN) // 48, -(-(x + w + MARGIN) // 48))
        assert decoded == {r * -(-W // 48) + c for r in rows for c in columns}


def test_a_part_of_an_ome_zarr(model: Model, tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    pytest.importorskip("ome_zarr")
    from test_omezarr import write

    path = write(tmp_path / "a.zarr", IMAGE.transpose(2, 0, 1), "cyx", "0.5")
    region = (150, 100, 200, 230)
    parts = source.stream(path, region=parse_region(region))
    pixels = np.concatenate([band.pixels for band in parts.bands()])
    assert np.array_equal(pixels, IMAGE[36:394, 86:414])
    found = segment(path, model, SIMPLE, region=region)
    assert np.array_equal(found, segment(IMAGE, model, SIMPLE, region=region))


# --- polygons

RINGS = [
    [[100, 90], [400, 120], [380, 300], [250, 200], [120, 330]],
    [[200, 130], [260, 130], [260, 170]],  # a hole
]
OTHER = [[[500, 500], [620, 510], [560, 640]]]


def feature(coordinates: Any, kind: str = "Polygon") -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": "0",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": {"objectType": "annotation"},
    }


def write(path: Path, content: Any) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


@pytest.fixture
def roi(tmp_path: Path) -> str:
    return write(
        tmp_path / "roi.geojson",
        {"type": "FeatureCollection", "features": [feature(RINGS), feature(OTHER)]},
    )


def drawn(times: int = 8) -> np.ndarray:
    """The polygons, `times` as large."""
    picture = Image.new("L", (W * times, H * times))
    pen = ImageDraw.Draw(picture)
    for ring, value in ((RINGS[0], 1), (RINGS[1], 0), (OTHER[0], 1)):
        pen.polygon([(x * times, y * times) for x, y in ring], fill=value)
    return np.asarray(picture).astype(bool)


def test_points_in_polygons(roi: str) -> None:
    part = parse_region(roi).on((H, W))
    points = RNG.uniform((0, 0), (W, H), (20_000, 2))
    x, y = (points * 8).astype(int).T
    mask = drawn()
    near_edge = ndimage.binary_dilation(mask, iterations=8) & ~ndimage.binary_erosion(
        mask, iterations=8
    )
    sure = ~near_edge[y, x]
    found = part.contains(points - (part.columns.start, part.rows.start))
    assert np.array_equal(found[sure], mask[y, x][sure])
    assert sure.mean() > 0.9


def test_our_own_polygons_are_the_mask_again() -> None:
    """What we export as GeoJSON, read as a region, holds the very pixels."""
    mask = (BLOBS[:90, :80] > 100).astype(np.int32)
    [(_, parts)] = polygons(trace(mask))
    region = Region("r", "r", tuple(tuple(np.array(r, float) for r in rings) for rings in parts))
    part = region.on(mask.shape)
    y, x = np.mgrid[:90, :80]
    found = part.contains(np.stack([x.ravel(), y.ravel()], axis=1) + 0.5)
    assert np.array_equal(found.reshape(mask.shape), mask.astype(bool))


@pytest.mark.parametrize("way", ["collection", "list", "multi", "geometry"])
def test_polygons_as_qupath_and_others_write_them(
    way: str, roi: str, model: Model, tmp_path: Path
) -> None:
    content = {
        "collection": json.loads(Path(roi).read_text()),
        "list": [feature(RINGS), feature(OTHER), feature([3, 4], "Point")],
        "multi": feature([RINGS, OTHER], "MultiPolygon"),
        "geometry": {"type": "MultiPolygon", "coordinates": [RINGS, OTHER]},
    }[way]
    region = write(tmp_path / "other.geojson", content)
    mask = drawn(1)
    around = slice(90 - MARGIN, 700), slice(100 - MARGIN, W)
    wanted = by_hand(model, *around, lambda y, x: mask[int(y), int(x)])
    found = segment(IMAGE, model, SIMPLE, region=region)
    assert found.max() > 10
    edge = mask ^ ndimage.binary_erosion(mask, iterations=2)  # Pillow's edges are a pixel thick
    differ = (found > 0) != (wanted > 0)
    cells, _ = ndimage.label(differ)
    for n, (y, x) in enumerate(ndimage.center_of_mass(differ, cells, range(1, cells.max() + 1)), 1):
        assert ndimage.binary_dilation(edge)[int(y), int(x)], n


def test_tiles_far_from_polygons_are_not_looked_at(bundle: Path, tmp_path: Path) -> None:
    """Two small areas in opposite corners of an image of 2000 px: the rest costs nothing."""
    seen = []

    def network(tiles: np.ndarray) -> np.ndarray:
        seen.append(len(tiles))
        return bright(tiles)

    bundle_ = replace(open_bundle(bundle), tile=128, smallest=64)
    spy = Model(bundle_, (network,), ("0",), "cpu")
    image = np.tile(IMAGE, (3, 4, 1))[:2000, :2000]
    corners = [[[[20, 20], [90, 20], [90, 80]]], [[[1900, 1900], [1990, 1900], [1990, 1990]]]]
    region = write(tmp_path / "two.geojson", [feature(ring) for ring in corners])
    found = segment(image, spy, SIMPLE, region=region)
    few = len(seen)
    seen.clear()
    whole = segment(image, spy, SIMPLE)
    assert few < len(seen) / 10
    assert found.max() > 1
    for n, place in enumerate(ndimage.find_objects(found), 1):
        number = whole[place][found[place] == n][0]
        assert np.array_equal(whole[place] == number, found[place] == n)


# --- what is wrong

BAD = {
    "1,2,3": "give x,y,width,height",
    "1,2,3,4,5": "give x,y,width,height",
    "1,2,x,4": "give x,y,width,height",
    "1.5,2,3,4": "give x,y,width,height",
    "1,2,0,4": "is empty",
    "1,2,3,-4": "is empty",
    "": "give x,y,width,height",
    "gone.geojson": "no such file",
}
FILES: dict[str, tuple[Any, str]] = {
    "text": ("hello", "is no GeoJSON"),
    "binary": ("\x00\x01", "is no GeoJSON"),
    "other JSON": ({"a": 1}, "is no GeoJSON"),
    "a number": (7, "is no GeoJSON"),
    "half": ('{"type": "Feature", "geometry": {"type": "Poly', "is no GeoJSON"),
    "no ring": (feature([3]), "is no GeoJSON"),
    "no corners": (feature([[["a", "b"]]]), "is no GeoJSON"),
    "infinite": (feature([[[0, 0], [1, 0], [1e999, 1]]]), "is no GeoJSON"),
    "deep": ("[" * 100_000, "is no GeoJSON"),
    "nested": (json.loads("[" * 50 + "]" * 50), "is no GeoJSON"),
    "nothing": ([], "holds no polygon"),
    "a point": (feature([3, 4], "Point"), "holds no polygon"),
    "a line twice": (feature([[[0, 0], [9, 9], [0, 0]]]), "holds no polygon"),
    "no geometry": ({"type": "Feature", "geometry": None}, "holds no polygon"),
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_region(text: str) -> None:
    with pytest.raises(ValueError, match=BAD[text]) as error:
        parse_region(text)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_geojson_of_polygons(name: str, tmp_path: Path) -> None:
    content, told = FILES[name]
    with pytest.raises(ImageError, match=told) as error:
        parse_region(write(tmp_path / "a.geojson", content))
    assert len(str(error.value).splitlines()) == 1
    assert "a.geojson" in str(error.value)


@pytest.mark.parametrize("region", [(W, 0, 9, 9), (0, H, 9, 9), (-20, 5, 20, 9), (5, -9, 9, 9)])
def test_outside_of_the_image(
    region: tuple[int, int, int, int], model: Model, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(IMAGE).save(path)
    with pytest.raises(ReUNetError, match="lies outside of the image, 640 × 700 px") as error:
        predict(path, model, SIMPLE, region=region)
    assert str(path) in str(error.value)
    with pytest.raises(ValueError, match="lies outside"):
        predict(IMAGE, model, SIMPLE, region=region)


def test_partly_outside(model: Model) -> None:
    result = predict(IMAGE, model, SIMPLE, region=(-50, 600, 300, 300))
    assert np.array_equal(result.labels, segment(IMAGE, model, SIMPLE, region=(0, 600, 250, 100)))
    assert any("as far as the image reaches" in note for note in result.notes)


def test_other_regions_are_other_labels(model: Model, roi: str) -> None:
    def origin(region: Any) -> str:
        return settings_line(model, replace(SIMPLE, region=region))

    before = {origin(None), origin((1, 2, 3, 4)), origin((1, 2, 3, 5)), origin(roi)}
    assert "region 1,2,3,4" in origin("1, 2,3,4")
    write(Path(roi), feature(RINGS))
    assert len(before | {origin(roi)}) == 5


def test_probabilities_lie_in_the_whole(model: Model) -> None:
    result = predict(IMAGE, model, SIMPLE, probabilities=True, region=(150, 100, 200, 230))
    assert result.probabilities is not None
    assert result.confidence is not None
    assert result.probabilities.shape == (3, H, W)
    assert (result.probabilities[0, :30] == 1).all()
    assert (result.confidence[1:] > 0.5).all()


def test_the_command(tmp_path: Path) -> None:
    """Labels, tables and contours have coordinates of the image; note and report tell."""
    image = SAMPLE_IMAGES / "usiigaci__set26.png"
    out = tmp_path / "out"
    command = [REUNET, "predict", image, out, "--no-tta", "--device", "cpu", "--region"]
    outputs = ["--table", "--export", "geojson", "--report"]
    result = subprocess.run([*command, "300,200,260,240", *outputs], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "region 300,200,260,240 alone" in result.stderr
    labels = read_label(out / f"{image.stem}_label.tiff")
    assert labels.shape == Image.open(image).size[::-1]
    wanted = segment(image, load_model(device="cpu"), tta=False, region=(300, 200, 260, 240))
    assert np.array_equal(labels, wanted)
    report = json.loads((out / "report.json").read_text())
    assert report["settings"]["region"] == "300,200,260,240"
    assert any("region" in note for note in report["images"][0]["notes"])
    rows = [line.split(",") for line in (out / "cells.csv").read_text().splitlines()]
    x, y = rows[0].index("x_px"), rows[0].index("y_px")
    centres = np.array([(float(row[x]), float(row[y])) for row in rows[1:]])
    assert len(centres) == labels.max()
    assert len(centres) > 0
    assert (centres >= (300, 200)).all()
    assert (centres < (560, 440)).all()
    [part] = [json.loads(path.read_text()) for path in out.glob("*.geojson")]
    places = ndimage.find_objects(labels)
    for each in part["features"]:
        rows, columns = places[int(each["properties"]["name"]) - 1]
        coordinates, several = (
            each["geometry"]["coordinates"],
            each["geometry"]["type"][:5] == "Multi",
        )
        parts = coordinates if several else [coordinates]
        points = np.concatenate([ring for rings in parts for ring in rings])
        assert [*points.min(axis=0), *points.max(axis=0)] == [
            columns.start, rows.start, columns.stop, rows.stop
        ]  # fmt: skip
    for bad, told in (("1,2,3", "give x,y"), (str(tmp_path / "no.geojson"), "no such file")):
        refused = subprocess.run([*command, bad], capture_output=True, text=True)
        assert refused.returncode == 2
        assert told in refused.stderr


def test_every_plane_of_a_stack(model: Model, tmp_path: Path) -> None:
    path, region = tmp_path / "a.tif", (150, 100, 200, 230)
    stack = np.stack([IMAGE[..., 0], IMAGE[::-1, :, 0]])
    tifffile.imwrite(path, stack, imagej=True, metadata={"axes": "ZYX"})
    options = replace(SIMPLE, region=region, plane="all")
    [outcome] = segment_files([path], tmp_path, model, options)
    assert outcome.error is None
    found = tifffile.imread(outcome.label)
    for labels, plane in zip(found, stack, strict=True):
        assert np.array_equal(labels, segment(plane, model, SIMPLE, region=region))
