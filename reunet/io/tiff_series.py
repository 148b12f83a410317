"""Which picture of a TIFF counts: the one of full resolution, by tags and the formats' own rules.

A file may hold thumbnails, labels of a slide, positions of a stage, and descriptions (OME, ImageJ,
tifffile) that were true of another file. Descriptions that do not fit the pages are not believed;
what is left out is told with numbers. Legend: H, W pixels; page: an image file directory (IFD).
"""

import contextlib
import math
import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from tifffile import TiffFile, TiffPage, TiffPageSeries
from tifffile.tifffile import shaped_description_metadata

from reunet.errors import TiffError

REDUCED, MASK = 1, 4  # bits of NewSubfileType, TIFF 6.0 p. 36
OLD_SUBFILE_TYPE, OLD_REDUCED = 255, 2  # SubfileType, TIFF 6.0 p. 40
TRANSPARENCY_MASK = 4  # PhotometricInterpretation
# What scanners and Bio-Formats call the pictures that lie beside a slide.
SIDE_PICTURE = re.compile(r"(label|macro|overview|preview|thumbnail|thumb)( image)?", re.I)
SIZES_AT_MOST = 5  # pictures listed in a note

Truncated = TiffError("the file is truncated", "copy or export it again")


class Choice(NamedTuple):
    """The picture of a file that counts."""

    series: TiffPageSeries  # at full size
    disbelieved: tuple[str, ...]  # notes on descriptions that do not fit
    left_out: tuple[str, ...]  # notes on what the file holds besides


def main_picture(tif: TiffFile, whole: bool, described: bool) -> Choice:
    """The series that counts.

    Not counted are pictures that tags or names call reduced, a mask, a label or an overview, unless
    there are no others; of those that remain the largest counts, of equal ones the first. whole:
    the chain of pages ends within the file (else some are missing). described: an OME description,
    if there is one, can be read. Raises TiffError for a file
    without pictures, and for one whose description shows that it was cut off.
    """
    notes = [*_disbelieve_shape(tif, whole), *_disbelieve_imagej(tif, whole)]
    series, more = _series(tif, whole, described)
    if not series:
        raise TiffError("holds no image", "check or re-export the file")
    _check_sub_directories(tif, series)
    chosen = max(series, key=_rank)
    level = max(chosen.levels, key=_area)
    left_out = _left_out(series, chosen, level) + _undescribed(tif, series)
    return Choice(level, (*notes, *more), tuple(left_out))


def _check_sub_directories(tif: TiffFile, series: Sequence[TiffPageSeries]) -> None:
    """A SubIFD that the file ends before may have been the picture that counts."""
    for each in series:
        page = each.keyframe.aspage()
        for number, offset in enumerate(page.subifds or ()):
            try:
                assert page.pages is not None  # where there are offsets
                page.pages[number].aspage()
            except (RuntimeError, ValueError, IndexError, struct.error) as error:
                raise Truncated from error
            if offset >= tif.filehandle.size:
                raise Truncated


def first_page(series: TiffPageSeries) -> int:
    """The first page of a stack that is no reduced picture or mask, where its page 0 is one."""
    if len(series.pages) < 2 or not _is_beside(series.keyframe.aspage()):
        return 0
    pages = enumerate(series.pages)
    return next((n for n, page in pages if page and not _is_beside(page.aspage())), 0)


def channel_names(description: str | None, picture: int) -> tuple[str, ...]:
    """Names of the channels of one picture of an OME description; () where it tells none.

    picture: the number of its Image element. A channel without a name is "".
    """
    if not description:
        return ()
    with contextlib.suppress(ElementTree.ParseError, IndexError):
        images = ElementTree.fromstring(description).findall("{*}Image")
        channels = images[picture].findall("{*}Pixels/{*}Channel")
        names = tuple(channel.get("Name", "") for channel in channels)
        return names if any(names) else ()
    return ()


def _series(
    tif: TiffFile, whole: bool, described: bool
) -> tuple[Sequence[TiffPageSeries], list[str]]:
    """The series by the description, or else by the tags."""
    ome, imagej = tif.is_ome, tif.is_imagej
    if described or not ome:
        try:
            series = tif.series
            if not ome or _is_complete(series, whole):
                return series, []
        except (RuntimeError, ValueError, KeyError, IndexError, TypeError):
            pass  # what tifffile raises where pages are not what a description says
        tif.pages._clear()
        tif.__dict__.pop("series", None)
    for kind in ("ome", "imagej", "shaped", "uniform"):
        _disbelieve(tif, kind)
    name = "OME" if ome else "ImageJ"
    unused = f"its {name} description tells of other files or pages and was not used"
    return tif.series, [unused] if ome or imagej else []


def _disbelieve(tif: TiffFile, kind: str) -> None:
    """Have tifffile take a file for none of this kind."""
    setattr(tif, f"is_{kind}", False)


def _is_complete(series: Sequence[TiffPageSeries], whole: bool) -> bool:
    """Whether the planes that OME tells of are here; those of a file cut off are not to be had."""
    if not any(each.kind == "ome" for each in series):
        return False
    first = series[0]
    lead = first.shape[: len(first.shape) - len(first.keyframe.shape)]
    if math.prod(lead) != len(first.pages):
        return True
    numbers = np.arange(len(first.pages)).reshape(lead)
    channels = (slice(None) if axis == "C" else 0 for axis in first.axes[: len(lead)])
    needed = numbers[tuple(channels)].ravel().tolist()
    return not whole or all(first.pages[n] is not None for n in needed)


