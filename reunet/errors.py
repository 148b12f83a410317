"""What goes wrong, and how it is told: one line with the file, the cause and the way out."""

import warnings
from pathlib import Path


class ReUNetError(ValueError):
    """What is wrong with a file, a bundle or a device; one line that also tells the way out."""


class ImageError(ReUNetError):
    """A file that cannot be used. The message is one line: file, cause, way out."""


class NoRoom(ImageError):
    """A folder that cannot take what is to be written; the image is not at fault."""


class DeviceError(ReUNetError):
    """A device that this machine lacks, or that fails. One line with the way out."""


class WeightsError(ReUNetError):
    """A bundle that cannot be used. One line: the file, what is wrong with it, and the way out."""


class TiffError(Exception):
    """A TIFF that decodes but is not a whole image, or one that is not safe to decode."""

    def __init__(self, cause: str, way_out: str) -> None:
        super().__init__(f"{cause}; {way_out}")
        self.cause, self.way_out = cause, way_out


class NotThere(ValueError):
    """A channel or plane that a file lacks: what it has, and the way out."""

    def __init__(self, cause: str, way_out: str) -> None:
        super().__init__(f"{cause}; {way_out}")
        self.cause, self.way_out = cause, way_out


class ReUNetWarning(UserWarning):
    """What was assumed about an image: the command prints it as a `note:`."""


def image_error(path: Path, cause: str, way_out: str) -> ImageError:
    """An error about a file, in one line."""
    return ImageError(one_line(f"{path}: {' '.join(cause.split())}; {way_out}"))


def no_room(path: Path, cause: str) -> NoRoom:
    """An error about a file that cannot be written, in one line."""
    return NoRoom(str(image_error(path, cause, "choose a folder with space to write in")))


def reason(error: Exception) -> str:
    """Why a file could not be read or written, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"cannot be decoded ({type(error).__name__}: {str(error)[:200]})"


def one_line(text: str) -> str:
    """Text that prints as one line and does nothing else to a terminal.

    File names may hold anything: line breaks, terminal escapes, bytes that are no text.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def message_of(error: Exception) -> str:
    """An error's text in one line of up to 200 characters."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def warn(message: str) -> None:
    """For the user, not for the programmer: callers show it as one line."""
    warnings.warn(message, RuntimeWarning, stacklevel=2)
