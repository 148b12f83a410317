"""`reunet doctor`: what it says of a sound machine, and of broken ones."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from scipy import ndimage

from conftest import ROOT
from reunet import doctor
from reunet.cli_doctor import doctor as command
from reunet.network.bundle import fold_file, open_bundle

CHECKS = ["system", "packages", "processor", "device", "weights", "cache", "self-test"]


def diagnose(*arguments: str | Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code and findings by name."""
    result = CliRunner().invoke(command, ["--json", *map(str, arguments)])
    found = json.loads(result.stdout)["findings"]
    return result.exit_code, {finding["name"]: finding for finding in found}


def test_a_sound_machine_is_called_so() -> None:
    code, found = diagnose()
    assert code == 0
    assert [*found] == CHECKS
    assert all(finding["state"] != "wrong" for finding in found.values())
    assert all(finding["way_out"] for finding in found.values() if finding["state"] != "fine")
    card = json.loads((ROOT / "weights/compact/card.json").read_bytes())
    assert found["weights"]["facts"]["sha256"] == card["sha256"]
    assert found["self-test"]["facts"]["cells"] == found["self-test"]["facts"]["drawn"]


def test_the_picture_of_the_self_test_holds_what_it_says() -> None:
    picture, cells = doctor.drawn_cells()
    assert ndimage.label(ndimage.median_filter(picture, 3) > 100)[1] == cells


def test_people_get_a_line_a_check() -> None:
    result = CliRunner().invoke(command)
    lines = [line for line in result.stdout.splitlines() if not line.startswith("      -> ")]
    assert [line[6:].partition(":")[0] for line in lines] == CHECKS


def test_damaged_weights_are_found(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "weights/compact", tmp_path / "bundle")
    path = tmp_path / "bundle" / fold_file(open_bundle(tmp_path / "bundle").folds[0])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    code, found = diagnose("--weights", tmp_path / "bundle")
    assert code == 1
    assert found["weights"]["state"] == found["self-test"]["state"] == "wrong"
    assert "damaged" in found["weights"]["text"]
    assert "fetch the bundle again" in found["weights"]["way_out"]


def test_wrong_arithmetic_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    picture, cells = doctor.drawn_cells()
    monkeypatch.setattr(doctor, "drawn_cells", lambda: (picture, cells + 1))
    finding = doctor.self_test()
    assert finding.state == "wrong"
    assert "do not trust" in finding.way_out


def test_a_machine_without_a_home_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nowhere"))
    finding = doctor.cache()
    assert finding.state == "note"
    assert "XDG_CACHE_HOME" in finding.way_out


@pytest.mark.parametrize("package", ["numpy", "openvino"])
def test_a_missing_package_is_no_traceback(package: str) -> None:
    code = f"""
import sys
from importlib import metadata
real = metadata.version
def version(name):
    if name == "{package}":
        raise metadata.PackageNotFoundError(name)
    return real(name)
metadata.version = version
sys.modules["{package}"] = None
from reunet.cli_doctor import doctor
doctor(["--json"])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    found = {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert result.returncode == 1
    assert [*found] == CHECKS
    assert found["packages"]["way_out"] == f"pip install {package}"
    assert "Traceback" not in result.stderr


def test_a_gpu_that_cannot_be_used_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reunet.model.has_driver", lambda: True)
    monkeypatch.setattr("reunet.model.choose_device", lambda _: "cpu")
    assert "update the driver" in doctor.device().way_out
    monkeypatch.setattr(doctor, "_version", lambda _: None)
    assert "reunet[gpu]" in doctor.device().way_out
