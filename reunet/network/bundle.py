"""Weight bundles: a folder with a `card.json` and one safetensors file a fold.

The card says all that it takes to use the weights: architecture, target encoding, decoder, tile,
folds, and where they come from. Tensors only: nothing in a bundle can run code.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import ArrayLike
from safetensors import SafetensorError, safe_open

from reunet.errors import WeightsError
from reunet.inference.tiles import STEP
from reunet.io.atomic import replacing
from reunet.network.architecture import Architecture, parameter_shapes, size_parameter_shapes
from reunet.options import DECODERS, ENCODINGS

SIZE = "size"  # name of the size network's tensors, beside those of the folds
STUDENT = "student"  # fold that the others have taught, and that stands for them
CARD = "card.json"
WAY_OUT = "fetch the bundle again or choose another with --weights"


@dataclass(frozen=True)
class Bundle:
    """A card, read and checked, and the folder it lies in.

    tile: px edge of the sliding window. step: distance of tiles as a share of one. smallest: px to
    which a smaller image is padded at least (the training patch). about: the whole card, for
    whoever wants to know more.
    """

    folder: Path
    architecture: Architecture
    encoding: str
    decoder: str
    tile: int
    step: float
    smallest: int
    folds: tuple[str, ...]
    about: dict[str, Any]

    @property
    def diameter(self) -> float | None:
        """px: the size that the typical cell of an image is brought to (None: none is)."""
        return self.about.get("diameter")

    @property
    def has_size(self) -> bool:
        """Whether there is a network that estimates the size of cells."""
        return fold_file(SIZE) in self.about["sha256"]


def open_bundle(folder: Path) -> Bundle:
    """Read and check the card of a bundle. Raises WeightsError."""
    card = folder / CARD
    try:
        about = json.loads(card.read_text(encoding="utf-8"))
        architecture = about["architecture"]
        bundle = Bundle(
            folder,
            Architecture(**{**architecture, "features": tuple(architecture["features"])}),
            about["encoding"],
            about["decoder"],
            about["tile"],
            float(about.get("step", STEP)),
            about["smallest"],
            tuple(about["folds"]),
            about,
        )
        wrong = _what_is_wrong(bundle)
    except OSError as error:
        raise WeightsError(f"{card}: {error.strerror}: {WAY_OUT}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{card}: no card of a bundle ({error!r}): {WAY_OUT}") from error
    if wrong:
        raise WeightsError(f"{card}: {wrong}: {WAY_OUT}")
    return bundle


def _what_is_wrong(bundle: Bundle) -> str:
    """The first thing in a card that this version cannot work with, or nothing."""
    arch, edges = bundle.architecture, (bundle.tile, bundle.smallest)
    sizes = (*arch.features, *edges, arch.convs_per_block)
    checks = {
        f"unknown encoding {bundle.encoding!r}": bundle.encoding in ENCODINGS,
        f"unknown decoder {bundle.decoder!r}": bundle.decoder in DECODERS,
        "sizes that are no positive numbers": all(type(n) is int and n > 0 for n in sizes),
        "fewer than two stages": len(arch.features) > 1,
        "another number of channels or classes than 3": arch.in_channels == arch.classes == 3,
        "a decoder of a field that the network lacks": (
            bundle.decoder != "field" or bundle.architecture.field
        ),
        "a step of tiles that is no share of one": 0 < bundle.step <= 1,
        "a diameter that is no number of pixels": bundle.diameter is None
        or (type(bundle.diameter) in (int, float) and bundle.diameter > 0),
        "no list of folds": type(bundle.about["folds"]) is list and bundle.folds != (),
        "no hashes": type(bundle.about["sha256"]) is dict,
    }
    wrong = next((what for what, fine in checks.items() if not fine), "")
    if not wrong and (any(edge % arch.divisor for edge in edges) or edges[1] > edges[0]):
        wrong = f"tile and smallest {edges} do not fit the network"
    return wrong


def choose_folds(bundle: Bundle, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """The named folds (None: all) if their files are there and fit the card.

    None of a bundle with a student: those that are there, for a wheel leaves the others out. Reads
    no more than the head of each file. Raises WeightsError.
    """
    unknown = sorted(set(names or ()) - set(bundle.folds))
    if unknown:
        there = ", ".join(bundle.folds)
        raise WeightsError(f"{bundle.folder}: has no fold {', '.join(unknown)}: there is {there}")
    chosen = tuple(names or folds_there(bundle))
    expected = dict.fromkeys(chosen, parameter_shapes(bundle.architecture))
    if bundle.has_size:
        expected[SIZE] = size_parameter_shapes(bundle.architecture)
    for fold, wanted in expected.items():
        path = bundle.folder / fold_file(fold)
        with _opened(path) as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        if shapes != wanted:
            raise WeightsError(f"{path}: its tensors do not fit the card's architecture: {WAY_OUT}")
    return chosen


def folds_there(bundle: Bundle) -> tuple[str, ...]:
    """The folds of a bundle; beside a student, those alone whose files are there."""
    if STUDENT not in bundle.folds:
        return bundle.folds
    there = (f for f in bundle.folds if (bundle.folder / fold_file(f)).exists())
    return (STUDENT, *(fold for fold in there if fold != STUDENT))


class StoredTensors(Mapping[str, np.ndarray]):
    """Tensors of a file by name, float32, each converted when it is asked for.

    A graph that is kept from an earlier process needs none of them. sha256: of the file.
    """

    def __init__(self, content: bytes, sha256: str) -> None:
        self.sha256 = sha256
        self._content = content

    @cached_property
    def _stored(self) -> dict[str, np.ndarray]:
        """As they lie in the file, half precision as a rule; not copied."""
        tensors: dict[str, np.ndarray] = safetensors.numpy.load(self._content)
        return tensors

    def __getitem__(self, name: str) -> np.ndarray:
        return self._stored[name].astype(np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def load_tensors(bundle: Bundle, fold: str) -> StoredTensors:
    """Tensors of a fold by the names of `parameter_shapes`, float32. Raises WeightsError."""
    path = bundle.folder / fold_file(fold)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}: {WAY_OUT}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != bundle.about["sha256"].get(path.name):
        raise WeightsError(f"{path}: damaged, its sha256 is not the card's: {WAY_OUT}")
    return StoredTensors(content, digest)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file, mapped into memory; what is wrong with it as a WeightsError."""
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except OSError as error:
        cause = error.strerror or "no such file"  # safetensors raises it without a number
        raise WeightsError(f"{path}: {cause}: {WAY_OUT}") from error
    except SafetensorError as error:
        raise WeightsError(f"{path}: cannot be read ({error!r}): {WAY_OUT}") from error


