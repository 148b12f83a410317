"""Class logits of an image of any size: sliding window, mirroring, folds (paper §2.7, table 2).

Rows of tiles move down the image. Only the sums of the rows that tiles still touch are in memory;
what lies above leaves as a finished band, so a slide of any height takes the memory of a strip.

Legend: N tiles, C channels (3 classes and, of a network that has it, the distance field), H, W
pixels of the image, h, w pixels of its content box, of a tile or of a band.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise

import numpy as np

from reunet.inference.empty import is_empty
from reunet.inference.ensemble import Ensemble
from reunet.inference.kept import Carry, Keeper
from reunet.inference.kept import Maps as Maps
from reunet.inference.kept import Zeros as Zeros
from reunet.inference.normalise import Scaling, scaling_of, z_score_pixels
from reunet.inference.tiles import (
    Margins,
    Tiling,
    Window,
    centred_padding,
    content_box,
    gaussian_importance,
    tile_starts,
)
from reunet.inference.watch import CLASSES as CLASSES
from reunet.inference.watch import Watch

Read = Callable[[int, int], np.ndarray]  # (top, bottom) -> (bottom - top, W, 3) uint8
Wanted = Callable[[slice, slice], bool]  # rows, columns: whether they are to be looked at
Row = Callable[[slice, Sequence[slice]], Iterable[np.ndarray | None]]  # one row of scaled tiles

# where no cell can be: background with 99.99 %, as softmax says, and no distance from it
OUTSIDE_LOGITS = (10.0, 0.0, 0.0, 0.0)
FIELD_LEVELS = 200  # of the stored distance field from 0 to 1; up to 1.275 fits into a byte


def map_image(
    read: Read,
    shape: tuple[int, int],
    scaling: Scaling,
    voters: Sequence[Ensemble],
    tiling: Tiling,
    box: Window | None = None,
    zeros: Zeros = np.zeros,
    watch: Watch | None = None,
    wanted: Wanted | None = None,
    keeper: Keeper | None = None,
) -> Maps:
    """The maps of an image, one of each voter. zeros: makes the arrays that receive them.

    keeper: keeps the bands, and knows those of a run that was interrupted. Rest: `map_bands`.
    """
    maps = Maps.blank((len(voters), *shape), tiling.outputs > CLASSES, zeros)
    begun = keeper.begun(maps) if keeper else None
    for rows, values, carry in map_bands(
        read, shape, scaling, voters, tiling, box, watch, wanted, begun
    ):
        maps.enter(rows, values.named())
        if keeper and carry:
            keeper.keep(rows, values, carry)
    return maps


def map_bands(
    read: Read,
    shape: tuple[int, int],
    scaling: Scaling,
    voters: Sequence[Ensemble],
    tiling: Tiling,
    box: Window | None = None,
    watch: Watch | None = None,
    wanted: Wanted | None = None,
    begun: Carry | None = None,
) -> Iterator[tuple[slice, Maps, Carry | None]]:
    """Maps of an image in bands from top to bottom, each as soon as no tile can change it.

    read: gives rows of the image from `normalise_channels`, (bottom - top, W, 3) uint8; windows
    overlap, and neither their tops nor their bottoms ever decrease. shape: (H, W). voters: each
    makes a map of its own. box: content box (None: the whole image); what lies outside is
    background and is not read. wanted: tiles for which it is false are background. begun: where to
    go on, below a band that a run before has yielded. Yields rows, their maps, (voters, h, W) each,
    and how to go on below them, None where no tile was asked; the rows make up the image without
    gaps.
    """
    rows, columns = box or (slice(0, shape[0]), slice(0, shape[1]))
    inside = rows.stop - rows.start, columns.stop - columns.start
    watch = watch or Watch()
    row = _row_of_image(read, (rows, columns), scaling, tiling.skip, wanted, watch)
    outside = len(voters), shape[1], tiling
    for band, maps in _background(slice(0, rows.start), *outside):
        yield band, maps, None
    for band, logits, carry in _bands(row, inside, voters, tiling, watch, begun):
        there = slice(rows.start + band.start, rows.start + band.stop)
        watch.band(there, columns, logits, len(voters))
        maps = _no_cells(len(voters), band.stop - band.start, shape[1], tiling)
        for n, of_voter in enumerate(np.split(logits, len(voters))):
            enter_logits(maps, n, (slice(None), columns), of_voter)
        yield there, maps, carry
    for band, maps in _background(slice(rows.stop, shape[0]), *outside):
        yield band, maps, None


def stored_field(field: np.ndarray) -> np.ndarray:
    """The network's distance field in a byte a pixel, FIELD_LEVELS for 1. Returns uint8."""
    stored: np.ndarray = np.clip(np.rint(field * FIELD_LEVELS), 0, 255).astype(np.uint8)
    return stored


