"""Call the command line in this process."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from pipeline.commands import cli


@pytest.fixture
def pipeline(capfd: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Call `pipeline` with words; return status, out and err."""

    def call(*words: object) -> SimpleNamespace:
        capfd.readouterr()
        try:
            status = cli.main([str(word) for word in words])
        except SystemExit as end:
            status = int(end.code or 0)
        printed = capfd.readouterr()
        return SimpleNamespace(status=status, out=printed.out, err=printed.err)

    return call
