"""Puts into a wheel, inside `dist_train`, what is beside it here; `dist_train.installation` finds it."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
BESIDE = (
    "launch/**/*.py",
    "configs/*.yaml",
    "configs/lessons/*.yaml",
    "configs/lessons/*.py",
    "slurm/train.sbatch",
    "template/**/*",
)


class BuildPackage(build_py):
    """Builds the package; an editable install finds the folders in the checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for path in (path for pattern in BESIDE for path in ROOT.glob(pattern) if path.is_file()):
                target = Path(self.build_lib, "dist_train", path.relative_to(ROOT))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


setup(cmdclass={"build_py": BuildPackage})
