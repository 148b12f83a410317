"""Bad days: killed, interrupted, no space left, files that change or vanish under the hand."""

import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner
from PIL import Image

from conftest import REUNET, ROOT, save_tiny_bundle
from reunet import cli, segment
from reunet.io.atomic import remove_leftovers, replacing
from reunet.io.images import read_label
from reunet.model import Model, load_model
from reunet.network import torch_backend
from reunet.options import Options
from reunet.run import batch, finish
from reunet.run.batch import segment_files

SIMPLE = Options(tta=False, vote=False)
SHAPES = [(40, 50), (150, 140), (160, 150), (170, 160), (180, 170), (44, 50)]  # (H, W)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_bundle(tmp_path_factory.mktemp("weights") / "bundle")


@pytest.fixture(scope="module")
def model(weights: Path) -> Model:
    """Its folds, drawn at random, would agree on hardly a cell."""
    return load_model(weights, "cpu")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Pictures of noise: the labels of the larger ones take some kilobytes."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, shape in enumerate(SHAPES):
        pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def command(images: Path, output: Path, weights: Path, *options: str) -> list[str]:
    names = [str(REUNET), "predict", str(images), str(output), "--weights", str(weights)]
    return [*names, "--no-tta", "--average", *options]


def run(arguments: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, capture_output=True, text=True, **options)


def assert_right(images: Path, output: Path, model: Model, names: Sequence[str]) -> None:
    """These labels are there, right and whole; nothing else is."""
    assert sorted(path.name for path in output.iterdir()) == sorted(
        f"{n}_label.tiff" for n in names
    )
    for name in names:
        expected = segment(images / f"{name}.png", model, SIMPLE)
        np.testing.assert_array_equal(read_label(output / f"{name}_label.tiff"), expected)


EVERY_NAME = [str(number) for number in range(len(SHAPES))]


@pytest.mark.slow
def test_killed_at_random_moments() -> None:
    """`tests/killed.py` fails where a label is lost, wrong or made twice."""
    script = ROOT / "tests" / "killed.py"
    result = run([sys.executable, str(script), "--rounds", "8"])
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_an_interrupt_keeps_what_is_done(
    number: signal.Signals, images: Path, weights: Path, tmp_path: Path
) -> None:
    for copy in range(44):  # enough to be interrupted in the middle
        shutil.copy(images / "3.png", images / f"copy{copy}.png")
    output = tmp_path / "out"
    arguments = command(images, output, weights, "--resume")
    process = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs, of which this test may be one, ignore Ctrl-C and its like
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    while process.poll() is None and not list(output.glob("*.tiff")):
        time.sleep(0.01)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == 130
    done = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    assert errors == f"interrupted: {len(done)} labels are done; --resume makes the others\n"
    assert 0 < len(done) < 50
    for path in done:
        read_label(path)

    if number != signal.SIGINT:
        return
    result = run(arguments)
    assert result.returncode == 0, result.stderr
    assert f"50 of 50 images ({len(done)} kept)" in result.stdout
    assert all(path.stat().st_mtime_ns == then for path, then in done.items())


def test_a_file_that_may_not_grow(
    images: Path, weights: Path, model: Model, tmp_path: Path
) -> None:
    """The cheap stand-in for a full disk, where nothing may be mounted."""
    output = tmp_path / "out"
    limit = 1000

    def limit_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    result = run(command(images, output, weights), preexec_fn=limit_files)
    assert result.returncode == 1
    assert result.stderr.count("file too large; choose a folder with space") == 4
    assert_right(images, output, model, ["0", "5"])


def test_a_full_disk(images: Path, weights: Path, model: Model, tmp_path: Path) -> None:
    """A disk of three blocks: what fits is right, what does not leaves no trace; with more space
    the same command makes what is missing."""
    output, first, second = (tmp_path / name for name in ("out", "first", "second"))
    for folder in (output, first, second):
        folder.mkdir()
    script = """
        mount -t tmpfs -o size=12k tmpfs "$1" || exit 77
        out=$1 first=$2 second=$3; shift 3
        "$@"; echo "exit code $?"
        cp -a "$out/." "$first"
        mount -o remount,size=1m "$out"
        "$@"; echo "exit code $?"
        cp -a "$out/." "$second"
    """
    folders = [str(path) for path in (output, first, second)]
    arguments = command(images, output, weights, "--resume")
    result = run(["unshare", "--mount", "sh", "-c", script, "sh", *folders, *arguments])
    if result.returncode == 77 or "unshare" in result.stderr:
        pytest.skip("nothing may be mounted here; see the test of a file that may not grow")
    assert re.findall(r"exit code (\d)", result.stdout) == ["1", "0"]
    assert "no space left on device; choose a folder with space" in result.stderr
    there = [path.name.removesuffix("_label.tiff") for path in first.iterdir()]
    assert 0 < len(there) < len(SHAPES)
    assert_right(images, first, model, there)
    assert f"{len(SHAPES)} of {len(SHAPES)} images ({len(there)} kept)" in result.stdout
    assert_right(images, second, model, EVERY_NAME)


