"""The scripts that set up an environment: interrupted, they begin anew; done, they are quiet."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from conftest import ROOT

PYTHON = """#!/bin/sh
# Stands for a python3 without our packages: it makes environments with itself in them, and
# installing fails as long as there is a file `broken`.
echo "$*" >>"{log}"
case "$*" in
"-m venv "*) mkdir -p "$3/bin" && for name in python pip reunet; do cp "$0" "$3/bin/$name"; done ;;
*"import nnunetv2"*) exit 1 ;;
"install "*|*"pip install"*) [ ! -e "{broken}" ] ;;
esac
"""


@pytest.mark.parametrize(
    ("script", "folder", "work"),
    [
        ("train_scripts/1_prepare_data.sh", ".venv-train", "-m reunet.training prepare a b"),
        ("predict.sh", ".venv", "predict a b"),
    ],
)
def test_an_interrupted_install_begins_anew(
    script: str, folder: str, work: str, tmp_path: Path
) -> None:
    top, log, broken = tmp_path / "top", tmp_path / "log", tmp_path / "broken"
    shutil.copytree(ROOT / "train_scripts", top / "train_scripts")
    for name in ("predict.sh", "requirements.txt", "requirements-train.txt"):
        shutil.copy(ROOT / name, top)
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(PYTHON.format(log=log, broken=broken))
    python.chmod(0o755)

    def run() -> tuple[int, list[str], str]:
        """Exit code, calls of Python and pip, and what is said."""
        log.write_text("")
        path = f"{python.parent}{os.pathsep}/usr/bin{os.pathsep}/bin"
        done = subprocess.run(
            ["sh", top / script, "a", "b"],
            env={"PATH": path},
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        return done.returncode, log.read_text().splitlines(), done.stderr

    broken.touch()
    code, calls, told = run()
    assert code != 0
    assert "setting up" in told
    assert not (top / folder / "complete").exists()
    assert work not in calls
    broken.unlink()
    code, calls, told = run()
    assert code == 0
    assert sum("install" in call.split() for call in calls) == 2
    assert calls[-1] == work
    code, calls, told = run()
    assert (code, told) == (0, "")
    assert not any("install" in call.split() for call in calls)
    assert calls[-1] == work
    with (top / "requirements.txt").open("a") as file:
        file.write("another==1\n")  # a newer version of the project
    code, calls, told = run()
    assert "setting up" in told
    assert calls[-1] == work
