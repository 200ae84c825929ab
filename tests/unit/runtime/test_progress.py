"""Progress: one line at the end, a bar on a terminal."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.runtime.progress import progress

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the bar reads."""
    now = [50.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("updates", "seconds", "line"),
    [
        ([2000, 1], 2, "2,001 img in 2.0 s (1,000 img/s)"),
        ([], 0, "0 img in 0.0 s (0 img/s)"),
    ],
)
def test_one_line_and_the_note_are_printed_at_the_end(
    updates: list[int], seconds: float, line: str, clock: list[float], capsys: Capture
) -> None:
    with progress("resize", 3000) as bar:
        for items in updates:
            bar.update(items)
        clock[0] += seconds
        bar.note = "read takes longest"
        assert capsys.readouterr().out == ""
    assert capsys.readouterr() == (f"resize: {line}\nresize: read takes longest\n", "")


def test_work_that_fails_is_not_reported_as_done(capsys: Capture) -> None:
    with pytest.raises(ValueError, match=r"^fault$"), progress("resize", 2):
        raise ValueError("fault")
    assert capsys.readouterr().out == ""


def test_a_batch_counts_once_the_next_one_is_requested() -> None:
    with progress("predict", 6) as bar:
        counted = [(batch, bar.done) for batch in bar.over([[1, 2, 3], [4, 5], [6]])]
    assert counted == [([1, 2, 3], 0), ([4, 5], 3), ([6], 5)]
    assert bar.done == 6


def test_updates_from_threads_add_up() -> None:
    with progress("resize", 24_000) as bar, ThreadPoolExecutor(8) as pool:
        list(pool.map(bar.update, [3] * 8000))
    assert bar.done == 24_000


def test_on_a_terminal_there_is_a_bar_and_only_the_note_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress("resize", 2) as bar:
        bar.update(2)
        bar.note = "read takes longest"
    printed = capsys.readouterr()
    assert printed.out == "resize: read takes longest\n"
    assert "resize: 100%" in printed.err
    assert "2/2" in printed.err
