"""A row's features do not depend on its batch; another backend computes the same."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent

# Features of 32 pictures by a folded MobileNetV2, in a process of its own that is pinned to one
# thread and AVX2: by Keras' batches of 32 that hold all of them, some of them, or one.
SCRIPT = """
import sys
from pathlib import Path
backend, pixels, weights, out = sys.argv[1:]
from stages.models import engine
engine.start(backend, 1, "AVX2")
import keras
import numpy as np
from stages.models import backbone, folding, inference
assert keras.config.backend() == backend
images = np.load(pixels)
name, size = "MobileNetV2", images.shape[1]
if not Path(weights).exists():
    keras.utils.set_random_seed(0)
    base = backbone.build(name, size, False, None)
    rng = np.random.default_rng(0)
    for layer in base.layers:  # as after training: no mean is 0, no variance 1
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, layer.gamma.shape) for _ in range(4)])
    base.save_weights(weights)
base = backbone.build(name, size, False, Path(weights))
model = backbone.extractor(base, name, None, "avg", folding.fold)
def features(batch):
    found = inference.run_padded(model.predict_on_batch, batch, 32)
    assert (found.dtype, len(found)) == (np.float32, len(batch))
    return found
batches = {"whole": features(images)}
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
    ended = subprocess.run(
        [
            *(sys.executable, "-c", SCRIPT, backend, folder / "pixels.npy"),
            *(folder / "weights.weights.h5", out),
        ],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "JAX_PLATFORMS": "cpu",
            "CUDA_VISIBLE_DEVICES": "-1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    with np.load(out) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of 48 pixels, and the weights once they were drawn."""
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (32, 6, 6, 3), dtype=np.uint8)
    np.save(folder / "pixels.npy", coarse.repeat(8, axis=1).repeat(8, axis=2))
    return folder


@pytest.fixture(scope="module")
def on_tensorflow(folder: Path) -> dict[str, NDArray[np.float32]]:
    return computed("tensorflow", folder)


@pytest.mark.xdist_group("inference")
def test_a_rows_features_are_bitwise_the_same_in_any_batch(
    on_tensorflow: dict[str, NDArray[np.float32]],
) -> None:
    whole = on_tensorflow["whole"]
    assert whole.shape == (32, 1280)
    assert len(np.unique(whole, axis=0)) == 32
    assert len(on_tensorflow) == 6
    for name, found in on_tensorflow.items():
        assert_array_equal(found, whole, err_msg=name)


@pytest.mark.xdist_group("inference")
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_jax_computes_the_features_of_tensorflow(
    on_tensorflow: dict[str, NDArray[np.float32]], folder: Path
) -> None:
    expected = on_tensorflow["whole"]
    found = computed("jax", folder)["whole"]
    assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
