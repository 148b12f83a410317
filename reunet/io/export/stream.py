"""Text files that grow image by image and are there wholly or not at all."""

import contextlib
from pathlib import Path

from reunet.errors import image_error, reason
from reunet.io.atomic import replacing

WAY_OUT = "choose a folder with space to write in"


class Stream:
    """A file that takes its name when it is closed; until then a hidden one beside it grows.

    What cannot be appended wholly (a full disk) is taken back, so that what was written before
    still makes a valid file.
    """

    def __init__(self, path: Path) -> None:
        """Raises ImageError where the file cannot be created."""
        self._path = path
        self._open = contextlib.ExitStack()
        temporary = self._open.enter_context(replacing(path))
        self._file = self._open.enter_context(temporary.open("wb", buffering=0))

    def append(self, text: str) -> None:
        """Raises ImageError where the text does not fit; the file then is as it was before."""
        before, data = self._file.tell(), memoryview(text.encode("utf-8", "backslashreplace"))
        try:
            while data:  # a file without a buffer may take a part only
                data = data[self._file.write(data) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(before)
                self._file.seek(before)
            raise image_error(self._path, reason(error), WAY_OUT) from error

    def close(self) -> None:
        """Give the file its name. Raises ImageError."""
        self._open.close()

    def discard(self) -> None:
        """Remove what was written and leave what bore the name before."""
        with contextlib.suppress(Discarded):
            self._open.__exit__(Discarded, Discarded(), None)


class Discarded(Exception):
    """Ends a `replacing` without the replacement."""
