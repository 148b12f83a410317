"""Processes of a training end with it, however it ends: a killed one leaves nothing behind."""

import os
import signal
import sys
import time
from threading import Thread
from types import TracebackType

LOOK_EVERY = 1.0  # s


def end_with(parent: int, group: bool = False) -> None:
    """From now on this process is killed once its parent is no longer the process `parent`.

    A thread looks every second: that works wherever there are processes to adopt, while Linux's
    own signal at a parent's death comes as soon as the *thread* ends that started the child.
    Until it has looked the process may run into connections that the parent has left behind: such
    errors are told only if the parent is still there by then.
    group: kill its whole process group, of which it must be the leader.
    """
    tell = sys.excepthook

    def tell_later(
        kind: type[BaseException], error: BaseException, at: TracebackType | None
    ) -> None:
        """As `tell`, but of a lost connection only after the next look at the parent."""
        if issubclass(kind, (ConnectionError, EOFError)):
            time.sleep(2 * LOOK_EVERY)
        tell(kind, error, at)

    sys.excepthook = tell_later
    Thread(target=_watch, args=(parent, group), daemon=True).start()


def _watch(parent: int, group: bool) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY)
    if group:
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
