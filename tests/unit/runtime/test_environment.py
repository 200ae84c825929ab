"""`STAGES_*` variables: budgets, the address of a cluster, and no unknown name."""

import os
from collections.abc import Callable

import pytest

from pipeline.runtime import environment
from pipeline.runtime.errors import UserError


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("STAGES_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("read", "variable", "default"),
    [
        (environment.row_cache_bytes, "STAGES_ROW_CACHE_GIB", 16 * 2**30),
        (environment.memory_bytes, "STAGES_MEMORY_GIB", 2**29),
        (environment.disk_bytes, "STAGES_DISK_GIB", 50 * 2**30),
    ],
)
def test_a_budget_is_its_variable_in_gibibytes_or_its_default(
    read: Callable[[], int], variable: str, default: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read() == default
    texts = {"": default, "0": 0, "2.5": 2_684_354_560, "1e-3": 1_073_741, " 3 ": 3 * 2**30}
    for text, expected in texts.items():
        monkeypatch.setenv(variable, text)
        assert read() == expected
        environment.check()


@pytest.mark.parametrize("text", ["much", "-1", "inf", "nan", " "])
def test_a_budget_that_is_no_number_of_gibibytes_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGES_ROW_CACHE_GIB", text)
    for read in (environment.row_cache_bytes, environment.check):
        with pytest.raises(UserError) as raised:
            read()
        assert str(raised.value) == (
            "STAGES_ROW_CACHE_GIB: expected a number of GiB, 0 or more, "
            f"got {text!r}; change or unset it"
        )


@pytest.mark.parametrize("name", ["STAGES_CLUSTER_ADDRESS", "STAGES_cluster"])
def test_an_unknown_variable_is_refused_with_the_nearest_name(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKSTAGES_X", "1")  # of another program
    environment.check()
    monkeypatch.setenv(name, "1")
    with pytest.raises(UserError, match=f"^{name}: .*unknown .*; did you mean 'STAGES_CLUSTER'\\?"):
        environment.check()


def test_the_variable_names_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, address in {"": None, "tcp://one:8786": "tcp://one:8786"}.items():
        monkeypatch.setenv("STAGES_CLUSTER", text)
        assert environment.cluster() == address
