"""Outputs of sub-folders and of stacks: those of each folder, and of each plane, alone."""

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

from reunet import cli
from reunet.io.images import read_image, read_label

pytest.importorskip("roifile")
pytest.importorskip("pyarrow")
pytest.importorskip("zarr")

KINDS = ("--overlays", "--table", "--html", "--export", "geojson,roi,coco,parquet,zarr", "--report")
RNG = np.random.default_rng(7)
OWN = ("seconds", "image", "plane", "label")  # columns in which the same pixels may differ


def predict(images: Path, output: Path, bundle: Path, *options: str, code: int = 0) -> str:
    how = ["--weights", str(bundle), "--no-tta", "--average", *KINDS, *options]
    result = CliRunner().invoke(cli.main, ["predict", str(images), str(output), *how])
    assert result.exit_code == code, result.output
    return result.output


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def anonymous(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if k not in OWN} for row in rows]


def write_png(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 255, (50, 60, 3), np.uint8)).save(path)


def beside(folder: Path, stem: str) -> dict[str, bytes]:
    """What the files about one image alone hold, by what their names add to its own."""
    names = (".geojson", "_overlay.png", "_rois.zip", "_label.zarr/zarr.json")
    files = {name: (folder / f"{stem}{name}").read_bytes() for name in names if name != "_rois.zip"}
    with zipfile.ZipFile(folder / f"{stem}_rois.zip") as rois:
        return files | {name: rois.read(name) for name in rois.namelist()}


def test_sub_folders_are_mirrored_by_every_output(bundle: Path, tmp_path: Path) -> None:
    """Files on one image lie beside its label; those on all tell the folder with the name."""
    images = tmp_path / "images"
    folders = [Path(), Path("day 1"), Path("day 1/deep")]
    for folder in folders:
        write_png(images / folder / "a.png")
    (images / "day 1/b.png").write_text("no image")
    out = tmp_path / "out"
    said = predict(images, out, bundle, "--recursive", code=1)
    names = [(folder / "a.png").as_posix() for folder in folders]
    assert all(f"\n{name}: " in f"\n{said}" for name in names)
    assert "day 1/b.png: failed" in said
    cells, rows = rows_of(out / "cells.csv"), rows_of(out / "images.csv")
    assert [row["image"] for row in rows] == sorted(names)
    for folder, name in zip(folders, names, strict=True):
        alone = tmp_path / "alone" / folder.name
        predict(images / folder, alone, bundle, code=int(folder.name == "day 1"))
        assert beside(out / folder, "a") == beside(alone, "a")
        own = [row for row in cells if row["image"] == name]
        assert anonymous(own) == anonymous(rows_of(alone / "cells.csv"))
        (row,) = (row for row in rows if row["image"] == name)
        assert read_label(out / row["label"]).max() == int(row["cells"]) == len(own) > 0
        assert (
            f'href="{f"{folder.as_posix()}/".removeprefix("./")}a_overlay.png"'.replace(" ", "%20")
            in (out / "report.html").read_text()
        )
    told = json.loads((out / "report.json").read_text())["images"]
    assert sorted(entry["image"] for entry in told) == sorted([*names, "day 1/b.png"])
    coco = json.loads((out / "coco.json").read_text())
    assert sorted(image["file_name"] for image in coco["images"]) == sorted(names)
    assert len(coco["annotations"]) == len(cells)
    assert not [path for path in out.rglob(".*") if not path.is_relative_to(out / "a_label.zarr")]


def test_a_file_in_the_way_of_a_sub_folder_is_one_line(bundle: Path, tmp_path: Path) -> None:
    write_png(tmp_path / "images/day/a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/day").write_text("notes")
    said = predict(tmp_path / "images", tmp_path / "out", bundle, "--recursive", code=2)
    assert f"{tmp_path}/out/day: cannot be created: File exists" in said
    assert (tmp_path / "out/day").read_text() == "notes"


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    folder = tmp_path / "stacks"
    folder.mkdir()
    planes = RNG.integers(0, 255, (3, 50, 60), np.uint8)
    tifffile.imwrite(folder / "s.tif", planes, ome=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(folder / "single.tif", planes[0])
    return folder / "s.tif"


def test_every_plane_gets_every_output(stack: Path, bundle: Path, tmp_path: Path) -> None:
    """The same as for a picture of the plane alone; ImageJ shows its ROIs at their plane."""
    import roifile

    out = tmp_path / "out"
    predict(stack.parent, out, bundle, "--plane", "all")
    labels = tifffile.imread(out / "s_label.tiff")
    cells, rows = rows_of(out / "cells.csv"), rows_of(out / "images.csv")
    assert [(row["image"], row["plane"]) for row in rows] == [
        ("s.tif", "0"), ("s.tif", "1"), ("s.tif", "2"), ("single.tif", "")
    ]  # fmt: skip
    coco = json.loads((out / "coco.json").read_text())
    assert [image.get("plane") for image in coco["images"]] == [0, 1, 2, None]
    assert len(coco["annotations"]) == len(cells)
    page = (out / "report.html").read_text()
    for plane, pixels in enumerate(tifffile.imread(stack)):
        picture = tmp_path / f"plane{plane}" / "p.tif"
        picture.parent.mkdir()
        tifffile.imwrite(picture, pixels)
        alone = tmp_path / f"alone{plane}"
        predict(picture, alone, bundle)
        own = [row for row in cells if (row["image"], row["plane"]) == ("s.tif", str(plane))]
        assert anonymous(own) == anonymous(rows_of(alone / "cells.csv"))
        assert len(own) == labels[plane].max() > 0
        files, expected = beside(out, f"s_plane{plane}"), beside(alone, "p")
        for name in (".geojson", "_overlay.png"):
            assert files[name] == expected[name]
        for path in roifile.roiread(out / f"s_plane{plane}_rois.zip"):
            assert path.position == plane + 1
        assert f'href="s_plane{plane}_overlay.png"' in page
        assert f"s.tif, plane {plane}<" in page
    assert read_image(out / "single_label.zarr").pixels.max() == labels[0].max()


def test_export_of_labels_that_are_a_stack(stack: Path, bundle: Path, tmp_path: Path) -> None:
    """As the run itself writes them."""
    out, later = tmp_path / "out", tmp_path / "later"
    predict(stack.parent, out, bundle, "--plane", "all")
    command = ["export", str(out / "s_label.tiff"), str(stack), "-o", str(later), *KINDS[:-1]]
    result = CliRunner().invoke(cli.main, command)
    assert result.exit_code == 0, result.output
    run = [row for row in rows_of(out / "cells.csv") if row["image"] == "s.tif"]
    assert anonymous(rows_of(later / "cells.csv")) == anonymous(run)
    assert [row["plane"] for row in rows_of(later / "images.csv")] == ["0", "1", "2"]
    for plane in range(3):
        assert beside(later, f"s_plane{plane}") == beside(out, f"s_plane{plane}")
