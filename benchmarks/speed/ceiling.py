"""How near the compact network comes to what the cores can do.

    python -m benchmarks.speed.ceiling [--weights BUNDLE] [--edge 512] [--turns 3] [--precision f32]

Its GFLOP/s beside those of a large matrix product, on all cores that the process may use (fewer:
`taskset -c 0 python …`). They take turns, each in a process of its own, because idle threads of one
library keep cores from the next; the best round of each counts, as the ceiling is about the machine
and not about what else it does. The ceiling is the faster of two libraries' products: not
every BLAS knows every processor.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from math import prod
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.speed.timing import machine, print_table, verdict
from reunet.model import default_weights
from reunet.network.architecture import Architecture, parameter_shapes
from reunet.network.bundle import load_tensors, open_bundle
from reunet.network.precision import Precision, cpu_precision

MARK = 70  # % of the ceiling
PRODUCT = 2048  # edge of the matrices
ROUNDS = 10  # of a turn, after one that warms up
SEED = 0

Work = Callable[[], object]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--weights", type=Path, default=default_weights())
    parser.add_argument("--edge", type=int, default=512, help="px, of the tile")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--precision", choices=("f32", "bf16"), default=cpu_precision())
    options = parser.parse_args()
    print(machine())
    print_ceiling(options.weights, options.edge, options.turns, options.precision)


def print_ceiling(weights: Path, edge: int, turns: int, precision: Precision) -> None:
    """GFLOP/s of one tile through the first fold, and of the matrix products."""
    own = f"network, a {edge}×{edge} tile"
    flop = {own: 2.0 * multiply_adds(open_bundle(weights).architecture, edge, edge)}
    prepare: dict[str, Callable[[], Work]] = {own: partial(network, weights, edge, precision)}
    for library, product in PRODUCTS.items():
        name = f"{PRODUCT}×{PRODUCT} product, {library}"
        prepare[name], flop[name] = partial(product, precision), 2.0 * PRODUCT**3
    seconds = best_in_turn(prepare, turns)
    speed = {name: flop[name] / seconds[name] / 1e9 for name in seconds}
    rows = [
        (name, f"{flop[name] / 1e9:.1f}", f"{1e3 * seconds[name]:.1f}", f"{speed[name]:.0f}")
        for name in speed
    ]
    print_table((f"{precision} work", "GFLOP", "ms, best", "GFLOP/s"), rows)
    ceiling = max(speed.keys() - {own}, key=lambda name: speed[name])
    share = 100 * speed[own] / speed[ceiling]
    print(
        f"{share:.0f} % of the faster ({ceiling}): {verdict(share >= MARK, f'≥ {MARK} %')}\n",
        flush=True,
    )


def best_in_turn(prepare: Mapping[str, Callable[[], Work]], turns: int) -> dict[str, float]:
    """Seconds of the best round of each; a turn is a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as fresh:
        found = [
            {name: fresh.submit(best_of_rounds, work).result() for name, work in prepare.items()}
            for _ in range(turns)
        ]
    return {name: min(turn[name] for turn in found) for name in prepare}


def best_of_rounds(prepare: Callable[[], Work]) -> float:
    """Seconds of a turn's best round."""
    work, best = prepare(), float("inf")
    work()
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return best


def network(weights: Path, edge: int, precision: Precision) -> Work:
    """One tile through the first fold, by the backend that `reunet predict` takes."""
    from reunet.network.openvino_backend import build_network

    bundle = open_bundle(weights)
    tensors = load_tensors(bundle, bundle.folds[0])
    own = build_network(bundle.architecture, tensors, edge, precision)
    tile = random((1, 3, edge, edge))
    return lambda: own(tile)


def torch_product(precision: Precision) -> Work:
    """A large product by the BLAS that comes with PyTorch."""
    import torch

    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    left, right, out = (torch.from_numpy(random((PRODUCT, PRODUCT))).to(kind) for _ in range(3))
    return lambda: torch.mm(left, right, out=out)


def openvino_product(precision: Precision) -> Work:
    """The same by the library that runs the network; it packs the right matrix only once."""
    from reunet.network.openvino_backend import openvino, ops

    left, right = (random((PRODUCT, PRODUCT)) for _ in range(2))
    given = ops.parameter(left.shape, np.float32)
    graph = openvino.Model([ops.matmul(given, ops.constant(right), False, False)], [given])
    hint = {"INFERENCE_PRECISION_HINT": precision}
    request = openvino.compile_model(graph, "CPU", hint).create_infer_request()
    return lambda: request.infer({0: left}, share_inputs=True, share_outputs=True)


PRODUCTS = {"PyTorch": torch_product, "OpenVINO": openvino_product}


def multiply_adds(arch: Architecture, height: int, width: int) -> int:
    """Multiply-accumulates of the convolutions for one (height, width) tile.

    A kernel acts once on each pixel of its output, that of a transposed convolution, whose outputs
    do not overlap, once on each pixel of its input. Heads of lower resolutions do not run.
    """
    stages = len(arch.features)
    total = 0
    for name, shape in parameter_shapes(arch).items():
        if len(shape) != 4 or ("seg_layers" in name and f".{stages - 2}." not in name):
            continue
        part, kind, index = name.split(".")[:3]
        number = int(index)
        level = number if part == "encoder" else stages - 2 - number
        if kind == "transpconvs":
            level += 1
        total += prod(shape) * (height >> level) * (width >> level)
    return total


def random(shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(SEED).standard_normal(shape, np.float32)


if __name__ == "__main__":
    main()
