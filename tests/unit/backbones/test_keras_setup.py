"""Keras starts silently in a fixed environment, or is refused; rows depend on no other rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from pipeline.backbones import build, keras_setup
from pipeline.runtime import machine
from pipeline.runtime.errors import UserError
from pipeline.runtime.machine import processors

ROOT = Path(__file__).parents[3]
EXPECTED: dict[str, str | None] = {
    "JAX_DEFAULT_MATMUL_PRECISION": None,
    "KERAS_BACKEND": "tensorflow",
    "NVIDIA_TF32_OVERRIDE": "0",
    "OMP_NUM_THREADS": "1",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_DETERMINISTIC_OPS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "XLA_FLAGS": None,
}
# Imported in place of Keras, so that these tests need not wait for it.
STAND_IN = (
    'import os\nfrom unittest import mock\nconfig = mock.Mock()\nos.write(2, b"greeting\\n")\n'
)


def run(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh process, in `folder` and with its modules."""
    inherited = {name: value for name, value in os.environ.items() if name not in EXPECTED}
    return subprocess.run(
        [sys.executable, "-c", "from pipeline.backbones import keras_setup\n" + script],
        cwd=folder,
        env=inherited | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )


def started(
    arguments: str, folder: Path, backend: str = "tensorflow"
) -> tuple[dict[str, str | None], list[object]]:
    """The environment and Keras' settings after a silent start; the user's own settings differ."""
    (folder / "keras.json").write_text('{"floatx": "float16", "epsilon": 0.1}')
    script = (
        "import json, os\n"
        f"keras_setup.start('{backend}', {arguments})\n"
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


@pytest.mark.slow
def test_keras_starts_silently_with_these_settings_whatever_the_users_are(tmp_path: Path) -> None:
    assert started("1, 'AVX2'", tmp_path) == (EXPECTED, ["tensorflow", "float32", "1e-07"])


def test_by_default_all_processors_and_the_best_instructions_are_used(stand_in: Path) -> None:
    threads = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"), str(processors()))
    environment, _ = started("None, None", stand_in)
    assert environment == EXPECTED | threads | {"ONEDNN_MAX_CPU_ISA": None}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_backend_rounds_products_or_chooses_kernels_by_chance(
    precision: str, stand_in: Path
) -> None:
    (stand_in / "jax.py").touch()
    environment, _ = started(f"1, None, '{precision}'", stand_in, "jax")
    assert environment["NVIDIA_TF32_OVERRIDE"] == "0"
    assert environment["JAX_DEFAULT_MATMUL_PRECISION"] == "highest"
    assert environment["XLA_FLAGS"] == "--xla_gpu_deterministic_ops=true"
    assert environment["TF_DETERMINISTIC_OPS"] == "1"


def test_tf32_is_allowed_where_it_is_asked_for(stand_in: Path) -> None:
    (stand_in / "jax.py").touch()
    for backend, products in (("tensorflow", None), ("jax", "tensorfloat32")):
        environment, _ = started("1, None, 'tf32'", stand_in, backend)
        assert environment["NVIDIA_TF32_OVERRIDE"] is None
        assert environment["JAX_DEFAULT_MATMUL_PRECISION"] == products


def test_output_is_shown_if_the_import_fails(stand_in: Path) -> None:
    (stand_in / "keras.py").write_text(STAND_IN + 'raise ImportError("no backend")\n')
    done = run("keras_setup.start('tensorflow', None, None)", stand_in)
    assert done.returncode == 1
    assert done.stderr.startswith("greeting\n")
    assert done.stderr.endswith("ImportError: no backend\n")


@pytest.mark.parametrize(
    "other",
    [
        ("tensorflow", 2, None, "float32"),
        ("tensorflow", 1, "AVX2", "float32"),
        ("tensorflow", 1, None, "tf32"),
    ],
)
def test_a_second_start_does_nothing_or_is_refused_with_other_settings(
    other: tuple[str, int, str | None, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras_setup, "_started", ("tensorflow", 1, None, "float32"))
    keras_setup.start("tensorflow", 1, None, "bfloat16")
    with pytest.raises(UserError) as refused:
        keras_setup.start(*other)
    assert str(refused.value) == (
        f"compute: expected a process in which Keras runs with {other}, got one in which it was "
        "started with ('tensorflow', 1, None, 'float32'); restart it (a worker of a cluster, for "
        "other params)"
    )


@pytest.mark.parametrize(
    ("threads", "instruction_set", "sentence"),
    [
        (10_000, None, r"compute\.threads: expected at most the \d+ .*, got 10000; lower it"),
        (1, "AVX2", r"compute\.instruction_set: .*\(SSE41\), got 'AVX2', .*; lower it"),
        (1, None, r"compute\.backend: .* got 'jax'; install it, or set .*: tensorflow"),
    ],
)
def test_settings_beyond_the_machine_are_refused(
    threads: int, instruction_set: str | None, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setattr(machine, "flags", lambda: frozenset(["sse4_1"]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"^params\.yaml: {sentence}"):
        keras_setup.start("jax", threads, instruction_set)


def mobilenet() -> keras.Model:
    keras.utils.set_random_seed(0)
    base = build.network("MobileNetV2", 48, False, None)
    rng = np.random.default_rng(0)
    for layer in base.layers:  # as after training: no mean is 0, no variance 1
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, layer.gamma.shape) for _ in range(4)])
    return base


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    coarse = np.random.default_rng(0).integers(0, 256, (32, 6, 6, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def test_a_rows_features_are_the_same_in_any_batch(pixels: NDArray[np.uint8]) -> None:
    """Without AVX-512 the place in the batch decides the last bits: docs/reproducibility.md."""
    tolerance = 0 if "avx512f" in machine.flags() else 1e-6
    model = build.extractor(mobilenet(), "MobileNetV2", None, "avg", "float32")
    start = keras_setup.starter(model, 32)

    def features(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return start(batch)()

    expected = features(pixels)
    assert len(np.unique(expected, axis=0)) == 32
    assert_array_equal(features(np.flip(np.flip(pixels, 2).copy(), 2)), expected)  # other strides
    assert_allclose(features(pixels[::-1])[::-1], expected, rtol=0, atol=tolerance)
    for size in (1, 7):
        parts = [features(pixels[at : at + size]) for at in range(0, 32, size)]
        assert_allclose(np.concatenate(parts), expected, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_jax_gives_features_close_to_these(pixels: NDArray[np.uint8], tmp_path: Path) -> None:
    pytest.importorskip("jax")
    base = mobilenet()
    base.save_weights(tmp_path / "w.weights.h5")
    np.save(tmp_path / "pixels.npy", pixels)
    script = (
        "keras_setup.start('jax', 1, None)\n"
        "import numpy as np, pathlib\n"
        "from pipeline.backbones import build\n"
        "base = build.network('MobileNetV2', 48, False, pathlib.Path('w.weights.h5'))\n"
        "model = build.extractor(base, 'MobileNetV2', None, 'avg', 'float32')\n"
        "np.save('features.npy', model.predict_on_batch(np.load('pixels.npy')))\n"
    )
    ended = run(script, tmp_path, JAX_PLATFORMS="cpu")
    assert ended.returncode == 0, ended.stderr
    model = build.extractor(base, "MobileNetV2", None, "avg")
    expected = model.predict_on_batch(pixels)
    features = np.load(tmp_path / "features.npy")
    assert_allclose(features, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
