"""Names in a folder: what a label is called, and which label belongs to which image.

The challenge cuts a name at its first dot. Where that would give several files of a folder one
name (`2024.05.01_a.png`, `2024.05.01_b.png`), the whole stem counts.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

LABEL_WORDS = ("_label", "_masks")  # ours and the challenge's; Cellpose's
LABEL_ENDINGS = (".tiff", ".tif", ".png")
KINDS_AT_MOST = 5  # endings listed in a note


def short_name(path: Path) -> str:
    """A file's name up to its first dot."""
    return path.name.split(".")[0]


def case_names(images: Sequence[Path]) -> dict[Path, str]:
    """The name of each image, which its label bears too; the same for two of one stem."""
    stems: dict[str, set[str]] = {}
    for path in images:
        stems.setdefault(short_name(path), set()).add(path.stem)
    return {path: _name(path.stem, short_name(path), stems[short_name(path)]) for path in images}


def label_paths(images: Sequence[Path], output: Path, root: Path | None = None) -> dict[Path, Path]:
    """Where the label of each image goes.

    root: a folder whose sub-folders are mirrored in `output` (None: all labels lie side by side).
    """
    folders: dict[Path, list[Path]] = {}
    for path in images:
        folder = output / path.parent.relative_to(root) if root else output
        folders.setdefault(folder, []).append(path)
    named = ((folder, case_names(group)) for folder, group in folders.items())
    return {path: folder / f"{name}_label.tiff" for folder, names in named
            for path, name in names.items()}  # fmt: skip


def place_of(label: Path, output: Path) -> Path:
    """The sub-folder of `output` that a label lies in; none where it lies elsewhere."""
    return label.parent.relative_to(output) if label.parent.is_relative_to(output) else Path()


def _name(stem: str, short: str, stems: set[str]) -> str:
    return stem if len(stems) > 1 else short


class _Label(NamedTuple):
    path: Path
    stem: str  # of the image it belongs to
    short: str
    rank: int  # lower is the likelier label

    @property
    def has_word(self) -> bool:
        return self.rank < len(LABEL_WORDS) * len(LABEL_ENDINGS)


class Labels:
    """The label files of a folder by the names of their images."""

    def __init__(self, folder: Path, *, worded: bool = False) -> None:
        """worded: only names that end as LABEL_WORDS; else an image's own name does, too."""
        files = (path for path in folder.iterdir() if not path.name.startswith("."))
        labels = [label for path in sorted(files) if (label := _label(path)) is not None]
        groups: dict[str, list[_Label]] = {}
        for label in labels:
            if label.has_word or not worded:
                groups.setdefault(label.short, []).append(label)
        self.by_name: dict[str, Path] = {}
        for group in groups.values():
            # Beside `a_label.tiff` a file `a.png` is the image.
            likely = [label for label in group if label.has_word] or group
            stems = {label.stem for label in likely}
            for label in sorted(likely, key=lambda label: label.rank):
                self.by_name.setdefault(_name(label.stem, label.short, stems), label.path)

    def of(self, stem: str) -> Path | None:
        """The label of the image of this stem, or of one of this name."""
        return self.by_name.get(stem) or self.by_name.get(stem.split(".")[0])


def _label(path: Path) -> _Label | None:
    ending = path.suffix.lower()
    if ending not in LABEL_ENDINGS:
        return None
    words = (*LABEL_WORDS, "")
    stem, short = path.stem, short_name(path)
    word = next(w for w in words if stem.endswith(w) or short.endswith(w))
    rank = words.index(word) * len(LABEL_ENDINGS) + LABEL_ENDINGS.index(ending)
    return _Label(path, stem.removesuffix(word), short.removesuffix(word), rank)


def own_labels(images: Iterable[Path]) -> set[Path]:
    """Those of `images` that are the labels of others among them."""
    files = [*images]
    words = {path: label for path in files if (label := _label(path)) and label.has_word}
    names = {name for path in files if path not in words for name in (path.stem, short_name(path))}
    return {path for path, label in words.items() if {label.stem, label.short} & names}


def passed_over(folder: Path, images: Sequence[Path], *, sub_folders: bool = True) -> str:
    """What a folder holds besides images, with numbers, but for hidden files; "" for nothing.

    sub_folders: count them, too.
    """
    taken = {path.name for path in images}
    others = [p for p in folder.iterdir() if p.name not in taken and not p.name.startswith(".")]
    folders = [path for path in others if path.is_dir()]
    labels = own_labels([*images, *(path for path in others if path not in folders)])
    labels &= set(others)
    kinds = [path.suffix.lower() or "no ending" for path in others if path not in folders]
    kinds = [kind for kind, path in zip(kinds, _files(others), strict=True) if path not in labels]
    parts = [_count(len(folders) * sub_folders, "sub-folder"), _count(len(labels), "label")]
    named = sorted(set(kinds))[:KINDS_AT_MOST]
    parts.append(_count(len(kinds), "other file") + (f" ({', '.join(named)})" if kinds else ""))
    return ", ".join(part for part in parts if part)


def _files(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if not path.is_dir()]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}" if number else ""