def save_bundle(
    folder: Path,
    architecture: Architecture,
    folds: Mapping[str, Mapping[str, ArrayLike]],
    about: dict[str, Any],
    dtype: type[np.floating] = np.float16,
    size: Mapping[str, ArrayLike] | None = None,
) -> None:
    """Write a bundle; the card last, so that a bundle with a card is complete.

    folds: state dict by fold, each tensor once, arrays or tensors on the CPU. about: the rest of
    the card (`encoding`, `decoder`, `tile`, `smallest`, training data …). size: of the network
    that estimates the size of cells, by the names of `size_parameter_shapes`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CARD).unlink(missing_ok=True)
    for old in (*folder.glob(fold_file("*")), *folder.glob(fold_file(SIZE))):
        old.unlink()
    hashes = {}
    for fold, tensors in {**folds, **({SIZE: size} if size else {})}.items():
        path = folder / fold_file(fold)
        stored = {name: np.asarray(t).astype(dtype, order="C") for name, t in tensors.items()}
        path.write_bytes(safetensors.numpy.save(stored))  # save_file would make it private
        hashes[path.name] = _sha256(path)
    card = {"architecture": asdict(architecture), **about, "folds": [*folds], "sha256": hashes}
    write_card(folder, card)


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write `card.json` in one step: it is never seen half-written."""
    with replacing(folder / CARD) as temporary:
        text = json.dumps(card, indent=1, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")


def fold_file(fold: str) -> str:
    """File name of the tensors of a fold, or of SIZE."""
    return f"{fold}.safetensors" if fold == SIZE else f"fold_{fold}.safetensors"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
