"""How Keras is started: the environment it finds, and that it starts without a word."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.backbones import keras_setup
from pipeline.runtime import cpu
from pipeline.runtime.errors import UserError
from pipeline.runtime.threads import processors

ROOT = Path(__file__).parent.parent
VARIABLES = (
    "KERAS_BACKEND",
    "OMP_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "TF_CPP_MIN_LOG_LEVEL",
    "TF_DETERMINISTIC_OPS",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
)
# Stands where Keras would be imported from, so that these tests need not wait for it.
STAND_IN = (
    "import os\nfrom unittest import mock\nModel, config = object, mock.Mock()\n"
    'os.write(2, b"greeting\\n")\n'
)


def start(arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Call `engine.start` in a fresh process; it prints `VARIABLES` as JSON."""
    script = (
        "import json, os, sys\n"
        "from stages.models import engine\n"
        f"engine.start('tensorflow', {arguments})\n"
        "assert 'keras' in sys.modules\n"
        f"print(json.dumps({{name: os.environ.get(name) for name in {VARIABLES}}}))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (folder, ROOT) if folder else (ROOT,)))
    return subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    (tmp_path / "keras.py").write_text(STAND_IN)
    return tmp_path


def test_keras_starts_without_a_word_on_what_was_asked_for() -> None:
    done = start("1, 'AVX2'")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "KERAS_BACKEND": "tensorflow",
        "OMP_NUM_THREADS": "1",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_DETERMINISTIC_OPS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_NUM_INTRAOP_THREADS": "1",
    }


def test_by_default_all_processors_and_the_best_instructions_are_used(stand_in: Path) -> None:
    done = start("None, None", stand_in)
    assert (done.returncode, done.stderr) == (0, "")
    environment = json.loads(done.stdout)
    assert environment["TF_NUM_INTRAOP_THREADS"] == str(processors())
    assert environment["OMP_NUM_THREADS"] == str(processors())
    assert environment["ONEDNN_MAX_CPU_ISA"] is None


def test_what_was_written_is_shown_if_the_import_fails(stand_in: Path) -> None:
    (stand_in / "keras.py").write_text(STAND_IN + 'raise ImportError("no backend")\n')
    done = start("None, None", stand_in)
    assert done.returncode == 1
    assert done.stderr.startswith("greeting\n")
    assert done.stderr.endswith("ImportError: no backend\n")


def test_more_threads_than_processors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    available = processors()
    with pytest.raises(UserError) as told:
        keras_setup.start("tensorflow", available + 1, None)
    assert str(told.value) == (
        f"params.yaml: compute.threads: expected at most the {available} processors that this "
        f"machine gives, got {available + 1}; lower it (results then differ in their last bits)"
    )


def test_a_start_after_keras_is_a_fault_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras", sys)
    with pytest.raises(RuntimeError, match=r"^engine.start\(\) must be called before keras is"):
        keras_setup.start("tensorflow", None, None)


def test_a_second_start_with_the_same_settings_does_nothing_with_others_it_is_refused(
    stand_in: Path,
) -> None:
    script = (
        "from pipeline.runtime.errors import UserError\n"
        "from stages.models import engine\n"
        "engine.start('tensorflow', 1, None)\n"
        "import os\n"
        "os.environ['OMP_NUM_THREADS'] = 'as it was left'\n"
        "engine.start('tensorflow', 1, None)\n"
        "print(os.environ['OMP_NUM_THREADS'])\n"
        "for settings in ('tensorflow', 2, None), ('tensorflow', 1, 'AVX2'), ('jax', 1, None):\n"
        "    try:\n"
        "        engine.start(*settings)\n"
        "    except UserError as error:\n"
        "        print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (stand_in, ROOT)))}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, *refusals = done.stdout.splitlines()
    assert first == "as it was left"
    assert refusals == [
        f"compute: expected a process in which Keras runs with {settings}, got one in which it was "
        "started with ('tensorflow', 1, None, 1); restart it (a worker of a cluster, for other "
        "params)"
        for settings in (
            ("tensorflow", 2, None, 1),
            ("tensorflow", 1, "AVX2", 1),
            ("jax", 1, None, 1),
        )
    ]


def test_an_instruction_set_that_the_processor_lacks_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setattr(cpu, "flags", lambda: frozenset(["sse4_1"]))
    with pytest.raises(UserError) as told:
        keras_setup.start("tensorflow", 1, "AVX2")
    assert str(told.value) == (
        "params.yaml: compute.instruction_set: expected one that this processor has (SSE41), got "
        "'AVX2', which needs avx2, fma; lower it (results then differ in their last digits)"
    )


def test_a_backend_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError) as told:
        keras_setup.start("torch", None, None)
    assert str(told.value) == (
        "params.yaml: compute.backend: expected a package that is installed, got 'torch'; "
        "install it, or set compute.backend: tensorflow"
    )


def test_the_users_own_settings_of_keras_do_not_reach_a_stage(tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text('{"floatx": "float16", "epsilon": 0.1}')
    script = (
        "from stages.models import engine\n"
        "engine.start('tensorflow', 1, None)\n"
        "import keras\n"
        "print(keras.config.backend(), keras.config.floatx(), keras.config.epsilon())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "tensorflow float32 1e-07\n"
