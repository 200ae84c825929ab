"""Results depend neither on the batch nor on the number of devices, and hardly on the backend."""

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

ROOT = Path(__file__).parents[3]

# Trains two steps on 9 images, 1 of which fills no second device, and predicts them.
TRAINING = """
import json, sys
backend, count = sys.argv[1], int(sys.argv[2])
from pipeline.backbones import keras_setup
keras_setup.start(backend, 1, "AVX2", count)
import keras, numpy as np
from pipeline.backbones import devices
keras.utils.set_random_seed(0)
rng = np.random.default_rng(0)
images, label = rng.random((9, 8, 8, 3), np.float32), np.arange(9) % 2
with devices.scope():
    model = keras.Sequential([
        keras.Input((8, 8, 3)),
        keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
        keras.layers.Flatten(name="flatten"),
        keras.layers.Dense(2, name="logits"),
    ])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, weighted_metrics=["accuracy"])
before = devices.predict_on_batch(model, images)
losses = []
for part in (slice(8), slice(9)):
    model.reset_metrics()
    losses.append(float(devices.train_on_batch(model, images[part], label[part])["loss"]))
after = devices.predict_on_batch(model, images)
print(json.dumps({"before": before.tolist(), "after": after.tolist(), "losses": losses}))
"""


# Features of 32 images by a folded MobileNetV2, with one thread and AVX2, in padded batches.
FEATURES = """
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


def run(script: str, *arguments: object) -> str:
    """Return what a process of its own prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def computed(backend: str, folder: Path) -> dict[str, NDArray[np.float32]]:
    """Features (32, 1280) by the batches they were computed in."""
    out = folder / f"{backend}.npz"
    run(FEATURES, backend, folder / "pixels.npy", folder / "weights.weights.h5", out)
    with np.load(out) as arrays:
        return dict(arrays)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_learn_and_predict_what_one_does(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    one, two = (json.loads(run(TRAINING, backend, n).splitlines()[-1]) for n in (1, 2))
    for key in ("before", "after", "losses"):
        assert_allclose(two[key], one[key], rtol=1e-4, atol=1e-5, err_msg=key)
    assert not np.allclose(one["before"], one["after"], rtol=1e-3)


@pytest.mark.slow
def test_a_rows_features_are_the_same_in_any_batch_and_close_on_jax(tmp_path: Path) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (32, 6, 6, 3), dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", coarse.repeat(8, axis=1).repeat(8, axis=2))
    batches = computed("tensorflow", tmp_path)
    expected = batches["one batch"]
    assert len(np.unique(expected, axis=0)) == 32
    assert len(batches) == 6
    for name, features in batches.items():
        assert_array_equal(features, expected, err_msg=name)
    if importlib.util.find_spec("jax") is None:
        pytest.skip("JAX is not installed")
    features = computed("jax", tmp_path)["one batch"]
    assert_allclose(features, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
