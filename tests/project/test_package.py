"""The package as it is installed: what it needs, what it carries, how it is started."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from packaging.requirements import Requirement

import reunet
from conftest import ROOT, SAMPLE_IMAGES
from reunet import load_model, segment

SAMPLE = SAMPLE_IMAGES / "bbbc039__IXMtest_D20_s9.png"
BUILT_FROM = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "reunet", "weights/compact")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
ONLY_TESTED = {"scikit-image"}  # of requirements-train.txt: for benchmarks


def pins(*files: str) -> dict[str, str]:
    """Version by package, of requirement files."""
    text = "\n".join((ROOT / file).read_text(encoding="utf-8") for file in files)
    lines = [line.split("#")[0].strip() for line in text.splitlines()]
    return dict(line.split("==") for line in lines if line)


def ranges(*lists: list[str]) -> dict[str, Requirement]:
    """Range by package, of lists of pyproject.toml."""
    requirements = [Requirement(text) for texts in lists for text in texts]
    return {requirement.name: requirement for requirement in requirements}


def test_the_pins_are_what_the_ranges_allow() -> None:
    wanted = ranges(PROJECT["dependencies"], EXTRAS["gpu"])
    pinned = pins("requirements.txt")
    assert wanted.keys() == pinned.keys()
    assert all(requirement.specifier.contains(pinned[n]) for n, requirement in wanted.items())


def test_the_extras_are_what_is_tested() -> None:
    pinned = pins("requirements.txt", "requirements-train.txt", "requirements-dev.txt")
    for extra in EXTRAS:
        for name, requirement in ranges(EXTRAS[extra]).items():
            assert requirement.specifier.contains(pinned[name]), (extra, name)
    assert ranges(EXTRAS["train"]).keys() >= pins("requirements-train.txt").keys() - ONLY_TESTED


def test_pytorch_is_no_dependency() -> None:
    assert "torch" not in ranges(PROJECT["dependencies"])


def test_it_is_started_as_a_module() -> None:
    output = subprocess.check_output([sys.executable, "-m", "reunet", "--version"], text=True)
    assert output.split()[-1] == reunet.__version__
    usage = subprocess.check_output([sys.executable, "-m", "reunet", "--help"], text=True)
    assert usage.startswith("Usage: python -m reunet ")


def test_completion_offers_the_front_door() -> None:
    assert {*reunet.__all__, "__version__"} <= {*dir(reunet)}
    assert all(hasattr(reunet, name) for name in dir(reunet))


def test_it_tells_its_types() -> None:
    assert (ROOT / "reunet/py.typed").exists()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of a fresh environment, with a wheel and the newest of all that it asks for."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "venv", folder / "env"], check=True)
    source, scripts = folder / "source", folder / "env" / "bin"
    for name in BUILT_FROM:  # not what an earlier build left in the checkout
        path = ROOT / name
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        _ = (shutil.copytree if path.is_dir() else shutil.copy)(path, source / name)
    pip = [scripts / "python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, source], check=True)
    shutil.rmtree(source)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", wheel], check=True)
    return scripts


def alone(*command: str | Path, cwd: Path) -> str:
    """Run without sight of the checkout and its weights."""
    hidden = ("REUNET_WEIGHTS", "PYTHONPATH")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_a_wheel_segments_as_the_checkout_does(installed: Path, tmp_path: Path) -> None:
    """With the newest numpy, scipy and tifffile, and with the weights that it carries."""
    alone(installed / "reunet", "predict", SAMPLE, tmp_path / "labels", cwd=tmp_path)
    found = tifffile.imread(tmp_path / "labels" / f"{SAMPLE.stem}_label.tiff")
    expected = segment(SAMPLE, load_model(device="cpu"))
    assert found.max() == expected.max() > 50
    assert np.mean(found != expected) < 1e-3  # other versions may round otherwise


@pytest.mark.slow
def test_a_wheel_brings_no_pytorch_and_keeps_to_what_goes_together(
    installed: Path, tmp_path: Path
) -> None:
    code = "import importlib.util as i, reunet; print(i.find_spec('torch'), reunet.__file__)"
    torch, file = alone(installed / "python", "-c", code, cwd=tmp_path).split()
    assert torch == "None"
    assert Path(file).is_relative_to(installed.parent)
    alone(installed / "python", "-m", "pip", "check", cwd=tmp_path)
