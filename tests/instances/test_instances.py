"""Both decoders as properties, against slow references of their own: the challenge's steps in
scikit-image for `paper`, growth one pixel at a time in plain Python for `regrow`."""

import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from conftest import SAMPLES
from reunet.instances import growth
from reunet.instances.decode import CLASS_DECODERS, decode
from reunet.instances.encode import BACKGROUND, BOUNDARY, ENCODINGS, INTERIOR, encode
from reunet.instances.growth import FREE, grow
from reunet.instances.regions import Regions, across_corners, cut, unite
from reunet.io.images import read_label
from reunet.metric import score_pair

TRUTHS = sorted(SAMPLES.glob("labels/*.tiff"))
EIGHT = np.ones((3, 3))
WAYS = [("paper", "paper"), ("regrow", "paper"), ("regrow", "thin")]


def remove_small_objects(mask: np.ndarray, max_size: int) -> np.ndarray:
    morphology = pytest.importorskip("skimage.morphology")
    return np.asarray(morphology.remove_small_objects(mask, max_size=max_size))


def official_instances(classes: np.ndarray) -> np.ndarray:
    morphology = pytest.importorskip("skimage.morphology")
    interior = morphology.remove_small_holes(classes == INTERIOR, max_size=63)
    label = pytest.importorskip("skimage.measure").label
    return np.asarray(label(remove_small_objects(interior, max_size=15)))


def slow_growth(seeds: np.ndarray, through: np.ndarray) -> np.ndarray:
    """Labels step by step, every free pixel looking for a labelled neighbour."""
    straight = [(1, 0), (0, 1), (0, -1), (-1, 0)]  # below, right, left, above: who wins a tie
    around = [*straight, (1, 1), (1, -1), (-1, 1), (-1, -1)]
    labels = {tuple(p): int(seeds[tuple(p)]) for p in np.argwhere(seeds)}
    free = {tuple(p) for p in np.argwhere(through & (seeds == 0))}
    idle, neighbours = 0, straight
    while idle < 2:
        reached = {}
        for y, x in free:
            beside = [labels.get((y + dy, x + dx)) for dy, dx in neighbours]
            if any(beside):
                reached[y, x] = next(number for number in beside if number)
        labels |= reached
        free -= reached.keys()
        idle = 0 if reached else idle + 1
        neighbours = around if neighbours is straight else straight
    grown = np.zeros_like(seeds)
    for pixel, number in labels.items():
        grown[pixel] = number
    return grown


def slow_regrow(classes: np.ndarray, encoding: str) -> np.ndarray:
    ring = classes == BOUNDARY
    if encoding == "paper":
        ring &= ~ndimage.binary_dilation(classes == BACKGROUND)
    smallest = {"paper": 16, "thin": 4}[encoding]
    seeds = ndimage.label(remove_small_objects(classes == INTERIOR, max_size=smallest - 1))[0]
    cells = slow_growth(seeds, ring)
    lonely, _ = ndimage.label(ring & (cells == 0), EIGHT)
    cells = np.where(lonely > 0, lonely + cells.max(), cells)
    regions, count = ndimage.label(np.pad(cells == 0, 1, constant_values=True))
    frame = regions[0, 0]  # what touches the picture's frame is one region with it
    regions = regions[1:-1, 1:-1]
    filled = cells.copy()
    for region in set(range(1, count + 1)) - {frame}:
        rim = ndimage.binary_dilation(regions == region) & (regions != region)
        if len(np.unique(cells[rim])) == 1:
            filled[regions == region] = cells[rim][0]
    for number in range(1, filled.max() + 1):
        if (filled == number).sum() < 16:
            filled[filled == number] = 0
    return filled


def reference(classes: np.ndarray, decoder: str, encoding: str) -> np.ndarray:
    """Cells numbered in the order of their first pixels."""
    cells = official_instances(classes) if decoder == "paper" else slow_regrow(classes, encoding)
    values, first = np.unique(cells, return_index=True)
    numbers = np.zeros(cells.max() + 1, np.int32)
    for number, value in enumerate(values[values > 0][np.argsort(first[values > 0])], start=1):
        numbers[value] = number
    return numbers[cells]


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two label maps are equal up to the numbers of the cells."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    counts = (len(np.unique(a)), len(np.unique(b)), pairs.shape[1])
    return bool(((a > 0) == (b > 0)).all()) and len(set(counts)) == 1


