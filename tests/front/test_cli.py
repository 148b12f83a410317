"""The command as its users meet it: in a process of its own, with its exit codes."""

import dataclasses
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from PIL import Image

import reunet
from conftest import REUNET, ROOT, SAMPLES
from reunet import cli, pipeline
from reunet import model as models
from reunet.io.images import read_label
from reunet.options import Options

YEAST = "baby_yeast_bf__prime95b_testC_tp3"


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([REUNET, *map(str, arguments)], capture_output=True, text=True)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two good images and one of every kind that cannot be read."""
    folder = tmp_path / "images"
    folder.mkdir()
    small = Image.open(SAMPLES / "images" / "dsb2018__00ae65c1c6631ae6.png").crop((0, 0, 70, 50))
    small.save(folder / "good.one.png")
    small.convert("L").save(folder / "grey.tif")
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("no image")
    content = (SAMPLES / "images" / "usiigaci__set26.png").read_bytes()
    (folder / "truncated.png").write_bytes(content[: len(content) // 2])
    (folder / "notes.txt").write_text("not looked at")
    return folder


def test_a_folder_with_bad_files(images: Path, bundle: Path, tmp_path: Path) -> None:
    result = run("predict", images, tmp_path / "out", "--weights", bundle)
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert [Path(line.split(": ")[1]).name for line in errors] == [
        "empty.png",
        "text.jpg",
        "truncated.png",
    ]
    assert "3 of 5 images failed" in result.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "good_label.tiff",
        "grey_label.tiff",
    ]
    labels = tifffile.imread(tmp_path / "out" / "good_label.tiff")
    assert labels.shape == (50, 70)
    assert labels.dtype == np.uint16


def test_one_file_quietly(images: Path, bundle: Path, tmp_path: Path) -> None:
    result = run("predict", images / "grey.tif", tmp_path / "out", "--weights", bundle, "--no-tta")
    assert result.returncode == 0
    assert result.stderr == ""
    assert (tmp_path / "out" / "grey_label.tiff").exists()


@pytest.mark.parametrize(("option", "passes"), [("--skip-empty", 0), ("--all-tiles", 1)])
def test_empty_tiles_are_predicted_if_asked(
    option: str, passes: int, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (60, 40), 255).save(tmp_path / "glass.png")
    model, seen = models.load_model(bundle, "cpu"), []

    def network(tiles: np.ndarray) -> np.ndarray:
        seen.append(tiles)
        return model.networks[0](tiles)

    monkeypatch.setattr(models, "load_model", lambda *_: replace(model, networks=(network,)))
    arguments = ["predict", str(tmp_path / "glass.png"), str(tmp_path / "out"), "--no-tta", option]
    assert CliRunner().invoke(cli.main, arguments).exit_code == 0
    assert len(seen) == passes
    origin = tifffile.TiffFile(tmp_path / "out" / "glass_label.tiff").shaped_metadata[0]["origin"]
    assert ("all tiles" in origin) == bool(passes)  # --resume takes them for different labels


@pytest.mark.parametrize(("option", "again"), [("--enlarge", True), ("--one-scale", False)])
def test_a_second_look_can_be_left_out(
    option: str,
    again: bool,
    images: Path,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = []

    def classify_enlarged(image: np.ndarray, *_: object) -> np.ndarray:
        looks.append(image.shape)
        return np.zeros(image.shape[:2], np.uint8)

    monkeypatch.setattr(pipeline, "are_small", lambda _: True)
    monkeypatch.setattr(pipeline, "classify_enlarged", classify_enlarged)
    source, output = images / "grey.tif", tmp_path / "out"
    arguments = ["predict", str(source), str(output), "--weights", str(bundle), "--no-tta", option]
    assert CliRunner().invoke(cli.main, arguments).exit_code == 0
    assert bool(looks) == again
    origin = tifffile.TiffFile(output / "grey_label.tiff").shaped_metadata[0]["origin"]
    assert ("one scale" in origin) != again


@pytest.mark.parametrize(("option", "maps"), [("--vote", 2), ("--average", 1)])
def test_folds_vote_unless_they_are_averaged(
    option: str,
    maps: int,
    images: Path,
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    candidates, find = [], pipeline.find_cells

    def spy(seen: pipeline.Seen, *about: Any) -> tuple[np.ndarray, np.ndarray | None]:
        candidates.append(len(seen.maps.classes))
        return find(seen, *about)

    monkeypatch.setattr("reunet.run.batch.find_cells", spy)
    source, output = images / "grey.tif", tmp_path / "out"
    arguments = ["predict", str(source), str(output), "--weights", str(bundle), "--no-tta", option]
    assert CliRunner().invoke(cli.main, arguments).exit_code == 0
    assert candidates == [maps]
    origin = tifffile.TiffFile(output / "grey_label.tiff").shaped_metadata[0]["origin"]
    assert ("averaged" in origin) == (maps == 1)  # --resume takes them for different labels


def test_labels_of_one_name_do_not_overwrite_each_other(
    images: Path, bundle: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "same"
    folder.mkdir()
    for name in ("a.png", "a.x.png", "a.bmp"):
        shutil.copy(images / "good.one.png", folder / name)
    result = run("predict", folder, tmp_path / "out", "--weights", bundle)
    assert result.returncode == 1
    assert "a.png: its label would overwrite that of a.bmp" in result.stderr
    assert "a.x.png: other images are called a up to the first dot too" in result.stderr
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"a_label.tiff", "a.x_label.tiff"}


def test_nothing_is_written_where_nothing_can_start(
    images: Path, bundle: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").touch()
    out, good = tmp_path / "out", ("--weights", bundle)
    cases = {
        "no such file or folder": (tmp_path / "nowhere", out, *good),
        "holds no images": (empty, out, *good),
        "lies inside the input folder": (images, images / "labels", *good),
        "is a file": (images, images / "notes.txt", *good),
        "is no image": (images / "notes.txt", out, *good),
        "card.json": (images, out, "--weights", tmp_path),
        "has no fold 9": (images, out, *good, "--folds", "9"),
    }
    before = sorted(tmp_path.rglob("*"))
    for message, arguments in cases.items():
        result = run("predict", *arguments)
        assert result.returncode == 2, message
        assert message in result.stderr
        assert "Traceback" not in result.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_evaluate_prints_the_metric_and_writes_the_table(tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    labels = SAMPLES / "labels"
    result = run("evaluate", "--gt", labels, "--seg", labels, "--csv", table)
    assert result.returncode == 0, result.stderr
    assert "mean of modalities" in result.stdout
    assert all(line.endswith(",1.0") for line in table.read_text().splitlines()[1:])
    assert run("evaluate", "--gt", tmp_path / "no", "--seg", labels).returncode == 2


def test_every_option_is_a_flag_and_the_other_way_round() -> None:
    """What Python calls `Options` are the flags of the command that decide what labels show."""
    of_the_run = {"sources", "output", "weights", "device", "folds", "resume", "report"}
    of_the_run |= {"precision", "recursive", "scheduler", "workers"}
    of_outputs = {"overlays", "table", "html", "formats", "quiet", "verbose", "log_json"}
    flags = {parameter.name for parameter in cli.predict.params}
    python_alone = {"step"}
    fields = {field.name for field in dataclasses.fields(Options)}
    assert fields - python_alone == flags - of_the_run - of_outputs
    given = cli.predict.make_context("predict", ["in", "out"]).params
    for name in fields - python_alone:
        assert given[name] == getattr(Options(), name), name


def test_version() -> None:
    assert reunet.__version__ in run("--version").stdout


def test_predict_sh_segments_the_samples_well(tmp_path: Path) -> None:
    """The shipped weights, through the door that everyone uses."""
    script = ROOT / "predict.sh"
    path = f"{REUNET.parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["sh", script, SAMPLES / "images", tmp_path / "out"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    for image in (SAMPLES / "images").iterdir():
        assert (tmp_path / "out" / f"{image.stem}_label.tiff").exists()
    table = tmp_path / "scores.csv"
    run("evaluate", "--gt", SAMPLES / "labels", "--seg", tmp_path / "out", "--csv", table)
    scores = [float(line.split(",")[-1]) for line in table.read_text().splitlines()[1:]]
    assert np.mean(scores) > 0.5


def test_three_lines_of_python(bundle: Path) -> None:
    from reunet import load_model, segment

    model = load_model(bundle, device="cpu")
    path = SAMPLES / "images" / "baby_yeast_bf__prime95b_testC_tp3.png"
    labels = segment(path, model)
    pixels = np.asarray(Image.open(path))
    np.testing.assert_array_equal(labels, segment(pixels, model))
    assert labels.shape == pixels.shape
    assert read_label(SAMPLES / "labels" / f"{path.stem}_label.tiff").shape == labels.shape


def test_the_runtime_does_without_nnunet(bundle: Path) -> None:
    code = (
        "import sys; from reunet import load_model, segment; import numpy as np;"
        f"segment(np.zeros((40, 40), 'u1'), load_model({str(bundle)!r}));"
        "print([m for m in sys.modules if m.split('.')[0] in "
        "('nnunetv2', 'batchgenerators', 'matplotlib', 'skimage', 'pandas', 'pickle5')])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
