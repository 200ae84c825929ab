"""A row's features do not depend on its batch, and hardly on the backend."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

ROOT = Path(__file__).parents[3]

# Features of 32 images by a folded MobileNetV2, in a process of its own with one thread and AVX2,
# in padded batches of 32, 7 and 1 rows.
SCRIPT = """
import sys
from pathlib import Path
backend, pixels, weights, out = sys.argv[1:]
from pipeline.backbones import keras_setup
keras_setup.start(backend, 1, "AVX2")
import keras
import numpy as np
from pipeline.backbones import batch_norm_folding, build, devices
assert keras.config.backend() == backend
images = np.load(pixels)
name, size = "MobileNetV2", images.shape[1]
if not Path(weights).exists():
    keras.utils.set_random_seed(0)
    base = build.network(name, size, False, None)
    rng = np.random.default_rng(0)
    for layer in base.layers:  # as after training: no mean is 0, no variance 1
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, layer.gamma.shape) for _ in range(4)])
    base.save_weights(weights)
base = build.network(name, size, False, Path(weights))
model = build.extractor(base, name, None, "avg", batch_norm_folding.fold)
def features(batch):
    found = devices.run_padded(model.predict_on_batch, batch, 32)
    assert (found.dtype, len(found)) == (np.float32, len(batch))
    return found
batches = {"one batch": features(images)}
if backend == "tensorflow":
    batches["again"] = features(images)
    batches["mirrored twice"] = features(np.flip(np.flip(images, 2).copy(), 2))  # in other strides
    batches["backwards"] = features(images[::-1])[::-1]
    batches["by 7"] = np.concatenate([features(images[at : at + 7]) for at in range(0, 32, 7)])
    batches["by 1"] = np.concatenate([features(images[at : at + 1]) for at in range(32)])
np.savez(out, **batches)
"""


def computed(backend: str, folder: Path) -> dict[str, NDArray[np.float32]]:
    """Features (32, 1280) by the batches they were computed in."""
    out = folder / f"{backend}.npz"
    paths = (folder / "pixels.npy", folder / "weights.weights.h5", out)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", SCRIPT, backend, *map(str, paths)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    with np.load(out) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 48 pixels, and the weights once they were drawn."""
    folder = tmp_path_factory.mktemp("features")
    coarse = np.random.default_rng(0).integers(0, 256, (32, 6, 6, 3), dtype=np.uint8)
    np.save(folder / "pixels.npy", coarse.repeat(8, axis=1).repeat(8, axis=2))
    return folder


@pytest.fixture(scope="module")
def on_tensorflow(folder: Path) -> dict[str, NDArray[np.float32]]:
    return computed("tensorflow", folder)


@pytest.mark.slow
@pytest.mark.xdist_group("inference")
def test_a_rows_features_are_bitwise_the_same_in_any_batch(
    on_tensorflow: dict[str, NDArray[np.float32]],
) -> None:
    expected = on_tensorflow["one batch"]
    assert len(np.unique(expected, axis=0)) == 32
    assert len(on_tensorflow) == 6
    for name, features in on_tensorflow.items():
        assert_array_equal(features, expected, err_msg=name)


@pytest.mark.slow
@pytest.mark.xdist_group("inference")
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_jax_computes_the_features_of_tensorflow(
    on_tensorflow: dict[str, NDArray[np.float32]], folder: Path
) -> None:
    expected = on_tensorflow["one batch"]
    features = computed("jax", folder)["one batch"]
    assert_allclose(features, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
