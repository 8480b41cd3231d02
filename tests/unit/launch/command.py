"""Run `dist-train` in the process of a test."""

import pytest

from launch import cli


def run_command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = cli.main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return code, output.out + output.err
