"""OpenVINO computes what Keras computes, the same bytes each time, without Keras or telemetry."""

import os
import resource
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from album import contents
from keras import layers
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from pipeline.backbones import build, openvino, openvino_files, weights
from pipeline.runtime.errors import UserError

ROOT = Path(__file__).parents[3]
IMAGES = 35  # more than a request has, and none is full
FEATURES = 24


def images(n: int = IMAGES, seed: int = 0) -> NDArray[np.uint8]:
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
def folder(extractor: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks") / "small"
    weights.convert(extractor, folder)
    return folder


def compiled(folder: Path, precision: str = "float32", threads: int = 2) -> openvino.Network:
    network = openvino.Network(folder)
    network.compile(precision, threads, None)
    return network


@pytest.mark.parametrize(
    ("precision", "least", "most"), [("float32", 0, 1e-5), ("bfloat16", 1e-4, 3e-2)]
)
def test_features_are_those_of_keras_and_depend_on_no_other_row(
    precision: str, least: float, most: float, extractor: keras.Model, folder: Path
) -> None:
    try:
        network = compiled(folder, precision)
    except UserError as error:
        pytest.skip(str(error))
    features, expected = network(images()), extractor.predict_on_batch(images())
    assert (str(features.dtype), features.shape) == ("float32", (IMAGES, network.features))
    assert network.features == FEATURES
    assert len(np.unique(expected)) == IMAGES * FEATURES
    assert least <= abs(features - expected).max() / abs(expected).max() < most
    for rows in (1, 7):
        others = np.concatenate([images(IMAGES - rows, seed=2), images()[:rows]])
        assert_array_equal(network(others)[IMAGES - rows :], features[:rows])
        assert_array_equal(network(images()[:rows]), features[:rows])
    in_other_strides = np.ascontiguousarray(images()[:, :, ::-1])[:, :, ::-1]
    assert_array_equal(network(in_other_strides), features)


def test_one_thread_and_several_callers_get_the_same(folder: Path) -> None:
    network, expected = compiled(folder), compiled(folder, threads=1)(images())
    with ThreadPoolExecutor(4) as pool:
        for features in pool.map(lambda _: network(images()), range(12)):
            assert_array_equal(features, expected)


def test_the_same_model_is_converted_to_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    weights.convert(small_extractor(), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folder)
    assert openvino.Network(tmp_path / "again").digest == openvino.Network(folder).digest


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_bytes_without_keras_output_telemetry_or_files(
    folder: Path, tmp_path: Path
) -> None:
    expected = compiled(folder)(images())
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from pipeline.backbones import openvino\n"
        f"network = openvino.Network(Path({str(folder)!r}))\n"
        "network.compile('float32', 2, None)\n"
        "assert 'keras' not in sys.modules\n"
        f"shape = ({IMAGES}, 16, 16, 3)\n"
        "images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)\n"
        "sys.stdout.write(network(images).tobytes().hex())\n"
    )
    no_telemetry = ("CI", "TF_BUILD", "JENKINS_URL", "ONEDNN_MAX_CPU_ISA")
    environment = {name: it for name, it in os.environ.items() if name not in no_telemetry}
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert bytes.fromhex(done.stdout.decode()) == expected.tobytes()
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("most", [19, 3_000])
def test_a_network_that_the_disk_has_no_room_for_is_a_fault_of_the_disk(
    most: int, extractor: keras.Model, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
        with pytest.raises(OSError, match="File too large"):
            weights.convert(extractor, tmp_path / "small")
    finally:  # pytest's own log may be larger
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "name", [openvino_files.GRAPH, openvino_files.WEIGHTS, openvino_files.ABOUT]
)
@pytest.mark.parametrize("damage", ["a flipped bit", "half", "nothing", "no file"])
def test_a_damaged_network_is_refused(name: str, damage: str, folder: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "small"
    shutil.copytree(folder, damaged)
    content = bytearray((damaged / name).read_bytes())
    content[len(content) // 2] ^= 4
    if damage == "no file":
        (damaged / name).unlink()
    else:
        kept = {"a flipped bit": len(content), "half": len(content) // 2, "nothing": 0}[damage]
        (damaged / name).write_bytes(content[:kept])
    with pytest.raises(UserError, match=rf"^{damaged}: expected a converted network, as i"):
        compiled(damaged)


@pytest.mark.parametrize(
    ("capabilities", "cap", "sentence"),
    [
        (["FP32"], None, r"extract\.precision: .* this processor has no .*: float32"),
        (["BF16"], "AVX2", r".* compute\.instruction_set AVX2 has no .*: float32"),
        (["BF16"], "AVX512_CORE", r".*instruction_set AVX512_CORE has .*: float32"),
    ],
)
def test_a_processor_without_bfloat16_is_refused(
    capabilities: list[str],
    cap: str | None,
    sentence: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    core = SimpleNamespace(get_property=lambda device, name: capabilities)
    monkeypatch.setitem(sys.modules, "openvino", SimpleNamespace(Core=lambda: core))
    monkeypatch.setattr("pipeline.runtime.machine.require", lambda instruction_set: None)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "")
    with pytest.raises(UserError, match=rf"^params\.yaml: {sentence}"):
        openvino.Network(folder).compile("bfloat16", 1, cap)
