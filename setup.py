"""What pyproject.toml cannot say: a wheel carries the default weights.

In the repository they lie in `weights/`, where training writes them and the container takes them
from; in a wheel in `reunet/weights/`. An editable installation uses those of the checkout.
"""

from pathlib import Path
from shutil import copytree

from setuptools import setup
from setuptools.command.build_py import build_py

BUNDLE = Path("weights/compact")


class WithWeights(build_py):
    """Copies the default bundle beside the modules."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode and BUNDLE.is_dir():
            copytree(BUNDLE, Path(self.build_lib) / "reunet" / BUNDLE, dirs_exist_ok=True)


setup(cmdclass={"build_py": WithWeights})
