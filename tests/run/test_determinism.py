"""The same image gives the same label: again, on other cores, in bands, in batches.

With the shipped weights and real images, because rounding only shows where classes are close.
"""

import dataclasses
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import REUNET, SAMPLE_IMAGES
from reunet import segment
from reunet.inference import sliding_window
from reunet.inference.ensemble import Average
from reunet.inference.normalise import normalise_channels
from reunet.instances.decode import decode
from reunet.io import source
from reunet.io.images import read_image
from reunet.model import Model, load_model
from reunet.options import Options

NAMES = sorted(path.stem for path in SAMPLE_IMAGES.iterdir())


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(device="cpu")


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A piece of every sample."""
    folder = tmp_path_factory.mktemp("crops")
    for path in SAMPLE_IMAGES.iterdir():
        Image.open(path).crop((30, 40, 190, 170)).save(folder / path.name)
    return folder


def labels_of_a_run(
    images: Path, output: Path, *options: str, **environment: str
) -> dict[str, bytes]:
    """File contents, made by a process of its own on the first core or the first two."""
    cores = sorted(os.sched_getaffinity(0))[: int(environment.pop("cores", "2"))]
    result = subprocess.run(
        [REUNET, "predict", images, output, "--device", "cpu", *options],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    assert result.returncode == 0, result.stderr
    return {path.name: path.read_bytes() for path in output.iterdir()}


def test_runs_and_cores(crops: Path, tmp_path: Path) -> None:
    first = labels_of_a_run(crops, tmp_path / "first", "--no-tta")
    assert len(first) == len(NAMES)
    assert labels_of_a_run(crops, tmp_path / "again", "--no-tta") == first
    one = {"cores": "1", "OMP_NUM_THREADS": "1"}
    assert labels_of_a_run(crops, tmp_path / "one core", "--no-tta", **one) == first


@pytest.mark.slow
def test_runs_and_cores_on_whole_samples(tmp_path: Path) -> None:
    first = labels_of_a_run(SAMPLE_IMAGES, tmp_path / "first")
    assert len(first) == len(NAMES)
    assert labels_of_a_run(SAMPLE_IMAGES, tmp_path / "again") == first
    assert labels_of_a_run(SAMPLE_IMAGES, tmp_path / "one core", cores="1") == first
    assert labels_of_a_run(SAMPLE_IMAGES, tmp_path / "one thread", OMP_NUM_THREADS="1") == first


def load_on_pytorch(monkeypatch: pytest.MonkeyPatch) -> Model:
    """The fallback on a CPU, and what training validates with."""

    def fail(*_: object) -> None:
        raise RuntimeError("not here")

    monkeypatch.setattr("reunet.network.openvino_backend.build_network", fail)
    with pytest.warns(RuntimeWarning, match=r"PyTorch.* takes over"):
        return load_model(device="cpu")


def test_threads_of_pytorch(crops: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    model = load_on_pytorch(monkeypatch)
    path = crops / f"{NAMES[1]}.png"
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(segment(path, model, tta=False))
    torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("name", NAMES)
def test_whole_and_streamed(
    name: str, crops: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = crops / f"{name}.png"
    options = Options(tta=False, enlarge=False, vote=False)  # as slides are segmented
    whole = segment(path, model, options)
    monkeypatch.setattr(source, "SLIDE_PIXELS", 1)
    np.testing.assert_array_equal(segment(path, model, options), whole)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_whole_and_streamed_samples(
    name: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_whole_and_streamed(name, SAMPLE_IMAGES, model, monkeypatch)


@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_batches_of_one_and_of_eight(
    backend: str, crops: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With mirroring on two tiles a row: logits within 1e-4, labels equal."""
    if backend == "torch":
        model = load_on_pytorch(monkeypatch)
    tiling = dataclasses.replace(model.tiling(), tile=128, smallest=64)
    image = normalise_channels(read_image(crops / f"{NAMES[2]}.png").pixels)
    one, eight = (
        sliding_window.predict_logits(
            image, Average(model.networks), dataclasses.replace(tiling, batch=n)
        )
        for n in (1, 8)
    )
    np.testing.assert_allclose(one, eight, atol=1e-4)
    labels = [decode(x.argmax(axis=0).astype(np.uint8)) for x in (one, eight)]
    assert labels[0].max() > 1
    np.testing.assert_array_equal(*labels)
