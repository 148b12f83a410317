"""Workers of Dask, and whether they can do our work: version, weights, folders.

Nothing of Dask is imported unless this module is used (extra `dask`).
"""

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import reunet
from reunet.errors import WeightsError, message_of
from reunet.model import Model, default_weights, load_model
from reunet.network.bundle import open_bundle
from reunet.run.resume import bundle_hash, model_hash

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

SECONDS = 15  # that a scheduler or its first worker may take to answer


class CannotDistribute(ValueError):
    """A scheduler or workers that cannot be used. One line."""


@dataclass(frozen=True)
class Weights:
    """Which model a worker is to load."""

    folder: Path
    hash: str
    folds: tuple[str, ...]
    device: str
    precision: str = "f32"


def weights_of(model: Model, device: str) -> Weights:
    """What workers are told about a model. device: that they are to use."""
    exact = model.device == "cpu" or model.precision == "f32"
    number = model.precision if exact else "auto"
    return Weights(
        model.bundle.folder.resolve(), model_hash(model), tuple(model.folds), device, number
    )


@contextlib.contextmanager
def cluster(scheduler: str | None, workers: int | None) -> "Iterator[Client]":
    """A connection to a scheduler, or to one of our own with so many worker processes here.

    Raises CannotDistribute where Dask is not installed, nobody answers or there is no worker.
    """
    try:
        import distributed
    except ImportError as error:
        raise CannotDistribute("Dask is not installed: pip install 'reunet[dask]'") from error
    import logging

    for name in ("distributed", "tornado"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # what matters is told in one line
    with contextlib.ExitStack() as stack:
        try:
            if scheduler is None:
                own = stack.enter_context(_own_cluster(workers or 1))
                client = distributed.Client(own, timeout=SECONDS)
            else:
                client = distributed.Client(scheduler, timeout=SECONDS)
            stack.enter_context(client)
        except (OSError, ValueError, RuntimeError) as error:
            cause = f"no Dask scheduler answers there ({message_of(error)})"
            raise CannotDistribute(f"{scheduler}: {cause}; start one: dask scheduler") from error
        try:
            client.wait_for_workers(1, timeout=SECONDS)
        except TimeoutError as error:
            raise CannotDistribute(
                f"{scheduler}: has no workers; start some: dask worker {scheduler}"
            ) from error
        yield client


@lru_cache(maxsize=1)
def model_here(weights: Weights) -> Model:
    """The model, loaded once a worker. Raises WeightsError where this machine has others, and
    ValueError where it lacks the device or computes in another precision."""
    folder = _folder_here(weights)
    return load_model(folder, weights.device, weights.folds, weights.precision)


def _folder_here(weights: Weights) -> Path:
    """Where a worker finds the weights: under the client's path, or those that came with it."""
    found = []
    for folder in (weights.folder, None):
        with contextlib.suppress(WeightsError):
            bundle = open_bundle(folder or default_weights())
            found.append(bundle_hash(bundle))
            if found[-1] == weights.hash:
                return bundle.folder
    has = f"has {' and '.join(dict.fromkeys(found))}" if found else "has none"
    needs = f"the worker needs weights {weights.hash} and {has}"
    raise WeightsError(f"{weights.folder}: {needs}; copy the bundle there")


@contextlib.contextmanager
def _own_cluster(workers: int) -> "Iterator[LocalCluster]":
    """Worker processes on this machine, which share its cores.

    They get what Dask sets for many small tasks otherwise: no profile of every hundredth of a
    second, no dashboard, and no allocator that gives every freed array back to the system at once.
    """
    import dask
    from distributed import LocalCluster

    threads = str(max(1, cores() // workers))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    settings = {
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(names, threads),
        "distributed.worker.profile.enabled": False,
        "distributed.admin.tick.interval": "200ms",
    }
    with (
        dask.config.set(settings),
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as own,
    ):
        yield own


def cores() -> int:
    """Cores that this process and its children may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_workers(client: "Client", weights: Weights, images: Sequence[Path], output: Path) -> None:
    """Raise CannotDistribute, in one line, for the first worker that could not do its work."""
    token = output / f".reunet-{secrets.token_hex(8)}"
    try:
        token.touch()
        told = client.run(
            complaint, weights, images[0].absolute(), token.absolute(), reunet.__version__,
            on_error="return",
        )  # fmt: skip
    finally:
        token.unlink(missing_ok=True)
    for worker, answer in told.items():
        if isinstance(answer, BaseException):  # it could not even import this module
            cause = message_of(RuntimeError(f"{type(answer).__name__}: {answer}"))
            answer = f"reunet {reunet.__version__} does not run there ({cause})"
        if answer:
            raise CannotDistribute(f"worker {worker}: {answer}")


def complaint(weights: Weights, image: Path, token: Path, version: str) -> str | None:
    """What keeps this worker from its work, in one line; None for nothing."""
    if reunet.__version__ != version:
        return f"has reunet {reunet.__version__}, not {version}; install the same"
    if not image.exists():
        return f"does not see {image}; mount the folder of the images under the same path"
    if not token.exists():
        return f"does not see {token.parent}; mount the folder of the labels under the same path"
    try:
        model_here(weights)
    except ValueError as error:  # a WeightsError is one
        return message_of(error)
    return None
