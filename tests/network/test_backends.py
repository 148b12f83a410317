"""The network on every backend: the same logits, whatever fails on the way.

No GPU is needed: where one is asked for, PyTorch's CPU stands in for it.
"""

import copy
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import classify
from torch import Tensor, nn

from conftest import PICTURES, ROOT, SAMPLE_IMAGES, TINY
from reunet import model as models
from reunet.errors import WeightsError
from reunet.inference.ensemble import Average
from reunet.inference.normalise import normalise_channels, z_score
from reunet.inference.tiles import FLIPS
from reunet.io.images import read_image
from reunet.network import ensemble, openvino_backend, torch_backend
from reunet.network.bundle import StoredTensors, load_tensors, open_bundle
from reunet.network.ensemble import Fold, Gpu, GpuFold, OnGpu
from reunet.network.torch_backend import TorchNetwork
from reunet.network.unet import Architecture, UNet, build

COMPACT = ROOT / "weights/compact"
RNG = np.random.default_rng(0)
NOISE = RNG.standard_normal((3, 3, 64, 96), dtype=np.float32)


def random_module(arch: Architecture) -> UNet:
    """Norms with scales and shifts of their own: those of a new network do nothing."""
    torch.manual_seed(0)
    module = build(arch)
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=float(name.endswith("norm.weight")), std=0.3)
    return module.eval()


def tensors_of(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}


