"""python tests/fuzz/reader.py FOLDER [--minutes M | --inputs N]: damage images, and read them.

FOLDER holds images (`tests/zoo/make.py`). Whatever happens but a picture or an ImageError is a
finding: another exception, a crash, more than SECONDS or MEMORY, a warning or a line printed, or
bands of rows that do not make up the picture.
Inputs are numbered; number and seed bring one back (--first N --inputs 1 --keep FOLDER).
`--judge FILES` reads files as they are. Findings are lines of JSON; the last line sums up.
"""

import argparse
import faulthandler
import json
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
from mutate import mutate, vendors

SECONDS = 20  # a file may take; a whole one takes milliseconds
MEMORY = 2**28  # bytes a file may take, at a limit of PIXELS
HEADROOM = 2**32  # bytes it may ask for: that is when it is ended
PIXELS = 4_000_000
LARGEST = 100_000  # bytes, of the files that are damaged
STUCK = 3 * SECONDS  # after which a process that does not hear the alarm is ended


@dataclass
class Judge:
    """Reads files, and says what is wrong with how that went."""

    log: int  # file descriptor that stands for the standard error
    taken: int = 0  # bytes of memory, by the last file

    def __call__(self, path: Path) -> tuple[str, str]:
        """Finding ("" if there is none), and the message or the shape of the picture."""
        from reunet.errors import ImageError
        from reunet.inference.normalise import normalise_channels
        from reunet.io.images import read_image

        os.ftruncate(self.log, 0)
        before = reset_peak()
        signal.alarm(SECONDS)
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                pixels = read_image(path).pixels
                shown = normalise_channels(pixels)
                finding = _judge_pixels(pixels, shown) or _judge_bands(path, pixels)
            text = f"{pixels.shape} {pixels.dtype}"
        except ImageError as error:
            finding, text = _judge_message(str(error)), str(error)
        except BaseException as error:
            finding, text = "exception", f"{type(error).__name__}: {error}"
        finally:
            signal.alarm(0)
        self.taken = peak() - before
        if not finding and self.taken > MEMORY:
            finding, text = "memory", f"{self.taken / 2**20:.0f} MiB: {text}"
        if not finding and warned:
            finding, text = "warning", str(warned[0].message)
        if not finding and os.fstat(self.log).st_size:
            finding, text = "prints", os.pread(self.log, 500, 0).decode(errors="replace")
        return finding, text


def _judge_pixels(pixels: np.ndarray, shown: np.ndarray) -> str:
    good = pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size and pixels.dtype.isnative
    finite = pixels.dtype.kind in "iub" or bool(np.isfinite(pixels).all())
    return "" if good and finite and shown.shape == pixels.shape else "no picture"


def _judge_bands(path: Path, pixels: np.ndarray) -> str:
    """Slides are read another way, which has to give the same."""
    from reunet.errors import ImageError
    from reunet.io.source import stream

    try:
        bands = [band.pixels for band in stream(path).bands()]
    except ImageError:
        return "no bands"
    return "" if np.array_equal(np.concatenate(bands), pixels) else "other bands"


def _judge_message(message: str) -> str:
    if "TimeoutError" in message:
        return "time"
    return "" if message.isprintable() and "; " in message else "message"


