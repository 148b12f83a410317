"""How near the compact network comes to what the cores can do.

    python -m benchmarks.speed.ceiling [--weights BUNDLE] [--edge 512] [--precision f32]

Its GFLOP/s beside those of a large matrix product by the same library, on all cores that the
process may use (fewer: `taskset -c 0 python …`). The two take turns, and the best round of each
counts, as the ceiling is about the machine and not about what else it does.
"""

import argparse
import time
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np

from benchmarks.speed.timing import machine, print_table, verdict
from reunet.model import default_weights
from reunet.network.architecture import Architecture, parameter_shapes
from reunet.network.bundle import Bundle, load_tensors, open_bundle
from reunet.network.openvino_backend import build_network, openvino, ops
from reunet.network.precision import Precision, cpu_precision

MARK = 70  # % of the ceiling
PRODUCT = 2048  # edge of the matrices
ROUNDS = 30  # after one that warms up
SEED = 0

Work = Callable[[], object]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--weights", type=Path, default=default_weights())
    parser.add_argument("--edge", type=int, default=512, help="px, of the tile")
    parser.add_argument("--precision", choices=("f32", "bf16"), default=cpu_precision())
    options = parser.parse_args()
    print(machine())
    bundle, edge, precision = open_bundle(options.weights), options.edge, options.precision
    own, ceiling = f"network, a {edge}×{edge} tile", f"{PRODUCT}×{PRODUCT} product"
    work = {own: network(bundle, edge, precision), ceiling: product(precision)}
    flop = {own: 2.0 * multiply_adds(bundle.architecture, edge, edge), ceiling: 2.0 * PRODUCT**3}
    seconds = best_in_turn(work)
    speed = {name: flop[name] / seconds[name] / 1e9 for name in work}
    rows = [
        (name, f"{flop[name] / 1e9:.1f}", f"{1e3 * seconds[name]:.1f}", f"{speed[name]:.0f}")
        for name in work
    ]
    print_table((f"{precision} work", "GFLOP", "ms, best", "GFLOP/s"), rows)
    share = 100 * speed[own] / speed[ceiling]
    print(f"{share:.0f} % of the product's: {verdict(share >= MARK, f'≥ {MARK} %')}\n", flush=True)


def best_in_turn(work: dict[str, Work]) -> dict[str, float]:
    """Seconds of the best round of each."""
    best = dict.fromkeys(work, float("inf"))
    for number in range(ROUNDS + 1):
        for name, call in work.items():
            started = time.perf_counter()
            call()
            if number:
                best[name] = min(best[name], time.perf_counter() - started)
    return best


def network(bundle: Bundle, edge: int, precision: Precision) -> Work:
    """One tile through the first fold, by the backend that `reunet predict` takes."""
    tensors = load_tensors(bundle, bundle.folds[0])
    own = build_network(bundle.architecture, tensors, edge, precision)
    tile = random((1, 3, edge, edge))
    return lambda: own(tile)


def product(precision: Precision) -> Work:
    """A large product; its right matrix is packed only once."""
    left, right = (random((PRODUCT, PRODUCT)) for _ in range(2))
    given = ops.parameter(left.shape, np.float32)
    graph = openvino.Model([ops.matmul(given, ops.constant(right), False, False)], [given])
    hint = {"INFERENCE_PRECISION_HINT": precision}
    request = openvino.compile_model(graph, "CPU", hint).create_infer_request()
    return lambda: request.infer({0: left}, share_inputs=True, share_outputs=True)


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
