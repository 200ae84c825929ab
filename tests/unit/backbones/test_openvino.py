"""OpenVINO computes what Keras computes, the same bytes each time, and sends no telemetry."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from optional_packages import needs_openvino

from pipeline.backbones import build, openvino
from pipeline.runtime.errors import UserError

ROOT = Path(__file__).parents[3]
BATCH = 32
FEATURES = 24

Function = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def images(n: int = BATCH, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)


def small_extractor() -> keras.Model:
    """With the parts of usual networks: strides, pads, batch norms, residuals, gates."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = layers.Conv2D(FEATURES, 3, 2)(layers.ZeroPadding2D(1)(inputs))
    x = shortcut = layers.Activation("silu")(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(FEATURES, 1, activation="sigmoid")(gate)
    x = layers.Add()([layers.Multiply()([x, gate]), shortcut])
    base = keras.Model(inputs, layers.Conv2D(FEATURES, 1)(layers.MaxPooling2D(2)(x)))
    rng = np.random.default_rng(0)
    for layer in base.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, FEATURES) for _ in range(4)])
    return build.extractor(base, "MobileNetV2", None, "avg")


@pytest.fixture(scope="module")
def extractor() -> keras.Model:
    return small_extractor()


@pytest.fixture(scope="module")
def float32(extractor: keras.Model) -> Function:
    return openvino.compile_model(extractor, BATCH, "float32", 2)


@pytest.fixture(scope="module")
def bfloat16(extractor: keras.Model) -> Function:
    try:
        return openvino.compile_model(extractor, BATCH, "bfloat16", 2)
    except UserError as error:
        pytest.skip(str(error))


@needs_openvino
@pytest.mark.parametrize(
    ("precision", "least", "most"), [("float32", 0, 1e-5), ("bfloat16", 1e-4, 3e-2)]
)
def test_features_are_those_of_keras_up_to_rounding(
    precision: str,
    least: float,
    most: float,
    extractor: keras.Model,
    request: pytest.FixtureRequest,
) -> None:
    features = request.getfixturevalue(precision)(images())
    expected = extractor.predict_on_batch(images())
    assert (features.dtype, features.shape) == (np.float32, (BATCH, FEATURES))
    assert len(np.unique(expected)) == BATCH * FEATURES
    assert least <= abs(features - expected).max() / abs(expected).max() < most


@needs_openvino
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 7, 32])
def test_a_row_depends_neither_on_its_place_nor_on_the_rest_of_the_batch(
    precision: str, rows: int, request: pytest.FixtureRequest
) -> None:
    function = request.getfixturevalue(precision)
    some = images(rows, seed=1)
    padded = np.concatenate([some, np.zeros((BATCH - rows, 16, 16, 3), np.uint8)])
    last = np.concatenate([images(BATCH - rows, seed=2), some])
    mirrored_twice = np.ascontiguousarray(padded[:, :, ::-1])[:, :, ::-1]  # in other strides
    assert_array_equal(function(padded)[:rows], function(last)[BATCH - rows :])
    assert_array_equal(function(padded), function(mirrored_twice))


@needs_openvino
@pytest.mark.slow
def test_a_fresh_process_gives_the_same_bytes_without_output_telemetry_or_files(
    float32: Function, tmp_path: Path
) -> None:
    script = (
        "import sys\n"
        "from pipeline.backbones import keras_setup\n"
        "keras_setup.start('tensorflow', 2, None)\n"
        "import test_openvino as test\n"
        "function = test.openvino.compile_model(test.small_extractor(), 32, 'float32', 2)\n"
        "sys.stdout.write(function(test.images()).tobytes().hex())\n"
    )
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CI", "TF_BUILD", "JENKINS_URL", "ONEDNN_MAX_CPU_ISA")  # no telemetry there
    }
    environment |= {"HOME": str(home), "TMPDIR": str(temporary), "MPLCONFIGDIR": str(tmp_path)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # TensorFlow writes modules there
    folders = (ROOT, ROOT / "tests", Path(__file__).parent)
    environment["PYTHONPATH"] = os.pathsep.join(map(str, folders))
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert bytes.fromhex(done.stdout.decode()) == float32(images()).tobytes()
    assert [path.name for path in home.iterdir()] == [".keras"]
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("capabilities", "backend", "cap", "sentence"),
    [
        (None, "tensorflow", "", r"extract\.engine: .* 'openvino'; run `pip install .*: keras"),
        (["BF16"], "jax", "", r"compute\.backend: expected tensorflow, .* 'jax'; change one of"),
        (["FP32"], "tensorflow", "", r"extract\.precision: .* this processor has no .*: float32"),
        (["BF16"], "tensorflow", "AVX2", r".* compute\.instruction_set AVX2 has no .*: float32"),
        (["BF16"], "tensorflow", "AVX512_CORE", r".*instruction_set AVX512_CORE has .*: float32"),
    ],
    ids=["no package", "another backend", "a processor without bfloat16", "AVX2", "AVX512_CORE"],
)
def test_a_machine_without_the_requirements_is_refused(
    capabilities: list[str] | None,
    backend: str,
    cap: str,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core = SimpleNamespace(get_property=lambda device, name: capabilities)
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=lambda: core))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: capabilities)
    monkeypatch.setattr("keras.config.backend", lambda: backend)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", cap)
    with pytest.raises(UserError, match=rf"^params\.yaml: {sentence}"):
        openvino.compile_model(keras.Sequential(), BATCH, "bfloat16", 1)
