"""A slide whose run is killed goes on where it was: nothing twice, and the same bits."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from reunet.errors import ImageError, no_room
from reunet.io import source
from reunet.io.images import read_label
from reunet.model import Model
from reunet.network.bundle import open_bundle
from reunet.options import Options
from reunet.run import begun
from reunet.run.batch import Outcome, segment_files

RNG = np.random.default_rng(3)
H, W, TILE = 900, 260, 64
SIMPLE = Options(tta=False, enlarge=False, vote=False)
# A process of its own: a slide of many rows of tiles, whose network notes what it is shown.
RUN = """
import hashlib, sys, time
import numpy as np
from scipy import ndimage
from dataclasses import replace
from pathlib import Path
from reunet import model as models
from reunet.io import source
from reunet.network.bundle import open_bundle
_, bundle, log, seconds, *arguments = sys.argv
source.SLIDE_PIXELS = 1
def network(tiles):
    time.sleep(float(seconds))
    with open(log, "a") as file:
        for tile in tiles:
            file.write(hashlib.sha256(tile.tobytes()).hexdigest() + "\\n")
    grey = tiles.mean(axis=1)
    relief = grey - ndimage.uniform_filter(grey, (0, 15, 15), mode="constant")
    return np.stack([-relief, relief, np.full_like(relief, 0.15)], axis=1)