def noisy_classes(
    seed: int, shape: tuple[int, int] = (80, 90), blur: tuple[float, float] = (2, 2)
) -> np.ndarray:
    """Blobs of three classes, as a network in doubt draws them."""
    rng = np.random.default_rng(seed)
    logits = ndimage.gaussian_filter(rng.normal(size=(3, *shape)), (0, *blur))
    return logits.argmax(0).astype(np.uint8)


def adversarial_classes(seed: int) -> np.ndarray:
    """Small maps of any shape, from specks to stripes, some lacking a class."""
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(1, 34, 2))
    if seed % 3 == 0:
        return rng.choice(3, (height, width), p=rng.dirichlet([1, 1, 1])).astype(np.uint8)
    blur = [(1, 1), (3, 0.7), (0.7, 3)][seed % 9 // 3]
    return noisy_classes(seed, (height, width), blur)


def drawn(*rows: str) -> np.ndarray:
    """A class map of a picture in which # is interior, o boundary, and all else background.

    Every character stands for 5×5 px, so that what is drawn is no speck.
    """
    classes = np.array([["#o".find(c) + 1 for c in row] for row in rows], np.uint8)
    return classes.repeat(5, axis=0).repeat(5, axis=1)


def spiral(size: int) -> np.ndarray:
    """A corridor one pixel wide that winds inwards, and its walls of one pixel."""
    corridor = np.zeros((size, size), bool)
    y, x, dy, dx = 0, 0, 0, 1
    corridor[0, 0] = True
    for _ in range(size * size):
        ahead, beyond = (y + dy, x + dx), (y + 2 * dy, x + 2 * dx)
        if not _is_open(corridor, ahead) or not _is_open(corridor, beyond, default=True):
            dy, dx = dx, -dy
            ahead, beyond = (y + dy, x + dx), (y + 2 * dy, x + 2 * dx)
            if not _is_open(corridor, ahead) or not _is_open(corridor, beyond, default=True):
                break
        y, x = ahead
        corridor[ahead] = True
    return corridor


def _is_open(corridor: np.ndarray, pixel: tuple[int, int], default: bool = False) -> bool:
    inside = all(0 <= at < len(corridor) for at in pixel)
    return not corridor[pixel] if inside else default


def wound(ends_in: int, walls: int) -> np.ndarray:
    """A spiral of boundary from a seed on the outside to its end."""
    corridor = spiral(31)
    classes = np.where(corridor, ends_in, walls).astype(np.uint8)
    classes[0, :6] = INTERIOR
    return classes


SHAPES = {
    "a cell over three bands": drawn("...", ".#.", ".#.", ".#.", "..."),
    "ring around everything": drawn("ooooo", "o...o", "o.#.o", "o...o", "ooooo"),
    "hole across a seam": drawn("#####", "#...#", "#.o.#", "#...#", "#####"),
    "open at the frame": drawn("##.##", "#...#", "#####"),
    "two arms that join": drawn("#.#.#", "#.#.#", "###.#", "....#", "#####"),
    "arms of boundary that join": drawn("o.o.o", "o.o.o", "ooo.o", "....o", "ooooo"),
    "cells that meet on a line": drawn("###", "ooo", "ooo", "###"),
    "cells that meet at a corner": drawn("##..", "##..", "..##", "..##"),
    "rings that meet at a corner": drawn("oo..", "oo..", "..oo", "..oo"),
    "nested cells": drawn(
        "#######", "#.....#", "#.###.#", "#.#.#.#", "#.###.#", "#.....#", "#######"
    ),
    "thick boundary": drawn("oooooo", "o#oooo", "oooooo", "oooo#o", "oooooo"),
    "hole between two cells": drawn("oo###", "oo#.#", "##o.#", "#####"),
    "large enough with its hole": np.pad(
        [[1, 1, 1, 1, 1], [1, 0, 0, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]], 3
    ).astype(np.uint8),
    "one boundary": np.full((40, 33), BOUNDARY, np.uint8),
    "one interior": np.full((40, 33), INTERIOR, np.uint8),
    "nothing": np.zeros((40, 33), np.uint8),
    "one row": noisy_classes(0, (1, 301)),
    "one column": noisy_classes(1, (301, 1)),
    "one pixel": np.full((1, 1), INTERIOR, np.uint8),
    "spiral of interior": wound(INTERIOR, BACKGROUND),
    "spiral of boundary": wound(BOUNDARY, BACKGROUND),
    "spiral between boundary": wound(INTERIOR, BOUNDARY),
    "spiral of holes": wound(BACKGROUND, INTERIOR),
}


def assert_bands_make_no_difference(
    classes: np.ndarray, way: tuple[str, str], bands: Iterable[int | None]
) -> None:
    """Equal labels, numbers included, for every height of a band, and to the slow reference.

    With a halo of 2 steps much of the growth is left to its second part, across all bands.
    """
    expected = reference(classes, *way)
    for band in bands:
        for halo in (2, growth.HALO):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(growth, "HALO", halo)
                found = decode(classes, *way, band=band)
            np.testing.assert_array_equal(found, expected, f"bands of {band}, halo {halo}")


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_hand_made_maps_in_bands_of_any_height(name: str, way: tuple[str, str]) -> None:
    assert_bands_make_no_difference(SHAPES[name], way, (None, 1, 2, 3, 4, 5, 6, 7, 19))


@pytest.mark.parametrize("way", WAYS, ids="-".join)
@pytest.mark.parametrize("seed", range(40))
def test_random_maps_in_bands_of_any_height(seed: int, way: tuple[str, str]) -> None:
    bands = (None, 1 + seed % 7, 8 + seed % 9)
    assert_bands_make_no_difference(adversarial_classes(seed), way, bands)


def test_random_maps_hold_cells() -> None:
    cells = [reference(adversarial_classes(seed), "paper", "paper").max() for seed in range(40)]
    assert sum(cells) > 50


@pytest.mark.parametrize("path", TRUTHS, ids=lambda p: p.stem)
@pytest.mark.parametrize("encoding", sorted(ENCODINGS))
def test_real_cells_in_bands_of_any_height(path: Path, encoding: str) -> None:
    classes = encode(read_label(path), encoding)
    for decoder in CLASS_DECODERS:
        whole = decode(classes, decoder, encoding, band=len(classes))
        assert whole.max() > 3
        for band in (7, 50, 128):
            found = decode(classes, decoder, encoding, band=band)
            np.testing.assert_array_equal(found, whole, f"bands of {band}")
    np.testing.assert_array_equal(
        decode(classes, "paper", encoding), reference(classes, "paper", encoding)
    )
    crop = classes[:150, :150]
    np.testing.assert_array_equal(
        decode(crop, "regrow", encoding), reference(crop, "regrow", encoding)
    )


@pytest.mark.parametrize("seed", range(10))
def test_paper_decoder_is_the_official_one(seed: int) -> None:
    classes = noisy_classes(seed, (80, 90 + seed % 2))
    assert same_partition(decode(classes, "paper"), official_instances(classes))


@pytest.mark.parametrize("path", TRUTHS, ids=lambda p: p.stem)
@pytest.mark.parametrize("encoding", ["paper", "thin"])
def test_regrow_gives_real_cells_back(path: Path, encoding: str) -> None:
    truth = read_label(path)
    found = decode(encode(truth, encoding), "regrow", encoding)
    assert score_pair(truth, found).f1 >= 0.92  # cells of 16 px and less are lost
    covered = (found > 0) & (truth > 0)
    assert covered.sum() >= 0.97 * (truth > 0).sum()


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("encoding", "smallest"), [("paper", 16), ("thin", 4)])
def test_regrow_merges_nothing_and_stays_in_the_foreground(
    seed: int, encoding: str, smallest: int
) -> None:
    classes = noisy_classes(seed)
    found = decode(classes, "regrow", encoding)
    seeds = remove_small_objects(ndimage.label(classes == INTERIOR)[0], max_size=smallest - 1)
    assert len(np.unique(seeds)) > 5
    for number in np.unique(seeds[seeds > 0]):  # a seed lies in one cell, or was dropped with it
        assert len(np.unique(found[seeds == number])) == 1
    for number in range(1, found.max() + 1):  # no cell holds two seeds
        assert len(np.unique(seeds[(found == number) & (seeds > 0)])) <= 1
    grown_out = (found > 0) & (classes == BACKGROUND)
    assert not (grown_out & ~ndimage.binary_fill_holes(classes != BACKGROUND)).any()


