"""Runs on a real scheduler with two worker processes: equal to those on one machine, to the bit."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, SAMPLE_IMAGES
from reunet.model import load_model
from reunet.options import Options
from reunet.run.batch import Outcome, segment_files

pytest.importorskip("distributed")
IMAGES = 12
ENV = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "3"}


def start(*command: object, env: dict[str, str] = ENV) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", *map(str, command)]
    return subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True, env=env,
        start_new_session=True,
    )  # fmt: skip


def end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def start_worker(address: str, env: dict[str, str] = ENV) -> subprocess.Popen[str]:
    return start(
        "distributed.cli.dask_worker", address, "--nthreads", 1, "--no-dashboard", "--no-nanny",
        env=env,
    )  # fmt: skip


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a scheduler without workers."""
    file = tmp_path_factory.mktemp("scheduler") / "scheduler.json"
    process = start(
        "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", 0,
        "--no-dashboard", "--scheduler-file", file,
    )  # fmt: skip
    import json

    deadline = time.monotonic() + 60
    while not file.exists() or not file.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    try:
        yield json.loads(file.read_text())["address"]
    finally:
        end(process)


@pytest.fixture
def workers(scheduler: str) -> Iterator[list[subprocess.Popen[str]]]:
    processes = [start_worker(scheduler) for _ in range(2)]
    try:
        yield processes
    finally:
        for process in processes:
            end(process)
        time.sleep(0.5)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(IMAGES // 4):
        for image in sorted(SAMPLE_IMAGES.iterdir())[:4]:
            shutil.copy(image, folder / f"{number}_{image.name}")
    (folder / "bad.png").write_bytes(b"no image")
    return folder


def predict(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "reunet", "predict", *map(str, arguments), "--no-tta"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)


@pytest.fixture(scope="module")
def alone(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    assert predict(images, folder, "--device", "cpu").returncode == 1  # bad.png
    return folder


def assert_same(found: Path, wanted: Path) -> None:
    names = sorted(path.name for path in wanted.iterdir())
    assert sorted(path.name for path in found.iterdir() if path.suffix == ".tiff") == names
    for name in names:
        assert (found / name).read_bytes() == (wanted / name).read_bytes(), name


@pytest.mark.usefixtures("workers")
def test_labels_report_and_exit_code_are_the_same(
    scheduler: str, images: Path, alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = predict(images, out, "--scheduler", scheduler, "--report", "--device", "cpu")
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "bad.png" in errors[0]
    assert (out / "report.json").exists()
    assert not list(out.glob(".*"))
    assert_same(out, alone)
    again = predict(images, out, "--scheduler", scheduler, "--resume", "--device", "cpu")
    assert f"({IMAGES} kept)" in again.stdout


@pytest.mark.slow
def test_a_worker_that_is_killed_is_made_up_for(
    scheduler: str,
    workers: list[subprocess.Popen[str]],
    images: Path,
    alone: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    arguments = [images, out, "--scheduler", scheduler, "--device", "cpu", "--no-tta"]
    run = subprocess.Popen(
        [sys.executable, "-m", "reunet", "predict", *map(str, arguments)],
        stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(list(out.glob("*_label.tiff"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    end(workers[0])
    done = len(list(out.glob("*_label.tiff")))
    _, told = run.communicate(timeout=300)
    assert 2 <= done < IMAGES  # it died in between
    assert run.returncode == 1
    assert told.count("error: ") == 1
    assert_same(out, alone)


def refused(result: subprocess.CompletedProcess[str], words: str) -> None:
    assert result.returncode == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr


@pytest.mark.slow
def test_a_scheduler_that_is_not_there(images: Path, tmp_path: Path) -> None:
    result = predict(images, tmp_path / "out", "--scheduler", "tcp://127.0.0.1:9")
    refused(result, "no Dask scheduler answers there")


def test_workers_with_other_weights_are_refused(
    scheduler: str, images: Path, tmp_path: Path
) -> None:
    """The client's bundle lies where the worker does not look: a folder that is gone by then."""
    from reunet.model import default_weights
    from reunet.run.workers import CannotDistribute, Weights, check_workers, cluster

    worker = start_worker(scheduler, {**ENV, "REUNET_WEIGHTS": str(tmp_path)})
    try:
        with cluster(scheduler, None) as client:
            image = [next(images.iterdir())]
            for folder, said in ((tmp_path, "has none"), (default_weights(), "and has ")):
                weights = Weights(folder, "0" * 16, ("all",), "cpu")
                with pytest.raises(CannotDistribute, match=said) as error:
                    check_workers(client, weights, image, tmp_path)
                assert "\n" not in str(error.value)
            with pytest.raises(CannotDistribute, match=r"does not see .*gone\.png"):
                check_workers(client, weights, [tmp_path / "gone.png"], tmp_path)
    finally:
        end(worker)


def test_what_a_worker_complains_of(images: Path, tmp_path: Path) -> None:
    import reunet
    from reunet.run.workers import Weights, complaint

    weights, image = Weights(tmp_path, "0", ("all",), "cpu"), next(images.iterdir())
    assert "install the same" in (complaint(weights, image, tmp_path, "0.0") or "")
    told = complaint(weights, image, tmp_path / "gone" / "token", reunet.__version__) or ""
    assert "folder of the labels" in told


def test_two_runs_on_one_folder(tmp_path: Path) -> None:
    from reunet.errors import ImageError
    from reunet.run.distributed import _held

    with (
        _held(tmp_path),
        pytest.raises(ImageError, match="another run writes there"),
        _held(tmp_path),
    ):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_cluster_of_our_own(images: Path, alone: Path, tmp_path: Path) -> None:
    result = predict(images, tmp_path / "out", "--workers", 2, "--device", "cpu")
    assert result.returncode == 1
    assert_same(tmp_path / "out", alone)


@pytest.mark.usefixtures("workers")
def test_an_array_in_blocks_is_the_whole_array(
    scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Odd blocks, channels first, here and on workers, held or in bands: the array's labels."""
    da = pytest.importorskip("dask.array")
    from reunet import load_model, segment
    from reunet.dask import segment_dask
    from reunet.io.images import read_image
    from reunet.run.workers import cluster

    one = read_image(sorted(SAMPLE_IMAGES.iterdir())[0]).pixels
    image = np.tile(one, (7, 7, 1))[:701, :650]
    model = load_model(device="cpu")
    wanted = segment(image, model, tta=False)
    assert wanted.max() > 20
    lazy = da.from_array(image.transpose(2, 0, 1), chunks=(3, (300, 97, 304), 333))
    here = segment_dask(lazy, model, axes="CYX", tta=False)
    assert here.chunks == ((300, 97, 304), (333, 317))
    assert np.array_equal(here.compute(), wanted)
    region = {"tta": False, "region": (200, 250, 300, 200)}
    wanted_there = segment(image, model, **region)
    monkeypatch.setattr("reunet.io.source.SLIDE_PIXELS", 1)
    with cluster(scheduler, None) as client:
        there = segment_dask(lazy, model, axes="CYX", client=client, tta=False)
        assert np.array_equal(there.compute(scheduler="synchronous"), wanted)
    with pytest.raises(ValueError, match="do not fit"):
        segment_dask(lazy, model, axes="ZYX")
    part = segment_dask(lazy, model, axes="CYX", **region)
    assert np.array_equal(part.compute(), wanted_there)


def test_an_array_of_dask_is_done_as_options_and_notes_say(bundle: Path) -> None:
    """Of two folds `fast` takes one, as `segment` does, and what is assumed is told."""
    da = pytest.importorskip("dask.array")
    from reunet import ReUNetWarning, load_model, segment
    from reunet.dask import segment_dask

    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, 5), dtype=np.uint8)
    model = load_model(bundle, "cpu")
    with pytest.warns(ReUNetWarning) as told:
        wanted = segment(pixels, model, quality="fast", min_area="4um2", pixel_size=0.5)
    lazy = da.from_array(pixels, chunks=(40, 40, 5))
    with pytest.warns(ReUNetWarning) as also:
        found = segment_dask(lazy, model, quality="fast", min_area="4um2", pixel_size=0.5)
    assert np.array_equal(found.compute(), wanted)
    assert {str(one.message) for one in also} == {str(one.message) for one in told}
    assert any("quality fast" in str(one.message) for one in told)


# --- one slide, whose tiles the workers share


@pytest.fixture
def slide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What counts as one here; workers never see the file."""
    import tifffile

    from reunet.io import source

    monkeypatch.setattr(source, "SLIDE_PIXELS", 500_000)
    one = np.asarray(Image.open(SAMPLE_IMAGES / "usiigaci__set26.png"))
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, np.tile(one, (2, 2))[:1200], tile=(256, 256), compression="zlib")
    return path


OPTIONS = Options(tta=False, diameter=30)  # tiles are cheap, and there are several rows of them


def share(
    scheduler: str, slide: Path, tell: Callable[[Path, int, int], None], resume: bool = False
) -> list[Outcome]:
    """What becomes of the slide on workers, and that each of those that live has done its part."""
    from reunet.run.distributed import segment_on_workers
    from reunet.run.workers import cluster, model_here

    output = slide.parent / "shared"
    output.mkdir(exist_ok=True)
    labels = {slide: output / "slide_label.tiff"}
    with cluster(scheduler, None) as client:
        client.wait_for_workers(2, timeout=60)
        model = load_model(device="cpu")
        outcomes = [
            *segment_on_workers(
                client, labels, output, model, OPTIONS, device="cpu", resume=resume, tell=tell
            )
        ]
        asked = client.run(lambda: model_here.cache_info().hits)  # once a tile
    assert min(asked.values()) > 1
    return outcomes


def the_same(slide: Path, outcome: Outcome) -> None:
    alone = slide.parent / "alone"
    alone.mkdir()
    [wanted] = segment_files([slide], alone, load_model(device="cpu"), OPTIONS)
    assert outcome.error is None
    assert outcome.label.read_bytes() == wanted.label.read_bytes()
    assert outcome.cells == wanted.cells > 20
    assert not list(outcome.label.parent.glob(".*"))


@pytest.mark.slow
def test_workers_share_a_slide_and_one_is_killed(
    scheduler: str, workers: list[subprocess.Popen[str]], slide: Path
) -> None:
    told: list[int] = []

    def tell(_: Path, done: int, total: int) -> None:
        told.append(total)
        if done == total // 3:
            end(workers[0])

    [outcome] = share(scheduler, slide, tell)
    the_same(slide, outcome)
    assert len(told) == told[-1] > 8


@pytest.mark.slow
@pytest.mark.usefixtures("workers")
def test_a_shared_slide_that_is_interrupted_goes_on(scheduler: str, slide: Path) -> None:
    told: list[int] = []

    def tell(_: Path, done: int, total: int) -> None:
        told.append(done)
        if len(told) == 2 * total // 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        share(scheduler, slide, tell)
    [outcome] = share(scheduler, slide, tell, resume=True)
    assert any("gone on with below" in note for note in outcome.notes)
    the_same(slide, outcome)


def test_which_images_are_shared(slide: Path, images: Path) -> None:
    from reunet.run.distributed import _to_share

    small, bad = images / "bad.png", next(images.glob("0_*"))
    assert _to_share([slide], 2) == {slide}
    assert _to_share([slide], 1) == set()
    assert _to_share([slide, small, bad], 4) == {slide}
    assert _to_share([slide, small, bad], 3) == set()
