"""OpenVINO: it computes what Keras computes, the same bytes each time, and reports to nobody."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from keras import layers
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from pipeline.backbones import build, openvino
from pipeline.runtime.errors import UserError

ROOT = Path(__file__).parent.parent
BATCH = 32
FEATURES = 24
# Not by pytest.importorskip: `import openvino` reports to its makers, unless we import it.
needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None,
    reason="needs openvino: pip install 'stages[openvino]'",
)

Function = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


def images(n: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)


def small_extractor() -> keras.Model:
    """With what networks are made of: strides, pads, batch norms, residuals, gates."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3), name="input")
    x = layers.ZeroPadding2D(1, name="pad")(inputs)
    x = layers.Conv2D(FEATURES, 3, 2, name="conv")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = shortcut = layers.Activation("silu", name="silu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.ReLU(6.0, name="relu6")(layers.BatchNormalization(name="depthwise_norm")(x))
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(x)
    gate = layers.Conv2D(FEATURES, 1, activation="sigmoid", name="excite")(gate)
    x = layers.Add(name="add")([layers.Multiply(name="gated")([x, gate]), shortcut])
    x = layers.Conv2D(FEATURES, 1, name="last")(layers.MaxPooling2D(2, name="pool")(x))
    base = keras.Model(inputs, x)
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


def stand_in(capabilities: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """In OpenVINO's place, a package that knows a processor of these capabilities."""
    core = SimpleNamespace(get_property=lambda device, name: capabilities)
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=lambda: core))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: "found")


def refusal(precision: str) -> str:
    with pytest.raises(UserError) as told:
        openvino.compile_model(keras.Sequential(), BATCH, precision, 1)
    return str(told.value)


@needs_openvino
def test_in_float32_the_features_are_those_of_keras_up_to_rounding(
    extractor: keras.Model, float32: Function
) -> None:
    expected = extractor.predict_on_batch(images(BATCH))
    found = float32(images(BATCH))
    assert found.dtype == np.float32
    assert found.shape == (BATCH, FEATURES)
    assert len(np.unique(expected)) == BATCH * FEATURES
    assert abs(found - expected).max() < 1e-5 * abs(expected).max()


@needs_openvino
def test_in_bfloat16_the_features_are_those_of_keras_up_to_a_few_percent(
    extractor: keras.Model, bfloat16: Function
) -> None:
    expected = extractor.predict_on_batch(images(BATCH))
    found = bfloat16(images(BATCH))
    assert found.dtype == np.float32
    assert 1e-4 < abs(found - expected).max() / abs(expected).max() < 3e-2


@needs_openvino
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 7, 32])
def test_a_row_does_not_depend_on_its_place_nor_on_what_stands_beside_it(
    precision: str, rows: int, request: pytest.FixtureRequest
) -> None:
    function = request.getfixturevalue(precision)
    wanted = images(rows, seed=1)
    padded = np.concatenate([wanted, np.zeros((BATCH - rows, 16, 16, 3), np.uint8)])
    among_others = np.concatenate([images(BATCH - rows, seed=2), wanted])
    assert_array_equal(function(padded)[:rows], function(among_others)[BATCH - rows :])


@needs_openvino
def test_threads_that_call_at_the_same_time_get_their_own_features(float32: Function) -> None:
    batches = [images(BATCH, seed) for seed in range(8)]
    alone = [float32(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(float32, batches))
    assert_array_equal(together, alone)
    assert len({features.tobytes() for features in alone}) == 8


@needs_openvino
def test_a_mirrored_view_of_the_pixels_counts_as_its_copy_and_is_not_changed(
    float32: Function,
) -> None:
    pixels = images(BATCH)
    mirrored = pixels[:, :, ::-1]
    found = float32(mirrored)
    assert_array_equal(found, float32(np.ascontiguousarray(mirrored)))
    assert not np.array_equal(found, float32(pixels))
    assert_array_equal(pixels, images(BATCH))


@needs_openvino
@pytest.mark.parametrize(
    ("wrong", "got"),
    [
        (images(5), "uint8 (5, 16, 16, 3)"),
        (images(BATCH).astype(np.float32), "float32 (32, 16, 16, 3)"),
    ],
    ids=["shape", "type"],
)
def test_images_of_another_shape_or_type_are_not_cast_but_refused(
    float32: Function, wrong: NDArray[np.uint8], got: str
) -> None:
    with pytest.raises(ValueError, match=r"^expected") as told:
        float32(wrong)
    assert str(told.value) == f"expected uint8 (32, 16, 16, 3), got {got}"


@needs_openvino
@pytest.mark.slow
def test_a_fresh_process_gives_the_same_bytes_says_nothing_reports_nothing_and_leaves_nothing(
    float32: Function, tmp_path: Path
) -> None:
    script = (
        "import sys\n"
        "from stages.models import engine\n"
        "engine.start('tensorflow', 2, None)\n"
        "from tests import test_openvino as test\n"
        "function = test.openvino.compile_model(test.small_extractor(), test.BATCH, 'float32', 2)\n"
        "sys.stdout.write(function(test.images(test.BATCH)).tobytes().hex())\n"
    )
    home, temporary = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    temporary.mkdir()
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("CI", "TF_BUILD", "JENKINS_URL", "ONEDNN_MAX_CPU_ISA")  # no reports there
    }
    environment |= {"HOME": str(home), "TMPDIR": str(temporary), "MPLCONFIGDIR": str(tmp_path)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"  # TensorFlow writes modules there
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert bytes.fromhex(done.stdout.decode()) == float32(images(BATCH)).tobytes()
    assert [path.name for path in home.iterdir()] == [".keras"]
    assert list(temporary.iterdir()) == []


def test_without_the_package_one_sentence_tells_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert refusal("float32") == (
        "params.yaml: extract.engine: expected a package that is installed, got 'openvino'; "
        "run `pip install 'stages[openvino]'`, or set extract.engine: keras"
    )


def test_another_backend_of_keras_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(["BF16"], monkeypatch)
    monkeypatch.setattr("keras.config.backend", lambda: "jax")
    assert refusal("float32") == (
        "params.yaml: compute.backend: expected tensorflow, as extract.engine is openvino, "
        "got 'jax'; change one of them"
    )


def test_bfloat16_is_refused_where_the_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(["FP32", "INT8"], monkeypatch)
    assert refusal("bfloat16") == (
        "params.yaml: extract.precision: expected float32, as this processor has no instructions "
        "for bfloat16, got 'bfloat16'; set extract.precision: float32"
    )


@pytest.mark.parametrize("cap", ["AVX2", "AVX512_CORE"])
def test_bfloat16_is_refused_where_the_instruction_set_has_none(
    cap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(["BF16", "FP32"], monkeypatch)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", cap)
    assert refusal("bfloat16") == (
        "params.yaml: compute.instruction_set: expected AVX512_CORE_BF16 or null, as "
        f"extract.precision is bfloat16, got {cap!r}; change one of them"
    )
