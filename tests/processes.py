"""Processes that tests start, and those that these start: who is left, and that nobody stays."""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1


LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent() -> None:
    """Have Linux kill this process once its parent has ended."""
    if LIBC:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


# For subprocess: what a test starts is killed with it, also where pytest itself is killed or times
# out; below a shell only what replaces it (exec). A training takes along what it has started.
TOGETHER: dict[str, Any] = {"preexec_fn": die_with_parent}


def hear_and_die() -> None:
    """Hear Ctrl-C, which a shell's background ignores, and end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent()


def descendants(pid: int) -> set[int]:
    """Processes below a process. Linux alone."""
    parents = {}
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit():
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                parents[int(folder.name)] = int(stat[1])
        except OSError:  # it has ended meanwhile
            continue
    found, new = set[int](), {pid}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found


def is_running(pid: int) -> bool:
    """Whether a process exists that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def left_of(pids: set[int], seconds: float = 20) -> set[int]:
    """Which of some processes are there still after that time; none: as soon as all have ended."""
    until = time.monotonic() + seconds
    while (left := {pid for pid in pids if is_running(pid)}) and time.monotonic() < until:
        time.sleep(0.1)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return left