def test_regrow_finds_cells_too_small_for_an_interior() -> None:
    truth = np.zeros((30, 30), np.int32)
    truth[5:9, 5:9], truth[20:24, 4:22] = 1, 2
    classes = encode(truth, "paper")
    assert not (classes == INTERIOR).any()
    found = decode(classes)
    assert same_partition(found, truth)


def test_regrow_keeps_touching_cells_apart() -> None:
    truth = np.zeros((40, 60), np.int32)
    truth[5:35, 5:30] = 1
    truth[5:35, 30:55] = 2
    found = decode(encode(truth))
    assert score_pair(truth, found).tp == 2
    np.testing.assert_array_equal(found > 0, truth > 0)  # the ring's outer pixel is given back


def test_regrow_closes_holes_but_not_around_other_cells() -> None:
    classes = np.zeros((40, 40), np.uint8)
    classes[5:35, 5:35] = INTERIOR
    cell = (classes == INTERIOR).astype(np.int32)
    classes[12:22, 12:22] = BACKGROUND
    np.testing.assert_array_equal(decode(classes), cell)
    classes[14:20, 14:20] = INTERIOR
    inner = np.zeros_like(cell)
    inner[14:20, 14:20] = 1
    np.testing.assert_array_equal(decode(classes), (classes == INTERIOR) * (1 + inner))
    at_the_frame = np.full((6, 6), INTERIOR, np.uint8)
    at_the_frame[0, 2:4] = BACKGROUND
    np.testing.assert_array_equal(decode(at_the_frame), at_the_frame == INTERIOR)


