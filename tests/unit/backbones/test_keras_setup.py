"""Keras starts silently in a fixed environment, or is refused; rows depend on no other rows."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from pipeline.backbones import keras_setup
from pipeline.runtime import machine
from pipeline.runtime.errors import UserError
from pipeline.runtime.machine import processors

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
    'import os\nfrom unittest import mock\nconfig = mock.Mock()\nos.write(2, b"greeting\\n")\n'
)


def run(
    script: str, folder: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh process, which may import modules from `folder`."""
    inherited = {name: value for name, value in os.environ.items() if name not in EXPECTED}
    path = os.pathsep.join(map(str, (folder, ROOT)))
    script = "from pipeline.backbones import keras_setup\n" + script
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
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
        "started with ('tensorflow', 1, None); restart it (a worker of a cluster, for other params)"
        for settings in (("tensorflow", 2, None), ("tensorflow", 1, "AVX2"), ("jax", 1, None))
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
    monkeypatch.setattr(machine, "flags", lambda: frozenset(["sse4_1"]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: "found" if installed else None)
    with pytest.raises(UserError, match=rf"^params\.yaml: {sentence}"):
        keras_setup.start("jax", threads, instruction_set)


# Features of 32 images by a folded MobileNetV2, with one thread and AVX2, in padded batches.
FEATURES = """
import sys
from pathlib import Path
backend, folder = sys.argv[1], Path(sys.argv[2])
keras_setup.start(backend, 1, "AVX2")
import keras
import numpy as np
from pipeline.backbones import build
images, weights = np.load(folder / "pixels.npy"), folder / "w.weights.h5"
name, size = "MobileNetV2", images.shape[1]
if not weights.exists():
    keras.utils.set_random_seed(0)
    base = build.network(name, size, False, None)
    rng = np.random.default_rng(0)
    for layer in base.layers:  # as after training: no mean is 0, no variance 1
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, layer.gamma.shape) for _ in range(4)])
    base.save_weights(weights)
base = build.network(name, size, False, weights)
model = build.extractor(base, name, None, "avg", "float32")
def features(batch):
    return keras_setup.run_padded(model.predict_on_batch, batch, 32)
batches = {"one batch": features(images)}
if backend == "tensorflow":
    batches["again"] = features(images)
    batches["mirrored twice"] = features(np.flip(np.flip(images, 2).copy(), 2))  # in other strides
    batches["backwards"] = features(images[::-1])[::-1]
    batches["by 7"] = np.concatenate([features(images[at : at + 7]) for at in range(0, 32, 7)])
    batches["by 1"] = np.concatenate([features(images[at : at + 1]) for at in range(32)])
np.savez(folder / backend, **batches)
"""


def computed(backend: str, folder: Path) -> dict[str, NDArray[np.float32]]:
    """Features (32, 1280) by the batches they were computed in."""
    ended = run(FEATURES, folder, backend, str(folder), JAX_PLATFORMS="cpu")
    assert ended.returncode == 0, ended.stderr
    with np.load(folder / f"{backend}.npz") as arrays:
        return dict(arrays)


@pytest.mark.slow
def test_a_rows_features_are_the_same_in_any_batch_and_close_on_jax(tmp_path: Path) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (32, 6, 6, 3), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", coarse.repeat(8, axis=1).repeat(8, axis=2))
    batches = computed("tensorflow", tmp_path)
    expected = batches["one batch"]
    assert len(np.unique(expected, axis=0)) == 32
    for name, features in batches.items():
        assert_array_equal(features, expected, err_msg=name)
    if importlib.util.find_spec("jax") is None:
        pytest.skip("JAX is not installed")
    features = computed("jax", tmp_path)["one batch"]
    assert_allclose(features, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
