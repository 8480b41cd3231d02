"""launch/README.md has a section for each command, and its lines run."""

import re
import shlex
from pathlib import Path

import pytest

from launch.cli import COMMANDS, GROUPS
from tests.conftest import ROOT, Python
from tests.docs.test_docs import SHORT, as_run, commands

PAGE = ROOT / "launch" / "README.md"
ELSEWHERE = {*commands(), *commands(ROOT / "slurm" / "README.md")}
"""Lines of other pages, whose tests run them."""
OVERRIDES = [each for each in SHORT if not each.startswith("data.global_batch=")]
"""What makes a training short; some lines set the batch themselves."""


def test_each_command_has_a_section_with_an_example() -> None:
    sections = re.split(r"^### ", PAGE.read_text(), flags=re.MULTILINE)[1:]
    assert [section.partition("\n")[0] for section in sections] == list(COMMANDS)
    for name, section in zip(COMMANDS, sections, strict=True):
        assert f"```sh\ndist-train {name} " in section or f"```sh\ndist-train {name}\n" in section, name
    assert [head.lower() for head in re.findall(r"^## (.*)", PAGE.read_text(), re.MULTILINE)] == [
        group for group, listed in GROUPS.items() if listed
    ]


@pytest.mark.slow
def test_the_lines_run(tmp_path: Path, python: Python) -> None:
    """In the order of the page, in a folder of its own; the training is cut short."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for command in commands(PAGE):
        own, _, target = command.partition(" > ")
        if command not in ELSEWHERE:
            done = python(*(as_run(own, OVERRIDES) or []), cwd=tmp_path)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
            if target:
                (tmp_path / shlex.split(target)[0]).write_text(done.stdout)
