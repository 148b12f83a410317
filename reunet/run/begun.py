"""A slide's map, kept band by band beside its label: `--resume` goes on where a run was killed.

    .NAME_label.part/    beside NAME_label.tiff, and gone when that is written
        made_from        what decides what the map shows: where anything differs, it starts anew
        000003.npz       rows of the map, a file a band
        next.npz         where to go on, with the sums that reach into the next rows

Every file is there wholly or not at all and has checksums, so that what a power cut left is not
believed. What cannot be written costs the slide nothing but the way back.
"""

import contextlib
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from reunet.errors import ImageError
from reunet.inference.kept import Carry, Maps
from reunet.io.atomic import replacing

MADE_FROM, NEXT = "made_from", "next.npz"


class MapOnDisk:
    """A `Keeper` in a hidden folder beside the label of a slide.

    made_from: all that the map depends on. resume: go on with what is there, if it is of the same.
    """

    def __init__(self, label: Path, made_from: str, resume: bool) -> None:
        self.folder = label.with_name(f".{label.stem}.part")
        self.notes: tuple[str, ...] = ()
        self._made_from, self._resume, self._works = made_from, resume, True

    def begun(self, maps: Maps) -> Carry | None:
        """See `Keeper`."""
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            told = (self.folder / MADE_FROM).read_text(encoding="utf-8")
            if self._resume and told == self._made_from:
                carry = self._read(maps)
                self.notes = (f"gone on with below {carry.row} finished rows of tiles",)
                return carry
        self.discard()
        return None

    def _read(self, maps: Maps) -> Carry:
        with np.load(self.folder / NEXT, allow_pickle=False) as stored:
            row, empty = stored["place"].tolist()
            carry = Carry(row, stored["sums"], stored["weights"], empty)
        for number in range(1, row + 1):
            with np.load(self._band(number), allow_pickle=False) as band:
                maps.enter(slice(*band["rows"].tolist()), band)
        return carry

    def keep(self, rows: slice, maps: Maps, carry: Carry) -> None:
        """See `Keeper`. A disk that is full ends the keeping, not the slide."""
        if not self._works:
            return
        band = {"rows": np.array([rows.start, rows.stop]), **maps.named()}
        place = np.array([carry.row, carry.empty])
        try:
            self.folder.mkdir(exist_ok=True)
            if carry.row == 1:
                with replacing(self.folder / MADE_FROM) as temporary:
                    temporary.write_text(self._made_from, encoding="utf-8")
            _write(self._band(carry.row), band)
            sums = {"place": place, "sums": carry.sums, "weights": carry.weights}
            _write(self.folder / NEXT, sums)
        except (OSError, ImageError):
            self.discard()
            self._works = False

    def discard(self) -> None:
        """Nothing is to be gone on with."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _band(self, number: int) -> Path:
        return self.folder / f"{number:06}.npz"


def _write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