def in_double(module: nn.Module, tiles: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        logits: Tensor = copy.deepcopy(module).double()(torch.from_numpy(tiles).double())
    return logits.numpy()


@pytest.fixture(scope="module")
def compact() -> tuple[Architecture, dict[str, np.ndarray]]:
    bundle = open_bundle(COMPACT)
    return bundle.architecture, load_tensors(bundle, bundle.folds[0])


def sample(name: str) -> np.ndarray:
    image = normalise_channels(read_image(next(SAMPLE_IMAGES.glob(f"{name}*"))).pixels)
    height, width = (min(512, n // 32 * 32) for n in image.shape[:2])
    return z_score(image[:height, :width].transpose(2, 0, 1))[np.newaxis]


# -- OpenVINO


@pytest.mark.parametrize(
    "arch",
    [
        TINY,
        Architecture(features=(5, 7), convs_per_block=1),
        Architecture(features=(4, 6, 8, 10), convs_per_block=3, dropout=0.5),
    ],
    ids=["tiny", "one convolution", "three convolutions"],
)
@pytest.mark.parametrize("tile", [64, 96], ids=["free edges", "a graph of its own"])
def test_openvino_computes_pytorchs_network(arch: Architecture, tile: int) -> None:
    module = random_module(arch)
    tiles = RNG.standard_normal((2, 3, 96, 96 if tile == 96 else 64), dtype=np.float32)
    logits = openvino_backend.build_network(arch, tensors_of(module), tile)(tiles)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, in_double(module, tiles), atol=1e-4)


@pytest.mark.parametrize("name", ["baby", "bbbc039", "dsb2018", "usiigaci"])
def test_openvino_is_as_exact_as_pytorch_on_images(
    compact: tuple[Architecture, dict[str, np.ndarray]], name: str
) -> None:
    """OpenVINO's own instance norm misses this by a factor of 20 (see `_instance_norm`)."""
    arch, tensors = compact
    tiles = sample(name)
    module = UNet(arch).eval()
    module.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()})
    logits = openvino_backend.build_network(arch, tensors, 512)(tiles)
    in_torch = TorchNetwork(module)(tiles)
    np.testing.assert_allclose(logits, in_torch, atol=1e-4)
    second, first = np.sort(in_torch, axis=1)[:, -2:].transpose(1, 0, 2, 3)
    clear = first - second > 2e-4  # the rest are ties within the tolerance
    assert clear.mean() > 0.999
    assert np.array_equal(logits.argmax(axis=1)[clear], in_torch.argmax(axis=1)[clear])


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two cores")
def test_logits_do_not_depend_on_the_number_of_threads(
    compact: tuple[Architecture, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    arch, tensors = compact
    tiles = [sample("usiigaci"), sample("dsb2018")]
    found = []
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        network = openvino_backend.build_network(arch, tensors, 512)
        found.append([network(tile) for tile in tiles])
    for one, two in zip(*found, strict=True):
        assert np.array_equal(one, two)


def test_logits_outlive_the_next_call() -> None:
    network = openvino_backend.build_network(TINY, tensors_of(random_module(TINY)), 64)
    first = network(NOISE[:1])
    before = first.copy()
    given = NOISE[1:].copy()
    second = network(given)
    assert np.array_equal(first, before)
    assert np.array_equal(given, NOISE[1:])
    assert np.array_equal(network(NOISE), np.concatenate([first, second]))


@pytest.mark.parametrize("tile", [32, 64], ids=["its own graph", "the shared one"])
def test_what_is_compiled_ahead_is_what_tiles_would_have_compiled(
    tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_backend, "cache_folder", lambda: None)
    square = NOISE[:, :, :32, :32]
    parts = TINY, tensors_of(random_module(TINY)), tile, "f32"
    expected = openvino_backend.build_network(*parts)(square)  # type: ignore[arg-type]
    compiled = []
    real = openvino_backend.build_model

    def build_model(*arguments: Any) -> Any:
        compiled.append(threading.current_thread())
        return real(*arguments)

    monkeypatch.setattr(openvino_backend, "build_model", build_model)
    network = openvino_backend.build_network(*parts, 32)  # type: ignore[arg-type]
    assert np.array_equal(network(square), expected)
    assert len(compiled) == 1
    assert compiled[0] is not threading.main_thread()
    monkeypatch.setattr(openvino_backend, "build_model", fail)
    network = openvino_backend.build_network(*parts, 32)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="no such instruction"):
        network(square)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "reunet"


def run_tiny() -> np.ndarray:
    return openvino_backend.build_network(TINY, tensors_of(random_module(TINY)), 64)(NOISE)


def test_graphs_are_cached_and_damaged_ones_do_no_harm(cache: Path) -> None:
    expected = run_tiny()
    (blob,) = cache.glob("*.blob")
    whole = blob.read_bytes()
    for damaged in (b"", b"no graph", whole[: len(whole) // 2]):
        blob.chmod(0o600)
        blob.write_bytes(damaged)
        assert np.array_equal(run_tiny(), expected)
    assert np.array_equal(run_tiny(), expected)


@pytest.mark.usefixtures("cache")
def test_a_stored_graph_needs_no_tensors_but_the_same_file(bundle: Path) -> None:
    opened = open_bundle(bundle)
    arch, tensors = opened.architecture, load_tensors(opened, "0")
    expected = openvino_backend.build_network(arch, tensors, opened.tile)(NOISE)
    gone = StoredTensors(b"", tensors.sha256)
    assert np.array_equal(openvino_backend.build_network(arch, gone, opened.tile)(NOISE), expected)
    other = openvino_backend.build_network(arch, load_tensors(opened, "1"), opened.tile)
    assert not np.array_equal(other(NOISE), expected)


@pytest.mark.parametrize("obstacle", ["no folder", "a file", "read-only"])
def test_nothing_is_cached_where_nothing_can_be_written(
    cache: Path, obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if obstacle == "no folder":
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache / "nowhere"))
    elif obstacle == "a file":
        cache.touch()
    else:  # root may write anywhere: chmod would not keep it from it
        monkeypatch.setattr(os, "access", lambda *_: False)
    before = sorted(cache.parent.rglob("*"))
    assert openvino_backend.cache_folder() is None
    run_tiny()
    assert sorted(cache.parent.rglob("*")) == before


def test_the_oldest_graphs_make_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir()
    for age, name in enumerate("abcd"):
        (cache / f"{name}.blob").write_bytes(bytes(10))
        os.utime(cache / f"{name}.blob", (1000 - age, 1000 - age))
    monkeypatch.setattr(openvino_backend, "CACHE_BYTES", 25)
    assert openvino_backend.cache_folder() == cache
    assert sorted(path.name for path in cache.iterdir()) == ["a.blob", "b.blob"]


# -- PyTorch


@pytest.mark.parametrize("batch", [1, 3, 8, 32])
@pytest.mark.parametrize("flips", [FLIPS, FLIPS[:1]], ids=["mirrored", "plain"])
def test_the_device_averages_as_numpy_does(flips: Sequence[tuple[int, ...]], batch: int) -> None:
    networks = [TorchNetwork(random_module(arch)) for arch in (TINY, Architecture((4, 8), 0.0))]
    expected = Average(networks).mean_logits(NOISE, flips, 1)
    found = networks[0].mean_logits(networks, NOISE, flips, batch)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


class Cramped(nn.Module):
    """Memory for a few images at a time; notes how many it was given."""

    def __init__(self, module: nn.Module, room: int) -> None:
        super().__init__()
        self.module, self.room = module, room
        self.given: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.given.append(len(images))
        if len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory:\ntried to allocate 99 GiB")
        logits: Tensor = self.module(images)
        return logits


@pytest.mark.parametrize(
    ("room", "first", "later"),
    [(12, [12], [12]), (5, [12, 6, 3, 3, 3, 3], [3] * 4), (1, [12, 6, 3] + [1] * 12, [1] * 12)],
)
def test_an_out_of_memory_halves_the_batch(room: int, first: list[int], later: list[int]) -> None:
    module = random_module(TINY)
    cramped = Cramped(module, room)
    network = TorchNetwork(cramped)
    expected = TorchNetwork(module).mean_logits([TorchNetwork(module)], NOISE, FLIPS, 1)
    for calls in (first, later):
        cramped.given.clear()
        found = network.mean_logits([network], NOISE, FLIPS, 32)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert cramped.given == calls


def test_a_single_image_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        TorchNetwork(Cramped(random_module(TINY), 0))(NOISE)


def test_batches_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    fractions: list[float] = []
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "set_per_process_memory_fraction", fractions.append)
    sizes = []
    for free in (0.1e9, 3e9, 10e9, 80e9):
        monkeypatch.setattr(cuda, "mem_get_info", lambda free=free: (int(free), int(80e9)))
        arch = models.open_bundle(COMPACT).architecture
        sizes.append(torch_backend.batch_size(arch, 1024, 5, "cuda"))
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[1] > 1
    assert sizes[2] == sizes[3]  # never more than MEMORY, however much is free
    assert fractions == [torch_backend.MEMORY / 80e9] * 4
    assert torch_backend.batch_size(arch, 1024, 5, "cpu") == 1


# -- folds: one device after the other


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the folds that are loaded, in order."""
    names: list[str] = []

    def note(bundle: ensemble.Bundle, name: str) -> dict[str, np.ndarray]:
        names.append(name)
        return load_tensors(bundle, name)

    monkeypatch.setattr(ensemble, "load_tensors", note)
    return names


def test_folds_are_loaded_when_they_are_used(bundle: Path, loaded: list[str]) -> None:
    model = models.load_model(bundle, "cpu")
    assert loaded == ["0"]
    model.networks[0](NOISE)
    assert loaded == ["0"]
    model.networks[1](NOISE)
    model.networks[1](NOISE)
    assert loaded == ["0", "1"]


@pytest.mark.parametrize("number", [0, 1])
def test_a_damaged_fold_is_told_when_it_is_used(bundle: Path, number: int) -> None:
    path = bundle / f"fold_{number}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    if number == 0:
        with pytest.raises(WeightsError, match="damaged"):
            models.load_model(bundle, "cpu")
        return
    model = models.load_model(bundle, "cpu")
    with pytest.raises(WeightsError, match="damaged"):
        model.networks[1](NOISE)


def missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "reunet.network.openvino_backend", None)
    monkeypatch.delattr("reunet.network.openvino_backend")


def fails_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_backend, "_compile", fail)
    monkeypatch.setattr(openvino_backend, "_compile_or_load", fail)


def fails_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    real = openvino_backend.build_network

    def build_network(*arguments: object) -> Callable[[np.ndarray], np.ndarray]:
        network = real(*arguments)  # type: ignore[arg-type]
        return lambda tiles: network(tiles) if (tiles == NOISE[:1]).all() else fail()

    monkeypatch.setattr(openvino_backend, "build_network", build_network)


def fail(*_: object) -> np.ndarray:
    raise RuntimeError("Exception from src/core.cpp:\n  no such instruction")


@pytest.mark.parametrize("trouble", [missing, fails_to_compile, fails_in_the_middle])
def test_pytorch_takes_over_where_openvino_fails(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[pytest.MonkeyPatch], None]
) -> None:
    fold = Fold(open_bundle(bundle), "0")
    expected = fold(NOISE)
    trouble(monkeypatch)
    shaky = Fold(open_bundle(bundle), "0")
    with pytest.warns(RuntimeWarning, match=r"OpenVINO .* PyTorch") as warned:
        logits = np.concatenate([shaky(NOISE[n : n + 1]) for n in range(3)])
    assert len(warned) == 1
    assert "\n" not in str(warned[0].message)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_what_fails_in_pytorch_too_is_an_error(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails_to_compile(monkeypatch)
    monkeypatch.setattr(TorchNetwork, "__call__", fail)
    fold = Fold(open_bundle(bundle), "0")
    with pytest.raises(RuntimeError, match="no such instruction"), pytest.warns(RuntimeWarning):
        fold(NOISE)
    with pytest.raises(RuntimeError, match="no such instruction"):
        fold(NOISE)


def on_gpu(bundle: Path) -> tuple[Gpu, list[GpuFold]]:
    """Two folds on a "GPU", which is PyTorch's CPU."""
    gpu = Gpu("cpu")
    return gpu, [GpuFold(open_bundle(bundle), name, gpu) for name in ("0", "1")]


def blood() -> np.ndarray:
    path = PICTURES / "blood.png"
    return normalise_channels(read_image(path).pixels)


def test_a_gpu_finds_what_the_cpu_finds(bundle: Path) -> None:
    gpu, networks = on_gpu(bundle)
    model = models.load_model(bundle, "cpu", precision="f32")
    tiling = model.tiling()
    found = classify(blood(), OnGpu(networks), replace(tiling, batch=6))
    assert not gpu.failed
    expected = classify(blood(), Average(model.networks), tiling)
    assert set(np.unique(expected)) >= {0, 1}
    assert (found != expected).mean() < 0.001


@pytest.mark.parametrize("error", [RuntimeError("CUDA error:\nunspecified launch failure"), None])
@pytest.mark.parametrize("tiles_before", [0, 3])
def test_the_cpu_goes_on_where_a_gpu_fails(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError | None, tiles_before: int
) -> None:
    """In the middle of an image, with a single warning; None: memory for no image at all."""
    gpu, networks = on_gpu(bundle)
    real, calls = TorchNetwork.mean_logits, []

    def lose(*arguments: object) -> np.ndarray:
        calls.append(arguments)
        if len(calls) > tiles_before:
            raise error or torch.OutOfMemoryError("CUDA out of memory")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(TorchNetwork, "mean_logits", lose)
    tiling = models.load_model(bundle, "cpu").tiling()
    with pytest.warns(RuntimeWarning, match=r"device cpu fails \(CUDA.* on the CPU") as warned:
        found = classify(blood(), OnGpu(networks), tiling)
    assert gpu.failed
    assert len(calls) == tiles_before + 1
    assert len(warned) == 1
    assert "\n" not in str(warned[0].message)
    expected = classify(blood(), Average([fold.on_cpu for fold in networks]), tiling)
    assert (found != expected).mean() < 0.001


def test_a_damaged_fold_is_no_fault_of_the_gpu(bundle: Path) -> None:
    path = bundle / "fold_1.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    gpu, networks = on_gpu(bundle)
    with pytest.raises(WeightsError, match="damaged"):
        classify(blood(), Average(networks), models.load_model(bundle, "cpu", ["0"]).tiling())
    assert not gpu.failed


# -- choice of device and weights


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "has_driver", lambda: True)


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(0, 0, "cpu"), (1, 0, "cuda"), (0, 1, "mps"), (1, 1, "cuda")]
)
def test_auto_takes_the_fastest_device(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: int, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.mps, "is_available", lambda: bool(mps))
    assert models.choose_device("auto") == expected
    assert models.choose_device("cpu") == "cpu"
    for name, there in (("cuda", cuda), ("mps", mps)):
        if there:
            assert models.choose_device(name) == name
        else:
            with pytest.raises(ValueError, match=f"{name} is not available"):
                models.choose_device(name)


