"""What machine ran a stage is kept beside the metrics, and told apart from this one."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.runtime import machine


def test_each_stage_keeps_the_machine_that_it_last_ran_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics" / "environment.json"
    machine.record("split", path)
    machine.record("resize", path)
    monkeypatch.setattr(cpu, "model_name", lambda: "Another One")
    machine.record("split", path)
    assert machine.recorded("split", path)["processor"] == "Another One"
    assert machine.recorded("resize", path) == machine.this() | {
        "processor": machine.recorded("resize", path)["processor"]
    }
    machine.record("resize", path)
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert list(kept["stages"]) == ["resize", "split"]
    assert len(kept["machines"]) == 1  # none that no stage names


def test_what_is_known_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    machine.record("split", path)
    before = path.stat().st_ino
    machine.record("split", path)
    assert path.stat().st_ino == before


@pytest.mark.parametrize("damaged", ["", "[]", '{"machines": 3, "stages": {"split": []}}', "<<<<"])
def test_a_damaged_record_is_as_none(damaged: str, tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    path.write_text(damaged, encoding="utf-8")
    assert machine.recorded("split", path) == {}
    machine.record("split", path)
    assert machine.recorded("split", path) == machine.this()


def test_stages_that_end_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "environment.json"
    names = [f"stage {number}" for number in range(8)]
    threads = [threading.Thread(target=machine.record, args=(name, path)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [name for name in names if machine.recorded(name, path)] == names


def test_what_differs_is_told_by_its_name() -> None:
    then = {"processor": "A", "versions": {"numpy": "1", "zarr": "3"}, "instruction_sets": ["AVX"]}
    now = {"processor": "B", "versions": {"numpy": "2", "zarr": "3"}, "instruction_sets": []}
    assert machine.differences(then, now) == [
        "instruction_sets: AVX, now none",
        "processor: A, now B",
        "numpy: 1, now 2",
    ]
    assert machine.differences(then, then) == []


def test_a_stage_started_by_hand_records_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['split']; from pipeline.runtime.entrypoint import stage; "
        "stage(lambda: None)()"
    )
    for variables, expected in (({}, False), ({"DVC_STAGE": "split"}, True)):
        subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=_environment() | variables, check=True
        )
        assert (tmp_path / "metrics" / "environment.json").exists() is expected


def _environment() -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[1])}