small = replace(open_bundle(Path(bundle)), tile=64, smallest=32)
models.load_model = lambda *_: models.Model(small, (network,), ("0",), "cpu")
from reunet.cli import main
main(["predict", "--no-tta", *arguments])
"""


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """It has a tile that shows nothing at its beginning."""
    pixels = ndimage.uniform_filter(RNG.integers(0, 256, (H, W, 3), dtype=np.uint8), (9, 9, 1))
    pixels[: TILE + 9, : TILE + 9] = 250
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(32, 32), compression="zlib")
    return path


def start(bundle: Path, log: Path, *arguments: object, seconds: float = 0) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, bundle, log, seconds, *arguments]
    return subprocess.Popen(
        [str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def seen(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def test_kill_9_costs_at_most_a_row_of_tiles(slide: Path, bundle: Path, tmp_path: Path) -> None:
    whole, output = tmp_path / "whole", tmp_path / "output"
    logs = [tmp_path / name for name in ("whole.log", "killed.log", "resumed.log")]
    process = start(bundle, logs[0], slide, whole)
    assert process.communicate()[1].count("tiles that show nothing: 1 of")
    every = seen(logs[0])
    process = start(bundle, logs[1], slide, output, seconds=0.05)
    part, deadline = output / ".a_label.part", time.monotonic() + 60
    while len(list(part.glob("0*.npz"))) < 6 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(output.glob("*.tiff"))
    with np.load(part / "next.npz") as place:
        rows = int(place["place"][0])
    assert 5 <= rows < 15
    process = start(bundle, logs[2], slide, output, "--resume", "--report")
    told = process.communicate()[1]
    assert process.returncode == 0, told
    assert f"gone on with below {rows} finished rows of tiles" in told
    assert "tiles that show nothing: 1 of" in told  # also counted, though it was before
    again = seen(logs[2])
    assert every[-len(again) :] == again  # those of the rows below, and no other
    assert len(every) == 28 * 8 - 1  # rows and columns of tiles half a tile apart, one is empty
    assert len(every) - len(again) == rows * 8 - 1
    assert read_label(output / "a_label.tiff").max() > 10
    assert (output / "a_label.tiff").read_bytes() == (whole / "a_label.tiff").read_bytes()
    assert sorted(path.name for path in output.iterdir()) == ["a_label.tiff", "report.json"]
    notes = json.loads((output / "report.json").read_text())["images"][0]["notes"]
    assert any("gone on with" in note for note in notes)


# --- in this process: a network that is interrupted, and what makes a run start anew


class Counting:
    """Local contrast, for so many tiles; then the user loses patience."""

    def __init__(self, patience: int = 10**9) -> None:
        self.calls, self.patience = 0, patience
        self.error: type[BaseException] = KeyboardInterrupt

    def __call__(self, tiles: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls > self.patience:
            raise self.error("enough")
        grey = tiles.mean(axis=1)
        relief = grey - ndimage.uniform_filter(grey, (0, 15, 15), mode="constant")
        return np.stack([-relief, relief, np.full_like(relief, 0.15)], axis=1)


@pytest.fixture
def model(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr(source, "SLIDE_PIXELS", 1)
    small = replace(open_bundle(bundle), tile=TILE, smallest=32)
    return Model(small, (Counting(),), ("0",), "cpu")


def run(
    slide: Path, model: Model, patience: int = 10**9, **choices: Any
) -> tuple[Outcome | None, int]:
    """The outcome, None of a run that was interrupted, and how many tiles were looked at."""
    resume = choices.pop("resume", True)
    network, output = Counting(patience), slide.parent / "labels"
    output.mkdir(exist_ok=True)
    spied, options = replace(model, networks=(network,)), replace(SIMPLE, **choices)
    try:
        [outcome] = segment_files([slide], output, spied, options, resume=resume)
    except KeyboardInterrupt:
        return None, network.calls
    return outcome, network.calls


def digest(slide: Path) -> str:
    return hashlib.sha256((slide.parent / "labels/a_label.tiff").read_bytes()).hexdigest()


def test_many_interrupts_and_the_same_bits(slide: Path, model: Model) -> None:
    _, every = run(slide, model)
    wanted, total, outcome = digest(slide), 0, None
    (slide.parent / "labels/a_label.tiff").unlink()
    while outcome is None:
        outcome, calls = run(slide, model, patience=17)
        total += min(calls, 17)
    assert digest(slide) == wanted
    assert total < 2 * every
    assert not list((slide.parent / "labels").glob(".*"))


CHANGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "other options": {"diameter": 31.0},
    "mirroring": {"tta": True},
    "no --resume": {"resume": False},
    "another image": {},
    "other weights": {},
    "a band that was cut": {},
    "a flipped bit": {},
    "a band that is gone": {},
    "sums that are gone": {},
    "another version": {},
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_was_changed_starts_anew(
    what: str, slide: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted, _ = run(slide, model, patience=60)
    assert interrupted is None
    part = slide.parent / "labels/.a_label.part"
    band = part / "000003.npz"
    content = bytearray(band.read_bytes())
    if what == "another image":
        pixels = tifffile.imread(slide)
        pixels[-40:] //= 2
        tifffile.imwrite(slide, pixels, photometric="rgb", tile=(32, 32), compression="zlib")
    elif what == "other weights":
        about = {**model.bundle.about, "sha256": {"fold_0.safetensors": "0" * 64}}
        model = replace(model, bundle=replace(model.bundle, about=about))
    elif what == "a band that was cut":
        band.write_bytes(content[: len(content) // 2])
    elif what == "a flipped bit":
        content[len(content) // 2] ^= 1
        band.write_bytes(content)
    elif what == "a band that is gone":
        band.unlink()
    elif what == "sums that are gone":
        (part / "next.npz").unlink()
    elif what == "another version":
        monkeypatch.setattr("reunet.__version__", "0.0")
    outcome, calls = run(slide, model, **CHANGES[what])
    assert outcome is not None
    gone_on = [note for note in outcome.notes if "gone on with" in note]
    assert bool(gone_on) == (what == "nothing")
    found = digest(slide)
    (slide.parent / "labels/a_label.tiff").unlink()
    _, every = run(slide, model, **CHANGES[what])
    assert found == digest(slide)
    assert (calls < every - 50) if what == "nothing" else (calls == every)


def test_a_full_disk_ends_the_keeping_and_not_the_slide(
    slide: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = begun._write, []

    def full(path: Path, arrays: Any) -> None:
        written.append(path)
        if len(written) > 7:
            raise OSError(28, "No space left on device")
        write(path, arrays)

    monkeypatch.setattr(begun, "_write", full)
    outcome, _ = run(slide, model)
    assert outcome is not None
    assert outcome.error is None
    assert len(written) == 8
    assert sorted(path.name for path in (slide.parent / "labels").iterdir()) == ["a_label.tiff"]


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_a_machine_that_fails_loses_nothing(
    error: type[Exception], slide: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Counting.__call__

    def failing(self: Counting, tiles: np.ndarray) -> np.ndarray:
        self.error = error
        return call(self, tiles)

    with monkeypatch.context() as patch:
        patch.setattr(Counting, "__call__", failing)
        outcome, _ = run(slide, model, patience=60)
    assert outcome is not None
    assert outcome.error is not None
    outcome, _ = run(slide, model)
    assert outcome is not None
    assert any("gone on with" in note for note in outcome.notes)


@pytest.mark.parametrize(
    ("error", "kept"),
    [(no_room(Path("a_label.tiff"), "disk full"), True), (ImageError("a.tif: is cut off"), False)],
)
def test_only_an_image_that_is_at_fault_loses_what_was_begun(
    slide: Path, model: Model, monkeypatch: pytest.MonkeyPatch, error: ImageError, kept: bool
) -> None:
    """With room for it the rest is done, and what was there before is not done again."""

    def fail(*_: object) -> None:
        raise error

    total = run(slide, model, resume=False)[1]
    (slide.parent / "labels/a_label.tiff").unlink()
    assert run(slide, model, patience=total // 2, resume=False)[0] is None
    with monkeypatch.context() as patch:
        patch.setattr("reunet.run.batch.find_cells", fail)
        outcome, rest = run(slide, model)
    assert outcome
    assert outcome.error
    assert rest < total
    outcome, again = run(slide, model)
    assert outcome
    assert not outcome.error
    assert (again < total - rest) == kept
    assert (again == total) == (not kept)
