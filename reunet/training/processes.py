"""Processes of a training end with it, however it ends: a killed one leaves nothing behind."""

import os
import signal
import time
from threading import Thread

LOOK_EVERY = 1.0  # s


def end_with(parent: int, group: bool = False) -> None:
    """From now on this process is killed once its parent is no longer the process `parent`.

    A thread looks every second: that works wherever there are processes to adopt, while Linux's
    own signal at a parent's death comes as soon as the *thread* ends that started the child.
    group: kill its whole process group, of which it must be the leader.
    """
    Thread(target=_watch, args=(parent, group), daemon=True).start()


def _watch(parent: int, group: bool) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY)
    if group:
        os.killpg(0, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
