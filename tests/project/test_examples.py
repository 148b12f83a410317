"""Every script in examples/, run as its first lines say."""

import csv
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from conftest import PICTURES, REUNET, ROOT, SAMPLES
from reunet import load_model, segment
from reunet.metric import score_pair
from reunet.options import Options

EXAMPLES = ROOT / "examples"
QUICK = Options(tta=False)


def run(name: str, *arguments: str | Path, code: int = 0) -> str:
    program = "sh" if name.endswith(".sh") else sys.executable
    path = f"{REUNET.parent}{os.pathsep}{os.environ['PATH']}"
    command = [program, EXAMPLES / name, *map(str, arguments)]
    environment = {**os.environ, "PATH": path}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout


def test_every_example_is_run_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    names = [path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")]
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert names
    assert all(f'run("{name}"' in here.replace("\n        ", "") for name in names)
    assert all(name in listed for name in names)


def test_there_is_an_example_for_everyone() -> None:
    """One image, a folder, a slide, a cluster, training."""
    for name in ("one_image.py", "folder.py", "slide.py", "cluster/slurm_dask.sh", "train.sh"):
        assert (EXAMPLES / name).is_file(), name


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two images of nuclei and a file that is none."""
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.asarray(Image.open(PICTURES / "nuclei.png").convert("L"))[:100, :140]
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels[::-1]).save(folder / "c.png")
    return folder


def cells_in(image: Path) -> int:
    return int(segment(image, load_model(device="cpu"), QUICK).max())


@pytest.mark.filterwarnings("ignore::reunet.errors.ReUNetWarning")
def test_one_image(images: Path, tmp_path: Path) -> None:
    run("one_image.py", images / "a.png", tmp_path / "out")
    labels = tifffile.imread(tmp_path / "out/labels.tif")
    with (tmp_path / "out/cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == labels.max() > 0
    assert sum(int(row["area_px"]) for row in rows) == np.count_nonzero(labels)
    assert Image.open(tmp_path / "out/probability.png").size == labels.shape[::-1]


@pytest.mark.filterwarnings("ignore::reunet.errors.ReUNetWarning")
def test_a_folder(images: Path, tmp_path: Path) -> None:
    (images / "b.png").write_text("no image")
    told = run("folder.py", images, tmp_path / "labels", code=1)
    assert f"a.png: {cells_in(images / 'a.png')} cells" in told
    assert "b.png: not a PNG" in told
    assert (tmp_path / "labels/c_label.tiff").exists()


@pytest.mark.filterwarnings("ignore::reunet.errors.ReUNetWarning")
def test_a_slide(images: Path, tmp_path: Path) -> None:
    slide = tmp_path / "slide.tif"
    pixels = np.asarray(Image.open(images / "a.png"))
    um = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(slide, pixels, ome=True, metadata={"axes": "YX", **um})
    told = run("slide.py", slide, tmp_path / "label.tiff")
    cells = tifffile.imread(tmp_path / "label.tiff").max()
    assert f"{cells} cells in " in told
    assert f"{cells / (pixels.size * 0.25 / 1e6):.0f} cells a mm²" in told


@pytest.mark.filterwarnings("ignore::reunet.errors.ReUNetWarning")
def test_processes(images: Path, tmp_path: Path) -> None:
    told = run("processes.py", images, tmp_path / "labels", "2")
    assert set(told.split("\n")) >= {
        f"{name}: {cells_in(images / name)} cells" for name in ("a.png", "c.png")
    }


@pytest.mark.skipif(not find_spec("nnunetv2"), reason="nnU-Net is not installed")
@pytest.mark.filterwarnings("ignore::reunet.errors.ReUNetWarning")
def test_training(images: Path, tmp_path: Path) -> None:
    """Up to where it would begin: training itself is in tests/training/test_lab.py."""
    labels = tmp_path / "labels"
    labels.mkdir()
    for image in images.iterdir():
        found = segment(image, load_model(device="cpu"), QUICK)
        tifffile.imwrite(labels / f"{image.stem}_label.tiff", found)
    folders = images, labels, tmp_path / "weights", images, tmp_path / "found"
    told = run("train.sh", *folders, "--dry-run", "--hours", "1")
    assert "found 2 images with labels" in told
    assert not (tmp_path / "weights").exists()


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("nnunetv2"), reason="nnU-Net is not installed")
def test_training_on_a_real_sample(tmp_path: Path) -> None:
    """Eight crops of nuclei: the F1 of two held-out ones is told as it is; all are found as before.

    That minutes of training do no harm is asked of all eight: of the forty cells in the two, two
    that are found or lost are 0.05.
    """
    name = "bbbc039__IXMtest_D20_s9"
    pixels = np.asarray(Image.open(SAMPLES / f"images/{name}.png"))
    truth = tifffile.imread(SAMPLES / f"labels/{name}_label.tiff")
    folders = tmp_path / "images", tmp_path / "labels"
    for folder in folders:
        folder.mkdir()
    for n in range(8):
        crop = np.s_[n // 4 * 260 : n // 4 * 260 + 260, n % 4 * 174 : n % 4 * 174 + 174]
        Image.fromarray(pixels[crop]).save(folders[0] / f"crop{n}.png")
        tifffile.imwrite(folders[1] / f"crop{n}_label.tiff", truth[crop])
    weights, found = tmp_path / "weights", tmp_path / "found"
    told = run("train.sh", *folders, weights, folders[0], found, "--hours", "0.03")
    assert "F1 on 2 held-out images: " in told
    [log] = weights.rglob("training.csv")
    with log.open() as file:
        assert 0 < max(float(row["lr"]) for row in csv.DictReader(file)) < 1.1e-4  # of 1e-3
    before, after = {}, {}
    for path in sorted(folders[0].iterdir()):
        cells = tifffile.imread(folders[1] / f"{path.stem}_label.tiff")
        labels = tifffile.imread(found / f"{path.stem}_label.tiff")
        before[path.name] = score_pair(cells, segment(path, load_model(device="cpu"))).f1
        after[path.name] = score_pair(cells, labels).f1
        assert (found / f"{path.stem}_overlay.png").exists()
    assert np.mean([*before.values()]) > 0.7
    assert np.mean([*after.values()]) > np.mean([*before.values()]) - 0.03
    with (weights / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        assert float(row["before"]) == pytest.approx(before[row["image"]], abs=1e-4)
        assert float(row["after"]) == pytest.approx(after[row["image"]], abs=1e-4)


def command_of_the_module(**words: str) -> str:
    """What Nextflow's shell would run: the script block of the process, its variables filled in."""
    module = (EXAMPLES / "nextflow/main.nf").read_text(encoding="utf-8")
    script = module.partition('script:\n    """\n')[2].partition('"""')[0]
    for name, value in words.items():
        script = script.replace(f"${{{name.replace('_', '.')}}}", value)
    assert "${" not in script
    return script.replace("\\$", "$")


@pytest.mark.parametrize("broken", [False, True])
def test_the_command_of_the_nextflow_module(images: Path, tmp_path: Path, broken: bool) -> None:
    """As the engine, which cannot be had here, would: images linked into a folder of the task. An
    image that cannot be read costs the others nothing."""
    if broken:
        (images / "b.png").write_text("no image")
    task = tmp_path / "task"
    task.mkdir()
    for image in images.iterdir():
        (task / image.name).symlink_to(image)
    names = sorted(path.name for path in images.iterdir())
    command = command_of_the_module(task_cpus="1", images=" ".join(names))
    path = f"{REUNET.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    subprocess.run(["bash", "-ue", "-c", command], cwd=task, check=True, env=environment)
    assert sorted(p.name for p in task.glob("labels/*_label.tiff")) == [
        "a_label.tiff", "c_label.tiff"
    ]  # fmt: skip
    errors = (task / "errors.txt").read_text()
    assert ("b.png: not a PNG" in errors) == broken
    assert ("error" in errors) == broken
    nothing = command.replace(" labels ", " labels --no-such-option ")
    assert subprocess.run(["bash", "-ue", "-c", nothing], cwd=task, env=environment).returncode


@pytest.fixture(scope="module")
def snakemake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine, from its package registry, in an environment of its own."""
    folder = tmp_path_factory.mktemp("snakemake") / "env"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "snakemake==9.27.1"], check=True, timeout=600)
    return folder / "bin/snakemake"


@pytest.mark.slow
def test_snakemake(images: Path, tmp_path: Path, snakemake: Path) -> None:
    """Chunks of one image; once a broken one is repaired only that is made."""
    (images / "b.png").write_text("no image")
    labels = tmp_path / "labels"
    environment = {**os.environ, "PATH": f"{REUNET.parent}{os.pathsep}{os.environ['PATH']}"}
    command = [
        snakemake, "-s", EXAMPLES / "snakemake/Snakefile", "--cores", "2", "--keep-going",
        "--config", f"images={images}", f"labels={labels}", "chunk=1",
    ]  # fmt: skip
    how: dict[str, Any] = {
        "cwd": tmp_path,
        "env": environment,
        "capture_output": True,
        "text": True,
    }
    failed = subprocess.run(command, **how)
    assert failed.returncode == 1
    assert "b.png: not a PNG" in failed.stderr
    there = {path.name: path.stat().st_mtime_ns for path in labels.glob("*_label.tiff")}
    assert sorted(there) == ["a_label.tiff", "c_label.tiff"]
    shutil.copy(images / "a.png", images / "b.png")
    done = subprocess.run(command, **how)
    assert done.returncode == 0, done.stderr
    assert all((labels / name).stat().st_mtime_ns == time for name, time in there.items())
    assert (labels / "b_label.tiff").exists()


# -- SLURM, whose variables are set here, and whose `srun` is a shell that starts two processes


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job, with the commands of this environment on its path."""
    stubs = tmp_path / "bin"
    stubs.mkdir()
    for name, what in (
        ("srun", '"$@" & "$@" & wait'),
        ("dask", f'exec {sys.executable} -m dask "$@"'),
        ("reunet", f'exec {REUNET} "$@"'),
    ):
        (stubs / name).write_text(f"#!/bin/sh\n{what}\n")
        (stubs / name).chmod(0o755)
    path = f"{stubs}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "SLURM_CPUS_PER_TASK": "1", "SLURM_JOB_ID": "7"}


def labels_of(folder: Path) -> dict[str, bytes]:
    return {path.name: tifffile.imread(path).tobytes() for path in folder.glob("*_label.tiff")}


def test_a_slurm_array(images: Path, tmp_path: Path, slurm: dict[str, str]) -> None:
    """The shares of all tasks are the folder; a broken image is its task's exit code."""
    shutil.copy(images / "a.png", images / "a.old.PNG")
    (images / "b.png").write_text("no image")
    (images / "notes.txt").write_text("no image either")
    whole = tmp_path / "whole"
    subprocess.run([REUNET, "predict", images, whole, "--no-tta", "-q"], capture_output=True)
    tasks = {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "4"}
    codes, made = [], []
    for task in "1234":
        labels = tmp_path / f"labels {task}"
        command = ["sh", EXAMPLES / "cluster/slurm_array.sh", images, labels, "--no-tta"]
        environment = {**slurm, **tasks, "SLURM_ARRAY_TASK_ID": task}
        codes.append(subprocess.run(command, env=environment).returncode)
        made.append(labels_of(labels))
    assert codes == [0, 1, 0, 0]  # a.png and a.old.PNG, b.png, c.png, nothing
    assert [len(labels) for labels in made] == [2, 0, 1, 0]
    assert made[0] | made[2] == labels_of(whole)


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("distributed"), reason="Dask is not installed")
def test_dask_on_slurm(images: Path, tmp_path: Path, slurm: dict[str, str]) -> None:
    whole, labels = tmp_path / "whole", tmp_path / "labels"
    subprocess.run([REUNET, "predict", images, whole, "--no-tta", "-q"], capture_output=True)
    command = ["sh", EXAMPLES / "cluster/slurm_dask.sh", images, labels, "--no-tta", "--table"]
    result = subprocess.run(command, env=slurm, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert labels_of(labels) == labels_of(whole)
    assert (labels / "cells.csv").exists()
    assert not [*labels.glob(".scheduler*")]
