"""Keras starts silently in a fixed environment, or is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pipeline.runtime.threads import processors

from pipeline.backbones import keras_setup
from pipeline.runtime import cpu
from pipeline.runtime.errors import UserError

ROOT = Path(__file__).parents[3]
EXPECTED = {
    "KERAS_BACKEND": "tensorflow",
    "OMP_NUM_THREADS": "1",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_DETERMINISTIC_OPS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
}
# Imported in place of Keras, so that these tests need not wait for it.
STAND_IN = (
    "import os\nfrom unittest import mock\nModel, config = object, mock.Mock()\n"
    'os.write(2, b"greeting\\n")\n'
)


def run(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh process, which may import modules from `folder`."""
    inherited = {name: value for name, value in os.environ.items() if name not in EXPECTED}
    path = os.pathsep.join(map(str, (folder, ROOT)))
    return subprocess.run(
        [sys.executable, "-c", "from pipeline.backbones import keras_setup\n" + script],
        env=inherited | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
    )


def started(arguments: str, folder: Path) -> tuple[dict[str, str | None], list[object]]:
    """The environment and Keras' settings after a start that printed nothing.

    The user's own settings differ.
    """
    (folder / "keras.json").write_text('{"floatx": "float16", "epsilon": 0.1}')
    script = (
        "import json, os\n"
        f"keras_setup.start('tensorflow', {arguments})\n"
        "from keras import config\n"
        "settings = [str(get()) for get in (config.backend, config.floatx, config.epsilon)]\n"
        f"environment = {{name: os.environ.get(name) for name in {[*EXPECTED]}}}\n"
        "print(json.dumps([environment, settings]))\n"
    )
    done = run(script, folder, KERAS_HOME=str(folder), KERAS_BACKEND="torch")
    assert (done.returncode, done.stderr) == (0, "")
    environment, settings = json.loads(done.stdout)
    return environment, settings


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    (tmp_path / "keras.py").write_text(STAND_IN)
    return tmp_path


def test_keras_starts_silently_with_these_settings_whatever_the_users_are(tmp_path: Path) -> None:
    assert started("1, 'AVX2'", tmp_path) == (EXPECTED, ["tensorflow", "float32", "1e-07"])


def test_by_default_all_processors_and_the_best_instructions_are_used(stand_in: Path) -> None:
    count = str(processors())
    changed = {
        "TF_NUM_INTRAOP_THREADS": count,
        "OMP_NUM_THREADS": count,
        "ONEDNN_MAX_CPU_ISA": None,
    }
    assert started("None, None", stand_in)[0] == EXPECTED | changed


def test_output_is_shown_if_the_import_fails(stand_in: Path) -> None:
    (stand_in / "keras.py").write_text(STAND_IN + 'raise ImportError("no backend")\n')
    done = run("keras_setup.start('tensorflow', None, None)", stand_in)
    assert done.returncode == 1
    assert done.stderr.startswith("greeting\n")
    assert done.stderr.endswith("ImportError: no backend\n")


def test_a_second_start_does_nothing_or_is_refused_with_other_settings(stand_in: Path) -> None:
    script = (
        "import os\n"
        "from pipeline.runtime.errors import UserError\n"
        "keras_setup.start('tensorflow', 1, None)\n"
        "os.environ['OMP_NUM_THREADS'] = 'not touched'\n"
        "keras_setup.start('tensorflow', 1, None)\n"
        "print(os.environ['OMP_NUM_THREADS'])\n"
        "for settings in ('tensorflow', 2, None), ('tensorflow', 1, 'AVX2'), ('jax', 1, None):\n"
        "    try:\n"
        "        keras_setup.start(*settings)\n"
        "    except UserError as error:\n"
        "        print(error)\n"
    )
    done = run(script, stand_in)
    assert (done.returncode, done.stderr) == (0, "")
    first, *refusals = done.stdout.splitlines()
    assert first == "not touched"
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


@pytest.mark.parametrize(
    ("threads", "instruction_set", "installed", "sentence"),
    [
        (10_000, None, True, r"compute\.threads: expected at most the \d+ .*, got 10000; lower it"),
        (1, "AVX2", True, r"compute\.instruction_set: .*\(SSE41\), got 'AVX2', .*; lower it"),
        (1, None, False, r"compute\.backend: .* got 'jax'; install it, or set .*: tensorflow"),
    ],
)
def test_settings_beyond_the_machine_are_refused(
    threads: int,
    instruction_set: str | None,
    installed: bool,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setattr(cpu, "flags", lambda: frozenset(["sse4_1"]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: "found" if installed else None)
    with pytest.raises(UserError, match=rf"^params\.yaml: {sentence}"):
        keras_setup.start("jax", threads, instruction_set)


def test_a_start_after_keras_was_imported_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keras", sys)
    with pytest.raises(RuntimeError, match=r"^keras_setup.start\(\) must be called before keras"):
        keras_setup.start("tensorflow", None, None)
