"""Two virtual devices give the losses, weights and predictions of one."""

import importlib.util
import json
import subprocess
import sys
from typing import Any

import pytest

# Trains two steps on 9 images, 1 of which fills no second device, and predicts them.
PROGRAM = """
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


def trained(backend: str, count: int) -> dict[str, Any]:
    command = [sys.executable, "-c", PROGRAM, backend, str(count)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def flat(nested: object) -> list[float]:
    return [x for part in nested for x in flat(part)] if isinstance(nested, list) else [nested]  # type: ignore[list-item]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_learn_and_predict_what_one_does(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    one, two = (trained(backend, count) for count in (1, 2))
    for key in ("before", "after", "losses"):
        assert flat(two[key]) == pytest.approx(flat(one[key]), rel=1e-4, abs=1e-5), key
    assert flat(one["before"]) != pytest.approx(flat(one["after"]), rel=1e-3)
