"""`reunet train`: what it reads, says and refuses; and, slow, all of it on a handful of crops."""

import csv
import json
import os
import pickle
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner
from PIL import Image

from conftest import REUNET
from processes import TOGETHER, hear_and_die
from reunet.cli import main
from reunet.errors import ImageError
from reunet.network.architecture import Architecture
from reunet.network.bundle import open_bundle, save_bundle
from reunet.network.unet import SizeUNet, build
from reunet.training import lab
from reunet.training.data.labels import read_instances
from reunet.training.data.survey import survey
from reunet.training.fit.size import Sample
from reunet.training.presets import PRESETS
from reunet.training.release.held_out import Comparison, Scores
from reunet.training.talk import INTERRUPTED, Ticker, into_file

TINY = PRESETS["tiny"].architecture
ABOUT = {"encoding": "paper", "decoder": "regrow", "tile": 256, "smallest": 128}


def cells(seed: int) -> np.ndarray:
    """Discs of 20 px, (90, 110) int32."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:90, :110]
    found = np.zeros((90, 110), np.int32)
    for n in range(1, 7):
        centre = rng.uniform(12, 78), rng.uniform(12, 98)
        found[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 10**2] = n
    return found


def picture(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).normal(60, 10, (90, 110))
    return Image.fromarray((noise + 120 * (cells(seed) > 0)).clip(0, 255).astype(np.uint8))


@pytest.fixture
def data(tmp_path: Path) -> tuple[Path, Path]:
    """Five images and their labels, as the challenge names them."""
    folders = tmp_path / "data" / "images", tmp_path / "data" / "labels"
    for folder in folders:
        folder.mkdir(parents=True)
    for n in range(5):
        picture(n).save(folders[0] / f"image{n}.png")
        tifffile.imwrite(folders[1] / f"image{n}_label.tiff", cells(n))
    return folders


def save_tiny(folder: Path, arch: Architecture) -> Path:
    """Weights drawn at random, with a size network."""
    torch.manual_seed(0)
    size = SizeUNet(arch).state_dict()
    about = {**ABOUT, "training_data": [{"source": "s", "modality": "bf", "licence": "MIT"}],
             "stages": [{"name": "baseline"}], "size_network": {"iterations": 7}}  # fmt: skip
    save_bundle(folder, arch, {"0": build(arch).state_dict()}, about, size=size)
    return folder


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Path:
    """Weights of the preset for tests."""
    return save_tiny(tmp_path / "tiny", TINY)


def run(*arguments: object) -> tuple[int, list[str]]:
    result = CliRunner().invoke(main, ["train", *map(str, arguments)])
    return result.exit_code, result.output.strip().split("\n")


# -- what is read


def test_cellposes_layouts_are_read(tmp_path: Path) -> None:
    """Masks beside their images, as `_masks` files or as what its window saves."""
    for n in range(4):
        picture(n).save(tmp_path / f"a{n}.png")
    for n in range(2):
        tifffile.imwrite(tmp_path / f"a{n}_masks.tif", cells(n).astype(np.uint16))
    seg = {
        "masks": cells(2).astype(np.uint16),
        "flows": [np.zeros((2, 3), np.float32)],
        "filename": "a2.png",
        "diameter": np.float64(20),
        "ismanual": np.zeros(6, bool),
    }
    np.save(tmp_path / "a2_seg.npy", seg)  # type: ignore[arg-type]
    found = survey(tmp_path, tmp_path)
    assert [pair.case for pair in found.pairs] == ["a0", "a1", "a2"]
    for n, pair in enumerate(found.pairs):
        np.testing.assert_array_equal(read_instances(pair.label), cells(n))
    assert found.unlabelled == 1


def test_stardists_layout_is_read(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for n in range(3):
        picture(n).convert("L").save(tmp_path / "images" / f"{n}.tif")
        tifffile.imwrite(tmp_path / "masks" / f"{n}.tif", cells(n).astype(np.uint16))
    for folders in ((tmp_path, tmp_path), (tmp_path / "images", tmp_path / "masks")):
        found = survey(*folders)
        assert [pair.label.parent.name for pair in found.pairs] == ["masks"] * 3
        assert found.pairs[0].diameter == pytest.approx(20, abs=1)


class Touch:
    """What a pickle can do: it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_masks_of_cellpose_run_no_code(tmp_path: Path) -> None:
    path, touched = tmp_path / "a_seg.npy", tmp_path / "touched"
    np.save(path, {"masks": Touch(touched)})  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"a_seg.npy: no masks of Cellpose"):
        read_instances(path)
    assert not touched.exists()
    np.load(path, allow_pickle=True)  # so the file was dangerous
    assert touched.exists()
    for bad in (b"", path.read_bytes()[:60], pickle.dumps({"masks": 1})):
        path.write_bytes(bad)
        with pytest.raises(ImageError, match=r"a_seg\.npy"):
            read_instances(path)
    np.save(path, {"masks": np.zeros((3, 4, 5), np.uint16)})  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=r"shape \(3, 4, 5\)"):
        read_instances(path)


