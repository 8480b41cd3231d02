"""Find folders of this program: inside the package if it is installed from a wheel, else beside it in the checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def find_own(name: str) -> Path:
    """Return the path of `launch`, `configs` or a file such as `slurm/train.sbatch`.

    A wheel holds them inside the package, because such names are common: others would replace them, or be replaced.
    """
    inside = _PACKAGE / name
    return inside if inside.exists() else _PACKAGE.parent / name