def reset_peak() -> int:
    """Forget the highest use of memory so far. Returns that of now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """Highest use of memory, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def prepare() -> Judge:
    """Limit time and memory of this process, and send its standard error to a file."""
    import imagecodecs  # noqa: F401  # takes its memory before the limit is set
    import tifffile  # noqa: F401

    from reunet.io import source  # noqa: F401

    os.environ["REUNET_MAX_PIXELS"] = str(PIXELS)
    log = os.open(tempfile.mkdtemp() + "/log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 2)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + HEADROOM, used + HEADROOM))
    signal.signal(signal.SIGALRM, _time_is_up)
    return Judge(log)


def _time_is_up(_: int, __: FrameType | None) -> None:
    raise TimeoutError("time is up")


def damage_and_judge(
    corpus: dict[Path, bytes], seed: int, numbers: range, until: float, keep: Path
) -> Iterator[tuple[int, str, str]]:
    """Number, finding and text of each input, in this process. Findings are kept in a folder."""
    judge = prepare()
    names, contents = list(corpus), list(corpus.values())
    with tempfile.TemporaryDirectory() as scratch:
        for number in numbers:
            if time.monotonic() > until:
                return
            rng = np.random.default_rng([seed, number])
            content = mutate(rng, contents)
            path = Path(scratch) / f"input{names[rng.integers(len(names))].suffix}"
            path.write_bytes(content)
            yield number, "begun", ""
            finding, text = judge(path)
            if finding:
                (keep / f"{seed}-{number}-{finding}{path.suffix}").write_bytes(content)
            yield number, finding, text


def run(corpus: dict[Path, bytes], seed: int, numbers: range, until: float, keep: Path) -> int:
    """Judge inputs in processes of their own, a new one after each crash. Returns how many."""
    first = numbers.start
    while first < numbers.stop and time.monotonic() < until:
        incoming, outgoing = os.pipe()
        child = os.fork()
        if not child:
            os.close(incoming)
            _work(outgoing, corpus, seed, range(first, numbers.stop), until, keep)
        os.close(outgoing)
        last, ended = _follow(incoming, child)
        first = last + 1
        if ended:
            rng = np.random.default_rng([seed, last])
            (keep / f"{seed}-{last}-crash").write_bytes(mutate(rng, list(corpus.values())))
            print(json.dumps({"input": last, "finding": "crash", "text": ended}), flush=True)
    return first - numbers.start


def _work(outgoing: int, *arguments: object) -> None:
    with os.fdopen(outgoing, "w") as pipe:
        faulthandler.disable()
        for entry in damage_and_judge(*arguments):  # type: ignore[arg-type]
            pipe.write(json.dumps(entry) + "\n")
            pipe.flush()
    os._exit(0)


def _follow(incoming: int, child: int) -> tuple[int, str]:
    """Print what a process finds. Returns its last input, and what ended it within one, if any."""
    number, state = -1, ""
    with os.fdopen(incoming) as pipe:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
        signal.alarm(STUCK)
        for line in pipe:
            signal.alarm(STUCK)
            number, state, text = json.loads(line)
            if state not in ("", "begun"):
                print(json.dumps({"input": number, "finding": state, "text": text}), flush=True)
        signal.alarm(0)
    _, status = os.waitpid(child, 0)
    return number, f"ended by {status}" if state == "begun" else ""


def load(folder: Path) -> dict[Path, bytes]:
    """The images of a folder that are small enough, and a few of our own. Exits without any."""
    from reunet.io.images import list_images

    files = [path for path in list_images(folder) if not path.is_symlink() and path.is_file()]
    found = {path: path.read_bytes() for path in files if 0 < path.stat().st_size <= LARGEST}
    if not found:
        sys.exit(f"{folder}: no images to damage; name the folder `images` of the zoo")
    made = {Path(f"vendor-{n}.tif"): content for n, content in enumerate(vendors())}
    return found | made


def main() -> None:
    """Run as the module's first line says. Exit code 1 for findings."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--inputs", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path(tempfile.gettempdir()) / "findings")
    parser.add_argument("--judge", type=Path, nargs="+", default=[])
    arguments = parser.parse_args()
    if arguments.judge:
        judge = prepare()
        for path in arguments.judge:
            started = time.monotonic()
            finding, text = judge(path)
            seconds = time.monotonic() - started
            about = {"seconds": seconds, "bytes": judge.taken, "finding": finding, "text": text}
            print(json.dumps({"file": path.name, **about}))
        return
    arguments.keep.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    before = len(list(arguments.keep.iterdir()))
    numbers = range(arguments.first, arguments.first + arguments.inputs)
    corpus = load(arguments.folder)
    until = started + 60 * arguments.minutes
    inputs = run(corpus, arguments.seed, numbers, until, arguments.keep)
    findings = len(list(arguments.keep.iterdir())) - before
    minutes = (time.monotonic() - started) / 60
    print(json.dumps({"minutes": round(minutes, 2), "inputs": inputs, "findings": findings}))
    sys.exit(findings > 0)


if __name__ == "__main__":
    main()
