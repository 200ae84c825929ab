"""OpenVINO computes what Keras computes, the same bytes each time, and sends no telemetry."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from keras import layers
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from pipeline.backbones import build, openvino
from pipeline.runtime.errors import UserError

ROOT = Path(__file__).parents[3]
BATCH = 32
FEATURES = 24


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


@pytest.mark.parametrize(
    ("precision", "least", "most"), [("float32", 0, 1e-5), ("bfloat16", 1e-4, 3e-2)]
)
def test_features_are_those_of_keras_and_depend_on_no_other_row(
    precision: str, least: float, most: float, extractor: keras.Model
) -> None:
    try:
        function = openvino.compile_model(extractor, BATCH, precision, 2)
    except UserError as error:
        pytest.skip(str(error))
    features, expected = function(images()), extractor.predict_on_batch(images())
    assert (str(features.dtype), features.shape) == ("float32", (BATCH, FEATURES))
    assert len(np.unique(expected)) == BATCH * FEATURES
    assert least <= abs(features - expected).max() / abs(expected).max() < most
    for rows in (1, 7):
        others = np.concatenate([images(BATCH - rows, seed=2), images()[:rows]])
        assert_array_equal(function(others)[BATCH - rows :], features[:rows])
    in_other_strides = np.ascontiguousarray(images()[:, :, ::-1])[:, :, ::-1]
    assert_array_equal(function(in_other_strides), features)


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_bytes_without_output_telemetry_or_files(
    extractor: keras.Model, tmp_path: Path
) -> None:
    expected = openvino.compile_model(extractor, BATCH, "float32", 2)(images())
    script = (
        "import sys\n"
        "from pipeline.backbones import keras_setup\n"
        "keras_setup.start('tensorflow', 2, None)\n"
        "import test_openvino as test\n"
        "function = test.openvino.compile_model(test.small_extractor(), 32, 'float32', 2)\n"
        "sys.stdout.write(function(test.images()).tobytes().hex())\n"
    )
    no_telemetry = ("CI", "TF_BUILD", "JENKINS_URL", "ONEDNN_MAX_CPU_ISA")
    environment = {name: it for name, it in os.environ.items() if name not in no_telemetry}
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # TensorFlow writes modules there
    folders = (ROOT, ROOT / "tests", Path(__file__).parent)
    environment["PYTHONPATH"] = os.pathsep.join(map(str, folders))
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert bytes.fromhex(done.stdout.decode()) == expected.tobytes()
    assert {path.name for path in tmp_path.iterdir()} <= {".keras", ".cache", ".config"}


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
