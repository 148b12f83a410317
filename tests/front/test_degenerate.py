"""Pictures that hold nothing, everything, or far too much: through the whole pipeline."""

import subprocess
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from conftest import REUNET
from reunet import segment
from reunet.errors import ReUNetWarning
from reunet.inference.normalise import normalise_channels, scaling_of
from reunet.inference.tiles import content_box
from reunet.instances.encode import encode
from reunet.io.images import read_image, read_label
from reunet.io.labels import label_path, write_label
from reunet.metric import TILED_FROM, score_pair
from reunet.model import Model, load_model

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (70, 90, 3), dtype=np.uint8)
LEVELS = np.array([10, 230, 120], np.uint8)  # shades of background, interior and boundary
CONSTANT = {
    "black": np.zeros((70, 90), np.uint8),
    "white": np.full((70, 90), 255, np.uint8),
    "grey": np.full((70, 90), 100, np.uint8),
    "colour": np.full((70, 90, 3), (200, 3, 77), np.uint8),
    "16 bits": np.full((70, 90), 40_000, np.uint16),
    "negative": np.full((70, 90), -5, np.int32),
    "float": np.full((70, 90), 0.25, np.float32),
    "not a number": np.full((70, 90), np.nan, np.float32),
    "huge": np.full((70, 90), 1e300),
    "black row": np.zeros((1, 90), np.uint8),
    "one pixel": np.full((1, 1), 9, np.uint8),
}
VARIED = {
    "1 × N": NOISE[:1],
    "N × 1": NOISE[:, :1],
    "1 × 3000": RNG.integers(0, 256, (1, 3000), dtype=np.uint8),
    "2 × 2": NOISE[:2, :2],
    "one bright pixel": np.pad(np.full((1, 1), 255, np.uint8), ((30, 39), (40, 49))),
    "one dark pixel": 255 - np.pad(np.full((1, 1), 255, np.uint8), ((30, 39), (40, 49))),
    "noise": NOISE,
    "16-bit noise": RNG.integers(0, 65536, (70, 90), dtype=np.uint16),
    "black and white": RNG.random((70, 90)) < 0.5,
    "largest floats": RNG.choice([-1.7e308, 1.7e308], (70, 90)),
    "smallest floats": RNG.random((70, 90)) * 1e-300,
    "half floats": RNG.choice([-65504, 65504], (70, 90)).astype(np.float16),
    "largest integers": RNG.integers(2**62, 2**63, (70, 90), dtype=np.uint64),
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from conftest import save_tiny_bundle

    return save_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle", ("0",))


@pytest.fixture(scope="module")
def model(tiny: Path) -> Model:
    """A random network, which shows cells in any picture that it sees."""
    return load_model(tiny, "cpu")


def assert_labels(labels: np.ndarray, shape: tuple[int, ...]) -> None:
    assert labels.shape == shape[:2]
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(np.unique(np.append(labels, 0)), np.arange(labels.max() + 1))


@pytest.mark.parametrize("decoder", ["regrow", "paper"])
@pytest.mark.parametrize("name", CONSTANT)
def test_a_constant_picture_holds_no_cell(model: Model, name: str, decoder: str) -> None:
    pixels = CONSTANT[name]
    labels = segment(pixels, model, decoder=decoder)
    assert_labels(labels, pixels.shape)
    assert labels.max() == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", VARIED)
def test_any_picture_gets_labels(model: Model, name: str) -> None:
    pixels = VARIED[name]
    nothing = pytest.warns(ReUNetWarning, match=r"^tiles that show nothing: (\d) of \1,")
    with nothing if "one" in name else nullcontext():
        labels = segment(pixels, model, tta=False)
    assert_labels(labels, pixels.shape)
    if pixels.size < 16 or "one" in name:
        assert labels.max() == 0  # a cell has 16 pixels or more


def test_contrast_is_stretched_whatever_the_numbers() -> None:
    for name in ("largest floats", "half floats", "smallest floats", "largest integers", "noise"):
        values = VARIED[name].reshape(70, -1)
        shown = normalise_channels(np.stack([values] * 3, axis=-1))[..., 0].astype(int)
        assert (shown.min(), shown.max()) == (0, 255), name
        assert (np.diff(shown.ravel()[np.argsort(values.ravel())]) >= 0).all(), name


def test_the_command_labels_them_all(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    pictures = CONSTANT | VARIED
    for name, pixels in pictures.items():
        colour = "rgb" if pixels.ndim == 3 else "minisblack"
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", pixels, photometric=colour)
    command = [REUNET, "predict", tmp_path / "images", tmp_path / "out", "--weights", tiny]
    run = subprocess.run([*command, "--no-tta"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert {line.split(": ")[0] for line in run.stderr.splitlines()} <= {"note"}
    for name, pixels in pictures.items():
        labels = read_label(label_path(Path(f"{name}.tif"), tmp_path / "out"))
        assert labels.shape == pixels.shape[:2]
        assert labels.dtype == np.uint16
        assert name in VARIED or labels.max() == 0


def seeing(model: Model, says: Callable[[np.ndarray], np.ndarray], encoding: str) -> Model:
    """A model whose network is a function of the pixels. says: (N, h, w) to classes alike."""

    def network(tiles: np.ndarray) -> np.ndarray:
        classes = says(tiles[:, 0])
        return np.stack([classes == c for c in range(3)], axis=1).astype(np.float32)

    return replace(model, networks=(network,), bundle=replace(model.bundle, encoding=encoding))


def reading(model: Model, pixels: np.ndarray, encoding: str) -> Model:
    """A model that tells the classes of this picture by their LEVELS."""
    shown = normalise_channels(np.stack([pixels] * 3, axis=-1))
    scaling = scaling_of(shown, content_box(shown.transpose(2, 0, 1)))
    levels = [np.median(shown[..., 0][pixels == level]) for level in LEVELS]
    scaled = (np.array(levels) - scaling.mean[0]) / scaling.std[0]
    return seeing(
        model, lambda tiles: np.abs(tiles[..., np.newaxis] - scaled).argmin(axis=-1), encoding
    )


@pytest.mark.parametrize("shape", [(64, 64), (70, 90), (1, 40), (300, 5)])
def test_one_cell_that_fills_the_picture(model: Model, shape: tuple[int, int]) -> None:
    pixels = RNG.integers(1, 256, shape, dtype=np.uint8)
    sees_cell = seeing(model, lambda tiles: np.ones(tiles.shape, int), "thin")
    for decoder in ("regrow", "paper"):
        assert (segment(pixels, sees_cell, decoder=decoder) == 1).all()


def test_no_cells(model: Model, tmp_path: Path) -> None:
    sees_none = seeing(model, lambda tiles: np.zeros(tiles.shape, int), "paper")
    labels = segment(NOISE, sees_none)
    assert not labels.any()
    write_label(tmp_path / "a_label.tiff", labels)
    assert not read_label(tmp_path / "a_label.tiff").any()


def grid(cells: int, edge: int, pitch: int, shape: tuple[int, int]) -> np.ndarray:
    """A label map of square cells, 4 px off the picture's frame."""
    across = (shape[1] - 8) // pitch
    labels = np.zeros(shape, np.int32)
    numbers = np.arange(-(-cells // across) * across).reshape(-1, across) + 1
    numbers[numbers > cells] = 0
    for y in range(edge):
        for x in range(edge):
            rows = slice(4 + y, 4 + y + pitch * len(numbers), pitch)
            labels[rows, slice(4 + x, 4 + x + pitch * across, pitch)] = numbers
    return labels


def test_70000_cells(model: Model, tmp_path: Path) -> None:
    """From the picture to the label file and the score, with a network that sees what is there."""
    truth = grid(70_000, 6, 8, (2128, 2128))
    pixels = LEVELS[encode(truth, "thin")]
    sees = reading(model, pixels, "thin")
    labels = segment(pixels, sees, tta=False, enlarge=False)
    assert_labels(labels, truth.shape)
    np.testing.assert_array_equal(labels, truth)
    path = tmp_path / "a_label.tiff"
    write_label(path, labels)
    stored = read_label(path)
    assert stored.dtype == np.uint32  # uint16 does not hold 70 000
    np.testing.assert_array_equal(stored, truth)
    score = score_pair(truth, stored)
    assert (score.n_true, score.n_pred, score.tp, score.f1) == (70_000, 70_000, 70_000, 1.0)


def test_the_metric_counts_by_tiles_from_25_megapixels_on() -> None:
    """A cell across two of its tiles of 2000 pixels counts just below, and not from there on."""
    for shape, cells in (((4999, 5001), 2), ((5000, 5000), 1)):
        truth = np.zeros(shape, np.int16)
        truth[100:110, 100:110] = 1
        truth[1995:2005, 100:110] = 2
        score = score_pair(truth, truth)
        assert (truth.size < TILED_FROM) == (cells == 2)
        assert (score.n_true, score.n_pred, score.tp) == (cells, cells, cells)


def test_40000_cells_at_25_megapixels(tmp_path: Path) -> None:
    """More cells than int16 holds, where the metric gives a prediction the type of its truth."""
    truth = grid(40_000, 6, 16, (5000, 5000))
    for name in ("truth", "prediction"):
        write_label(tmp_path / f"{name}.tiff", truth)
    stored, predicted = (read_label(tmp_path / f"{n}.tiff") for n in ("truth", "prediction"))
    assert stored.dtype == predicted.dtype == np.uint16
    score = score_pair(stored, predicted)
    assert score.tp == score.n_true == score.n_pred > 39_000  # less those on the tiles' edges
    with pytest.raises(ValueError, match="does not fit"):
        score_pair(np.zeros((5000, 5000), np.int16), predicted)


def test_numbers_of_any_kind_are_read_as_they_are(tmp_path: Path) -> None:
    for name in ("largest floats", "half floats", "largest integers"):
        tifffile.imwrite(tmp_path / "a.tif", VARIED[name])
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif").pixels[..., 0], VARIED[name])
