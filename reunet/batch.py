"""Many images, one after the other: what goes wrong with one does not touch the others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reunet.images import ImageError, label_path, read_image, write_label
from reunet.pipeline import Model, segment


@dataclass(frozen=True)
class Outcome:
    """What became of one image: its number of cells, or else the error in one line."""

    image: Path
    cells: int = 0
    error: str | None = None
    notes: tuple[str, ...] = ()


def segment_files(
    images: Sequence[Path], output: Path, model: Model, *, tta: bool, decoder: str | None
) -> Iterator[Outcome]:
    """Write `<name up to the first dot>_label.tiff` into `output` for every image.

    Yields an Outcome as each image is done. Of images whose labels would bear one name, the first
    is segmented and the others are errors: no label is overwritten by another image's.
    """
    taken: dict[Path, Path] = {}
    for image in images:
        label = label_path(image, output)
        first = taken.setdefault(label, image)
        if first != image:
            yield Outcome(
                image, error=f"{image}: its label would overwrite that of {first.name}: rename one"
            )
            continue
        yield _segment_file(image, label, model, tta=tta, decoder=decoder)


def _segment_file(
    image: Path, label: Path, model: Model, *, tta: bool, decoder: str | None
) -> Outcome:
    try:
        picture = read_image(image)
        instances = segment(picture, model, tta=tta, decoder=decoder)
        write_label(label, instances)
    except ImageError as error:
        return Outcome(image, error=str(error))
    except (MemoryError, RuntimeError) as error:  # torch has no kind of its own for a full CPU
        cause = " ".join(str(error).split())[:200] or "out of memory"
        return Outcome(image, error=f"{image}: {cause}: crop it, or try --device cpu")
    return Outcome(image, cells=int(instances.max()), notes=picture.notes)
