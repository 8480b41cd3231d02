"""The command `dist-train` beside a package of the same name as `launch`."""

from pathlib import Path

import pytest

from tests.conftest import ROOT, Python

NAMES = ("launch", "launch.cli", "launch.commands", "launch.slurm")


@pytest.mark.parametrize("is_imported", [False, True])
def test_launch_is_ours_also_where_another_one_is_imported(
    tmp_path: Path, interpreter: Python, is_imported: bool
) -> None:
    for name in NAMES:
        folder = tmp_path / name.replace(".", "/")
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("IS_FOREIGN = True\n")
    program = (
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
        + (f"import {', '.join(NAMES)}\n" if is_imported else "")
        + "from dist_train import command\ncode = command.main()\n"
        + "print([name for name, each in sys.modules.items() if hasattr(each, 'IS_FOREIGN')], code)"
    )
    done = interpreter("-c", program, "recipes", env={"PYTHONPATH": str(ROOT)})
    assert done.stdout.splitlines()[-1] == "[] 0", done.stderr
    assert done.stdout.startswith("cifar10_resnet18 ")


def test_a_training_never_imports_launch(tmp_path: Path, interpreter: Python) -> None:
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "__init__.py").write_text("raise ImportError('somebody else has this name')")
    short = ("train.max_steps=1", "data.limit_train=32", "data.limit_test=8", f"run.dir={tmp_path / 'run'}")
    path = f"{tmp_path}:{ROOT}"
    for ranks in ("1", "2"):
        command = ("-m", "dist_train.command", "train", "digits", "--nproc", ranks, "distributed.backend=gloo")
        done = interpreter(*command, *short, "run.resume=never", env={"PYTHONPATH": path})
        assert done.returncode == 0, done.stderr
