"""The U-Net on a CPU by OpenVINO: from bare tensors to a network, without PyTorch.

About half the time of eager PyTorch, and it starts in a tenth of the time. In float32 logits are
within 1e-4 of PyTorch's on images; in bfloat16, within 0.01 in the mean; in both the same to the
bit however many threads there are. Legend: N images, C channels, H, W pixels.
"""

import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from reunet.errors import ImageError
from reunet.inference.ensemble import Network
from reunet.io.atomic import replacing
from reunet.network.architecture import LEAK, NORM_EPS, SIZE_STAGE, Architecture, parameter_shapes
from reunet.network.bundle import StoredTensors
from reunet.network.precision import Precision

CACHE_BYTES = 2**28  # of compiled graphs in all
LARGEST_CACHED = 2**25  # bytes of a graph; where a tile takes seconds, a tenth saved is nothing
ANY = (-1, -1)  # px, edges of a graph that takes tiles of any
DIGEST = 32  # bytes of the sha256 that a stored graph begins with

Tensors = Mapping[str, np.ndarray]


@contextlib.contextmanager
def _without_converters() -> Iterator[None]:
    """OpenVINO imports its model converters, and does without where they cannot be imported.

    They are not needed here, take most of its import time, and report that they were imported to a
    server on the internet.
    """
    name = "openvino.tools.ovc"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


with _without_converters():
    import openvino
    from openvino import opset13 as ops


def build_network(
    arch: Architecture,
    tensors: Tensors,
    tile: int,
    precision: Precision = "f32",
    ahead: int | None = None,
) -> Network:
    """The network of a fold.

    tensors: float32 by the names of `parameter_shapes`. tile: px, edge of a full tile. Such tiles,
    of which a large image has many, get a graph of their own, which is a tenth faster. Those of
    small images share one: to compile another for each size would take as long as a tile.
    precision: of products and maps, see `precision.cpu_precision`; both sides stay float32.
    ahead: px, edge of the tile whose graph is compiled on a thread, while the caller does what
    comes before tiles (None: of none).
    Raises RuntimeError where OpenVINO cannot compile the network.
    """
    lock = threading.Lock()  # a request serves one thread at a time
    size = 4 * sum(map(prod, parameter_shapes(arch).values()))
    folder = cache_folder() if size <= LARGEST_CACHED else None

    @lru_cache
    def request(edges: tuple[int, int]) -> Any:
        """Of the graph of tiles with such edges, px."""
        make = partial(build_model, arch, tensors, edges)
        return _request(make, precision, folder, (arch, edges), tensors)

    def request_for(shape: tuple[int, ...]) -> Any:
        return request((tile, tile) if shape == (tile, tile) else ANY)

    def network(tiles: np.ndarray) -> np.ndarray:
        """Logits of tiles: (N, 3, h, w) -> (N, C, h, w), both float32."""
        shape = tiles.shape[2:]
        logits = np.empty((len(tiles), arch.outputs, *shape), np.float32)
        with lock:
            infer = request_for(shape).infer
            for n in range(len(tiles)):
                results = infer({0: tiles[n : n + 1]}, share_inputs=True, share_outputs=True)
                logits[n] = results[0][0]  # OpenVINO's own memory: the next tile overwrites it
        return logits

    if ahead:
        _compile_ahead(lock, partial(request_for, (ahead, ahead)))
    return network


def build_size_network(
    arch: Architecture, tensors: Tensors, precision: Precision = "f32"
) -> Network:
    """The size network: (1, 3, h, w) -> (1, SIZE_OUTPUTS, h / 8, w / 8), both float32.

    tensors: float32 by the names of `size_parameter_shapes`. precision: as in `build_network`. It
    is compiled on a thread, while the caller does what comes before its first view.
    It raises RuntimeError where OpenVINO cannot compile it.
    """
    lock = threading.Lock()
    folder = cache_folder()

    @lru_cache
    def request() -> Any:
        make = partial(build_model, arch, tensors, last=SIZE_STAGE)
        return _request(make, precision, folder, (arch, SIZE_STAGE), tensors)

    def network(view: np.ndarray) -> np.ndarray:
        """What the network says of one view."""
        with lock:
            return np.array(request().infer({0: view}, share_inputs=True)[0])

    _compile_ahead(lock, request)
    return network


