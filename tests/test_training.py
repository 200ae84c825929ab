"""The training loop, on a head small enough to check every number, and prediction in batches."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from pipeline import config
from pipeline.backbones import build, inference
from pipeline.runtime.errors import UserError
from pipeline.training import loop
from pipeline.training.head import loss_and_accuracy
from pipeline.training.history import Epoch

ROOT = Path(__file__).parent.parent
Rows = tuple[NDArray[np.float32], NDArray[np.int64]]

FRESH_PROCESS = """
import hashlib
from stages.models import engine
engine.start("tensorflow", 1, "AVX2")
import keras, numpy as np
from stages.models import training
keras.utils.set_random_seed(7)
rng = np.random.default_rng(7)
x, y = rng.normal(size=(40, 6)).astype("float32"), np.arange(40) % 3
model = training.dense_head(6, [5], 3, input_dropout=0.5, dropout=0.0, seed=7)
def draw():
    for rows in np.split(rng.permutation(40), 5):
        yield x[rows], y[rows]
schedule = training.Schedule("adam", 0.01, 3, 8)
validate = lambda: (model.predict_on_batch(x), y)
training.fit(model, schedule, draw, validate, None, "", print, images=40)
print(hashlib.sha256(b"".join(w.tobytes() for w in model.get_weights())).hexdigest())
"""


def small_head(hidden: list[int], n_outputs: int = 2, batch_norm: bool = False) -> keras.Model:
    return loop.dense_head(
        2, hidden, n_outputs, input_dropout=0.0, dropout=0.0, batch_norm=batch_norm, seed=0
    )


def blobs() -> Rows:
    """Two classes that a line separates."""
    rng = np.random.default_rng(0)
    label = np.arange(42) % 2
    centres = np.array([[-2.0, -2.0], [2.0, 2.0]])
    return (centres[label] + 0.3 * rng.normal(size=(42, 2))).astype(np.float32), label


def fit(
    model: keras.Model,
    rows: Rows,
    *,
    optimizer: str = "sgd",
    learning_rate: float = 0.1,
    epochs: int = 4,
    patience: int | None = 4,
    batch: int = 16,
    start: Epoch | None = None,
    validate: Callable[[], loop.Batch] | None = None,
    done: Callable[[int], object] = lambda images: None,
    **settings: Any,
) -> list[Epoch]:
    """`training.fit` on `rows`, in order; validated on them too unless told otherwise."""
    features, label = rows

    def draw() -> Iterator[loop.Batch]:
        for first in range(0, len(label), batch):
            yield features[first : first + batch], label[first : first + batch]

    trained = loop.fit(
        model,
        loop.Schedule(optimizer, learning_rate, epochs, batch, patience=patience, **settings),
        draw,
        validate or (lambda: (model.predict_on_batch(features), label)),
        start,
        "train_head.dense",
        done,
        images=len(label),
    )
    assert trained.fault == ""
    return trained.epochs


def scripted(model: keras.Model, losses: list[float]) -> tuple[Any, list[list[NDArray[Any]]]]:
    """A `validate` that gives these losses one after the other, and the weights it saw."""
    seen: list[list[NDArray[Any]]] = []

    def validate() -> loop.Batch:
        loss = losses[len(seen)]
        seen.append(model.get_weights())
        return np.log([[np.exp(-loss), -np.expm1(-loss)]]), np.array([0])

    return validate, seen


def assert_weights(model: keras.Model, expected: list[NDArray[Any]]) -> None:
    for found, wanted in zip(model.get_weights(), expected, strict=True):
        assert_array_equal(found, wanted)


def test_a_separable_set_is_learnt() -> None:
    keras.utils.set_random_seed(0)
    images: list[int] = []
    rows = blobs()
    model = small_head([4])
    epochs = fit(model, rows, optimizer="adam", epochs=30, patience=30, done=images.append)
    assert [epoch.epoch for epoch in epochs] == list(range(1, 31))
    assert images == [16, 16, 10] * 30
    assert epochs[-1].val_accuracy == 1.0
    assert epochs[-1].val_loss < 0.05 < epochs[0].val_loss


def test_the_weights_of_the_best_epoch_are_kept() -> None:
    """With the labels of `valid` turned round, every step makes it worse."""
    features, label = blobs()
    model = small_head([])
    epochs = fit(
        model,
        (features, label),
        epochs=3,
        validate=lambda: (model.predict_on_batch(features), 1 - label),
    )
    losses = [epoch.val_loss for epoch in epochs]
    assert losses == sorted(losses)
    assert loss_and_accuracy(model.predict_on_batch(features), 1 - label)[0] == losses[0]


@pytest.mark.parametrize(
    ("losses", "patience", "epochs_run", "best"),
    [
        ([0.5, 0.3, 0.4, 0.45, 0.1], 2, 4, 2),
        ([0.5, 0.3, 0.4, 0.2, 0.25, 0.3, 0.1], 2, 6, 4),
        ([0.3, 0.3, 0.1], 1, 2, 1),
        ([0.5, 0.4, 0.3], 1, 3, 3),
    ],
    ids=["stops after 2", "counts anew after a better one", "equal is not better", "to the end"],
)
def test_training_stops_once_patience_is_over(
    losses: list[float], patience: int, epochs_run: int, best: int
) -> None:
    model = small_head([])
    validate, seen = scripted(model, losses)
    epochs = fit(model, blobs(), epochs=len(losses), patience=patience, validate=validate)
    assert [epoch.epoch for epoch in epochs] == list(range(1, epochs_run + 1))
    assert [round(epoch.val_loss, 6) for epoch in epochs] == losses[:epochs_run]
    assert_weights(model, seen[best - 1])


def test_the_model_before_the_first_step_is_kept_when_nothing_is_better() -> None:
    model = small_head([])
    before = model.get_weights()
    start = Epoch(0, 0.1, 1.0, 0.2, 1.0)
    validate, seen = scripted(model, [0.2, 0.3, 0.1])
    epochs = fit(model, blobs(), epochs=3, patience=2, start=start, validate=validate)
    assert epochs[0] == start
    assert [epoch.epoch for epoch in epochs] == [0, 1, 2]
    assert not np.array_equal(seen[-1][0], before[0])
    assert_weights(model, before)


def test_a_better_epoch_takes_the_place_of_the_start() -> None:
    model = small_head([])
    validate, seen = scripted(model, [0.3, 0.1])
    fit(model, blobs(), epochs=2, start=Epoch(0, 0.1, 1.0, 0.2, 1.0), validate=validate)
    assert_weights(model, seen[1])


def test_a_loss_that_is_not_a_number_is_told_with_epoch_and_learning_rate() -> None:
    features, label = blobs()
    features[3] = np.nan
    with pytest.raises(UserError) as told:
        fit(small_head([]), (features, label), learning_rate=0.25)
    assert str(told.value) == (
        "train_head.dense epoch 1: expected a finite loss, got nan on train and nan on valid at "
        "learning rate 0.25; lower train_head.dense.learning_rate"
    )


def test_steps_that_are_too_long_are_told_without_a_warning() -> None:
    with pytest.raises(UserError, match=r"nan on valid at learning rate 1e\+38; lower train_head"):
        fit(small_head([3]), blobs(), learning_rate=1e38, batch=42)


def test_the_training_loss_is_the_mean_over_all_images_of_an_epoch() -> None:
    """At a learning rate of 0 it is that of the model as it stands, whatever the batches."""
    rows = blobs()
    model = small_head([3])
    loss, accuracy = loss_and_accuracy(model.predict_on_batch(rows[0]), rows[1])
    last = loss_and_accuracy(model.predict_on_batch(rows[0][40:]), rows[1][40:])[0]
    assert abs(last - loss) > 1e-3
    for epoch in fit(model, rows, learning_rate=0.0, batch=20, epochs=2):
        assert epoch.loss == pytest.approx(loss, rel=1e-6)
        assert epoch.accuracy == pytest.approx(accuracy, rel=1e-6)
        assert (epoch.val_loss, epoch.val_accuracy) == (loss, accuracy)


@pytest.mark.slow
def test_a_seed_gives_the_same_weights_in_two_processes() -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FRESH_PROCESS],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    printed = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert printed[0] == printed[1]
    assert printed[0][:-1] == ["8"] * 15  # images of each of 3 x 5 batches
    assert len(printed[0][-1]) == 64


@pytest.mark.parametrize(
    "optimizer", get_args(config.Training.model_fields["optimizer"].annotation)
)
def test_keras_knows_every_optimizer_that_may_be_asked_for(optimizer: str) -> None:
    model = small_head([])
    before = model.get_weights()
    fit(model, blobs(), optimizer=optimizer, learning_rate=0.01, epochs=1, batch=42)
    assert type(model.optimizer).__name__.lower() == optimizer
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
    assert not np.array_equal(model.get_weights()[0], before[0])


def test_models_are_stacked_in_their_order() -> None:
    double = keras.Sequential([keras.Input((3,)), keras.layers.Rescaling(2)])
    add_one = keras.Sequential([keras.Input((3,)), keras.layers.Rescaling(1, offset=1)])
    stacked = loop.stack([double, add_one], (3,), "both")
    assert_array_equal(stacked.predict_on_batch(np.ones((1, 3))), [[3, 3, 3]])


def test_a_row_does_not_depend_on_how_many_stand_beside_it() -> None:
    model = build.extractor(build.network("convnet", 46, False, None), "convnet", None, "avg")
    images = np.random.default_rng(0).integers(0, 256, (40, 46, 46, 3), dtype=np.uint8)
    sizes = (1, 7, 32)
    outputs = [inference.run_padded(model.predict_on_batch, images[:size], 32) for size in sizes]
    assert [output.shape for output in outputs] == [(1, 128), (7, 128), (32, 128)]
    assert len(np.unique(outputs[2], axis=0)) == 32
    for output, size in zip(outputs, sizes, strict=True):
        assert_array_equal(output, outputs[2][:size])


def test_the_step_size_rises_then_falls_by_a_cosine() -> None:
    steps = loop.Steps(0.1, 4, 12, "cosine")
    found = [float(steps(step)) for step in range(12)]
    rising = [0.025, 0.05, 0.075, 0.1]
    falling = [0.05 * (1 + np.cos(np.pi * step / 8)) for step in range(8)]
    np.testing.assert_allclose(found, [*rising, *falling], rtol=1e-5)
    flat = loop.Steps(0.1, 2, 12, "constant")
    np.testing.assert_allclose([float(flat(step)) for step in range(4)], [0.05, 0.1, 0.1, 0.1])


def test_an_epoch_has_as_many_steps_as_asked_for_less_or_more_than_a_pass() -> None:
    for steps, images in ((2, [16, 16]), (5, [16, 16, 10, 16, 16])):
        seen: list[int] = []
        fit(small_head([]), blobs(), epochs=2, steps_per_epoch=steps, done=seen.append)
        assert seen == images * 2


def test_without_patience_every_epoch_is_run() -> None:
    model = small_head([])
    validate, _ = scripted(model, [0.1, 0.2, 0.3, 0.4, 0.5])
    assert len(fit(model, blobs(), epochs=5, patience=None, validate=validate)) == 5


def test_one_sigmoid_output_learns_what_two_outputs_learn() -> None:
    keras.utils.set_random_seed(0)
    rows = blobs()
    model = small_head([], n_outputs=1)
    epochs = fit(model, rows, optimizer="adam", learning_rate=0.1, epochs=20, patience=None)
    assert epochs[-1].val_accuracy == 1.0
    logits = model.predict_on_batch(rows[0])
    assert logits.shape == (42, 2)
    assert_array_equal(logits[:, 0], np.zeros(42))
    arrays = loop.head_arrays(model)
    assert arrays.kernels[0].shape == (2, 1)
    np.testing.assert_allclose(arrays.logits(rows[0]), logits, atol=1e-5)


def test_batch_norms_of_a_head_are_folded_into_its_arrays() -> None:
    keras.utils.set_random_seed(0)
    rows = blobs()
    model = small_head([5, 4], batch_norm=True)
    fit(model, rows, optimizer="adam", epochs=10, patience=None)
    arrays = loop.head_arrays(model)
    assert [kernel.shape for kernel in arrays.kernels] == [(2, 5), (5, 4), (4, 2)]
    np.testing.assert_allclose(
        arrays.logits(rows[0]), model.predict_on_batch(rows[0]), rtol=1e-4, atol=1e-4
    )


def test_weights_of_classes_are_balanced_or_as_given() -> None:
    label = np.array([0, 0, 0, 1])
    weights = loop.class_weights
    assert weights(None, label, 2, "fine_tune") is None
    assert weights("balanced", label, 2, "fine_tune") == [2 / 3, 2.0]
    assert weights([1.0, 3.0], label, 2, "fine_tune") == [1.0, 3.0]
    with pytest.raises(UserError) as told:
        weights([1.0], label, 2, "fine_tune")
    assert str(told.value) == (
        "params.yaml: fine_tune.class_weights: expected 2 numbers, one a class, got 1; list them "
        "in the classes' order"
    )


def test_a_class_of_double_weight_pulls_as_two_of_its_images() -> None:
    """By full batches of plain gradient descent, whose steps are linear in the weights."""
    features, label = blobs()
    twice = (
        np.concatenate([features, features[label == 1]]),
        np.concatenate([label, label[label == 1]]),
    )
    models = [small_head([]) for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    fit(
        models[0],
        (features, label),
        epochs=1,
        batch=42,
        class_weights=[1.0, 2.0],
        learning_rate=0.63,
    )
    fit(models[1], twice, epochs=1, batch=63, learning_rate=0.63 * 63 / 42)
    for found, expected in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_loss_that_diverges_later_keeps_the_best_weights_before_and_is_told() -> None:
    features, label = blobs()
    model = small_head([])
    losses = iter([0.5, 0.3, float("nan")])
    seen: list[list[NDArray[Any]]] = []

    def validate() -> loop.Batch:
        seen.append(model.get_weights())
        loss = next(losses)
        return np.log([[np.exp(-loss), -np.expm1(-loss)]]), np.array([0])

    trained = loop.fit(
        model,
        loop.Schedule("sgd", 0.1, 5, 42),
        lambda: [(features, label)],
        validate,
        None,
        "fine_tune",
        lambda rows: None,
        images=42,
    )
    assert [epoch.epoch for epoch in trained.epochs] == [1, 2]
    assert trained.fault.startswith("fine_tune epoch 3: expected a finite loss, got ")
    assert trained.fault.endswith(
        "nan on valid at learning rate 0.1; lower fine_tune.learning_rate"
    )
    assert_weights(model, seen[1])
