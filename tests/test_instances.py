"""Both decoders as properties; `paper` against the challenge's own steps in scikit-image."""

import time
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import remove_small_holes, remove_small_objects

from reunet.images import read_label
from reunet.instances import decode, decode_paper, decode_regrow, drop_small, fill_holes, grow
from reunet.metric import score_pair
from reunet.targets import BACKGROUND, BOUNDARY, INTERIOR, encode

SAMPLES = sorted(Path(__file__).with_name("data").glob("samples/labels/*.tiff"))


def official_instances(classes: np.ndarray) -> np.ndarray:
    interior = remove_small_holes(classes == INTERIOR, max_size=63)
    return label(remove_small_objects(interior, max_size=15))


def same_partition(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two label maps are equal up to the numbers of the cells."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    counts = (len(np.unique(a)), len(np.unique(b)), pairs.shape[1])
    return bool(((a > 0) == (b > 0)).all()) and len(set(counts)) == 1


def noisy_classes(seed: int, shape: tuple[int, int] = (80, 90)) -> np.ndarray:
    """Blobs of three classes, as a network in doubt draws them."""
    rng = np.random.default_rng(seed)
    logits = ndimage.gaussian_filter(rng.normal(size=(3, *shape)), (0, 2, 2))
    return logits.argmax(0).astype(np.uint8)


@pytest.mark.parametrize("seed", range(10))
def test_paper_decoder_is_the_official_one(seed: int) -> None:
    classes = noisy_classes(seed)
    assert same_partition(decode_paper(classes), official_instances(classes))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda p: p.stem)
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
    found = decode_regrow(classes, encoding)
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
    cell = np.zeros((40, 40), np.int32)
    cell[5:35, 5:35] = 1
    cell[15:20, 15:20] = 0
    assert (fill_holes(cell)[15:20, 15:20] == 1).all()
    cell[16:19, 16:19] = 2
    np.testing.assert_array_equal(fill_holes(cell), cell)
    at_the_frame = np.ones((6, 6), np.int32)
    at_the_frame[0, 2:4] = 0
    np.testing.assert_array_equal(fill_holes(at_the_frame), at_the_frame)


@pytest.mark.parametrize("seed", range(5))
def test_growth_reaches_all_that_is_connected_and_nothing_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    through = rng.random((50, 60)) < 0.6
    seeds = np.where(rng.random((50, 60)) < 0.01, rng.integers(1, 9, (50, 60)), 0).astype(np.int32)
    grown = grow(seeds, through)
    np.testing.assert_array_equal(grown[seeds > 0], seeds[seeds > 0])
    regions, _ = ndimage.label(through | (seeds > 0), np.ones((3, 3)))
    by_diagonals = np.isin(regions, np.unique(regions[seeds > 0]))
    assert not (grown > 0)[~by_diagonals].any()
    assert ((grown > 0) <= (through | (seeds > 0))).all()
    straight, _ = ndimage.label(through | (seeds > 0))
    assert (grown > 0)[np.isin(straight, np.unique(straight[seeds > 0])) & (straight > 0)].all()


def test_growth_front_is_fair() -> None:
    seeds = np.zeros((9, 41), np.int32)
    seeds[4, 0], seeds[4, 40] = 1, 2
    grown = grow(seeds, np.ones(seeds.shape, bool))
    assert abs(int((grown == 1).sum()) - int((grown == 2).sum())) <= 9  # the middle column


def test_specks_are_dropped_and_numbers_close_up() -> None:
    cells = np.zeros((20, 20), np.int32)
    cells[:4, :4], cells[10:13, 10:15], cells[15:, 15:] = 1, 2, 3
    kept = drop_small(cells, 16)
    assert kept.max() == 2
    np.testing.assert_array_equal(kept == 2, cells == 3)


@pytest.mark.parametrize("decoder", ["paper", "regrow"])
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


@pytest.mark.parametrize("decoder", ["paper", "regrow"])
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


def test_ties_go_to_the_cell_below_then_right() -> None:
    seeds = np.zeros((3, 3), np.int32)
    seeds[0, 1], seeds[1, 0], seeds[1, 2], seeds[2, 1] = 1, 2, 3, 4
    through = np.zeros((3, 3), bool)
    through[1, 1] = True
    for expected in (4, 3, 2, 1):
        assert grow(seeds, through)[1, 1] == expected
        seeds[seeds == expected] = 0


def test_an_unknown_encoding_is_an_error() -> None:
    with pytest.raises(ValueError, match="choose from"):
        decode(np.zeros((4, 4), np.uint8), "regrow", "thick")


def test_an_unknown_decoder_is_an_error() -> None:
    with pytest.raises(ValueError, match="choose from"):
        decode(np.zeros((4, 4), np.uint8), "watershed")