def test_without_a_driver_pytorch_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "has_driver", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", fail)
    assert models.choose_device("auto") == "cpu"
    with pytest.raises(ValueError, match="cuda is not available"):
        models.choose_device("cuda")
    with pytest.raises(ValueError, match="device 'tpu' does not exist"):
        models.choose_device("tpu")


@pytest.mark.usefixtures("driver")
def test_a_gpu_that_fails_at_once(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a driver too old for PyTorch's kernels."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch_backend, "build_network", fail)
    with pytest.raises(ValueError, match=r"device cuda fails .*: use --device cpu"):
        models.load_model(bundle, "cuda")
    with pytest.warns(RuntimeWarning, match="device cuda fails .* on the CPU"):
        assert models.load_model(bundle, "auto").device == "cpu"


def test_a_gpu_gets_the_papers_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REUNET_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match="no weights there"):
        models.default_weights("cpu")
    (tmp_path / "compact").mkdir()
    assert models.default_weights("cuda") == tmp_path / "compact"
    (tmp_path / "paper").mkdir()
    assert models.default_weights("cuda") == tmp_path / "paper"
    assert models.default_weights("mps") == tmp_path / "paper"
    assert models.default_weights("cpu") == tmp_path / "compact"


def test_a_stored_graph_with_a_changed_byte_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anywhere in it: labels of a damaged graph would be wrong, and nobody would be told."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tensors = {name: values.numpy() for name, values in build(TINY).state_dict().items()}
    tile = np.random.default_rng(0).standard_normal((1, 3, 64, 64)).astype(np.float32)
    expected = openvino_backend.build_network(TINY, tensors, 64)(tile)
    (blob,) = (tmp_path / "reunet").glob("*.blob")
    whole = blob.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 9)):
        damaged = bytearray(whole)
        damaged[place : place + 500] = bytes(255 - value for value in damaged[place : place + 500])
        blob.write_bytes(damaged)
        found = openvino_backend.build_network(TINY, tensors, 64)(tile)
        np.testing.assert_array_equal(found, expected)
        assert blob.read_bytes()[:32] == openvino_backend._digest(blob.read_bytes()[32:])