# -- what is said


def test_a_dry_run_tells_the_plan_and_writes_nothing(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    tifffile.imwrite(data[1] / "image3_label.tiff", np.zeros((90, 110), np.int32))
    tifffile.imwrite(data[1] / "image4_label.tiff", cells(4)[1:])
    picture(9).save(data[0] / "image9.png")
    before = sorted(tmp_path.rglob("*"))
    code, lines = run(*data, tmp_path / "out", "--dry-run", "--hours", "2")
    assert code == 0
    assert sorted(tmp_path.rglob("*")) == before
    assert "image3_label.tiff: holds no cell" in lines[0]
    assert "image4_label.tiff: label is (89, 110), image is (90, 110)" in lines[1]
    assert lines[2].startswith("found 3 images with labels, 18 cells")
    assert "1 without a label" in lines[2]
    assert "2 to learn from, cells brought to 30 px; about 1 held out" in lines[3]
    assert "train for 2.0 h on cpu" in lines[4]
    assert len(lines) == 5


def test_the_ticker_tells_rate_loss_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    ticker = Ticker()
    shown: list[str] = []
    monkeypatch.setattr(ticker, "show", shown.append)
    for step in range(1, 81):  # half a second each, 200 of them in all
        now += 0.5
        ticker.tick(step / 200, 1.0 if step <= 60 else 0.25)
    assert len(shown) == 1
    assert shown[0] == "30%, 60 iterations, 2.00 a second, loss 1.000, about 71 s left"


def test_what_nnunet_prints_goes_to_a_file(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    with into_file(tmp_path / "folder" / "log"):
        print("banner")
        subprocess.run(["sh", "-c", "echo plan; echo warning >&2"], check=True)
    print("after")
    assert capfd.readouterr() == ("after\n", "")
    assert sorted((tmp_path / "folder" / "log").read_text().split()) == [
        "banner", "plan", "warning",
    ]  # fmt: skip


def test_worse_weights_and_misjudged_sizes_are_warned_of() -> None:
    def lines(before: float, after: float, estimated: float) -> str:
        return " | ".join(Comparison((Scores("a", 5, 20, estimated, before, after),) * 3).lines())

    assert lines(0.3, 0.5, 22) == "F1 on 3 held-out images: 0.300 before, 0.500 after"
    assert "worse than before" in lines(0.5, 0.3, 22)
    assert "--diameter 20" in lines(0.3, 0.5, 50)
    assert "--diameter 20" in lines(0.3, 0.5, 10)
    assert lines(-1.0, 0.5, 0) == "F1 on 3 held-out images: 0.500"


# -- what is refused


def test_bad_input_is_one_line(
    data: tuple[Path, Path], tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, empty = tmp_path / "out", tmp_path / "empty"
    empty.mkdir()
    single = tmp_path / "single"
    single.mkdir()
    shutil.copy(data[0] / "image0.png", single)
    other = replace(TINY, features=(4, 8, 16))
    save_bundle(tmp_path / "other", other, {"0": build(other).state_dict()}, ABOUT)
    card = json.loads((tiny_bundle / "card.json").read_text())
    card["architecture"]["classes"] = 4
    shutil.copytree(tiny_bundle, tmp_path / "classes")
    (tmp_path / "classes" / "card.json").write_text(json.dumps(card))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for arguments, words in {
        (tmp_path / "no", data[1], out): "no: no such folder",
        (data[0], empty, out): "no image with a label in",
        (single, data[1], out): "label a second one",
        (*data, out, "--start", tmp_path / "other"): "other: weights of another architecture",
        (*data, out, "--start", tmp_path / "classes"): "another number of channels or classes",
        (*data, out, "--start", empty): "card.json",
        (*data, data[0]): "holds other files",
        (*data, data[0] / "image0.png"): "image0.png: is a file: name a folder",
        (*data, out, "--device", "cuda"): "PyTorch finds 0 of them here",
    }.items():
        code, lines = run(*arguments)
        assert code == 2
        assert len(lines) - ("found" in lines[0]) * 3 == 1, lines
        assert words in lines[-1]
    assert not out.exists()
    code, lines = run(*data, data[0] / "image0.png" / "out")
    assert code == 1
    assert lines[-1].endswith("not a directory: look to space and rights there")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    code, lines = run(*data, out)
    assert code == 2
    assert "pip install 'reunet[train]'" in lines[0]


def test_a_folder_is_for_one_training(
    data: tuple[Path, Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    asked = lab.Lab(*data, tmp_path / "out", start=str(tiny_bundle))
    found, start = survey(*data), lab.choose_start(asked.start)
    lab.begin(asked, found, start)
    lab.begin(asked, found, start)  # goes on
    with pytest.raises(ValueError, match="out: was begun with other start"):
        lab.begin(asked, found, lab.choose_start(lab.SHIPPED))


def test_weights_without_a_field_may_be_trained_on(tmp_path: Path) -> None:
    compact = PRESETS["compact"].architecture
    flat = replace(compact, field=False)
    save_bundle(tmp_path / "flat", flat, {"0": build(flat).state_dict()}, ABOUT)
    start = lab.choose_start(str(tmp_path / "flat"))
    assert start.preset == "compact"
    assert start.size_of.has_size  # that of the shipped weights


# -- the whole command


@pytest.mark.slow
def test_the_command_goes_on_where_it_was_interrupted(
    data: tuple[Path, Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    """Ctrl-C after the first epoch is one line; then it ends, and once more does nothing."""
    out = tmp_path / "out"
    command = [REUNET, "train", *data, out, "--start", tiny_bundle, "--hours", "0.3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "nnUNet_compile": "f"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        command,
        env=environment,
        start_new_session=True,
        preexec_fn=hear_and_die,
        **pipes,
    ) as running:
        assert running.stdout
        assert running.stderr
        said = []
        while not (said and said[-1].startswith("epoch 0")):
            said.append(running.stdout.readline())
            assert said[-1], [*said, running.stderr.read()]
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does: its children, too
        errors = running.stderr.read()
        running.wait()
    assert (errors, running.returncode) == (f"{INTERRUPTED}\n", 130)
    assert len(said) < 20
    assert not any("nnU-Net:" in line or "plans" in line for line in said)
    command[-1] = "0.001"  # over already
    result = subprocess.run(command, env=environment, **pipes, **TOGETHER)
    assert (result.returncode, result.stderr) == (0, "")
    assert "goes on at epoch 1" in result.stdout
    bundle = open_bundle(out)
    assert bundle.has_size is False  # the preset for tests has no size of cells
    assert [stage["name"] for stage in bundle.about["stages"]] == ["baseline", "weightmap"]
    assert bundle.about["stages"][1]["started_from"] == "the bundle's tiny/fold_0.safetensors"
    assert "--start tiny/fold_0.safetensors" in bundle.about["training_command"][-1]
    assert [s["source"] for s in bundle.about["training_data"]] == ["s", "images"]
    assert bundle.about["use"].startswith("free")
    with (out / "evaluation.csv").open() as file:
        judged = [row["image"] for row in csv.DictReader(file)]
    folds = json.loads(next(out.rglob("splits_final.json")).read_text())
    assert sorted(judged) == sorted(f"{case}.png" for case in folds[0]["val"])
    weights = [*out.rglob("*.pth"), *out.rglob("*.safetensors")]
    times = {path: path.stat().st_mtime_ns for path in weights}
    again = subprocess.run(command, env=environment, **pipes, **TOGETHER)
    assert again.returncode == 0
    assert "F1 on 1 held-out image: " in again.stdout
    assert f"{out}: is trained already; to train on, name another folder" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.slow
def test_the_size_of_cells_is_learnt_too(
    data: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images whose meta.csv keeps them out are those that are judged; all others are learnt."""
    deep = replace(TINY, features=(4, 8, 8, 16, 16, 16))  # a size network needs as many stages
    small = save_tiny(tmp_path / "small", deep)
    learnt: list[str] = []
    monkeypatch.setattr(
        "reunet.training.fit.size.Sample",
        lambda path, *about: learnt.append(path.name) or Sample(path, *about),
    )
    monkeypatch.setitem(PRESETS, "tiny", replace(PRESETS["tiny"], architecture=deep, diameter=30.0))
    monkeypatch.setenv("nnUNet_compile", "f")
    rows = ["name,split", *(f"image{n},{'val' if n == 4 else 'train'}" for n in range(5))]
    (data[0].parent / "meta.csv").write_text("\n".join(rows))
    out = tmp_path / "out"
    result = lab.train_lab(lab.Lab(*data, out, str(small), 0.004))
    assert result
    assert [scores.image for scores in result.images] == ["image4.png"]
    bundle, start = open_bundle(out), open_bundle(small)
    assert bundle.has_size
    assert bundle.folds == ("all",)
    assert sorted(learnt) == [f"image{n}.png" for n in range(4)]
    name = "size.safetensors"
    assert bundle.about["sha256"][name] != start.about["sha256"][name]
    about = bundle.about["size_network"]
    assert about["started_from"] == "small/size.safetensors"
    assert about["iterations"] > 0
    assert about["hours"] == pytest.approx(0.004 / 6, abs=0.005)
    assert (out / "predictions.html").read_text(encoding="utf-8").count("learnt from") == 1
    assert bundle.diameter == 30
    hours = bundle.about["stages"][-1]["hours"]
    assert hours == pytest.approx(0.004, abs=0.006)  # an epoch alone takes longer


def test_minutes_are_spent_at_a_lower_rate() -> None:
    rates = [lab.rate_of(hours) for hours in (0.01, 0.1, 0.2, 0.25, 0.5, 24)]
    assert rates == sorted(rates)
    assert 0 < rates[0] < 0.1
    assert rates[-3:] == [1, 1, 1]
