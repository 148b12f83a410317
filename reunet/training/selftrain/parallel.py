"""Work in processes of their own, several side by side.

On two CPU cores three trainings of one thread each learn more in an hour than one training with
two threads after the other.
"""

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from reunet.training.processes import end_with
from reunet.training.talk import deaf_children


@dataclass(frozen=True)
class Running:
    """A process and the end of the pipe that its result comes from."""

    process: BaseProcess
    receiver: Connection


def run_each(
    work: Callable[..., Any], tasks: dict[str, tuple[Any, ...]], jobs: int, logs: Path
) -> dict[str, Any]:
    """`work(*arguments)` of every task, `jobs` at a time, each in a spawned process.

    work: a module's function. tasks: arguments by the task's name. logs: folder where `<name>.log`
    takes what a process prints. Each process gets its share of the cores as OMP_NUM_THREADS,
    unless the caller has set that. Returns the results by name. Once a task has failed no other
    is begun; those under way end, then RuntimeError says in one line what went wrong.
    """
    logs.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    waiting, running = list(tasks), dict[str, Running]()
    results: dict[str, Any] = {}
    failed = ""
    try:
        while running or (waiting and not failed):
            while waiting and len(running) < jobs and not failed:
                name = waiting.pop(0)
                running[name] = _start(work, tasks[name], logs / f"{name}.log")
            for name in _ended(running):
                fine, result = _result(running.pop(name), logs / f"{name}.log")
                results[name] = result
                failed = failed or ("" if fine else f"{name}: {result}")
    finally:
        for left in running.values():  # interrupted: a process takes its own loaders along
            with contextlib.suppress(ProcessLookupError):  # it has no group yet, nor loaders
                os.killpg(left.process.pid or 0, signal.SIGKILL)
            left.process.kill()
    if failed:
        raise RuntimeError(failed)
    return {name: results[name] for name in tasks}


def _start(work: Callable[..., Any], arguments: tuple[Any, ...], log: Path) -> Running:
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(work, arguments, log, sender, os.getpid()))
    with deaf_children():  # it is ended by this one, without a traceback of its own
        process.start()
    sender.close()  # of this process: the pipe ends when the other one does
    return Running(process, receiver)


def _ended(running: dict[str, Running]) -> list[str]:
    ready = wait([task.receiver for task in running.values()])
    return [name for name, task in running.items() if task.receiver in ready]


def _result(task: Running, log: Path) -> tuple[bool, Any]:
    try:
        fine, result = task.receiver.recv()
    except EOFError:
        fine, result = False, f"its process died, see the end of {log}"
    task.process.join()
    return fine, result


def _work(
    work: Callable[..., Any], arguments: tuple[Any, ...], log: Path, sender: Connection, parent: int
) -> None:
    os.setpgid(0, 0)  # a group of its own, with the loaders that nnU-Net starts
    end_with(parent, group=True)  # it would disturb the training that a new start begins
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        sender.send((True, work(*arguments)))
    except (OSError, ValueError, RuntimeError, MemoryError) as error:
        sender.send((False, " ".join(str(error).split()) or type(error).__name__))
