"""Standard output and error that never fail: no label may depend on whether a line can be printed.

A service or `2>&-` has no stderr, a disk may be full, the reader of a pipe may be gone.
"""

import io
import os
import sys
from typing import Any


class _Lenient(io.RawIOBase):
    """Writes to a file descriptor, and loses what that does not take."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        """Write what there is room for; the rest counts as written, too."""
        content = memoryview(data).cast("B")
        try:
            return os.write(self._descriptor, content)
        except BlockingIOError:  # a pipe that somebody made so, and which is full
            return len(content)
        except OSError:
            return len(content)


def never_fail() -> None:
    """Make standard output and error lenient, unless they are no files (a test's, an IDE's)."""
    _occupy()
    sys.stdout = _lenient(sys.stdout, 1)
    sys.stderr = _lenient(sys.stderr, 2)


def _occupy() -> None:
    """Open what is closed of the first three descriptors: a label file must not become one."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)


def _lenient(stream: Any, descriptor: int) -> Any:
    if stream is not None:
        try:
            own = stream.fileno() == descriptor
        except (OSError, ValueError, AttributeError):
            own = False
        if not own or (sys.platform == "win32" and stream.isatty()):  # its console is no file
            return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Lenient(descriptor)),
        encoding=getattr(stream, "encoding", None) or "utf-8",
        errors=getattr(stream, "errors", None) if descriptor == 1 else "backslashreplace",
        line_buffering=True,
    )
