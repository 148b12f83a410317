"""Targets against the challenge's own recipe, written out with scikit-image."""

from pathlib import Path

import numpy as np
import pytest

from conftest import SAMPLES
from reunet.instances.encode import BOUNDARY, INTERIOR, encode, inner_boundary
from reunet.io.images import read_label

TRUTHS = sorted(SAMPLES.glob("labels/*.tiff"))


def find_boundaries(instances: np.ndarray) -> np.ndarray:
    segmentation = pytest.importorskip("skimage.segmentation")
    return np.asarray(segmentation.find_boundaries(instances, mode="inner"))


def official_classes(instances: np.ndarray) -> np.ndarray:
    morphology = pytest.importorskip("skimage.morphology")
    boundary = morphology.dilation(find_boundaries(instances), morphology.disk(1))
    interior = morphology.remove_small_objects(~boundary & (instances > 0), max_size=15)
    classes = interior.astype(np.uint8)
    classes[boundary] = 2
    return classes


def random_instances(seed: int) -> np.ndarray:
    """Touching, nested, split and one-pixel instances."""
    rng = np.random.default_rng(seed)
    instances = np.zeros((60, 70), np.int32)
    for label in range(1, 12):
        y, x, h, w = rng.integers((0, 0, 1, 1), (60, 70, 25, 25))
        instances[y : y + h, x : x + w] = label
    return instances


@pytest.mark.parametrize("path", TRUTHS, ids=lambda p: p.stem)
def test_paper_encoding_is_the_official_one_on_real_labels(path: Path) -> None:
    instances = read_label(path)
    np.testing.assert_array_equal(encode(instances, "paper"), official_classes(instances))


@pytest.mark.parametrize("seed", range(20))
def test_paper_encoding_is_the_official_one_on_awkward_labels(seed: int) -> None:
    instances = random_instances(seed)
    np.testing.assert_array_equal(encode(instances, "paper"), official_classes(instances))


@pytest.mark.parametrize("seed", range(20))
def test_thin_encoding_covers_exactly_the_cells(seed: int) -> None:
    instances = random_instances(seed)
    classes = encode(instances, "thin")
    np.testing.assert_array_equal(classes > 0, instances > 0)
    expected = find_boundaries(instances)
    np.testing.assert_array_equal(classes == BOUNDARY, expected)


def test_the_frame_is_no_boundary() -> None:
    assert not inner_boundary(np.ones((5, 6), np.int32)).any()
    assert (encode(np.ones((5, 6), np.int32), "thin") == INTERIOR).all()


def test_shapes_without_neighbours() -> None:
    for shape in ((1, 1), (1, 9), (9, 1)):
        assert encode(np.zeros(shape, np.int32)).shape == shape


def test_an_unknown_encoding_is_an_error() -> None:
    with pytest.raises(ValueError, match="choose from"):
        encode(np.zeros((4, 4), np.int32), "thick")
