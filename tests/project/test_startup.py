"""Start-up: the challenge starts a process an image, and its clock runs from the first import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import SAMPLE_IMAGES

SAMPLE = SAMPLE_IMAGES / "dsb2018__00ae65c1c6631ae6.png"
LARGER = SAMPLE_IMAGES / "bbbc039__IXMtest_D20_s9.png"  # in several tiles, all of one size
SECONDS = 1.5  # from the start of the process until the first tile is through the network

# What that does not need: another backend, decoders, writers, readers of other formats, OpenVINO's
# converters, which report to a server, and slow parts of the libraries.
NOT_NEEDED = (
    "torch", "nnunetv2", "scipy", "cc3d", "skimage", "matplotlib", "pandas", "tifffile",
    "imagecodecs", "openslide", "importlib.metadata", "email", "numpy.ma", "numpy.testing",
    "openvino.tools", "openvino_telemetry", "urllib.request", "multiprocessing", "asyncio",
    "reunet.instances.decode", "reunet.instances.encode", "reunet.network.unet",
    "reunet.network.torch_backend", "PIL.JpegImagePlugin", "PIL.TiffImagePlugin",
)  # fmt: skip
FIRST_TILE = """
import sys, time
import reunet.network.ensemble
call = reunet.network.ensemble.Fold.__call__
def stop(fold, tiles):
    call(fold, tiles)
    print(time.process_time(), *sorted(sys.modules))
    sys.exit()
reunet.network.ensemble.Fold.__call__ = stop
"""
BY_PYTHON = """
from pathlib import Path
from reunet import load_model, segment
segment(Path(sys.argv[1]), load_model(device="auto"))
"""
BY_COMMAND = """
from reunet.cli import main
main(["predict", sys.argv[1], sys.argv[2]])
"""


def first_tile(way: str, tmp_path: Path) -> tuple[float, set[str]]:
    """Seconds of the processor from the start to the first tile, and what is imported by then.

    Of the processor, not of the clock: other jobs share it.
    """
    hidden = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, "-c", FIRST_TILE + way, SAMPLE, tmp_path / "out"],
        capture_output=True, text=True, check=True, env=hidden,
    )  # fmt: skip
    seconds, *modules = result.stdout.split()
    return float(seconds), set(modules)


@pytest.fixture(autouse=True)
def _no_gpu() -> None:
    if any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")):
        pytest.skip("there may be a GPU: PyTorch is imported to ask")


def test_the_first_tile_needs_few_imports(tmp_path: Path) -> None:
    seconds, modules = first_tile(BY_PYTHON, tmp_path)
    assert "openvino" in modules
    assert not [m for m in modules if any(m == n or m.startswith(f"{n}.") for n in NOT_NEEDED)]
    assert seconds < SECONDS


def test_the_command_is_as_quick(tmp_path: Path) -> None:
    seconds, modules = first_tile(BY_COMMAND, tmp_path)
    assert not modules & {"torch", "nnunetv2", "scipy.sparse", "openvino.tools.ovc"}
    assert seconds < SECONDS


def test_a_whole_run_does_without_slow_imports_and_graphs_that_it_does_not_use(
    tmp_path: Path,
) -> None:
    code = (
        "import sys, atexit; from reunet.cli import main; slow = {'torch', 'nnunetv2', 'scipy'};"
        "atexit.register(lambda: print(sorted(slow & {*sys.modules})));"
        "main(['predict', *sys.argv[1:], '--no-tta', '--device', 'cpu'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, LARGER, tmp_path],
        capture_output=True, text=True, check=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
    )  # fmt: skip
    assert result.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / f"{LARGER.stem}_label.tiff").exists()
    assert len([*tmp_path.glob("reunet/*.blob")]) == 2  # for sizes and for tiles


def test_a_command_ends_without_looking_through_all_objects() -> None:
    """Python's collector would, twice, though nothing that is left matters to anyone."""
    code = (
        "import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count()));"
        "from reunet.cli import main; main(['evaluate', '--help'])"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert int(output.split()[-1]) > 1000


def test_others_can_still_import_openvinos_converters() -> None:
    """They are kept out of our own import alone."""
    code = (
        "import reunet.network.openvino_backend, importlib.util as i, sys;"
        "print('openvino.tools.ovc' in sys.modules, bool(i.find_spec('openvino.tools.ovc')))"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.split() == ["False", "True"]
