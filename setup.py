"""What pyproject.toml cannot say: a wheel carries the default weights.

In the repository they lie in `weights/`, where training writes them and the container takes them
from; in a wheel in `reunet/weights/`. An editable installation uses those of the checkout. Folds
that have taught a student stay in the repository: five of them are 50 MB.
"""

from pathlib import Path
from shutil import copytree, ignore_patterns

from setuptools import setup
from setuptools.command.build_py import build_py

BUNDLE = Path("weights/compact")


class WithWeights(build_py):
    """Copies the default bundle beside the modules."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode and BUNDLE.is_dir():
            taught = (BUNDLE / "fold_student.safetensors").exists()
            left = ignore_patterns("fold_[0-9]*.safetensors") if taught else None
            copytree(
                BUNDLE, Path(self.build_lib) / "reunet" / BUNDLE, ignore=left, dirs_exist_ok=True
            )


setup(cmdclass={"build_py": WithWeights})
