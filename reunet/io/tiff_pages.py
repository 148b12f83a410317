"""The pages of a TIFF that hold what is wanted of a stack, each with all of its pixels."""

import math
from collections.abc import Sequence

import numpy as np
from tifffile import TiffFrame, TiffPage, TiffPageSeries

from reunet.errors import TiffError


def read_planes(series: TiffPageSeries, wanted: Sequence[slice | int]) -> np.ndarray:
    """series[wanted], without decoding the pages it leaves out where there is a choice."""
    numbers = page_numbers(series, wanted)
    if numbers is None:
        return np.array(_map_stack(series)[tuple(wanted)])
    lead = len(series.shape) - len(series.keyframe.shape)
    planes = [_read_page(series, int(n))[tuple(wanted[lead:])] for n in numbers.flat]
    return planes[0] if numbers.ndim == 0 else np.stack(planes)


def _map_stack(series: TiffPageSeries) -> np.ndarray:
    """All planes of a contiguous stack, mapped: only what is used is read."""
    page, offset = series.keyframe, series.dataoffset
    if offset is None:
        raise TiffError("its planes are not where it says", "export it again")
    file = page.parent.filehandle
    if offset + series.nbytes > file.size:
        raise TiffError("the file is truncated", "copy or export it again")
    dtype = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
    return file.memmap_array(dtype, series.shape, offset)


def page_numbers(series: TiffPageSeries, wanted: Sequence[slice | int]) -> np.ndarray | None:
    """The pages that hold series[wanted], () or by channel (C,).

    None where one page stands for a contiguous stack (ImageJ).
    """
    page_shape = series.keyframe.shape
    lead = len(series.shape) - len(page_shape)
    planes = math.prod(series.shape[:lead])
    if series.shape[lead:] != page_shape or planes > len(series.pages):
        return None
    numbers = np.arange(planes).reshape(series.shape[:lead])  # ImageJ may leave pages out
    return np.asarray(numbers[tuple(wanted[:lead])])


def _read_page(series: TiffPageSeries, number: int) -> np.ndarray:
    return whole_page(series, number).asarray()


def whole_page(series: TiffPageSeries, number: int) -> TiffPage | TiffFrame:
    """A page whose pixels are all in the file. Raises TiffError for another."""
    page = series.pages[number]
    if page is None:
        raise TiffError("its pixels lie in another file", "export it as one file")
    keyframe = series.keyframe
    if page.keyframe is None or page.keyframe.hash != keyframe.hash:
        raise TiffError("its channels are stored in different ways", "export it again")
    # tifffile fills what a truncated file lacks with zeros; we do not want half a picture.
    ends = [at + n for at, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if keyframe.is_contiguous:
        ends = [page.dataoffsets[0] + keyframe.nbytes]
        missing = 0 < sum(page.databytecounts) < keyframe.nbytes  # 0: some writers leave it out
    else:
        missing = len(ends) < math.prod(keyframe.chunked)
    if missing:
        raise TiffError("some of its pixels are missing", "copy or export it again")
    if max(ends, default=0) > page.parent.filehandle.size:
        raise TiffError("the file is truncated", "copy or export it again")
    return page
