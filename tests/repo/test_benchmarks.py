"""The benchmarks measure, name what is missing and renew their tables; no test compares times."""

import functools
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import end_to_end, measure, printed, results, tables
from benchmarks import project as projects
from benchmarks.measure import Contender, Outcome, interleave, run

ROOT = Path(__file__).parents[2]


def code(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_a_run_measures_its_memory_with_that_of_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUTER", "1")
    inner = "held = b'x' * (200 * 2**20)"
    outer = f"""import os, subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])
print(os.getcwd(), os.environ['OUTER'], os.environ['INNER'])"""
    done = run(code(outer), tmp_path, {"INNER": "2"})
    assert done.printed == f"{tmp_path.resolve()} 1 2\n"
    assert done.peak_bytes > 200 * 2**20


def test_rounds_are_interleaved_and_each_begins_with_the_next_contender(tmp_path: Path) -> None:
    order: list[str] = []
    contenders = [
        Contender(name, code("pass"), tmp_path, before=functools.partial(order.append, name))
        for name in "abc"
    ]
    outcomes = interleave(contenders, 3, lambda told: None)
    assert "".join(order) == "abcbcacab"
    assert [len(outcome.runs) for outcome in outcomes.values()] == [3, 3, 3]


def test_a_contender_that_lacks_a_package_or_fails_says_so_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    contenders = [
        Contender("absent", code("pass"), tmp_path, needs=["json", "no_such_package"]),
        Contender("broken", code("raise SystemExit('no room')"), tmp_path),
        Contender("well", code("pass"), tmp_path),
    ]
    outcomes = interleave(contenders, 2, said.append)
    assert outcomes["absent"] == Outcome([], "not installed: no_such_package")
    assert outcomes["broken"] == Outcome([], "failed: no room")
    assert len(outcomes["well"].runs) == 2
    assert sum(line.startswith("broken: failed: no room") for line in said) == 1


def test_what_a_stage_prints_at_its_end_is_read_back() -> None:
    told = (
        "extract MobileNetV2: 10,000 img in 71.0 s (141 img/s)\n"
        "extract MobileNetV2: read 0.5 s, compute 70.1 s, write 0.4 s, summed over threads: "
        "compute takes longest; 1,100 computed, 8,900 known before\n"
        "resize: done in 12.5 s, at most 280 MiB\n"
        "extract: done in 75.2 s, at most 1,683 MiB\n"
    )
    assert printed.usage(told) == {"resize": (12.5, 280.0), "extract": (75.2, 1683.0)}
    assert printed.rows_computed(told) == 1_100
    assert printed.passes(told) == {"extract MobileNetV2": 71.0}
    assert printed.images_per_second("resize: 100 img in 8.0 s (13 img/s)\n") == 12.5
    assert printed.images_per_second("resize: 1,000 img in 1.6 s (647 img/s)\n") == 647.0


def test_a_table_shows_medians_ratios_and_ranges_in_three_digits() -> None:
    values = (0, 0.01234, 1.5, 12.34, 141, 1e4)
    expected = ["0", "0.0123", "1.50", "12.3", "141", "10,000"]
    assert [tables.number(value) for value in values] == expected
    assert [tables.spread([3, 1, 20]), tables.spread([7])] == ["3.00 (1.00..20.0)", "7.00"]
    assert tables.ratio([2, 30, 8], [1, 10, 2]) == "3.00 x"  # the median of the rounds' ratios
    assert tables.ratio([2], []) == "-"
    text = tables.table(["", "img/s"], [["a | b", "1"]])
    assert text == "|  | img/s |\n| --- | --- |\n| a / b | 1 |\n"
    with pytest.raises(ValueError, match=r"^expected 2 cells, got \['a'\]$"):
        tables.table(["", "img/s"], [["a"]])


def test_a_benchmark_that_runs_again_replaces_its_own_section_alone(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    results.write(path, 3, "## 3. Third\n\n| old |\n")
    results.write(path, 1, "## 1. First")
    results.write(path, 3, "## 3. Third\n\n| new |\n\n")
    assert path.read_text(encoding="utf-8") == (
        f"{results.HEAD}\n"
        "<!-- benchmark 1 -->\n## 1. First\n<!-- end of benchmark 1 -->\n\n"
        "<!-- benchmark 3 -->\n## 3. Third\n\n| new |\n<!-- end of benchmark 3 -->\n"
    )


def test_the_commands_of_the_stages_are_those_of_the_dag() -> None:
    stages: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"]
    trained = ("train_head", "fine_tune")
    for stage in ("split", "resize", "fetch_weights", "extract", "audit", *trained):
        words = " ".join(projects.command(stage, "VGG16")[1:])
        command = stages[stage].get("do", stages[stage])["cmd"]
        assert command.replace('"$DVC_STAGE"', "VGG16") == f"exec python {words}"


@pytest.mark.xdist_group("benchmarks")
@pytest.mark.slow
def test_a_quick_benchmark_writes_a_table_with_every_contender(tmp_path: Path) -> None:
    out = tmp_path / "quick.md"
    command = measure.python("benchmarks", "2", "--quick", "--resizing", "8", "--out", str(out))
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = dict(re.findall(r"^\| ([^|]*?) \| ([^|]+?) \|", out.read_text("utf-8"), re.M))
    assert rows.keys() - {"", "---"} == {
        *("ours, one core", "ours, two cores", "ours, stage `resize`, all cores"),
        *("ours, stage `resize`, all cores, with start-up", "Pillow, plain loop"),
        *("OpenCV", "OpenCV, INTER_AREA", "pyvips thumbnail"),
        "tf.io.decode_jpeg, tf.image.resize",
    }
    assert not [name for name, value in rows.items() if value.startswith("failed")]


def test_disk_space_counts_a_byte_once_and_nothing_outside(tmp_path: Path) -> None:
    rows = tmp_path / "data" / ".rows" / "kind"
    rows.mkdir(parents=True)
    (tmp_path / ".dvc" / "cache").mkdir(parents=True)
    (tmp_path / "data" / "shard").write_bytes(bytes(1_000))
    (rows / "link").hardlink_to(tmp_path / "data" / "shard")
    (tmp_path / ".dvc" / "cache" / "copy").write_bytes(bytes(100))
    (tmp_path / "photos.zip").write_bytes(bytes(10))
    (tmp_path / "data" / "input").symlink_to(tmp_path / "photos.zip")
    assert end_to_end.disk_bytes(tmp_path) == 1_100