@pytest.mark.parametrize("seed", range(6))
def test_growth_is_that_of_the_slow_reference(seed: int) -> None:
    rng = np.random.default_rng(seed)
    through = rng.random((50, 60)) < 0.6
    seeds = np.where(rng.random((50, 60)) < 0.01, rng.integers(1, 9, (50, 60)), 0).astype(np.int32)
    grown = grow(seeds, through)
    np.testing.assert_array_equal(np.maximum(grown, 0), slow_growth(seeds, through))
    np.testing.assert_array_equal(grown == FREE, through & (slow_growth(seeds, through) == 0))


def test_growth_stops_after_its_steps() -> None:
    seeds = np.zeros((1, 20), np.int32)
    seeds[0, 0] = 1
    for steps in range(5):
        grown = grow(seeds, np.ones(seeds.shape, bool), steps)
        assert (grown == 1).sum() == 1 + steps
        assert (grown == FREE).sum() == 19 - steps


def test_growth_front_is_fair() -> None:
    seeds = np.zeros((9, 41), np.int32)
    seeds[4, 0], seeds[4, 40] = 1, 2
    grown = grow(seeds, np.ones(seeds.shape, bool))
    assert abs(int((grown == 1).sum()) - int((grown == 2).sum())) <= 9  # the middle column


def test_ties_go_to_the_cell_below_then_right() -> None:
    seeds = np.zeros((3, 3), np.int32)
    seeds[0, 1], seeds[1, 0], seeds[1, 2], seeds[2, 1] = 1, 2, 3, 4
    through = np.zeros((3, 3), bool)
    through[1, 1] = True
    for expected in (4, 3, 2, 1):
        assert grow(seeds, through)[1, 1] == expected
        seeds[seeds == expected] = 0


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("corners", [False, True])
def test_regions_in_bands_are_those_of_the_whole(seed: int, corners: bool) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 40), rng.integers(1, 40))) < rng.random()
    regions, numbers = Regions(), np.zeros(mask.shape, np.int32)
    for top, bottom in cut(mask.shape, 1 + seed % 8):
        numbers[top:bottom] = regions.label(mask[top:bottom], top)
        seen = numbers[max(top - 1, 0) : bottom]
        if corners:
            regions.join(across_corners(seen > 0, seen))
    merged = regions.merged()
    expected, count = ndimage.label(mask, EIGHT if corners else None)
    assert same_partition(merged.number[numbers], expected)
    assert len(merged.sizes) == count + 1
    for number in range(1, count + 1):
        pixels = np.flatnonzero(merged.number[numbers] == number)
        assert (merged.sizes[number], merged.first[number]) == (len(pixels), pixels[0])


