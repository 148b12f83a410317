"""Commands that write more than labels: `predict`, `export`, `report`, `evaluate`."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner, Result
from PIL import Image

from conftest import ABOUT, ROOT, SAMPLES, TINY
from reunet import cli
from reunet.io.images import read_label, read_pixel_size
from reunet.network.bundle import save_bundle
from reunet.network.unet import build
from reunet.run import outputs as module
from reunet.run.outputs import find_pairs, segmented

ALL = ("--overlays", "--table", "--html", "--export", "geojson,coco")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A tiny bundle whose two folds are one network: they agree on every cell."""
    torch.manual_seed(1)
    state = build(TINY).state_dict()
    save_bundle(tmp_path / "bundle", TINY, {"0": state, "1": state}, ABOUT)
    return tmp_path / "bundle"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images; the pixels of one are 0.5 µm wide."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(4)
    Image.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8)).save(folder / "a.b, c.png")
    tifffile.imwrite(
        folder / "grey.tif",
        rng.integers(0, 255, (50, 50), np.uint8),
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
    )
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def test_all_outputs_of_a_run(images: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("predict", images, out, "--weights", bundle, "--no-tta", *ALL)
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in out.iterdir()) == [
        "a.geojson", "a_label.tiff", "a_overlay.png", "cells.csv", "coco.json",
        "grey.geojson", "grey_label.tiff", "grey_overlay.png", "images.csv", "report.html",
    ]  # fmt: skip
    colour, grey = rows_of(out / "images.csv")
    cells = rows_of(out / "cells.csv")
    for row, name in ((colour, "a.b, c.png"), (grey, "grey.tif")):
        labels = read_label(out / row["label"])
        assert int(row["cells"]) == labels.max() > 0
        own = [cell for cell in cells if cell["image"] == name]
        assert [int(cell["area_px"]) for cell in own] == np.bincount(labels.ravel())[1:].tolist()
        assert {cell["agreement"] for cell in own} == {"1.0"}
        assert float(row["seconds"]) > 0
        assert f"{name}: {row['cells']} cells" in result.output
    assert colour["pixel_width_um"] == ""
    assert (grey["pixel_width_um"], grey["pixel_size_from"]) == ("0.5", "resolution tags")
    assert "0.5 µm" in grey["notes"]
    size = read_pixel_size(out / "grey_label.tiff")
    assert size is not None
    assert size.x == pytest.approx(0.5)


