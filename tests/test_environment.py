"""What the environment may say: a budget, an address, and no word that nothing reads."""

import os
import sys

import pytest

from pipeline.runtime import environment
from pipeline.runtime.errors import UserError


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of this project, and a command line without options."""
    for name in list(os.environ):
        if name.startswith("STAGES_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "argv", ["stages/extract.py", "convnet", "in", "out"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, 16 * 2**30),
        ("", 16 * 2**30),
        ("0", 0),
        ("2.5", 2_684_354_560),
        ("1e-3", 1_073_741),
        (" 3 ", 3 * 2**30),
    ],
)
def test_the_row_cache_has_as_many_gibibytes_as_are_given_or_16(
    text: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        monkeypatch.setenv("STAGES_ROW_CACHE_GIB", text)
    assert environment.row_cache_bytes() == expected


@pytest.mark.parametrize("text", ["much", "-1", "inf", "-inf", "nan", "16 GiB", " "])
def test_a_budget_that_is_no_number_of_gibibytes_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGES_ROW_CACHE_GIB", text)
    for read in (environment.row_cache_bytes, environment.check, environment.cluster):
        with pytest.raises(UserError) as told:
            read()
        assert str(told.value) == (
            "STAGES_ROW_CACHE_GIB: expected a number of GiB, 0 or more, "
            f"got {text!r}; change or unset it"
        )


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("STAGES_ROW_CACHE", "STAGES_ROW_CACHE_GIB"),
        ("STAGES_ROWCACHE_GB", "STAGES_ROW_CACHE_GIB"),
        ("STAGES_CLUSTER_ADDRESS", "STAGES_CLUSTER"),
        ("STAGES_cluster", "STAGES_CLUSTER"),
    ],
)
def test_an_unknown_variable_is_told_with_the_nearest_one(
    name: str, near: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    for read in (environment.check, environment.cluster):
        with pytest.raises(UserError) as told:
            read()
        assert str(told.value) == (
            f"{name}: expected one of STAGES_ROW_CACHE_GIB, STAGES_MEMORY_GIB, STAGES_DISK_GIB, "
            f"STAGES_CLUSTER, got an unknown variable; did you mean {near}? Rename or unset it"
        )


def test_variables_of_others_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKSTAGES_X", "1")
    monkeypatch.setenv("STAGE", "1")
    environment.check()


def test_without_an_address_the_work_stays_in_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert environment.cluster() is None
    monkeypatch.setenv("STAGES_CLUSTER", "")
    assert environment.cluster() is None


def test_the_variable_names_a_cluster_and_the_option_overrules_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STAGES_CLUSTER", "tcp://one:8786")
    assert environment.cluster() == "tcp://one:8786"
    sys.argv += ["--cluster", "tcp://two:8786"]
    assert environment.cluster() == "tcp://two:8786"


@pytest.mark.parametrize("at", range(1, 5))
def test_the_option_is_taken_off_the_command_line_wherever_it_stands(at: int) -> None:
    sys.argv[at:at] = ["--cluster", "tcp://two:8786"]
    assert environment.cluster() == "tcp://two:8786"
    assert sys.argv == ["stages/extract.py", "convnet", "in", "out"]


def test_an_option_without_an_address_is_refused() -> None:
    sys.argv.append("--cluster")
    with pytest.raises(UserError) as told:
        environment.cluster()
    assert str(told.value) == (
        "--cluster: expected the address of a Dask scheduler behind it, got nothing; "
        "give one, such as tcp://host:8786"
    )


def test_training_has_half_a_gibibyte_of_memory_and_fifty_of_disk_or_what_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert environment.memory_bytes() == 2**29
    assert environment.disk_bytes() == 50 * 2**30
    monkeypatch.setenv("STAGES_MEMORY_GIB", "2")
    monkeypatch.setenv("STAGES_DISK_GIB", "0.5")
    assert environment.memory_bytes() == 2**31
    assert environment.disk_bytes() == 2**29
