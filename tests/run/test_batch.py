"""Many images at once: order, overlap, bounds, and troubles that stay with their image."""

import dataclasses
import itertools
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from conftest import save_tiny_bundle
from reunet import segment
from reunet.errors import ImageError
from reunet.io.images import read_label
from reunet.io.labels import write_label
from reunet.io.source import Source, open_source
from reunet.model import Model, load_model
from reunet.options import Options
from reunet.run.batch import AHEAD, Outcome, segment_files
from reunet.run.resume import cells_of_kept_label

READING, NETWORK = "reunet.run.batch.open_source", "reunet.run.batch.see"
DECODING, WRITING = "reunet.instances.decode.decode", "reunet.run.finish.write_label"
SIMPLE = Options(tta=False, enlarge=False, vote=False)  # so that every step runs once
PATIENCE = 20  # s that a thread waits for another before the test has failed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(save_tiny_bundle(tmp_path_factory.mktemp("bundle")), "cpu")


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Pictures of noise, each of a size of its own."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = [folder / f"{number:02}.png" for number in range(12)]
    for number, path in enumerate(paths):
        pixels = rng.integers(0, 256, (40 + number, 50, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def run(images: list[Path], output: Path, model: Model, **how: bool) -> list[Outcome]:
    output.mkdir(exist_ok=True)
    return list(segment_files(images, output, model, SIMPLE, **how))


def replace(monkeypatch: pytest.MonkeyPatch, name: str, before: Callable[[], object]) -> None:
    """Let `before` run ahead of every call of a step."""
    module, _, function = name.rpartition(".")
    real = getattr(import_module(module), function)

    def step(*arguments: Any, **options: Any) -> Any:
        before()
        return real(*arguments, **options)

    monkeypatch.setattr(name, step)


def test_the_labels_are_those_of_one_image_at_a_time(
    images: list[Path], tmp_path: Path, model: Model
) -> None:
    outcomes = run(images, tmp_path / "out", model)
    assert [outcome.image for outcome in outcomes] == images
    for outcome in outcomes:
        expected = segment(outcome.image, model, SIMPLE)
        np.testing.assert_array_equal(read_label(outcome.label), expected)
        assert outcome.cells == expected.max()
        assert set(outcome.seconds) == {"reading", "network", "decoding", "writing"}


@pytest.mark.parametrize("steps", [(READING, NETWORK), (NETWORK, DECODING)])
def test_a_step_overlaps_with_the_next(
    steps: tuple[str, str],
    images: list[Path],
    tmp_path: Path,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second image's step and the first one's next step meet half-way, or never end."""
    meeting = threading.Barrier(2, timeout=PATIENCE)
    for name, call in zip(steps, (1, 0), strict=True):
        calls = itertools.count()
        replace(monkeypatch, name, lambda calls=calls, n=call: next(calls) == n and meeting.wait())
    assert [outcome.error for outcome in run(images[:2], tmp_path / "out", model)] == [None, None]


@pytest.mark.parametrize(("stuck", "read", "held"), [(NETWORK, 1, 1), (DECODING, 1 + AHEAD, 0)])
def test_few_pictures_are_in_memory(
    stuck: str,
    read: int,
    held: int,
    images: list[Path],
    tmp_path: Path,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While a step is stuck, those before it stop soon, and pixels are not kept beyond the network.

    read, held: pictures that have been read, and are in memory, beside those read AHEAD.
    """
    pictures: list[weakref.ref[Source]] = []
    found: list[tuple[int, int]] = []

    def read_and_watch(path: Path, *which: Any) -> Source:
        picture = open_source(path, *which)
        pictures.append(weakref.ref(picture))
        return picture

    def wait() -> None:
        while not found:
            before = len(pictures)
            time.sleep(0.5)
            if 1 < before == len(pictures):
                found.append((before, sum(picture() is not None for picture in pictures)))

    monkeypatch.setattr(READING, read_and_watch)
    replace(monkeypatch, stuck, wait)
    run(images, tmp_path / "out", model)
    assert found[0][0] <= read + AHEAD
    assert found[0][1] <= held + AHEAD


@pytest.mark.parametrize("name", [READING, NETWORK, DECODING, WRITING])
@pytest.mark.parametrize(
    "error",
    [
        ImageError("the one line"),
        RuntimeError("out of memory:\ntried to allocate 99 GiB"),
        MemoryError(),
        KeyError("a bug"),
        OSError(5, "Input/output error"),
        AssertionError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_goes_wrong_costs_one_image(
    name: str,
    error: Exception,
    images: list[Path],
    tmp_path: Path,
    model: Model,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = itertools.count()

    def fail_second() -> None:
        if next(calls) == 1:
            raise error

    replace(monkeypatch, name, fail_second)
    first, second, third = run(images[:3], tmp_path / "out", model)
    assert first.error is third.error is None
    assert second.error
    assert len(second.error.splitlines()) == 1
    assert "the one line" in second.error or second.error.startswith(f"{images[1]}: ")
    assert second.cells == 0
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["00_label.tiff", "02_label.tiff"]


def test_an_interrupt_gives_out_what_is_past_the_network(
    images: list[Path], tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count()

    def interrupt_fifth() -> None:
        if next(calls) == 4:
            raise KeyboardInterrupt

    replace(monkeypatch, NETWORK, interrupt_fifth)
    before = threading.active_count()
    done = []
    (tmp_path / "out").mkdir()
    outcomes = segment_files(images, tmp_path / "out", model, SIMPLE)
    with pytest.raises(KeyboardInterrupt):
        done.extend(outcome.image for outcome in outcomes)
    assert done == images[:4]
    assert threading.active_count() == before
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == [f"{path.stem}_label.tiff" for path in images[:4]]


def test_resume_makes_only_what_is_not_there_or_not_from_this(
    images: list[Path], tmp_path: Path, model: Model
) -> None:
    """Missing, cut off, foreign, of an edited image, of other settings: made again. Else kept."""
    output = tmp_path / "out"
    paths = [outcome.label for outcome in run(images, output, model)]
    whole = {path: path.read_bytes() for path in paths}
    assert all(outcome.kept for outcome in run(images, output, model, resume=True))

    paths[0].unlink()
    paths[1].write_bytes(whole[paths[1]][:-20])
    paths[2].write_bytes(b"no TIFF")
    damaged = bytearray(whole[paths[3]])
    damaged[len(damaged) // 2] ^= 255  # within the compressed labels
    paths[3].write_bytes(damaged)
    Image.fromarray(read_label(paths[4])).save(paths[4])  # the same labels, of unknown origin
    Image.open(images[5]).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(images[5])
    outcomes = run(images, output, model, resume=True)
    assert [outcome.kept for outcome in outcomes] == 6 * [False] + 6 * [True]
    for number, path in enumerate(paths):
        assert (path.read_bytes() == whole[path]) == (number != 5)
        assert outcomes[number].cells == read_label(path).max()

    changed = segment_files(
        images, output, model, dataclasses.replace(SIMPLE, decoder="paper"), resume=True
    )
    assert not any(outcome.kept for outcome in changed)


@pytest.mark.parametrize("layout", ["viewer", "challenge"])
def test_a_large_label_is_looked_through_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    """A pyramid or strips. Whole, cells are counted; cut off anywhere, it is to be made again."""
    monkeypatch.setattr("reunet.io.labels.PYRAMID_FROM", 2_000_000)
    labels = np.repeat(np.arange(70_000, dtype=np.int32).reshape(-1, 20), 100, axis=1)
    path = tmp_path / "slide_label.tiff"
    write_label(path, labels, "origin", layout=layout)
    content = path.read_bytes()
    tracemalloc.start()
    assert cells_of_kept_label(path, "origin") == labels.max()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < labels.nbytes / 2
    for end in np.linspace(0, len(content) - 1, 25).astype(int).tolist():
        path.write_bytes(content[:end])
        assert cells_of_kept_label(path, "origin") is None, end


def test_a_label_is_not_kept_for_other_weights(
    images: list[Path], tmp_path: Path, model: Model
) -> None:
    one_fold = load_model(save_tiny_bundle(tmp_path / "other", ("0",)), "cpu")
    subset = load_model(model.bundle.folder, "cpu", ["1"])
    for other in (one_fold, subset):
        run(images, tmp_path / "out", model)
        assert not any(o.kept for o in run(images, tmp_path / "out", other, resume=True))


def test_a_bad_image_does_not_take_the_name_of_a_good_one(tmp_path: Path, model: Model) -> None:
    """a.png cannot be read and a.tif can; a.bmp would overwrite the label of a.tif."""
    paths = [tmp_path / name for name in ("a.png", "a.tif", "a.bmp")]
    paths[0].write_bytes(b"no image")
    for path in paths[1:]:
        Image.new("L", (40, 40), 9).save(path)
    for resume in (False, True):
        bad, good, late = run(paths, tmp_path / "out", model, resume=resume)
        assert bad.error
        assert (good.error, good.kept) == (None, resume)
        assert late.error == f"{paths[2]}: its label would overwrite that of a.tif; rename one"


def test_slides_go_the_way_of_all_images(
    images: list[Path], tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From SLIDE_PIXELS on, TIFF or not: the same labels, kept by --resume as others are."""
    tifffile.imwrite(tmp_path / "tiff.tif", np.asarray(Image.open(images[11])), compression="zlib")
    paths = [images[0], images[11], tmp_path / "tiff.tif"]
    _, large, _ = expected = [segment(path, model, SIMPLE) for path in paths]
    monkeypatch.setattr("reunet.io.source.SLIDE_PIXELS", large.size)
    for resume in (False, True):
        outcomes = run(paths, tmp_path / "out", model, resume=resume)
        for outcome, labels in zip(outcomes, expected, strict=True):
            assert (outcome.error, outcome.kept, outcome.cells) == (None, resume, labels.max())
            np.testing.assert_array_equal(read_label(outcome.label), labels)


@pytest.mark.slow
def test_memory_stays_flat_over_500_images(tmp_path: Path) -> None:
    """A picture of 0.1 MB in every five that is held would show."""
    model = load_model(save_tiny_bundle(tmp_path / "bundle", ("0",)), "cpu")
    path = tmp_path / "image.png"
    pixels = np.random.default_rng(0).integers(0, 256, (192, 192, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    paths = [tmp_path / f"{number}.png" for number in range(500)]
    for link in paths:
        link.hardlink_to(path)
    (tmp_path / "out").mkdir()
    megabytes = []
    for outcome in segment_files(paths, tmp_path / "out", model, SIMPLE):
        assert outcome.error is None
        megabytes.append(resident_megabytes())
    start, end = max(megabytes[50:150]), max(megabytes[-100:])
    slope = np.polyfit(np.arange(400), megabytes[100:], 1)[0]
    assert end / start < 1.05
    assert slope < 0.02  # MB an image


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6
