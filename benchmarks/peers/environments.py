"""Environments of the benchmark's own for the peers, below a folder that git ignores.

Each peer gets what it needs beyond this environment's packages, PyTorch above all, which it finds
here: the same build for all. Where it needs other versions (Cellpose 3 an older NumPy), its own
come first.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "build" / "peers"
PACKAGES = {
    "baseline": ("monai==1.6.1",),  # the official baseline's network and sliding window
    "cellpose3": ("cellpose==3.1.1.2",),
    "cellpose4": ("cellpose==4.2.1.1",),
    "stardist": ("stardist==0.9.2", "tensorflow-cpu==2.21.0"),
    "instanseg": ("instanseg-torch==0.1.2",),
}
LIST = """
import importlib.metadata, sys
for name in sys.argv[1:]:
    print(name, importlib.metadata.version(name))
"""


class NotInstalledError(Exception):
    """Why a peer's packages cannot be installed here, in one line."""


def environment(peer: str, folder: Path = FOLDER) -> Path:
    """The Python of a peer's environment, which is made if it is not there, in minutes.

    Raises NotInstalledError.
    """
    python, complete = folder / peer / "bin" / "python", folder / peer / "complete"
    wanted = "\n".join(PACKAGES[peer])
    if complete.exists() and complete.read_text() == wanted:
        return python
    print(f"installing {', '.join(PACKAGES[peer])} for {peer} (once)", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", folder / peer], check=True)
    own = next((folder / peer / "lib").glob("python*/site-packages"))
    (own / "shared.pth").write_text("\n".join(_shared()))
    install = [python, "-m", "pip", "install", "--quiet", *PACKAGES[peer]]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise NotInstalledError(errors[-1] if errors else f"pip ended with {done.returncode}")
    complete.write_text(wanted)
    return python


def _shared() -> list[str]:
    """Where this environment's packages lie, those that it shares with others included."""
    own = sysconfig.get_paths()["purelib"]
    return [own, *(path for path in sys.path if path.endswith("site-packages") and path != own)]


def versions(peer: str, folder: Path = FOLDER) -> str:
    """What is installed for a peer, such as `cellpose 3.1.1.2, torch 2.13.0`."""
    names = [package.partition("==")[0] for package in PACKAGES[peer]]
    names += ["numpy"] if peer == "stardist" else ["torch", "numpy"]
    command = [folder / peer / "bin" / "python", "-c", LIST, *names]
    return ", ".join(subprocess.check_output(command, text=True).splitlines())
