"""What a training says while it works: a line every few seconds, one line when interrupted."""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

TERMINAL_EVERY, FILE_EVERY = 3.0, 30.0  # s between two lines, rewritten in place on a terminal
INTERRUPTED = "interrupted: the same command goes on where it was"


def told_seconds(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Ticker:
    """Tells iterations a second, loss and time left, now and then.

    On a terminal the line is rewritten in place; elsewhere each is a line of its own.
    """

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty()
        self.every = TERMINAL_EVERY if self.terminal else FILE_EVERY
        self.started = self.told = time.monotonic()
        self.first: float | None = None  # share that was over at the start
        self.count, self.since, self.losses = 0, 0, list[float]()

    def tick(self, share: float, loss: float) -> None:
        """Note an iteration. share: of the training that is over, 0..1."""
        share = min(share, 1.0)
        self.first = share if self.first is None else self.first
        self.count, self.since = self.count + 1, self.since + 1
        self.losses.append(loss)
        now = time.monotonic()
        if now - self.told < self.every:
            return
        self.show(self.line(share, now))
        self.told, self.since = now, 0
        self.losses.clear()

    def line(self, share: float, now: float) -> str:
        """Share, iterations since the start and a second, mean loss since the last line, ETA."""
        parts = [
            f"{share:.0%}",
            f"{self.count} iterations",
            f"{self.since / (now - self.told):.2f} a second",
            f"loss {sum(self.losses) / len(self.losses):.3f}",
        ]
        gone = share - (self.first or 0.0)
        if gone > 0:
            left = (now - self.started) * (1 - share) / gone
            parts.append(f"about {told_seconds(left)} left")
        return ", ".join(parts)

    def show(self, line: str) -> None:
        """Print a line that the next one takes the place of."""
        print(f"\r\033[K{line}" if self.terminal else line, end="" if self.terminal else "\n")
        sys.stdout.flush()

    def end(self) -> None:
        """Leave a terminal's line, before something else is printed."""
        if self.terminal and self.count:
            print("\r\033[K", end="")


@contextlib.contextmanager
def one_line_when_interrupted() -> Iterator[None]:
    """End on Ctrl-C or SIGTERM with one line and exit code 130."""

    def hear(_: int, __: object) -> None:
        raise KeyboardInterrupt

    _end_forks_by_sigterm()
    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield
    except KeyboardInterrupt:
        print(f"\n{INTERRUPTED}" if sys.stderr.isatty() else INTERRUPTED, file=sys.stderr)
        for child in multiprocessing.active_children():
            child.kill()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130)  # nnU-Net's threads would wait for those processes, or tell that they died
    finally:
        signal.signal(signal.SIGTERM, before)


@functools.cache
def _end_forks_by_sigterm() -> None:
    """From now on SIGTERM ends forked processes as if this one had never heard of it.

    nnU-Net's pools end their processes by it, some at once. A handler of Python's that they inherit
    loses a signal that comes while they are being forked, and the pool would wait for ever. So it
    is held back meanwhile, and they take it the system's way.
    """
    if not hasattr(os, "register_at_fork"):  # Windows does not fork
        return
    these = {signal.SIGTERM}

    def in_child() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, these)

    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, these),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, these),
        after_in_child=in_child,
    )


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started inside never hear Ctrl-C: this one ends them, without their tracebacks."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def into_file(log: Path) -> Iterator[None]:
    """What is printed inside, by this process and those that it starts, goes to the end of a file.

    nnU-Net tells its plans at length, some of it from other processes: the file keeps it for who
    wants to know. The last lines of it are the place to look when something fails.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
                yield
    finally:
        for number, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, number)
            os.close(copy)
