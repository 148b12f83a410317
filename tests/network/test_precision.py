"""bfloat16 where the processor has instructions for it, and float32 elsewhere."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner

from conftest import PICTURES, ROOT, SAMPLE_IMAGES
from reunet import Options, load_model
from reunet.cli import main
from reunet.errors import DeviceError
from reunet.inference.normalise import normalise_channels, z_score
from reunet.io.images import read_image
from reunet.network import openvino_backend, precision
from reunet.network.bundle import load_tensors, open_bundle
from reunet.network.precision import Precision, choose_precision, cpu_precision
from reunet.run.report import describe
from reunet.run.resume import settings_line

NATIVE = pytest.mark.skipif(cpu_precision() != "bf16", reason="no bfloat16 on this processor")
X86 = (
    "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu sse2 avx512f {}avx512_vnni\nbugs\t: x\n"
)
ARM = "processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n"


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(precision, "CPUINFO", path)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86.format("avx512_bf16 "), "bf16"),
        (X86.format("amx_bf16 "), "bf16"),
        (X86.format(""), "f32"),
        (X86.format("avx512_bf16_of_another_name "), "f32"),
        (ARM, "f32"),
        ("", "f32"),
        (None, "f32"),
    ],
    ids=["avx512", "amx", "older x86", "similar flag", "arm", "says nothing", "not Linux"],
)
def test_the_flags_of_the_processor_decide(
    cpuinfo: Path, text: str | None, expected: Precision
) -> None:
    if text is not None:
        cpuinfo.write_text(text)
    assert cpu_precision() == choose_precision("auto") == expected
    assert choose_precision("f32") == "f32"
    if expected == "bf16":
        assert choose_precision("bf16") == "bf16"
    else:
        with pytest.raises(DeviceError, match=r"bf16 is not available .*: use --precision auto"):
            choose_precision("bf16")


def test_another_name_is_told() -> None:
    with pytest.raises(ValueError, match="'int8' does not exist: choose from auto, f32, bf16"):
        choose_precision("int8")


def test_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half on NVIDIA's, as nnU-Net has it; bfloat16 from compute capability 8.0 on."""
    assert choose_precision("auto", "cuda") == "f16"
    assert choose_precision("auto", "mps") == "f32"
    for device in ("cuda", "mps"):
        assert choose_precision("f32", device) == "f32"
    with pytest.raises(DeviceError, match="bf16 is not available on device mps"):
        choose_precision("bf16", "mps")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    assert choose_precision("bf16", "cuda") == "bf16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(DeviceError, match="bf16 is not available on device cuda"):
        choose_precision("bf16", "cuda")


def predict(bundle: Path, output: Path, *options: str) -> tuple[dict[str, object], str]:
    """Report of a run over one picture, and what its label says of its origin."""
    arguments = ["predict", str(PICTURES / "nuclei.png"), str(output), "--weights", str(bundle)]
    result = CliRunner().invoke(main, [*arguments, "--device", "cpu", "--report", *options])
    assert result.exit_code == 0, result.stderr
    with tifffile.TiffFile(output / "nuclei_label.tiff") as label:
        (described,) = label.shaped_metadata or ({},)
    return json.loads((output / "report.json").read_text()), described["origin"]


def test_report_and_origin_tell_the_precision(bundle: Path, tmp_path: Path) -> None:
    single, origin = predict(bundle, tmp_path / "single", "--precision", "f32")
    assert single["settings"]["precision"] == single["model"]["precision"] == "f32"  # type: ignore[index]
    auto, origin_of_auto = predict(bundle, tmp_path / "auto")
    assert auto["settings"]["precision"] == "auto"  # type: ignore[index]
    assert auto["model"]["precision"] == cpu_precision()  # type: ignore[index]
    assert "f32" not in origin  # as labels of earlier versions, which knew nothing else
    assert ("bf16" in origin_of_auto) == (origin != origin_of_auto) == (cpu_precision() == "bf16")


