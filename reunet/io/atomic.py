"""Files that are there wholly or not at all, whoever is killed in between."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from reunet.errors import no_room, reason


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write to; it takes the place of `path` once all is written.

    Raises NoRoom where the file cannot be written; nothing is left behind then.
    """
    temporary = None
    try:
        # In the same folder, because a rename is atomic only within one file system.
        temporary, file = _new_temporary(path.parent)
        with file:
            yield temporary
            temporary.replace(path)
    except OSError as error:
        raise no_room(path, reason(error)) from error
    finally:
        if temporary:
            with contextlib.suppress(OSError):  # it is gone after the rename
                temporary.unlink()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold a lock that a file stands for. Gives False where another process holds it.

    The file is removed afterwards. Where a file system has no locks, nothing is held.
    """
    with path.open("ab") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        except (ImportError, OSError):
            pass
        try:
            yield True
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of killed runs: those that no process holds a lock on.

    Where a file system has no locks, none is removed.
    """
    for path in folder.glob(".*-" + 8 * "[0-9a-f]" + ".tmp"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            if _lock(file, wait=False):
                path.unlink()


def _new_temporary(folder: Path) -> tuple[Path, BinaryIO]:
    """A hidden file, locked until it is closed or the process dies (where locks exist)."""
    while True:
        temporary = folder / f".{os.getpid()}-{secrets.token_hex(4)}.tmp"
        file = temporary.open("xb")
        if not _lock(file, wait=True):
            file.close()  # Windows renames no open file
            return temporary, file
        if temporary.exists():  # or else another run took it for a leftover, before the lock
            return temporary, file
        file.close()


def _lock(file: BinaryIO, *, wait: bool) -> bool:
    """Lock a file against other processes, on this and other machines. Returns whether it is."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # Windows; a file system without locks; somebody else's lock
        return False
    return True
