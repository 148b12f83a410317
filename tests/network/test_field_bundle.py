"""Weights with a distance field and a size of cells, from the bundle to the labels."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner

import reunet
from reunet import Options, load_model, pipeline, segment
from reunet.cli import main
from reunet.errors import WeightsError
from reunet.io import source
from reunet.io.images import as_picture
from reunet.io.source import hold
from reunet.network import openvino_backend
from reunet.network.architecture import Architecture, size_parameter_shapes
from reunet.network.bundle import open_bundle, save_bundle
from reunet.network.unet import build
from reunet.run.batch import segment_files
from reunet.survey import survey

ARCH = Architecture(features=(4, 8, 8, 8, 8, 8), dropout=0.0, field=True)
ABOUT = {
    "encoding": "paper", "decoder": "field", "tile": 64, "smallest": 32, "step": 0.75,
    "diameter": 30,
}  # fmt: skip
NOISE = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def save(folder: Path, arch: Architecture = ARCH, **about: object) -> Path:
    torch.manual_seed(3)
    rng = np.random.default_rng(0)
    size = {n: rng.normal(0, 0.2, s) for n, s in size_parameter_shapes(arch).items()}
    folds = {fold: build(arch).state_dict() for fold in ("0", "1")}
    save_bundle(folder, arch, folds, {**ABOUT, **about}, size=size)
    return folder


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return save(tmp_path / "bundle")


def test_a_bundle_comes_back_as_it_was_written(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert opened.architecture == ARCH
    assert (opened.diameter, opened.step, opened.decoder) == (30, 0.75, "field")
    assert opened.has_size
    assert open_bundle(save(bundle, step=0.5)).step == 0.5


@pytest.mark.parametrize(
    ("about", "word"),
    [({"diameter": 0}, "diameter"), ({"diameter": "30"}, "diameter"), ({"step": 2.0}, "step")],
)
def test_a_card_that_cannot_be_right_is_refused(bundle: Path, about: dict, word: str) -> None:
    with pytest.raises(WeightsError, match=word):
        open_bundle(save(bundle, **about))


def test_a_field_that_the_network_lacks_is_refused(bundle: Path) -> None:
    with pytest.raises(WeightsError, match="field"):
        open_bundle(save(bundle, replace(ARCH, field=False)))


def test_a_damaged_size_network_is_told(bundle: Path) -> None:
    path = bundle / "size.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 0xFF
    path.write_bytes(content)
    model = load_model(bundle, "cpu")
    model.expect(Options())  # ahead of time, nobody could say which image it is for
    with pytest.raises(WeightsError, match="damaged"):
        segment(NOISE, model, tta=False)


@pytest.mark.filterwarnings("ignore::reunet.ReUNetWarning")
def test_sizes_are_expected_where_they_are_not_given(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    real = openvino_backend.build_size_network

    def build_size_network(*arguments: Any) -> Any:
        built.append(True)
        return real(*arguments)

    monkeypatch.setattr(openvino_backend, "build_size_network", build_size_network)
    model = load_model(bundle, "cpu")
    model.expect(Options(diameter=20))
    assert not built
    model.expect(Options())
    segment(NOISE, model, tta=False)
    assert built == [True]


@pytest.mark.filterwarnings("ignore::reunet.ReUNetWarning")
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (40, 50), (700, 90)])
@pytest.mark.parametrize("diameter", [None, 4.0, 7.0, 30.0, 300.0, 1e6])
def test_labels_have_the_images_shape(
    bundle: Path, shape: tuple[int, int], diameter: float | None
) -> None:
    image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    labels = segment(image, load_model(bundle, "cpu"), tta=False, diameter=diameter)
    assert labels.shape == shape
    numbers = np.unique(labels)
    np.testing.assert_array_equal(numbers[numbers > 0], np.arange(1, labels.max() + 1))


@pytest.mark.filterwarnings("ignore::reunet.ReUNetWarning")
@pytest.mark.parametrize("decoder", ["field", "regrow", "paper"])
def test_every_decoder_works_with_a_field(bundle: Path, decoder: str) -> None:
    labels = segment(NOISE, load_model(bundle, "cpu"), tta=False, decoder=decoder, diameter=20)
    assert labels.shape == NOISE.shape[:2]


def test_the_networks_see_cells_at_the_bundles_size(bundle: Path) -> None:
    model = load_model(bundle, "cpu")
    seen: list[tuple[int, ...]] = []

    def spy(tiles: np.ndarray) -> np.ndarray:
        seen.append(tiles.shape[2:])
        return np.zeros((len(tiles), 4, *tiles.shape[2:]), np.float32)

    options = Options(tta=False, diameter=60.0)
    view = survey(hold(as_picture(NOISE)), model, options)
    assert view.shape == (45, 60)
    assert view.of == (90, 120)
    pipeline.see(view, replace(model, networks=(spy,)), options)
    assert seen == [(64, 64)]


def test_a_bundle_without_a_size_network_keeps_the_images_size(tmp_path: Path) -> None:
    folds = {"0": build(ARCH).state_dict()}
    save_bundle(tmp_path / "bundle", ARCH, folds, ABOUT)
    model = load_model(tmp_path / "bundle", "cpu")
    view = survey(hold(as_picture(NOISE)), model, Options())
    assert view.shape == NOISE.shape[:2]
    assert "own size" in view.notes[0]


@pytest.fixture
def predict(bundle: Path, tmp_path: Path) -> Callable[..., object]:
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif", NOISE, photometric="rgb")
    given = ["predict", str(tmp_path / "in"), str(tmp_path / "out"), "--device", "cpu", "--no-tta"]

    def run(*options: str) -> object:
        return CliRunner().invoke(main, [*given, "--weights", str(bundle), *options])

    return run


def test_the_diameter_reaches_note_report_and_origin(
    predict: Callable[..., object], tmp_path: Path
) -> None:
    result = predict("--diameter", "24.5", "--report")
    assert result.exit_code == 0, result.output
    assert "cells of about 24.5 px" in result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["settings"]["diameter"] == 24.5
    assert report["images"][0]["diameter"] == 24.5
    assert report["images"][0]["voted"] is True
    with tifffile.TiffFile(tmp_path / "out" / "a_label.tiff") as tiff:
        assert "cells of 24.5 px" in tiff.pages[0].description
    assert "kept" in predict("--diameter", "24.5", "--resume").output
    assert "kept" not in predict("--diameter", "25", "--resume").output


@pytest.mark.parametrize("value", ["0", "-3", "x"])
def test_no_diameter_is_a_wrong_use(predict: Callable[..., object], value: str) -> None:
    result = predict("--diameter", value)
    assert result.exit_code == 2
    assert "--diameter" in result.output


def test_decoder_field_needs_a_field(tmp_path: Path) -> None:
    arch = replace(ARCH, field=False)
    save_bundle(
        tmp_path / "b", arch, {"0": build(arch).state_dict()}, {**ABOUT, "decoder": "paper"}
    )
    model = load_model(tmp_path / "b", "cpu")
    with pytest.raises(ValueError, match="--decoder regrow"):
        segment(NOISE, model, tta=False, decoder="field", diameter=30.0)
    tifffile.imwrite(tmp_path / "a.tif", NOISE, photometric="rgb")
    (tmp_path / "out").mkdir()
    options = Options(tta=False, decoder="field")
    [outcome] = segment_files([tmp_path / "a.tif"], tmp_path / "out", model, options)
    assert outcome.error is not None
    assert "--decoder regrow" in outcome.error


@pytest.mark.parametrize("diameter", [30.0, 18.0, 60.0])
@pytest.mark.filterwarnings("ignore::reunet.ReUNetWarning")
def test_a_slide_is_seen_like_an_image_in_memory(
    bundle: Path, tmp_path: Path, diameter: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.repeat(np.repeat(NOISE, 4, axis=0), 3, axis=1)
    tifffile.imwrite(tmp_path / "s.tif", image, tile=(64, 64), photometric="rgb")
    model, options = load_model(bundle, "cpu", ["0"]), Options(tta=False, diameter=diameter)
    held = segment(tmp_path / "s.tif", model, options)
    monkeypatch.setattr(source, "SLIDE_PIXELS", 1000)
    streamed = segment(tmp_path / "s.tif", model, options)
    np.testing.assert_array_equal(held, streamed)


def test_predict_tells_what_segment_warns_of(bundle: Path) -> None:
    model = load_model(bundle, "cpu")
    image = np.random.default_rng(2).integers(0, 256, (60, 80, 5), dtype=np.uint8)
    result = reunet.predict(image, model, tta=False, diameter=25)
    with pytest.warns(reunet.ReUNetWarning) as warned:
        labels = segment(image, model, tta=False, diameter=25)
    np.testing.assert_array_equal(result.labels, labels)
    assert [str(one.message) for one in warned] == [*result.notes]
    assert "5 channels, the first 3 are used" in result.notes
    assert result.diameter == 25
    assert result.agreement is not None  # of two folds
    assert result.agreement.shape == (labels.max() + 1,)
    assert set(result.seconds) == {"size", "network", "decoding"}


def test_an_image_too_large_for_votes_says_so(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "LARGEST", 1000)
    result = reunet.predict(NOISE, load_model(bundle, "cpu"), tta=False, diameter=30)
    assert any("averaged, not voted" in note for note in result.notes)
    assert result.agreement is None
