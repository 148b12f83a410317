"""What `reunet predict` tells: a bar on a terminal, lines in a pipe, JSON for machines."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reunet.cli_outputs import CannotStart

if TYPE_CHECKING:
    from reunet.run.batch import Outcome

NAMED_AT_MOST = 5  # images named in the end, where a bar was shown meanwhile
PARTS = 1000  # steps of the bar for an image
EVERY = 10.0  # s between two lines about the tiles of an image


@dataclass(frozen=True)
class Manner:
    """How much is told. as_json: events on standard output, one a line, instead of text."""

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False


def talk_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that decide how much is told; see `Manner`."""
    options = (
        click.option("-q", "--quiet", is_flag=True, help="Print errors and warnings alone."),
        click.option("-v", "--verbose", is_flag=True, help="Print seconds and tiles, too."),
        click.option("--log-json", is_flag=True, help="Print events as JSON, one a line."),
    )
    for option in reversed(options):
        command = option(command)
    return command


class Talk:
    """Tells of one run of `total` images. `tile` and `image` are called as it goes on.

    done: receives the outcomes, so that whoever is interrupted knows them. output: folder of the
    labels, whose sub-folders are told.
    """

    def __init__(self, manner: Manner, total: int, done: "list[Outcome]", output: Path) -> None:
        self.manner, self.total, self.done, self.output = manner, total, done, output
        self.on_terminal = sys.stderr.isatty() and not (manner.quiet or manner.as_json)
        self._bar: Any = None
        self._position = self._begun = 0
        self._path: Path | None = None
        self._started = self._due = 0.0

    def start(self, facts: dict[str, Any]) -> None:
        """Tell what is about to be done. facts: of `report.describe`."""
        if self.manner.as_json:
            self._event("start", images=self.total, **facts)
        elif self.manner.verbose:
            choices = {k: v for k, v in facts["settings"].items() if v not in (None, False)}
            told = ", ".join(k if v is True else f"{k} {v}" for k, v in choices.items())
            model = facts["model"]
            _say(f"weights {model['bundle']} ({model['hash'][:12]}), {told}")

    @contextlib.contextmanager
    def bar(self) -> Iterator[None]:
        """On a terminal, a bar meanwhile: images, tiles of the one at hand, time left."""
        with click.progressbar(
            length=self.total * PARTS,
            label="segmenting",
            file=sys.stderr,
            hidden=not self.on_terminal,
            item_show_func=lambda item: item,
        ) as self._bar:
            yield

    def tile(self, path: Path, tile: int, tiles: int) -> None:
        """A tile is done. Called in the order of the images."""
        now = time.monotonic()
        if path != self._path:
            self._path, self._begun = path, self._begun + 1
            self._started, self._due = now, now + EVERY
        share = f"tile {tile} of {tiles}"
        if self.on_terminal:
            of_run = f"{self._begun} of {self.total}, " if self.total > 1 else ""
            whole = (max(self._begun, len(self.done) + 1) - 1) * PARTS
            self._move(whole + PARTS * tile // (tiles + 1), f"{of_run}{path.name}: {share}")
        elif (self.manner.verbose or self.manner.as_json) and now >= self._due and tile < tiles:
            self._due = now + EVERY
            left = (now - self._started) * (tiles - tile) / tile
            if self.manner.as_json:
                self._event("tile", image=path.name, tile=tile, tiles=tiles, left=round(left, 1))
            else:
                _say(f"{path.name}: {share}, {left:.0f} s left")

    def image(self, outcome: "Outcome") -> None:
        """An image is done, or has failed."""
        self.done.append(outcome)
        for message in messages(outcome):
            if not self.manner.quiet or message.startswith("error: "):
                _say(f"\r\033[K{message}" if self.on_terminal else message, err=True)
        if self.manner.as_json:
            from reunet.run.report import entry_of

            self._event("image", **entry_of(outcome, self.output))
        elif self.on_terminal:
            self._move(len(self.done) * PARTS, "")
        elif not self.manner.quiet:
            _say(self._line(outcome))

    def end(self, device: str, seconds: float, complete: bool) -> None:
        """Tell what it came to, and exit with 1 where it fell short."""
        failed = sum(bool(outcome.error or outcome.unwritten) for outcome in self.done)
        if self.manner.as_json:
            self._event("end", seconds=round(seconds, 3), device=device, failed=failed)
        elif not self.manner.quiet:
            if self.on_terminal and self.total <= NAMED_AT_MOST:
                for outcome in self.done:
                    _say(self._line(outcome))
            _say(f"{summary_line(self.done, self.total)}, {seconds:.1f} s on {device}")
        if failed:
            _say(f"{failed} of {self.total} images failed, see above", err=True)
        if failed or not complete:
            sys.exit(1)

    def _line(self, outcome: "Outcome") -> str:
        line = cells_line(outcome, self.output)
        if self.manner.verbose and outcome.seconds:
            line += f" ({', '.join(f'{k} {v:.2f} s' for k, v in outcome.seconds.items())})"
        return line

    def _move(self, position: int, item: str) -> None:
        if self._bar is not None:
            self._bar.update(max(position - self._position, 0), _printable(item))
            self._position = max(position, self._position)

    def _event(self, event: str, **facts: Any) -> None:
        click.echo(json.dumps({"event": event, **facts}))


def show(outcomes: Generator["Outcome"], talk: Talk) -> bool:
    """Run through the outcomes and have them told.

    Returns False where the run could not go on (a fold that proves damaged when it is first used)
    or not be recorded (`--report`), which is printed too; raises CannotStart if that is before any
    outcome.
    """
    from reunet.errors import ImageError, WeightsError

    with contextlib.closing(outcomes), talk.bar():
        try:
            for outcome in outcomes:
                talk.image(outcome)
        except (WeightsError, ImageError) as error:  # the report's: an image's is in its outcome
            if not talk.done:
                raise CannotStart(str(error)) from error
            click.echo(f"error: {error}", err=True)
            return False
    return True


def messages(outcome: "Outcome") -> Iterator[str]:
    """What there is to say about an image, one line each, whatever its name holds."""
    from reunet.errors import one_line

    yield from (one_line(f"note: {outcome.image}: {note}") for note in outcome.notes)
    if outcome.error:
        yield one_line(f"error: {outcome.error}")
    yield from (one_line(f"error: {line}") for line in outcome.unwritten)


def cells_line(outcome: "Outcome", output: Path) -> str:
    """How many cells an image has."""
    from reunet.io.collection import place_of

    cells = "failed" if outcome.error else f"{outcome.cells} cells"
    return _printable(f"{place_of(outcome.label, output) / outcome.image.name}: {cells}")


def summary_line(done: Sequence["Outcome"], total: int) -> str:
    """How many of `total` images have a label, and how many cells."""
    labels = sum(outcome.error is None for outcome in done)
    kept = sum(outcome.kept for outcome in done)
    cells = sum(outcome.cells for outcome in done)
    return f"{labels} of {total} images{f' ({kept} kept)' if kept else ''}, {cells} cells"


def _printable(text: str) -> str:
    from reunet.errors import one_line

    return one_line(text)


def _say(line: str, err: bool = False) -> None:
    click.echo(line, err=err)
