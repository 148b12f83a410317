"""What a `meta.csv` beside a folder's images says of each: modality, source, split and the like."""

import csv
import io
from pathlib import Path

from reunet.io.images import ENDINGS


def read_meta(folder: Path) -> dict[str, dict[str, str]]:
    """Rows of the `meta.csv` in a folder, or else in its parent, by their column `name`.

    In UTF-8 or UTF-16, with `,`, `;` or tabs, names with or without an image's ending. Returns {}
    where there is no such file. Raises ValueError for one that cannot be read or lacks the column.
    """
    for place in (folder, folder.absolute().parent):
        meta = place / "meta.csv"
        if meta.is_file():
            try:
                return _rows_by_name(meta)
            except (csv.Error, UnicodeError) as error:
                raise ValueError(f"{meta}: no CSV in UTF-8 ({error}): save it anew") from error
    return {}


def _rows_by_name(meta: Path) -> dict[str, dict[str, str]]:
    content = meta.read_bytes()
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # as spreadsheets write "Unicode text"
    text = content.decode("utf-16" if wide else "utf-8-sig")
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    if text.strip() and "name" not in (rows.fieldnames or ()):
        raise ValueError(f"{meta}: has no column called name: add one, or take the file away")
    found = {}
    for row in rows:
        if name := row.get("name"):
            ending = Path(name).suffix.lower()
            found[Path(name).stem if ending in ENDINGS else name] = row
    return found


def read_modalities(folder: Path) -> dict[str, str]:
    """Modality of every image that a `meta.csv` knows, see `read_meta`."""
    return {n: row["modality"] for n, row in read_meta(folder).items() if row.get("modality")}