@pytest.mark.parametrize("seed", range(10))
def test_union_find_is_that_of_a_graph_search(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 200
    pairs = rng.integers(0, count, (2, rng.integers(0, 300)))
    graph = np.zeros((count, count), bool)
    graph[pairs[0], pairs[1]] = graph[pairs[1], pairs[0]] = True
    root = unite(count, *pairs)
    for member in range(count):
        reached = np.zeros(count, bool)
        reached[member] = True
        while (wider := reached | graph[reached].any(axis=0)).sum() > reached.sum():
            reached = wider
        assert root[member] == np.flatnonzero(reached)[0]


def test_union_find_along_a_shuffled_path_ends() -> None:
    path = np.random.default_rng(0).permutation(100_000)
    assert not unite(path.size, path[1:], path[:-1]).any()


@pytest.mark.parametrize("decoder", CLASS_DECODERS)
def test_specks_are_dropped_and_numbers_follow_the_picture(decoder: str) -> None:
    classes = np.zeros((30, 20), np.uint8)
    classes[12:16, :4], classes[20:23, 10:15], classes[5:11, 15:] = INTERIOR, INTERIOR, INTERIOR
    found = decode(classes, decoder, "thin")
    assert found.max() == 2  # 3 × 5 px are one too few
    assert (found[5:11, 15:] == 1).all()
    assert (found[12:16, :4] == 2).all()


@pytest.mark.parametrize("decoder", CLASS_DECODERS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (40, 40)])
def test_pictures_of_one_class(decoder: str, shape: tuple[int, int]) -> None:
    for value in (BACKGROUND, INTERIOR, BOUNDARY):
        classes = np.full(shape, value, np.uint8)
        found = decode(classes, decoder)
        assert found.dtype == np.int32
        if decoder == "paper":  # which takes a whole picture under 64 px for a hole
            assert same_partition(found, official_instances(classes))
        else:
            large = value != BACKGROUND and classes.size >= 16
            np.testing.assert_array_equal(found, np.full(shape, int(large)))


@pytest.mark.parametrize("decoder", CLASS_DECODERS)
def test_time_does_not_grow_with_the_number_of_cells(decoder: str) -> None:
    def seconds(cell: int) -> float:
        tile = np.zeros((cell, cell), np.uint8)
        tile[2:-2, 2:-2] = BOUNDARY
        tile[4:-4, 4:-4] = INTERIOR
        classes = np.tile(tile, (1024 // cell, 1024 // cell))
        started = time.perf_counter()
        assert decode(classes, decoder).max() == (1024 // cell) ** 2
        return time.perf_counter() - started

    few, many = (min(seconds(cell) for _ in range(3)) for cell in (128, 16))
    assert many < 8 * few + 0.2  # 64 times the cells


@pytest.mark.parametrize("decoder", CLASS_DECODERS)
def test_memory_is_that_of_a_band_however_high_the_picture(decoder: str, tmp_path: Path) -> None:
    classes = np.tile(encode(read_label(TRUTHS[0])), (40, 2))
    stored = np.memmap(tmp_path / "classes", np.uint8, "w+", shape=classes.shape)
    stored[:] = classes
    out = np.memmap(tmp_path / "labels", np.int32, "w+", shape=classes.shape)
    tracemalloc.start()
    found = decode(stored, decoder, out=out, band=64)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found is out
    assert peak < out.nbytes / 5
    np.testing.assert_array_equal(out, decode(classes, decoder))


@pytest.mark.parametrize("decoder", CLASS_DECODERS)
def test_the_order_of_the_axes_in_memory_makes_no_difference(decoder: str) -> None:
    classes = noisy_classes(3)
    np.testing.assert_array_equal(
        decode(np.asfortranarray(classes), decoder, band=9), decode(classes, decoder)
    )


@pytest.mark.parametrize("decoder", CLASS_DECODERS)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_no_pixels_no_cells(decoder: str, shape: tuple[int, int]) -> None:
    assert decode(np.zeros(shape, np.uint8), decoder).shape == shape


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((4, 5), np.int32),
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4), np.int32, order="F"),
        np.zeros((4, 8), np.int32)[:, ::2],
    ],
    ids=["shape", "dtype", "order", "stride"],
)
def test_an_out_that_cannot_be_worked_in_is_an_error(out: np.ndarray) -> None:
    with pytest.raises(ValueError, match="out must be"):
        decode(np.zeros((4, 4), np.uint8), out=out)


def test_a_class_map_of_three_axes_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        decode(np.zeros((4, 4, 3), np.uint8))


def test_a_band_of_no_rows_is_an_error() -> None:
    with pytest.raises(ValueError, match="one row at least"):
        decode(np.zeros((4, 4), np.uint8), band=0)


def test_an_unknown_encoding_is_an_error() -> None:
    with pytest.raises(ValueError, match="choose from"):
        decode(np.zeros((4, 4), np.uint8), "regrow", "thick")


def test_an_unknown_decoder_is_an_error() -> None:
    with pytest.raises(ValueError, match="choose from"):
        decode(np.zeros((4, 4), np.uint8), "watershed")


def test_importing_the_decoders_does_not_import_what_is_slow_to() -> None:
    slow = "{'scipy', 'torch', 'skimage', 'numba'} & set(sys.modules)"
    code = f"import sys, reunet.instances.decode; sys.exit(str({slow}) if {slow} else 0)"
    subprocess.run([sys.executable, "-c", code], check=True)
