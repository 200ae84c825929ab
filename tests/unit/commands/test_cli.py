"""One command line for all commands."""

import subprocess
import sys
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from pipeline.commands import cli

Pipeline = Callable[..., SimpleNamespace]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_explains_itself_with_an_example(name: str, pipeline: Pipeline) -> None:
    said = pipeline(name, "--help")
    assert said.status == 0
    assert f"\n    pipeline {name}" in said.out
    assert f"usage: pipeline {name} " in said.out


def test_help_lists_all_commands_and_imports_none() -> None:
    code = (
        "import sys; from pipeline.commands import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'keras', 'dvc', 'zarr', 'yaml'} & sys.modules.keys()\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"{name} " in done.stdout for name in cli.COMMANDS)
