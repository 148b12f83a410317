"""The run report: complete, true, and valid at any moment."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from conftest import save_tiny_bundle
from reunet import cli
from reunet.errors import ImageError
from reunet.io.images import read_label
from reunet.model import load_model
from reunet.run import report
from reunet.run.batch import Outcome
from reunet.run.report import reporting
from reunet.run.resume import model_hash

STEPS = {"reading", "network", "decoding", "writing"}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Grey, five channels, and one that is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (50, 60), np.uint8)).save(folder / "grey.png")
    import tifffile

    channels = rng.integers(0, 256, (5, 50, 60), np.uint8)
    tifffile.imwrite(folder / "many.tif", channels, metadata={"axes": "CYX"}, ome=True)
    (folder / "none.png").write_text("none")
    return folder


def predict(*arguments: str | Path, **environment: str) -> Result:
    names = ["predict", *map(str, arguments), "--no-tta"]
    return CliRunner().invoke(cli.main, names, env=environment)


def read(path: Path) -> dict[str, Any]:
    contents: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return contents


def test_what_a_report_says(images: Path, bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    started = time.monotonic()
    result = predict(images, output, "--weights", bundle, "--average", "--report")
    assert result.exit_code == 1
    wall = time.monotonic() - started
    found = read(output / "report.json")
    grey, many, none = found["images"]
    assert [entry["status"] for entry in found["images"]] == ["done", "done", "failed"]
    for entry, name in ((grey, "grey.png"), (many, "many.tif")):
        assert entry["image"] == name
        assert entry["cells"] == read_label(output / entry["label"]).max() > 0
        assert entry["error"] is None
        assert set(entry["seconds"]) == STEPS
        assert all(0 <= seconds <= wall for seconds in entry["seconds"].values())
    assert grey["notes"] == []
    assert many["notes"] == ["5 channels, the first 3 are used"]
    assert (none["label"], none["cells"]) == (None, 0)
    assert f"error: {none['error']}\n" in result.stderr
    assert found["summary"] == {
        "images": 3,
        "done": 2,
        "kept": 0,
        "failed": 1,
        "waiting": 0,
        "cells": grey["cells"] + many["cells"],
    }
    assert found["state"] == "finished"
    assert found["model"]["hash"] == model_hash(load_model(bundle, "cpu"))
    assert found["model"]["sha256"] == read(bundle / "card.json")["sha256"]

    options = "--weights", bundle, "--average", "--report", "--resume"
    result = predict(images, output, *options)
    again = read(output / "report.json")
    assert [entry["status"] for entry in again["images"]] == ["kept", "kept", "failed"]
    assert again["summary"]["cells"] == found["summary"]["cells"]
    assert "(2 kept)" in result.stdout


def test_a_report_has_to_be_asked_for(images: Path, bundle: Path, tmp_path: Path) -> None:
    for value, expected in (("", False), ("0", False), ("1", True)):
        output = tmp_path / f"out{value}"
        predict(images / "grey.png", output, "--weights", bundle, REUNET_REPORT=value)
        assert (output / "report.json").exists() == expected


def test_other_weights_have_another_hash(tmp_path: Path) -> None:
    folders = [save_tiny_bundle(tmp_path / folds, tuple(folds)) for folds in ("0", "01")]
    one, two = (model_hash(load_model(folder, "cpu")) for folder in folders)
    assert one != two


def test_warnings_are_one_line_each_and_recorded(
    images: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such\ninstruction")

    monkeypatch.setattr("reunet.network.openvino_backend.build_network", fail)
    output = tmp_path / "out"
    result = predict(images / "grey.png", output, "--weights", bundle, "--report")
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: OpenVINO")
    assert "(no such instruction)" in line
    assert read(output / "report.json")["warnings"] == [line.removeprefix("warning: ")]


def outcomes(count: int) -> Iterator[Outcome]:
    for number in range(count):
        yield Outcome(Path(f"{number}.png"), Path(f"{number}_label.tiff"), cells=1)


@pytest.fixture
def always_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is written for every image, however little time has gone by."""
    monkeypatch.setattr(report, "EVERY", 0.0)
    monkeypatch.setattr(report, "SHARE", 0.0)


@pytest.mark.usefixtures("always_written")
def test_a_killed_run_leaves_a_valid_report(tmp_path: Path) -> None:
    """Whatever moment is the last, the report on disk is whole and as new as was promised."""
    path = tmp_path / "report.json"
    for done, _ in enumerate(reporting(outcomes(5), path, 5, {}), 1):
        found = read(path)
        assert found["state"] == "running"
        assert (found["summary"]["done"], found["summary"]["waiting"]) == (done, 5 - done)
    assert read(path)["state"] == "finished"
    assert [*tmp_path.iterdir()] == [path]


def test_it_is_not_written_for_every_image(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    versions = {path.stat().st_mtime_ns for _ in reporting(outcomes(1000), path, 1000, {})}
    assert len(versions) < 20


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    run = reporting(outcomes(5), path, 5, {})
    next(run)
    run.close()
    found = read(path)
    assert (found["state"], found["summary"]["waiting"]) == ("interrupted", 4)


@pytest.mark.usefixtures("always_written")
def test_a_report_that_cannot_be_written_costs_no_image(tmp_path: Path) -> None:
    """The images go on; the last version has to succeed, or an error says that it did not."""
    folder = tmp_path / "out"
    folder.mkdir()
    done = []

    def run(comes_back: bool) -> None:
        for outcome in reporting(outcomes(4), folder / "report.json", 4, {}):
            done.append(outcome)
            if len(done) % 4 == 1:
                (folder / "report.json").unlink()
                folder.rmdir()
            if len(done) % 4 == 3 and comes_back:
                folder.mkdir()

    run(comes_back=True)
    assert read(folder / "report.json")["summary"]["done"] == 4
    with pytest.raises(ImageError, match=r"report\.json: no such file or directory"):
        run(comes_back=False)
    assert len(done) == 8


def test_nothing_starts_where_the_report_cannot_be_written(
    images: Path, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / "report.json").mkdir(parents=True)
    result = predict(images / "grey.png", tmp_path / "out", "--weights", bundle, "--report")
    assert result.exit_code == 2
    assert "report.json: is a directory" in result.stderr
    assert len([*(tmp_path / "out").iterdir()]) == 1