def _compile_ahead(lock: threading.Lock, request: Callable[[], Any]) -> None:
    """Have a graph compiled on a thread."""

    def compile_it() -> None:
        with lock, contextlib.suppress(RuntimeError):  # the first to need it will meet with it
            request()

    threading.Thread(target=compile_it).start()


def _request(
    make_model: Callable[[], Any],
    precision: Precision,
    folder: Path | None,
    what: object,
    tensors: Tensors,
) -> Any:
    """What computes a graph. folder: where it is kept (None: nowhere), named by `what` it is."""
    if folder is None:
        return _compile(make_model(), precision).create_infer_request()
    key = _key(what, tensors)
    return _compile_or_load(make_model, precision, folder, key).create_infer_request()


def _compile(model: Any, precision: Precision) -> Any:
    return openvino.Core().compile_model(model, "CPU", _settings(precision))


def _compile_or_load(
    make_model: Callable[[], Any], precision: Precision, folder: Path, key: str
) -> Any:
    """Compile a graph, or take one that an earlier process left if every byte of it is right.

    key: of all that the graph is made from; what it is compiled for is added here. OpenVINO's own
    cache believes damaged files: a graph with a few wrong weights finds no cells, and does not say
    so.
    """
    core, settings = openvino.Core(), _settings(precision)
    here = (openvino.get_version(), core.get_property("CPU", "FULL_DEVICE_NAME"), settings)
    path = folder / f"{_digest(key.encode(), repr(here).encode()).hex()}.blob"
    with contextlib.suppress(RuntimeError, OSError):
        with path.open("rb") as file:
            digest, stored = file.read(DIGEST), file.read()
        if _digest(stored) == digest:
            return core.import_model(stored, "CPU", settings)
    compiled = core.compile_model(make_model(), "CPU", settings)
    with contextlib.suppress(RuntimeError, OSError, ImageError):
        stored = compiled.export_model()
        stored = stored if isinstance(stored, bytes) else stored.getvalue()
        with replacing(path) as temporary:
            temporary.write_bytes(_digest(stored) + stored)
    return compiled


def _key(what: object, tensors: Tensors) -> str:
    """Names a graph by all that it is made from."""
    if isinstance(tensors, StoredTensors):
        return _digest(repr((what, tensors.sha256)).encode()).hex()
    return _digest(repr((what, *sorted(tensors))).encode(), *_bytes_of(tensors)).hex()


def _digest(*parts: Any) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def _bytes_of(tensors: Tensors) -> Iterator[Any]:
    for name in sorted(tensors):
        yield np.ascontiguousarray(tensors[name]).data.cast("B")


def _settings(precision: Precision) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": precision,  # left out, OpenVINO takes bfloat16 where it can
        "PERFORMANCE_HINT": "LATENCY",  # one tile after the other, all cores on each
        "ENABLE_CPU_PINNING": False,  # two processes would pin their threads to the same cores
    }
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdecimal():  # OpenVINO, whose threads are of another kind, does not look at it
        settings["INFERENCE_NUM_THREADS"] = int(threads)
    return settings


def cache_folder() -> Path | None:
    """Where compiled graphs are kept from one process to the next, 0.1 s each; None: nowhere.

    A folder of the user's, below $XDG_CACHE_HOME or ~/.cache if that is there and can be written.
    The oldest graphs are dropped beyond CACHE_BYTES.
    """
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = root / "reunet"
        if not os.access(folder if folder.is_dir() else root, os.W_OK | os.X_OK):
            return None
        folder.mkdir(exist_ok=True)
        files = sorted(folder.glob("*.blob"), key=lambda file: file.stat().st_mtime)
        excess = sum(file.stat().st_size for file in files) - CACHE_BYTES
        for file in files:
            if excess > 0:
                excess -= file.stat().st_size
                file.unlink()
    except (OSError, RuntimeError):  # no home, no permission, or another process was faster
        return None
    return folder


