"""The front door from Python: stacks, probabilities, folders, and models that travel."""

import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from scipy.special import softmax

import reunet
from conftest import PICTURES, ROOT, SAMPLE_IMAGES
from reunet.inference.normalise import normalise_channels
from reunet.inference.sliding_window import predict_logits
from reunet.model import Model
from reunet.options import Options
from reunet.run.resume import model_hash

pytestmark = pytest.mark.filterwarnings("ignore::reunet.errors.ReUNetWarning")
QUICK = Options(tta=False)


@pytest.fixture(scope="module")
def shipped() -> Model:
    return reunet.load_model(device="cpu")


@pytest.fixture
def tiny(bundle: Path) -> Model:
    return reunet.load_model(bundle, device="cpu")


@pytest.fixture(scope="module")
def nuclei() -> np.ndarray:
    return np.asarray(Image.open(PICTURES / "nuclei.png").convert("L"))[:120, :150]


def test_an_area_in_micrometres_is_refused_before_the_network_runs(
    tiny: Model, nuclei: np.ndarray
) -> None:
    def never(_: np.ndarray) -> np.ndarray:
        raise AssertionError("the network was run")

    blind = replace(tiny, networks=(never,), folds=("0",), size_network=None)
    with pytest.raises(ValueError, match="needs the size of a pixel"):
        reunet.predict(nuclei, blind, QUICK, min_area="20um2")
    sized = reunet.predict(nuclei, tiny, QUICK, min_area="20um2", pixel_size=0.5)
    in_pixels = reunet.predict(nuclei, tiny, QUICK, min_area=80)
    np.testing.assert_array_equal(sized.labels, in_pixels.labels)


# stacks


def test_a_stack_is_its_images(tiny: Model, nuclei: np.ndarray) -> None:
    images = [nuclei, nuclei[::-1], np.zeros_like(nuclei)]
    labels = reunet.segment(np.stack(images), tiny, axes="NYX")
    assert labels.shape == (3, *nuclei.shape)
    for image, found in zip(images, labels, strict=True):
        np.testing.assert_array_equal(found, reunet.segment(image, tiny))


