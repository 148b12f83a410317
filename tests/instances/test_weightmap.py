"""Weight maps against the definition: a distance transform of its own for every cell."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from PIL import Image
from scipy import ndimage

from conftest import DATA
from reunet import cli
from reunet.instances.encode import encode
from reunet.instances.weight_map import class_weights, closeness, heat_map, weight_map
from reunet.io.images import read_label
from reunet.options import ENCODINGS

REAL = sorted([*DATA.glob("samples/labels/*.tiff"), *DATA.glob("metric/gt/real_*.tif")])
EDGE = sorted(DATA.glob("metric/gt/edge_*.tif"))
SAMPLE = DATA / "samples/labels/dsb2018__00ae65c1c6631ae6_label.tiff"
QUICK_SIZE = 500_000  # px; the reference takes longer than the default suite should above it


def reference_closeness(instances: np.ndarray, sigma: float = 5.0) -> np.ndarray:
    d1 = np.full(instances.shape, np.inf)
    d2 = d1.copy()
    for cell in np.unique(instances[instances > 0]):
        distance = ndimage.distance_transform_edt(instances != cell)
        d2 = np.minimum(d2, np.maximum(d1, distance))
        d1 = np.minimum(d1, distance)
    return np.exp(-((d1 + d2) ** 2) / (2 * sigma**2))


def assert_is_the_definition(instances: np.ndarray, w0: float = 10, sigma: float = 5) -> None:
    actual = w0 * closeness(instances, sigma)
    expected = w0 * reference_closeness(instances, sigma)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-3)


def random_instances(seed: int) -> np.ndarray:
    """Touching, nested, split and one-pixel instances."""
    rng = np.random.default_rng(seed)
    instances = np.zeros((90, 110), np.int32)
    for label in rng.choice(100_000, 12):
        y, x, h, w = rng.integers((0, 0, 1, 1), (90, 110, 25, 25))
        instances[y : y + h, x : x + w] = label
    return instances


def discs(count: int, size: int, radius: int) -> np.ndarray:
    """Discs on a grid. Returns (size, size) int32 with labels 1..count."""
    pitch = size / np.ceil(np.sqrt(count))
    y, x = np.ogrid[:size, :size]
    row, column = (y / pitch).astype(int), (x / pitch).astype(int)
    inside = np.hypot(y - (row + 0.5) * pitch, x - (column + 0.5) * pitch) <= radius
    labels = row * int(np.ceil(np.sqrt(count))) + column + 1
    return np.where(inside & (labels <= count), labels, 0).astype(np.int32)


def seconds(function: Callable[..., np.ndarray], *arguments: np.ndarray) -> float:
    started = time.process_time()
    function(*arguments)
    return time.process_time() - started


def real_labels() -> list[object]:
    return [
        pytest.param(
            path, id=path.stem, marks=[pytest.mark.slow] * (read_label(path).size > QUICK_SIZE)
        )
        for path in REAL
    ]


@pytest.mark.parametrize("path", real_labels())
def test_is_the_definition_on_real_labels(path: Path) -> None:
    assert_is_the_definition(read_label(path))


@pytest.mark.parametrize("path", REAL, ids=lambda p: p.stem)
def test_is_the_definition_on_parts_of_real_labels(path: Path) -> None:
    instances = read_label(path)
    y, x = (side // 3 for side in instances.shape)
    assert_is_the_definition(instances[y : y + 150, x : x + 200])


@pytest.mark.parametrize("path", EDGE, ids=lambda p: p.stem)
def test_is_the_definition_on_edge_cases(path: Path) -> None:
    assert_is_the_definition(read_label(path))


@pytest.mark.parametrize("tile", [7, 64, 256])
@pytest.mark.parametrize("seed", range(10))
def test_is_the_definition_on_awkward_labels(
    seed: int, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reunet.instances.weight_map.TILE", tile)
    assert_is_the_definition(random_instances(seed))


@pytest.mark.parametrize("sigma", [0.1, 1.0, 3.7, 12.0, 30.0])
def test_is_the_definition_at_any_sigma(sigma: float) -> None:
    assert_is_the_definition(random_instances(0), sigma=sigma)


@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 1), (2, 300)])
def test_narrow_pictures(shape: tuple[int, int]) -> None:
    instances = np.zeros(shape, np.uint16)
    instances.flat[[0, -1]] = 1, 2
    instances.flat[instances.size // 3] = 7
    assert_is_the_definition(instances)


def test_one_cell_in_many_parts_has_no_neighbour() -> None:
    instances = np.zeros((50, 60), np.int32)
    assert not closeness(instances).any()
    instances[5:10, 5:10] = instances[5:10, 13:20] = instances[40:, 2:] = 3
    assert not closeness(instances).any()


def test_parts_of_a_cell_each_count() -> None:
    """Between two far parts of cell 1 lies cell 2; only the nearer part is nearest."""
    instances = np.zeros((20, 90), np.int32)
    instances[:, 5:10] = instances[:, 80:85] = 1
    instances[:, 60:75] = 2
    assert_is_the_definition(instances)
    assert closeness(instances)[10, 77] == pytest.approx(np.exp(-(6**2) / 50), abs=1e-6)
    assert closeness(instances)[10, 7] == 0


def test_a_cell_inside_another() -> None:
    instances = np.ones((60, 60), np.int32)
    instances[25:35, 25:35] = 2
    instances[29:31, 29:31] = 0
    assert_is_the_definition(instances)
    assert closeness(instances)[20, 30] == pytest.approx(np.exp(-(5**2) / 50), abs=1e-6)


def test_class_weights_by_hand() -> None:
    classes = np.array([[0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 2]], np.uint8)
    # shares 8/12, 3/12, 1/12 of 3 classes
    expected = np.array([0.5, 4 / 3, 4])[classes]
    np.testing.assert_allclose(class_weights(classes), expected, rtol=1e-6)
    assert class_weights(classes).mean() == pytest.approx(1)
    assert class_weights(classes, 3.0).max() == 3
    whole = class_weights(classes, 100.0, mean_one=False)
    np.testing.assert_allclose(whole, np.array([1.5, 4, 12])[classes], rtol=1e-6)
    # a class that is absent does not count
    np.testing.assert_array_equal(class_weights(np.full((3, 4), 2, np.uint8)), 1)
    np.testing.assert_allclose(class_weights(classes[1:] // 2), [[0.6] * 5 + [3]], rtol=1e-6)


def test_the_map_is_both_terms() -> None:
    instances = random_instances(3)
    classes = encode(instances)
    expected = 4 * reference_closeness(instances, 3.0) + class_weights(classes, 2.5)
    actual = weight_map(instances, classes, w0=4.0, sigma=3.0, max_class_weight=2.5)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=1e-3)
    without = weight_map(instances, classes, w0=0.0)
    np.testing.assert_array_equal(without, class_weights(classes, 10.0))


def test_dtypes_and_numbers_of_labels_do_not_matter() -> None:
    instances = random_instances(5)
    _, small = np.unique(instances, return_inverse=True)
    for same in (small.astype(np.uint8), small.astype(np.int64), np.asfortranarray(instances)):
        np.testing.assert_array_equal(closeness(same), closeness(instances))


def test_mirror_images_have_mirrored_maps() -> None:
    instances = read_label(SAMPLE)
    plain = closeness(instances)
    np.testing.assert_array_equal(closeness(instances[::-1]), plain[::-1])
    np.testing.assert_array_equal(closeness(instances[:, ::-1]), plain[:, ::-1])
    np.testing.assert_array_equal(closeness(instances.T), plain.T)


def test_what_is_no_weight_map_is_an_error() -> None:
    labels = np.zeros((4, 5), np.int32)
    with pytest.raises(ValueError, match="not one"):
        weight_map(labels, np.zeros((5, 4), np.uint8))
    with pytest.raises(ValueError, match="sigma"):
        weight_map(labels, np.zeros((4, 5), np.uint8), sigma=0)


def test_500_cells_take_under_a_second() -> None:
    instances = discs(529, 1024, 20)
    classes = encode(instances)
    assert min(seconds(weight_map, instances, classes) for _ in range(3)) < 1


@pytest.mark.slow
def test_300_cells_are_50_times_as_fast_as_the_definition() -> None:
    instances = discs(300, 1024, 25)
    ours = min(seconds(closeness, instances) for _ in range(3))
    assert 50 * ours < seconds(reference_closeness, instances)


def test_heat_runs_from_blue_to_red() -> None:
    drawn = heat_map(np.array([[0, 5, 8.8, 10, 99]], np.float32))
    assert drawn.dtype == np.uint8
    assert drawn.shape == (1, 5, 3)
    blue, middle, red, *reddest = drawn[0].astype(int)
    assert blue[2] > 100 > blue[0] == blue[1] == 0
    assert middle.argmin() != 1
    assert red[0] > 250 > 5 > red[1] >= red[2]
    np.testing.assert_array_equal(*reddest)


def command(*arguments: object) -> Result:
    return CliRunner().invoke(cli.main, ["weightmap", *map(str, arguments)])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_command_writes_the_map(encoding: str, tmp_path: Path) -> None:
    result = command(SAMPLE, "-o", tmp_path / "map.tif", "--encoding", encoding)
    assert (result.exit_code, result.output) == (0, "")
    written = tifffile.imread(tmp_path / "map.tif")
    assert written.dtype == np.float32
    instances = read_label(SAMPLE)
    expected = weight_map(instances, encode(instances, encoding))
    np.testing.assert_array_equal(written, expected)
    assert command(SAMPLE, "-o", tmp_path / "map.png", "--encoding", encoding).exit_code == 0
    drawn = np.asarray(Image.open(tmp_path / "map.png"))
    np.testing.assert_array_equal(drawn, heat_map(expected))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["map.png", "map.tif"]


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    label, out = tmp_path / "label.tiff", tmp_path / "out.tif"
    tifffile.imwrite(label, np.zeros((8, 9), np.uint16))
    shutil.copy(DATA / "images" / "blood.png", tmp_path / "colours.png")
    cases = {
        "unsupported ending": (label, "-o", tmp_path / "out.jpg"),
        "is the label image itself": (label, "-o", label),
        "no such file": (tmp_path / "nowhere.tif", "-o", out),
        "labels are one plane": (tmp_path / "colours.png", "-o", out),
        "choose a folder": (label, "-o", tmp_path / "no" / "out.png"),
        "'thick' is not one of": (label, "-o", out, "--encoding", "thick"),
    }
    before = sorted(tmp_path.rglob("*"))
    for message, arguments in cases.items():
        result = command(*arguments)
        assert result.exit_code == 2, message
        assert message in result.output
        assert "Traceback" not in result.output
    assert sorted(tmp_path.rglob("*")) == before
