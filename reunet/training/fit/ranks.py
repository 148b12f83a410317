"""One training in several processes of this machine: the ranks of PyTorch's DDP.

nnU-Net's trainer does the rest once a process group stands: it splits batch and oversampling over
the ranks, sums the Dice loss over all of them and averages gradients. nnU-Net's own way to start
ranks knows GPUs alone.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_start_method, set_start_method
from pathlib import Path
from typing import Any

from reunet.training.processes import end_with
from reunet.training.talk import deaf_children

BACKENDS = {"cuda": "nccl", "cpu": "gloo"}  # by device: what the ranks exchange gradients through


def run_ranks(
    work: Callable[..., None], arguments: tuple[Any, ...], count: int, device: str
) -> None:
    """`work(*arguments)` in `count` spawned processes, a rank each.

    work: a module's function. On a CPU each rank gets its share of the cores as OMP_NUM_THREADS,
    unless the caller has set that. Once a rank has failed the others are ended, and RuntimeError
    says in one line what went wrong.
    """
    from torch.multiprocessing.spawn import ProcessException, spawn

    if device == "cpu":
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder, "store"), os.getpid(), get_start_method()
        shared = count, device, *meeting, work, arguments
        try:
            with deaf_children():
                ranks: Any = spawn(_rank, shared, count, join=False)  # type: ignore[no-untyped-call]
            while not ranks.join():
                pass
        except ProcessException as error:  # its last line, below a traceback, says why
            raise RuntimeError(str(error).strip().splitlines()[-1]) from error


def _rank(
    rank: int,
    count: int,
    device: str,
    store: Path,
    parent: int,
    start_method: str,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    import torch
    from torch import distributed

    end_with(parent)
    set_start_method(start_method, force=True)  # of loaders: as in a single process
    if device == "cuda":
        torch.cuda.set_device(rank)
    distributed.init_process_group(
        BACKENDS[device], init_method=f"file://{store}", rank=rank, world_size=count
    )
    work(*arguments)
    distributed.destroy_process_group()


@contextmanager
def ddp_on(device: str) -> Iterator[None]:
    """Inside, nnU-Net's trainer wraps its network for this device.

    It names a GPU to DDP whatever the device, which DDP refuses for a network on a CPU.
    """
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet
    from torch.nn.parallel import DistributedDataParallel

    def wrap(network: Any, **_: object) -> DistributedDataParallel:
        return DistributedDataParallel(network)

    before = nnunet.DDP
    nnunet.DDP = wrap if device == "cpu" else before
    try:
        yield
    finally:
        nnunet.DDP = before