def stored_foreground(logits: np.ndarray) -> np.ndarray:
    """How probable it is that a pixel is a cell's, in a byte: 255 times what softmax says.

    logits: (3, h, w), background first. Returns (h, w) uint8.
    """
    background, interior, boundary = logits
    with np.errstate(over="ignore"):  # an infinite power is a probability of 1
        powers = np.exp(interior - background) + np.exp(boundary - background)
        stored: np.ndarray = np.rint(255 - 255 / (1 + powers)).astype(np.uint8)
    return stored


def enter_logits(maps: Maps, voter: int, place: Window, logits: np.ndarray) -> None:
    """Fill in what a voter's logits, (C, h, w), say of a part of its maps."""
    maps.classes[voter][place] = most_probable(logits[:CLASSES])
    if maps.fields is not None:
        maps.fields[voter][place] = stored_field(logits[CLASSES])
    if maps.foreground is not None:
        maps.foreground[voter][place] = stored_foreground(logits[:CLASSES])


def _no_cells(voters: int, height: int, width: int, tiling: Tiling) -> Maps:
    return Maps.blank((voters, height, width), tiling.outputs > CLASSES)


def most_probable(logits: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
    """The class with the highest logit, the first of equal ones: `argmax`, but much faster.

    logits: (3, h, w). Returns (h, w) uint8: background, interior, boundary.
    """
    background, interior, boundary = logits
    classes: np.ndarray = (interior > background).view(np.uint8)
    np.putmask(classes, boundary > np.maximum(background, interior), 2)
    return classes


def _background(
    rows: slice, voters: int, width: int, tiling: Tiling
) -> Iterator[tuple[slice, Maps]]:
    for top in range(rows.start, rows.stop, tiling.tile):
        bottom = min(top + tiling.tile, rows.stop)
        yield slice(top, bottom), _no_cells(voters, bottom - top, width, tiling)


def predict_logits(image: np.ndarray, ensemble: Ensemble, tiling: Tiling) -> np.ndarray:
    """Logits of background, interior and boundary, averaged over the networks (folds).

    image: (H, W, 3) uint8 from `normalise_channels`, H and W at least 1.
    Returns (C, H, W) float32. Black margins are not shown to the networks, as in training: they
    are OUTSIDE_LOGITS. An all-black image has no margins.
    """
    rows, columns = box = content_box(image.transpose(2, 0, 1))
    logits = np.empty((tiling.outputs, *image.shape[:2]), np.float32)
    logits[:] = np.reshape(OUTSIDE_LOGITS[: tiling.outputs], (-1, 1, 1))
    inside = logits[:, rows, columns]
    row = _row_of_image(
        lambda top, bottom: image[top:bottom], box, scaling_of(image, box), tiling.skip
    )
    for band, values, _ in _bands(row, inside.shape[1:], [ensemble], tiling):
        inside[:, band] = values
    return logits


def predict_scaled(content: np.ndarray, ensemble: Ensemble, tiling: Tiling) -> np.ndarray:
    """Logits of an image that is cropped and z-scored already.

    content: (3, h, w) float32. Returns (C, h, w) float32. No tile is skipped.
    """

    def row(rows: slice, columns: Sequence[slice]) -> Iterator[np.ndarray]:
        """The tiles of some rows, (3, h, w) each."""
        return (content[:, rows, c] for c in columns)

    shape = content.shape[1], content.shape[2]
    bands = [logits for _, logits, _ in _bands(row, shape, [ensemble], tiling)]
    return np.concatenate(bands, axis=1)


def _row_of_image(
    read: Read,
    box: Window,
    scaling: Scaling,
    skip: bool,
    wanted: Wanted | None = None,
    watch: Watch | None = None,
) -> Row:
    """watch: is told of tiles that show nothing."""
    rows_of_box, columns_of_box = box

    def row(rows: slice, columns: Sequence[slice]) -> Iterator[np.ndarray | None]:
        """The tiles of some rows, scaled; None of one that is empty, or not wanted."""
        there = _moved(rows, rows_of_box.start)
        pixels = read(there.start, there.stop)[:, columns_of_box]
        for c in columns:
            tile = pixels[:, c]
            if wanted and not wanted(there, _moved(c, columns_of_box.start)):
                yield None
            elif skip and is_empty(tile):
                if watch:
                    watch.empty += 1
                yield None
            else:
                yield z_score_pixels(tile, scaling)

    return row


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def _bands(
    row: Row,
    shape: tuple[int, ...],
    voters: Sequence[Ensemble],
    tiling: Tiling,
    watch: Watch | None = None,
    begun: Carry | None = None,
) -> Iterator[tuple[slice, np.ndarray, Carry]]:
    """Mean logits of each ensemble in bands from top to bottom: rows of the content, (voters * C,
    rows, w) float32, and how to go on below them. begun: where to start (None: at the top)."""
    channels = len(voters) * tiling.outputs
    height, width = shape
    padded = tiling.edge(height), tiling.edge(width)
    margins = centred_padding((height, width), padded)
    h, w = min(height, padded[0]), min(width, padded[1])  # of the tiles before they are padded
    weight = gaussian_importance(*padded)[margins[0][0] :, margins[1][0] :][:h, :w]
    columns = [slice(x, x + w) for x in tile_starts(width, w, tiling.step)]
    sums = np.zeros((channels, h, width), np.float32)
    weights = np.zeros((h, width), np.float32)
    tops = tile_starts(height, h, tiling.step)
    first = begun.row if begun else 0
    if begun:
        reach = len(begun.weights)
        sums[:, :reach], weights[:reach] = begun.sums, begun.weights
    if watch:
        watch.empty = begun.empty if begun else watch.empty
        watch.tiles = len(tops) * len(columns)
    count = first * len(columns)
    for n, (top, following) in enumerate(pairwise([*tops[first:], height]), first + 1):
        tiles = row(slice(top, top + h), columns)
        for c, logits in zip(columns, _tile_logits(tiles, margins, voters, tiling), strict=True):
            sums[:, :, c] += logits * weight
            weights[:, c] += weight
            count += 1
            if watch:
                watch.tile(count, len(tops) * len(columns))
        done = following - top
        empty = watch.empty if watch else 0
        carry = Carry(n, sums[:, done:], weights[done:], empty)
        yield slice(top, following), sums[:, :done] / weights[:done], carry
        _move_up(sums, done)
        _move_up(weights[np.newaxis], done)


def _tile_logits(
    tiles: Iterable[np.ndarray | None],
    margins: Margins,
    voters: Sequence[Ensemble],
    tiling: Tiling,
) -> Iterator[np.ndarray]:
    """Logits of each tile, (voters * C, h, w), or (voters * C, 1, 1) of one that is empty: surely
    background."""
    (above, _), (left, _) = margins
    outside = np.array(OUTSIDE_LOGITS[: tiling.outputs], np.float32)
    empty = np.tile(outside, len(voters)).reshape(-1, 1, 1)
    for group in _groups(tiles, max(1, tiling.batch // len(tiling.flips))):
        full = [np.pad(tile, ((0, 0), *margins)) for tile in group if tile is not None]
        results = iter(_logits_of_each(voters, np.stack(full), tiling) if full else ())
        for tile in group:
            if tile is None:
                yield empty
            else:
                _, height, width = tile.shape
                yield next(results)[:, above : above + height, left : left + width]


def _logits_of_each(voters: Sequence[Ensemble], tiles: np.ndarray, tiling: Tiling) -> np.ndarray:
    means = [voter.mean_logits(tiles, tiling.flips, tiling.batch) for voter in voters]
    return means[0] if len(means) == 1 else np.concatenate(means, axis=1)


def _groups(tiles: Iterable[np.ndarray | None], size: int) -> Iterator[list[np.ndarray | None]]:
    tiles = iter(tiles)
    while group := list(islice(tiles, size)):
        yield group


def _move_up(rows: np.ndarray, count: int) -> None:
    """Let the first `count` of (…, rows, width) go and start as many with zeros at the end."""
    kept = rows.shape[-2] - count
    rows[..., :kept, :] = rows[..., count:, :]
    rows[..., kept:, :] = 0