def test_a_stack_may_have_channels_and_its_images_at_any_axis(
    tiny: Model, nuclei: np.ndarray
) -> None:
    colour = np.stack([nuclei, nuclei // 2, 255 - nuclei], axis=-1)
    alone = reunet.segment(colour, tiny)
    np.testing.assert_array_equal(reunet.segment([colour] * 2, tiny, axes="NYXC")[1], alone)
    turned = np.stack([colour] * 2, axis=-1).transpose(2, 0, 3, 1)  # C, Y, N, X
    np.testing.assert_array_equal(reunet.segment(turned, tiny, axes="CYNX")[1], alone)
    two = list(reunet.predict_many(turned, tiny, axes="CYNX"))
    np.testing.assert_array_equal(two[0].labels, alone)


def test_a_list_may_hold_images_of_any_size(tiny: Model, nuclei: np.ndarray) -> None:
    found = reunet.predict_many([nuclei, nuclei[:50], PICTURES / "blood.png"], tiny, QUICK)
    height, width = Image.open(PICTURES / "blood.png").size[::-1]
    shapes = [result.labels.shape for result in found]
    assert shapes == [nuclei.shape, (50, nuclei.shape[1]), (height, width)]


def test_an_empty_stack_has_no_labels(tiny: Model) -> None:
    assert reunet.segment(np.zeros((0, 20, 30)), tiny, axes="NYX").shape == (0, 20, 30)


@pytest.mark.parametrize("axes", ["NYXC", "NYY", "NXC", "NN"])
def test_axes_that_do_not_fit_a_stack_are_an_error(axes: str, tiny: Model) -> None:
    with pytest.raises(ValueError, match="do not fit an array of shape"):
        reunet.segment(np.zeros((2, 20, 30)), tiny, axes=axes)


def test_predict_takes_one_image(tiny: Model) -> None:
    with pytest.raises(ValueError, match="predict_many"):
        reunet.predict(np.zeros((2, 20, 30)), tiny, axes="NYX")


# probabilities


def test_probabilities_are_the_softmax_of_the_mean_logits(tiny: Model, nuclei: np.ndarray) -> None:
    """Of both folds and all mirror images; these weights see an image at its own size."""
    result = reunet.predict(nuclei, tiny, probabilities=True, enlarge=False, skip_empty=False)
    image = normalise_channels(np.dstack([nuclei] * 3))
    logits = predict_logits(image, tiny.ensembles(vote=False)[0], tiny.tiling())
    assert result.probabilities is not None
    assert result.probabilities.shape == (3, *nuclei.shape)
    expected = softmax(logits[:3].astype(np.float64), axis=0)
    np.testing.assert_allclose(result.probabilities, expected, atol=2e-3)


def test_probabilities_have_the_size_of_the_image_and_sum_to_one(shipped: Model) -> None:
    image = SAMPLE_IMAGES / "dsb2018__00ae65c1c6631ae6.png"
    result = reunet.predict(image, shipped, QUICK, probabilities=True)
    shares = result.probabilities
    assert shares is not None
    assert shares.dtype == np.float16
    assert shares.shape == (3, *result.labels.shape)
    np.testing.assert_allclose(shares.astype(float).sum(axis=0), 1, atol=3e-3)
    cells = 1 - shares[0].astype(float)
    assert cells[result.labels > 0].mean() > 0.9  # they lie where the cells do
    assert cells[result.labels == 0].mean() < 0.2
    np.testing.assert_array_equal(
        result.labels, reunet.predict(image, shipped, QUICK).labels
    )  # looking on changes nothing


def test_confidence_is_the_mean_over_each_cell(shipped: Model, nuclei: np.ndarray) -> None:
    result = reunet.predict(nuclei, shipped, QUICK, probabilities=True)
    assert result.confidence is not None
    assert result.probabilities is not None
    ids = np.arange(1, result.labels.max() + 1)
    means = ndimage.mean(1 - result.probabilities[0].astype(float), result.labels, ids)
    np.testing.assert_allclose(result.confidence, [0, *means], atol=1e-5)


def test_probabilities_are_kept_where_they_are_asked_for(tiny: Model, nuclei: np.ndarray) -> None:
    result = reunet.predict(nuclei, tiny)
    assert result.probabilities is None
    assert result.confidence is None


# progress and folders


def test_progress_counts_every_tile_once(tiny: Model, nuclei: np.ndarray) -> None:
    told: list[tuple[int, int]] = []
    reunet.predict(np.tile(nuclei, (2, 2)), tiny, QUICK, progress=lambda *tiles: told.append(tiles))
    total = told[0][1]
    assert total > 4
    assert told == [(n, total) for n in range(1, total + 1)]


@pytest.fixture
def folder(tmp_path: Path, nuclei: np.ndarray) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(nuclei).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    Image.fromarray(nuclei[::-1]).save(folder / "c.png")
    return folder


def test_a_folder_goes_on_after_an_error(tiny: Model, folder: Path, tmp_path: Path) -> None:
    told: list[reunet.Progress] = []
    done = list(
        reunet.segment_folder(folder, tmp_path / "labels", tiny, progress=told.append, tta=False)
    )
    assert [image.path.name for image in done] == ["a.png", "b.png", "c.png"]
    assert [bool(image.error) for image in done] == [False, True, False]
    assert [image.label for image in done if image.label] == [
        tmp_path / "labels/a_label.tiff", tmp_path / "labels/c_label.tiff",
    ]  # fmt: skip
    assert {(step.path.name, step.number, step.images) for step in told} == {
        ("a.png", 1, 3), ("c.png", 3, 3),
    }  # fmt: skip
    assert all(1 <= step.tile <= step.tiles for step in told)


def test_a_folder_need_not_be_written(tiny: Model, folder: Path) -> None:
    first, broken, third = reunet.segment_folder(folder, model=tiny, tta=False)
    assert broken.error
    assert broken.result is None
    for image in (first, third):
        assert image.result
        expected = reunet.segment(image.path, tiny, tta=False)
        np.testing.assert_array_equal(image.result.labels, expected)
        assert image.cells == expected.max()
    assert [*folder.parent.iterdir()].count(folder) == 1  # no folder of labels beside it


@pytest.mark.parametrize("output", [None, "labels"])
def test_whatever_goes_wrong_is_one_line(
    output: str | None, tiny: Model, folder: Path, tmp_path: Path
) -> None:
    """An area in µm² of images whose pixels' size is not known."""
    where = tmp_path / output if output else None
    done = list(reunet.segment_folder(folder, where, tiny, tta=False, min_area="20um2"))
    assert len(done) == 3
    assert all(image.error and image.path.name in image.error for image in done)
    assert not any("\n" in (image.error or "") for image in done)


def test_a_folder_without_images_is_an_error(tiny: Model, tmp_path: Path) -> None:
    with pytest.raises(reunet.ImageError, match="holds no images"):
        list(reunet.segment_folder(tmp_path, model=tiny))


# models that travel


def test_a_pickled_model_is_the_same_model(tiny: Model, nuclei: np.ndarray) -> None:
    stored = pickle.dumps(tiny)
    again = pickle.loads(stored)
    assert len(stored) < 2000  # no tensors in it
    assert (again.folds, again.device) == (tiny.folds, tiny.device)
    assert model_hash(again) == model_hash(tiny)
    np.testing.assert_array_equal(reunet.segment(nuclei, again), reunet.segment(nuclei, tiny))


def test_folds_that_were_chosen_stay_chosen(bundle: Path) -> None:
    assert pickle.loads(pickle.dumps(reunet.load_model(bundle, "cpu", ["1"]))).folds == ("1",)


def test_without_its_bundle_a_pickled_model_says_so(
    tiny: Model, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = pickle.dumps(tiny)
    bundle.rename(bundle.with_name("moved"))
    with pytest.raises(reunet.WeightsError, match="missing here or was changed: copy it") as caught:
        pickle.loads(stored)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("REUNET_WEIGHTS", str(bundle.parent))
    with pytest.raises(reunet.WeightsError, match="no weights there"):
        pickle.loads(stored)


def test_shipped_weights_elsewhere_serve_a_pickled_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "weights/compact", tmp_path / "compact")
    stored = pickle.dumps(reunet.load_model(tmp_path / "compact", "cpu"))
    shutil.rmtree(tmp_path / "compact")
    monkeypatch.delenv("REUNET_WEIGHTS", raising=False)
    assert pickle.loads(stored).bundle.folder == ROOT / "weights/compact"


def test_threads_may_share_a_model(shipped: Model, nuclei: np.ndarray) -> None:
    images = [nuclei, nuclei[::-1], nuclei[:, ::-1], nuclei[::-1, ::-1]]
    expected = [reunet.segment(image, shipped, QUICK) for image in images]
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(partial(reunet.segment, model=shipped, options=QUICK), images)
    for labels, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(labels, wanted)


def test_processes_that_are_spawned_get_a_model(tiny: Model, nuclei: np.ndarray) -> None:
    images = [nuclei, nuclei[::-1]]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        found = list(processes.map(partial(reunet.segment, model=tiny, options=QUICK), images))
    for labels, image in zip(found, images, strict=True):
        np.testing.assert_array_equal(labels, reunet.segment(image, tiny, QUICK))


def test_joblib_sends_a_model(tiny: Model, nuclei: np.ndarray) -> None:
    joblib = pytest.importorskip("joblib")
    jobs = [joblib.delayed(reunet.segment)(image, tiny, QUICK) for image in (nuclei, nuclei[::-1])]
    found = joblib.Parallel(n_jobs=2)(jobs)
    np.testing.assert_array_equal(found[1], reunet.segment(nuclei[::-1], tiny, QUICK))


def test_dask_workers_get_a_model(tiny: Model, nuclei: np.ndarray) -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as here,
        distributed.Client(here) as client,
    ):
        call = partial(reunet.segment, model=tiny, options=QUICK)
        (found,) = client.gather(client.map(call, [nuclei]))
    np.testing.assert_array_equal(found, reunet.segment(nuclei, tiny, QUICK))


# errors


def test_errors_are_typed(tmp_path: Path) -> None:
    with pytest.raises(reunet.WeightsError):
        reunet.load_model(tmp_path)
    with pytest.raises(reunet.DeviceError):
        reunet.load_model(device="abacus")
    kinds = (reunet.ImageError, reunet.WeightsError, reunet.DeviceError)
    assert all(issubclass(kind, reunet.ReUNetError) for kind in kinds)
    assert issubclass(reunet.ReUNetError, ValueError)


def test_without_openvino_and_pytorch_there_is_a_way_out() -> None:
    code = (
        "import sys; sys.modules['openvino'] = sys.modules['torch'] = None\n"
        "import importlib.util as i; real = i.find_spec\n"
        "i.find_spec = lambda name, *a: None if name == 'torch' else real(name, *a)\n"
        "import reunet\n"
        "try: reunet.load_model(device='cpu')\n"
        "except reunet.DeviceError as error: print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                            env=os.environ)  # fmt: skip
    assert result.stdout.strip().endswith("pip install 'reunet[gpu]'"), result.stderr
