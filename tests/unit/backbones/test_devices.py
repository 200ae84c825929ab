"""Two virtual devices give what one gives: the same losses, weights and predictions."""

import importlib.util
import json
import subprocess
import sys

import pytest

# Trains two steps on 9 images, 1 of which fills no second device, and predicts them.
PROGRAM = """
import json, sys
backend, count = sys.argv[1], int(sys.argv[2])
from stages.models import engine
engine.start(backend, 1, "AVX2", count)
import keras, numpy as np
from stages.models import devices, training
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
before = devices.predict_on_batch(model, images)
epochs = training.fit(
    model, training.Schedule("sgd", 0.1, 2, 9), lambda: [(images[:8], label[:8]), (images, label)],
    lambda: (devices.predict_on_batch(model, images), label), None, "test", lambda count: None,
    images=17,
).epochs
print(json.dumps({
    "before": before.tolist(),
    "after": devices.predict_on_batch(model, images).tolist(),
    "losses": [[epoch.loss, epoch.val_loss] for epoch in epochs],
}))
"""


def trained(backend: str, count: int) -> dict[str, object]:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, backend, str(count)], capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def flat(nested: object) -> list[float]:
    return [x for part in nested for x in flat(part)] if isinstance(nested, list) else [nested]  # type: ignore[list-item]


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
@pytest.mark.slow
def test_two_devices_learn_and_predict_what_one_does(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    one, two = (trained(backend, count) for count in (1, 2))
    assert one["losses"] != [[0, 0], [0, 0]]
    for key in ("before", "after", "losses"):
        assert flat(two[key]) == pytest.approx(flat(one[key]), rel=1e-4, abs=1e-5), key
    assert flat(one["before"]) != pytest.approx(flat(one["after"]), rel=1e-3)


def test_torch_has_one_device() -> None:
    ended = subprocess.run(
        [
            sys.executable,
            "-c",
            "import importlib.util as u; find = u.find_spec; "
            "u.find_spec = lambda name, *more: True if name == 'torch' else find(name, *more)\n"
            "from stages.models import engine\n"
            "try: engine.start('torch', 1, None, 2)\n"
            "except Exception as error: print(error)",
        ],
        capture_output=True,
        text=True,
    )
    assert ended.stdout == (
        "params.yaml: compute.devices: expected 1 with compute.backend: torch, got 2; "
        "choose tensorflow or jax\n"
    ), ended.stderr