def between_images(
    monkeypatch: pytest.MonkeyPatch, name: str, happens: Callable[[], object], call: int = 2
) -> None:
    """Let something happen before a step of `batch` is taken for the `call`-th time."""
    module = finish if name == "write_label" else batch
    real = getattr(module, name)
    calls = 0

    def step(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            happens()
        return real(*arguments, **options)

    monkeypatch.setattr(module, name, step)


def test_an_output_folder_that_vanishes(
    images: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    between_images(monkeypatch, "write_label", lambda: shutil.rmtree(output))
    paths = sorted(images.iterdir())
    first, *others = segment_files(paths, output, model, SIMPLE)
    assert first.error is None
    for outcome in others:
        assert outcome.error
        assert str(output) in outcome.error
    assert not output.exists()


def test_images_are_not_segmented_for_a_folder_that_is_gone(
    images: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("reunet.run.batch.see")
    paths = sorted(images.iterdir())
    for outcome in segment_files(paths, tmp_path / "out", model, SIMPLE):
        assert "is gone; make the folder" in (outcome.error or "")


def test_an_image_that_is_deleted_before_its_turn(
    images: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    victim = images / "3.png"
    between_images(monkeypatch, "open_source", victim.unlink, call=3)
    paths = sorted(images.iterdir())
    outcomes = {o.image: o for o in segment_files(paths, output, model, SIMPLE)}
    assert f"{victim}: no such file or directory" in (outcomes.pop(victim).error or "")
    assert all(outcome.error is None for outcome in outcomes.values())


@pytest.mark.parametrize("ending", ["png", "bmp", "tif"])
def test_an_image_that_is_still_being_copied(ending: str, model: Model, tmp_path: Path) -> None:
    """Every run gives the right label or an error; once the file is whole, --resume has it right,
    whatever was made of its first part."""
    output = tmp_path / "out"
    output.mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (60, 70, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"whole.{ending}")
    content = (tmp_path / f"whole.{ending}").read_bytes()
    path = tmp_path / f"growing.{ending}"
    path.touch()

    def grow() -> None:
        for start in range(0, len(content), 500):
            with path.open("ab") as file:
                file.write(content[start : start + 500])
            time.sleep(0.01)

    expected = segment(pixels, model, SIMPLE)
    errors = 0
    copying = threading.Thread(target=grow)
    copying.start()
    while copying.is_alive():
        (o,) = segment_files([path], output, model, SIMPLE, resume=True)
        errors += o.error is not None
        assert o.error is None or o.error.startswith(f"{path}: ")
    copying.join()
    assert errors
    (o,) = segment_files([path], output, model, SIMPLE, resume=True)
    assert o.error is None
    np.testing.assert_array_equal(read_label(o.label), expected)


def test_two_runs_on_one_output_folder(
    images: Path, weights: Path, model: Model, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    arguments = command(images, output, weights, "--resume")
    both = [
        subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
    assert_right(images, output, model, EVERY_NAME)


def test_leftovers_of_killed_runs_go_and_those_of_others_stay(tmp_path: Path) -> None:
    dead = tmp_path / f".{os.getpid()}-0123abcd.tmp"  # in containers every process has one number
    foreign = [tmp_path / ".hidden", tmp_path / ".99-notours.tmp", tmp_path / "a.tmp"]
    for path in (dead, *foreign):
        path.touch()
    with replacing(tmp_path / "label") as temporary:
        temporary.write_text("half")
        remove_leftovers(tmp_path)
        assert temporary.exists()
    assert not dead.exists()
    assert {*tmp_path.iterdir()} == {*foreign, tmp_path / "label"}


def flip_a_bit(bundle: Path) -> None:
    path = bundle / "fold_1.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def cut_off(bundle: Path) -> None:
    path = bundle / "fold_0.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (flip_a_bit, "fold_1.safetensors"),
        (cut_off, "fold_0.safetensors"),
        (lambda bundle: (bundle / "fold_0.safetensors").unlink(), "fold_0.safetensors"),
        (lambda bundle: (bundle / "fold_0.safetensors").write_bytes(b""), "fold_0.safetensors"),
        (lambda bundle: (bundle / "card.json").unlink(), "card.json"),
        (lambda bundle: (bundle / "card.json").write_text('{"architecture": '), "card.json"),
        (lambda bundle: (bundle / "card.json").write_bytes(bytes(range(256))), "card.json"),
        (lambda bundle: (bundle / "card.json").write_text("[]"), "card.json"),
    ],
    ids=["bit", "cut", "no fold", "empty fold", "no card", "half a card", "bytes", "another card"],
)
def test_corrupt_weights(
    damage: Callable[[Path], None], file: str, images: Path, bundle: Path, tmp_path: Path
) -> None:
    damage(bundle)  # a fold's last byte is only looked at when the fold is first used
    output = tmp_path / "out"
    arguments = command(images, output, bundle)[1:]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {bundle / file}: ")
    assert not output.exists() or not [*output.iterdir()]


@pytest.mark.parametrize(
    "error",
    [RuntimeError("CUDA error: unspecified\nlaunch failure"), torch.OutOfMemoryError("no memory")],
    ids=["lost", "memory"],
)
def test_a_gpu_that_fails_in_mid_run(
    error: Exception,
    images: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its part is played by a network on the CPU that works for two calls and never again. The run
    says so in one line and goes on, in the middle of an image, without the GPU."""
    build, calls = torch_backend.build_network, iter(range(2))

    class FailingNetwork(torch_backend.TorchNetwork):
        def mean_logits(self, *arguments: Any) -> np.ndarray:
            if next(calls, None) is None:
                raise error
            return super().mean_logits(*arguments)

    def on_gpu(arch: Any, tensors: Any, device: str, *_: object) -> torch_backend.TorchNetwork:
        assert device == "cuda"
        return FailingNetwork(build(arch, tensors, "cpu").module)

    monkeypatch.setattr("reunet.model.choose_device", lambda _: "cuda")
    monkeypatch.setattr(torch_backend, "batch_size", lambda *_: 4)
    monkeypatch.setattr(torch_backend, "build_network", on_gpu)
    output = tmp_path / "out"
    result = CliRunner().invoke(
        cli.main, command(images, output, weights, "--precision", "f32")[1:]
    )
    assert result.exit_code == 0, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: device cuda fails (")
    assert line.endswith("going on on the CPU")
    single = load_model(weights, "cpu", precision="f32")  # as the network that plays the GPU
    assert_right(images, output, single, EVERY_NAME)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where it likes")
def test_a_folder_without_permission(images: Path, bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir(mode=0o500)
    result = CliRunner().invoke(cli.main, command(images, output, bundle)[1:])
    assert result.exit_code == 2
    assert "cannot be written to: choose another folder" in result.stderr


def labels_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*_label.tiff")}


@pytest.mark.parametrize(
    "streams",
    [
        "2>&-",
        "1>&-",
        "1>&- 2>&- 0<&-",
        "2>/dev/full",
        "1>/dev/full",
        "1>/dev/full 2>/dev/full",
        "2>&1 | true",
    ],
)
def test_labels_do_not_depend_on_whether_a_line_can_be_printed(
    streams: str, images: Path, weights: Path, tmp_path: Path
) -> None:
    """One of the images is damaged, another gives a note: there are lines to print."""
    Image.fromarray(np.full((40, 50, 4), 9, np.uint8)).save(images / "a.png")
    (images / "b.png").write_bytes(b"")
    tifffile.imwrite(images / "c.tif", np.ones((5, 40, 50), np.uint8), photometric="minisblack")
    told = subprocess.run(command(images, tmp_path / "told", weights), capture_output=True)
    assert told.returncode == 1
    assert b"note: " in told.stderr
    line = shlex.join(command(images, tmp_path / "out", weights))
    run = subprocess.run(["bash", "-c", f"set -o pipefail; {line} {streams}"], capture_output=True)
    assert run.returncode == 1
    assert b"Traceback" not in run.stderr + run.stdout
    assert labels_of(tmp_path / "out") == labels_of(tmp_path / "told")


def test_the_command_runs_in_a_thread(images: Path, weights: Path, tmp_path: Path) -> None:
    """As plug-ins of viewers call it."""
    results: list[int] = []

    def run() -> None:
        arguments = command(images, tmp_path / "out", weights)[1:]
        results.append(CliRunner().invoke(cli.main, arguments).exit_code)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert results == [0]


def test_what_a_parent_ignores_does_not_end_a_run() -> None:
    """nohup ignores the end of a terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with cli.signals_interrupt():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