def test_outputs_are_added_without_the_network(
    images: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ("predict", images, out, "--weights", bundle, "--no-tta", "--resume")
    assert run(*command).exit_code == 0
    before = {file: file.stat().st_mtime_ns for file in out.iterdir()}

    def see(*_: object, **__: object) -> None:
        raise AssertionError("the network was run")

    monkeypatch.setattr("reunet.run.batch.see", see)
    assert run(*command, "--table").exit_code == 0
    assert all(file.stat().st_mtime_ns == time for file, time in before.items())
    assert len(rows_of(out / "images.csv")) == 2
    assert {row["agreement"] for row in rows_of(out / "cells.csv")} == {""}
    assert {row["seconds"] for row in rows_of(out / "images.csv")} == {""}


def test_a_given_pixel_size_overrides_that_of_files(
    images: Path, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--weights", bundle, "--no-tta", "--table", "--pixel-size", "2,3")
    assert run("predict", images, out, *options).exit_code == 0
    for row in rows_of(out / "images.csv"):
        assert (row["pixel_width_um"], row["pixel_height_um"]) == ("2.0", "3.0")
        assert "not square" in row["notes"]
        size = read_pixel_size(out / row["label"])
        assert size is not None
        assert (size.x, size.y) == pytest.approx((2, 3))


@pytest.mark.parametrize("value", ["0", "-1", "1,0", "nan", "wide"])
def test_a_pixel_size_that_is_none_is_one_line(value: str, images: Path, tmp_path: Path) -> None:
    result = run("predict", images, tmp_path / "out", "--pixel-size", value)
    assert result.exit_code == 2
    assert result.output.count("write 0.5") == 1
    assert not (tmp_path / "out").exists()


def test_filters_leave_cells_out_of_everything(images: Path, bundle: Path, tmp_path: Path) -> None:
    plain, filtered = tmp_path / "plain", tmp_path / "filtered"
    command = ("--weights", bundle, "--no-tta", "--table", "--report")
    assert run("predict", images, plain, *command).exit_code == 0
    areas = [int(cell["area_px"]) for cell in rows_of(plain / "cells.csv")]
    least = int(np.median(areas)) + 1
    options = (*command, "--min-area", least, "--drop-edge-cells")
    assert run("predict", images, filtered, *options).exit_code == 0
    expected = [
        (cell["image"], cell["area_px"], cell["x_px"], cell["agreement"])
        for cell in rows_of(plain / "cells.csv")
        if int(cell["area_px"]) >= least and cell["on_frame"] == "0"
    ]
    found = [
        (cell["image"], cell["area_px"], cell["x_px"], cell["agreement"])
        for cell in rows_of(filtered / "cells.csv")
    ]
    assert found == expected != []
    with tifffile.TiffFile(filtered / "grey_label.tiff") as tiff:
        origin = tiff.shaped_metadata[0]["origin"]
    assert f"min area {least} px, no edge cells" in origin
    assert run("report", filtered).exit_code == 0
    page = (filtered / "report.html").read_text(encoding="utf-8")
    assert page.count(f"min area {least} px, no edge cells") == 1
    settings = json.loads((filtered / "report.json").read_text())["settings"]
    assert settings["min_area"] == str(least)
    assert settings["drop_edge_cells"] is True


def test_an_area_in_micrometres_needs_a_pixel_size(
    images: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, before the network starts; the image that has one is done."""
    out, command = tmp_path / "out", ("--weights", bundle, "--no-tta", "--min-area", "5um2")
    result = run("predict", images, out, *command, "--table")
    assert result.exit_code == 1
    (line,) = (line for line in result.output.splitlines() if line.startswith("error: "))
    assert "a.b, c.png: its pixel size is unknown" in line
    assert "--pixel-size" in line
    areas = [float(cell["area_um2"]) for cell in rows_of(out / "cells.csv")]
    assert areas == [area for area in areas if area >= 5] != []
    monkeypatch.undo()
    assert run("predict", images, out, *command, "--pixel-size", "0.5").exit_code == 0


def test_the_challenge_gets_what_it_always_got(images: Path, bundle: Path, tmp_path: Path) -> None:
    command = ("--weights", bundle, "--no-tta", "--labels", "challenge")
    assert run("predict", images, tmp_path / "out", *command).exit_code == 0
    with tifffile.TiffFile(tmp_path / "out" / "grey_label.tiff") as tiff:
        assert tiff.pages.first.dtype == np.int16
        assert not tiff.is_ome
        assert tiff.pages.first.tags["ResolutionUnit"].value == 1  # none
    script = (ROOT / "predict.sh").read_text()
    assert "/workspace/outputs --budget challenge --labels challenge" in script


@pytest.fixture
def masks(images: Path, tmp_path: Path) -> Path:
    """Labels of both images, made by somebody else: one named as Cellpose does."""
    folder = tmp_path / "masks"
    folder.mkdir()
    labels = np.zeros((60, 80), np.uint16)
    labels[5:20, 5:20], labels[30:50, 30:70] = 1, 5
    Image.fromarray(labels).save(folder / "a_cp_masks.png")
    tifffile.imwrite(folder / "grey_masks.tif", labels[:50, :50].astype(np.float32))
    assert images.exists()
    return folder


def test_export_of_labels_that_others_made(images: Path, masks: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("export", masks, images, "-o", out, *ALL)
    assert result.exit_code == 0, result.output
    assert [row["id"] for row in rows_of(out / "cells.csv")] == ["1", "5", "1", "5"]
    assert rows_of(out / "cells.csv")[0]["mean_1"] != ""
    assert {file.name for file in out.iterdir()} >= {"a_overlay.png", "grey.geojson", "report.html"}
    assert sorted(file.name for file in masks.iterdir()) == ["a_cp_masks.png", "grey_masks.tif"]


BAD = {
    "another shape": (np.ones((60, 81), np.uint16), "is 60 × 81 px, the image 60 × 80 px"),
    "fractions": (np.full((60, 80), 0.5, np.float32), "holds fractions"),
    "negative": (np.full((60, 80), -1, np.int16), "negative"),
    "colour": (np.ones((60, 80, 3), np.uint8), "labels are one plane of whole numbers"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_label_is_one_line_and_the_other_is_done(
    bad: str, images: Path, masks: Path, tmp_path: Path
) -> None:
    pixels, cause = BAD[bad]
    (masks / "a_cp_masks.png").unlink()
    tifffile.imwrite(masks / "a_masks.tif", pixels)
    result = run("export", masks, images, "-o", tmp_path / "out", "--table")
    assert result.exit_code == 1
    (line,) = (line for line in result.output.splitlines() if line.startswith("error: "))
    assert "a_masks.tif" in line
    assert cause in line
    assert {row["image"] for row in rows_of(tmp_path / "out" / "cells.csv")} == {"grey.tif"}


def test_a_label_without_an_image_is_told(images: Path, masks: Path, tmp_path: Path) -> None:
    (images / "grey.tif").unlink()
    result = run("export", masks, images, "-o", tmp_path / "out", "--table")
    assert result.exit_code == 1
    assert "there is no image of its name" in result.output


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("missing", "images", "--table"), "no such file"),
        (("masks", "images"), "nothing to write"),
        (("masks", "images", "--export", "svg"), "none of geojson, roi, coco, parquet"),
        (("empty", "images", "--table"), "holds no labels"),
    ],
)
def test_what_cannot_start_says_why(
    arguments: tuple[str, ...], cause: str, images: Path, masks: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    assert images.exists() and masks.exists()  # noqa: PT018
    paths = [tmp_path / name for name in arguments[:2]]
    result = run("export", *paths, *arguments[2:])
    assert result.exit_code == 2
    assert cause in result.output


@pytest.mark.parametrize(("name", "package"), [("roi", "roifile"), ("parquet", "pyarrow")])
def test_what_an_export_needs_is_told(
    name: str, package: str, images: Path, masks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda wanted: None if wanted == package else 1)
    result = run("export", masks, images, "--export", name)
    assert result.exit_code == 2
    assert f"needs {package}: pip install 'reunet[{name}]'" in result.output


def test_images_beside_their_labels_are_no_labels(images: Path, masks: Path) -> None:
    for label in masks.iterdir():
        label.rename(images / label.name)
    pairs = find_pairs(images, images)
    assert {(pair.label.name, pair.image.name if pair.image else "") for pair in pairs} == {
        ("a_cp_masks.png", "a.b, c.png"),
        ("grey_masks.tif", "grey.tif"),
    }


def test_a_slide_is_measured_band_by_band(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same as in one piece, for an image that is read in strips."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 255, (700, 300, 3), np.uint8)
    labels = np.kron(np.arange(21, dtype=np.uint16).reshape(7, 3), np.ones((100, 100), np.uint16))
    tifffile.imwrite(tmp_path / "s.tif", pixels, rowsperstrip=32, photometric="rgb")
    tifffile.imwrite(tmp_path / "s_label.tiff", labels)
    monkeypatch.setattr("reunet.io.export.measure.BAND", 10_000)
    ((pair,),) = (find_pairs(tmp_path, tmp_path),)
    cells = segmented(pair).cells
    for n, cell in enumerate(cells.ids):
        assert cells.mean[n] == pytest.approx(pixels[labels == cell].mean(axis=0))
        assert cells.high[n].tolist() == pixels[labels == cell].max(axis=0).tolist()


def test_report_shows_truth_seconds_and_notes(images: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("--weights", bundle, "--no-tta", "--report")
    assert run("predict", images, out, *command).exit_code == 0
    result = run("report", out, "--gt", out)
    assert result.exit_code == 0, result.output
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "Agreement with the truth, mean of 2 images" in text
    assert "F1 1.00 at 0.5" in text
    assert "as its resolution tags say" in text
    assert "seconds an image" in text  # of report.json


def test_report_of_labels_without_images(masks: Path, tmp_path: Path) -> None:
    """Contours on black; what is known of the labels is shown all the same."""
    for file in masks.iterdir():
        name = file.name.replace("_cp_masks.png", "_label.tiff").replace(
            "_masks.tif", "_label.tiff"
        )
        tifffile.imwrite(tmp_path / name, read_label(file))
    result = run("report", tmp_path, "--gt", tmp_path)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count('<td class="number" data-value="1.0">1.000</td>') == 2 * 3
    assert ">Mean intensity<" not in text


def test_evaluate_over_a_range_and_with_pictures(tmp_path: Path) -> None:
    samples = SAMPLES
    seg, table = tmp_path / "seg", tmp_path / "range.csv"
    seg.mkdir()
    for file in (samples / "labels").iterdir():
        labels = read_label(file)
        tifffile.imwrite(seg / file.name, np.where(labels % 3 > 0, labels, 0))
    official = run("evaluate", "--gt", samples / "labels", "--seg", seg).output
    result = run(
        *("evaluate", "--gt", samples / "labels", "--seg", seg, "--iou", "0.5:0.9:0.4"),
        *("--iou-csv", table, "--overlays", tmp_path / "o", "--images", samples / "images"),
    )
    assert result.exit_code == 0, result.output
    assert result.output.startswith(official)  # the official figures stay as they are
    rows = rows_of(table)
    assert len(rows) == 4 * 2 + (3 + 1) * 2
    for row in rows:
        assert row["iou"] in ("0.5", "0.9")
        assert float(row["precision"]) == 1
        assert float(row["recall"]) < 1
    assert len(list((tmp_path / "o").glob("*_evaluation.png"))) == 4


def test_a_picture_of_an_evaluation_that_fails_is_told(tmp_path: Path) -> None:
    labels = np.zeros((30, 30), np.uint16)
    labels[5:15, 5:15] = 1
    for name in ("gt", "seg", "images"):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "a_label.tiff", labels)
    tifffile.imwrite(tmp_path / "seg" / "b_label.tiff", labels)  # without a truth
    tifffile.imwrite(tmp_path / "images" / "a.tif", labels[:20])
    result = run(
        *("evaluate", "--gt", tmp_path / "gt", "--seg", tmp_path / "seg"),
        *("--overlays", tmp_path / "o", "--images", tmp_path / "images"),
    )
    assert result.exit_code == 1
    picture, score = (line for line in result.output.splitlines() if line.startswith("error: "))
    assert "a_label.tiff: is 30 × 30 px, the image 20 × 30 px" in picture
    assert "b_label.tiff: no ground truth" in score


def test_an_output_that_cannot_be_written_costs_no_label(
    images: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.segmented

    def failing(*arguments: object) -> object:
        if "grey" in str(arguments[0]):
            raise MemoryError
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "segmented", failing)
    out = tmp_path / "out"
    options = ("--weights", bundle, "--no-tta", "--table", "--report")
    result = run("predict", images, out, *options)
    assert result.exit_code == 1
    _, entry = json.loads((out / "report.json").read_text())["images"]
    assert (entry["status"], len(entry["unwritten"])) == ("done", 1)
    (line,) = (line for line in result.output.splitlines() if line.startswith("error: "))
    assert "grey_label.tiff" in line
    assert read_label(out / "grey_label.tiff").max() > 0
    assert len(rows_of(out / "images.csv")) == 1