def test_bf16_where_there_is_none_is_one_line(bundle: Path, cpuinfo: Path, tmp_path: Path) -> None:
    picture, output = str(PICTURES / "nuclei.png"), str(tmp_path / "out")
    arguments = ["predict", picture, output, "--weights", str(bundle)]
    result = CliRunner().invoke(main, [*arguments, "--device", "cpu", "--precision", "bf16"])
    assert result.exit_code != 0
    (line,) = result.stderr.splitlines()
    assert "precision bf16 is not available on this processor: use --precision auto" in line
    assert not cpuinfo.exists()


@NATIVE
def test_pytorch_takes_over_in_the_same_precision(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("not here")

    tile = sample("usiigaci")
    expected = load_model(bundle, "cpu", precision="bf16").networks[0](tile)
    single = load_model(bundle, "cpu", precision="f32").networks[0](tile)
    monkeypatch.setattr(openvino_backend, "build_network", fail)
    with pytest.warns(RuntimeWarning, match=r"PyTorch.* takes over"):
        found = load_model(bundle, "cpu", precision="bf16").networks[0](tile)
    assert found.dtype == np.float32
    assert (found != single).any()
    assert abs(found - expected).mean() < 0.02


def sample(name: str) -> np.ndarray:
    """The upper left corner of a sample, (1, 3, 256, 256) float32, as a network is shown it."""
    image = normalise_channels(read_image(next(SAMPLE_IMAGES.glob(f"{name}*"))).pixels)
    corner = z_score(image[:256, :256].transpose(2, 0, 1))[np.newaxis]
    return np.ascontiguousarray(corner)


@NATIVE
@pytest.mark.parametrize("name", ["bbbc039", "dsb2018", "usiigaci"])
def test_bf16_sees_the_same_classes(name: str) -> None:
    """Eight bits of mantissa, so a product is off by up to 2^-8; few pixels are that close."""
    bundle, tile = open_bundle(ROOT / "weights/compact"), sample(name)
    arch, tensors = bundle.architecture, load_tensors(bundle, bundle.folds[0])
    single, half = (
        openvino_backend.build_network(arch, tensors, bundle.tile, p)(tile) for p in ("f32", "bf16")
    )
    assert (single != half).any(), "computed in float32"
    assert abs(single - half).mean() < 0.02
    classes = single[:, :3], half[:, :3]
    _, second, first = np.sort(classes[0], axis=1).transpose(1, 0, 2, 3)
    clear = first - second > 0.15
    assert clear.mean() > 0.95
    assert np.array_equal(*(logits.argmax(axis=1)[clear] for logits in classes))


@NATIVE
def test_a_stored_graph_is_only_used_for_its_own_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, tile = open_bundle(ROOT / "weights/compact"), sample("usiigaci")
    parts = bundle.architecture, load_tensors(bundle, bundle.folds[0]), bundle.tile
    expected = openvino_backend.build_network(*parts, "f32")(tile)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    openvino_backend.build_network(*parts, "bf16")(tile)
    found = openvino_backend.build_network(*parts, "f32")(tile)
    np.testing.assert_array_equal(found, expected)
    assert len(list((tmp_path / "reunet").glob("*.blob"))) == 2


def test_model_origin_and_pickle_know_the_precision(bundle: Path, cpuinfo: Path) -> None:
    """A model that travels computes in float32 if it did, else in what it finds."""
    single = load_model(bundle, "cpu", precision="f32")
    assert pickle.loads(pickle.dumps(single)).precision == "f32"
    assert " in bf16" not in settings_line(single, Options())
    cpuinfo.write_text(X86.format("avx512_bf16 "))
    half = replace(single, precision="bf16")
    assert pickle.loads(pickle.dumps(half)).precision == "bf16"
    assert ", in bf16" in settings_line(half, Options())
    assert describe(half, Options(), {})["model"]["precision"] == "bf16"
    travelling = pickle.dumps(half)
    cpuinfo.write_text(X86.format(""))
    assert pickle.loads(travelling).precision == "f32"