def _disbelieve_shape(tif: TiffFile, whole: bool) -> Iterator[str]:
    """A shape that tifffile once wrote need not be that of the pages any more."""
    page = tif.pages.first
    if not tif.is_shaped or page.shaped_description is None:
        return
    try:
        about = shaped_description_metadata(page.shaped_description)
        shape = [int(n) for n in about["shape"]]
    except (ValueError, KeyError, TypeError):
        about, shape = {}, []
    if _has_shape(tif, page, shape):
        return
    if not whole or about.get("truncated"):
        raise Truncated
    _disbelieve(tif, "shaped")
    told = " × ".join(map(str, shape)) or "no numbers"
    yield f"its description tells of a shape of {told}, which its pages do not have"


def _has_shape(tif: TiffFile, page: TiffPage, shape: Sequence[int]) -> bool:
    """Whether pages of this kind make up an array of this shape."""
    size, told = math.prod(page.shape), math.prod(shape)
    sides, inner = ([n for n in edges if n != 1] for edges in (shape, page.shape))
    if min(shape, default=0) < 1 or not size or told % size:
        return told == 0 == size
    if inner and sides[-len(inner) :] != inner:
        return False
    return told // size <= max(len(tif.pages), _planes_in_a_row(tif, page))


def _disbelieve_imagej(tif: TiffFile, whole: bool) -> Iterator[str]:
    """Numbers of ImageJ's planes need not be those of the pages."""
    if not tif.is_imagej:
        return
    about, page = tif.imagej_metadata or {}, tif.pages.first
    numbers = [about.get(axis, 1) for axis in ("channels", "slices", "frames")]
    if not all(isinstance(n, int) and n > 0 for n in numbers):
        _disbelieve(tif, "imagej")
        yield "the numbers in its ImageJ description cannot be, they were not used"
        return
    channels, planes = numbers[0], math.prod(numbers)
    held = max(len(tif.pages), _planes_in_a_row(tif, page))
    apart = page.shaped[0] == channels  # samples in planes of their own: tifffile knows these
    if page.samplesperpixel == channels > 1 and not apart and held < planes:
        _disbelieve(tif, "imagej")
        yield f"its ImageJ description takes the {channels} samples of a pixel for channels"
    elif held < planes and not (channels > 1 and apart):
        if channels > 1 and (not whole or held < channels):
            missing = f"some of its {channels} channels are missing"
            raise TiffError(missing, "copy or export it again")
        _disbelieve(tif, "imagej")
        yield f"its ImageJ description tells of {planes} planes, it holds {held}"


def _planes_in_a_row(tif: TiffFile, page: TiffPage) -> int:
    """Uncompressed planes that fit between the first one's place and the end of the file."""
    if not page.is_final or not page.nbytes:
        return 1
    return max(0, tif.filehandle.size - page.dataoffsets[0]) // page.nbytes


def _rank(series: TiffPageSeries) -> tuple[bool, int]:
    """The greater, the more likely the picture that was meant."""
    page = series.keyframe.aspage()
    named = any(
        SIDE_PICTURE.fullmatch(name.strip()) for name in (series.name, page.description) if name
    )
    all_beside = _is_beside(page) and not first_page(series)
    return not (named or all_beside), _area(series)


def _is_beside(page: TiffPage) -> bool:
    """Whether tags say that a page is a smaller version or a mask of another picture."""
    old = page.tags.valueof(OLD_SUBFILE_TYPE, 0)
    if page.photometric == TRANSPARENCY_MASK or old == OLD_REDUCED:
        return True
    return bool(int(page.subfiletype) & (REDUCED | MASK))


def _area(series: TiffPageSeries) -> int:
    return math.prod(_size(series))


def _size(series: TiffPageSeries) -> tuple[int, int]:
    page = series.keyframe.aspage()
    return int(page.imagelength), int(page.imagewidth)


def _left_out(
    series: Sequence[TiffPageSeries], chosen: TiffPageSeries, level: TiffPageSeries
) -> list[str]:
    """A note on the pictures that are no smaller versions of the one that counts."""
    others = [
        _size(other) for other in series if other is not chosen for _ in range(_planes(other))
    ]
    if chosen.kind == "generic":  # smaller pages that are not told to be versions of it
        pages = (other.keyframe.aspage() for other in chosen.levels if other is not level)
        beside = ((page.imagelength, page.imagewidth, _is_beside(page)) for page in pages)
        others += [(height, width) for height, width, told in beside if not told]
    if not others:
        return []
    counted = Counter(others).most_common()
    sizes = [f"{h} × {w}" + (f" ({n} times)" if n > 1 else "") for (h, w), n in counted]
    more = ["…"] if len(sizes) > SIZES_AT_MOST else []
    height, width = _size(level)
    return [
        f"of {len(others) + 1} pictures that of {height} × {width} pixels is used; left out: "
        + ", ".join(sizes[:SIZES_AT_MOST] + more)
    ]


def _undescribed(tif: TiffFile, series: Sequence[TiffPageSeries]) -> list[str]:
    """A note on pages that the description leaves out."""
    total = len(tif.pages)
    kind = series[0].kind
    if kind == "ome":
        used = {page.index for each in series for page in each.pages if page is not None}
        count = total - len(used)
    elif kind == "imagej":
        lead = len(series[0].shape) - len(series[0].keyframe.shape)
        count = total - math.prod(series[0].shape[:lead])
    else:
        return []
    name = "OME" if kind == "ome" else "ImageJ"
    return [f"{count} of its {total} pages are not in its {name} description"] if count > 0 else []


def _planes(series: TiffPageSeries) -> int:
    return max(1, series.size // max(1, series.keyframe.size))