def build_model(
    arch: Architecture,
    tensors: Tensors,
    edges: tuple[int, int] = ANY,
    last: int | None = None,
) -> Any:
    """OpenVINO's graph of the network: (1, 3, H, W) -> (1, C, H, W) float32.

    edges: H and W; -1 leaves them free. last: decoder stage to read out (None: the last, at full
    resolution). The tensors are used where they lie, not copied.
    """
    image = ops.parameter([1, arch.in_channels, *edges], np.float32, name="image")
    x: Any = image
    skips = []
    for stage in range(len(arch.features)):
        x = _block(x, f"encoder.stages.{stage}.0", 2 if stage else 1, arch, tensors)
        skips.append(x)
    last = len(arch.features) - 2 if last is None else last
    for stage, skip in enumerate(skips[-2::-1][: last + 1]):
        x = _upsample(x, f"decoder.transpconvs.{stage}", tensors)
        x = _block(ops.concat([x, skip], 1), f"decoder.stages.{stage}", 1, arch, tensors)
    x = _head(x, f"decoder.seg_layers.{last}", tensors)
    return openvino.Model([x], [image], "unet")


def _block(x: Any, name: str, stride: int, arch: Architecture, tensors: Tensors) -> Any:
    for n in range(arch.convs_per_block):
        layer = f"{name}.convs.{n}"
        # The convolution's bias is left out: the instance norm behind it takes it away again.
        x = ops.convolution(
            x,
            _constant(tensors[f"{layer}.conv.weight"]),
            [stride if n == 0 else 1] * 2,
            [1, 1],
            [1, 1],
            [1, 1],
        )
        x = _instance_norm(x, tensors[f"{layer}.norm.weight"], tensors[f"{layer}.norm.bias"])
        x = ops.prelu(x, _constant(np.array([LEAK])))
    return x


def _instance_norm(x: Any, scale: np.ndarray, shift: np.ndarray) -> Any:
    """Zero mean and unit variance of each channel, then scale and shift.

    OpenVINO has an operation for it (MVN), but that adds up each thread's share of the pixels one
    by one in float32: the logits of a 512×512 tile come out wrong by up to 0.003, and differently
    for another number of threads. Rows first, then their means: right to 2e-5, on any threads.
    In bfloat16 the means are rounded, too, which adds an eighth to the error of all the rest.
    """
    mean = _mean(x)
    variance = _mean(ops.squared_difference(x, mean))
    deviation = ops.sqrt(ops.add(variance, _constant(np.array(NORM_EPS))))
    factor = ops.divide(_constant(scale.reshape(1, -1, 1, 1)), deviation)
    offset = ops.subtract(_constant(shift.reshape(1, -1, 1, 1)), ops.multiply(mean, factor))
    return ops.add(ops.multiply(x, factor), offset)


def _mean(x: Any) -> Any:
    """Over H and W. (1, C, H, W) -> (1, C, 1, 1)."""
    of_rows = ops.reduce_mean(x, _axis(3), keep_dims=True)
    return ops.reduce_mean(of_rows, _axis(2), keep_dims=True)


def _upsample(x: Any, name: str, tensors: Tensors) -> Any:
    x = ops.convolution_backprop_data(x, _constant(tensors[f"{name}.weight"]), [2, 2])
    return ops.add(x, _constant(tensors[f"{name}.bias"].reshape(1, -1, 1, 1)))


def _head(x: Any, name: str, tensors: Tensors) -> Any:
    kernel = _constant(tensors[f"{name}.weight"])
    x = ops.convolution(x, kernel, [1, 1], [0, 0], [0, 0], [1, 1])
    return ops.add(x, _constant(tensors[f"{name}.bias"].reshape(1, -1, 1, 1)))


def _axis(number: int) -> Any:
    return ops.constant(np.array([number], np.int64))


def _constant(values: np.ndarray) -> Any:
    return ops.constant(np.ascontiguousarray(values, np.float32), shared_memory=True)
