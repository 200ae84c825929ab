"""The training loop, on a head small enough to check every number."""

from collections.abc import Callable, Iterator
from typing import Any, get_args
from unittest.mock import Mock

import keras
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_equal
from numpy.typing import NDArray

from pipeline import schema
from pipeline.runtime.errors import UserError
from pipeline.storage.ledger import Labels
from pipeline.training import history, loop, optimization
from pipeline.training.head import loss_and_accuracy
from pipeline.training.history import Epoch

Rows = tuple[NDArray[np.float32], NDArray[np.int64]]
START = Epoch(0, 0.1, 1.0, 0.2, 1.0)
SETTINGS: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 4, "batch_size": 16}


def blobs() -> Rows:
    """Two classes that a line separates."""
    rng = np.random.default_rng(0)
    label = np.arange(42) % 2
    centres = np.array([[-2.0, -2.0], [2.0, 2.0]])
    return (centres[label] + 0.3 * rng.normal(size=(42, 2))).astype(np.float32), label


def labels_of(label: NDArray[np.int64]) -> Labels:
    """Each image is once in `train` and once in `valid`."""
    subset = np.repeat(["train", "valid"], len(label))
    return Labels(("cat", "dog"), np.tile(label, 2), subset)


def fit(
    model: keras.Model,
    rows: Rows,
    *,
    start: Epoch | None = None,
    predict: Callable[[Any], list[NDArray[Any]]] | None = None,
    seen: list[int] | None = None,
    rates: optimization.Rates = optimization.NO_RATES,
    **settings: Any,
) -> tuple[list[Epoch], str]:
    """Call `loop.fit` on `rows`, in order; validate on the same rows by default."""
    (features, label), seen = rows, [] if seen is None else seen
    section = schema.DenseHead.model_construct(**SETTINGS | settings)

    def draw() -> Iterator[optimization.Batch]:
        for first in range(0, len(label), section.batch_size):
            batch = slice(first, first + section.batch_size)
            seen.append(len(label[batch]))
            yield features[batch], label[batch]

    predict = predict or (lambda _: [model.predict_on_batch(features)])
    words = labels_of(label), "train_head", draw, predict, np.random.default_rng(0), rates
    return loop.fit(loop.Learning(model, section, *words), start=start)


def scripted(model: keras.Model, losses: list[float]) -> tuple[Any, list[list[NDArray[Any]]]]:
    """Return a `predict` that gives these losses in turn, and the weights that it saw."""
    seen: list[list[NDArray[Any]]] = []

    def predict(_: object) -> list[NDArray[Any]]:
        loss = losses[len(seen)]
        seen.append(model.get_weights())
        correct = blobs()[1][:, None] == [0, 1]
        return [np.where(correct, -loss, np.log(-np.expm1(-loss)))]

    return predict, seen


@pytest.mark.parametrize(
    ("losses", "patience", "start", "epochs_run", "best"),
    [
        ([0.5, 0.3, 0.4, 0.45, 0.1], 2, None, 4, 2),
        ([0.5, 0.3, 0.4, 0.2, 0.25, 0.3, 0.1], 2, None, 6, 4),  # counts anew
        ([0.3, 0.3, 0.1], 1, None, 2, 1),  # equal is no improvement
        ([0.1, 0.2, 0.3, 0.4, 0.5], None, None, 5, 1),
        ([0.2, 0.3, 0.1], 2, START, 2, 0),
        ([0.3, 0.1], 2, START, 2, 2),
    ],
)
def test_the_best_epochs_weights_are_kept_and_patience_ends_training(
    losses: list[float], patience: int | None, start: Epoch | None, epochs_run: int, best: int
) -> None:
    model = loop.dense_head(2, [], 2)
    before = model.get_weights()
    predict, seen = scripted(model, losses)
    epochs, _ = fit(
        model, blobs(), start=start, predict=predict, epochs=len(losses), patience=patience
    )
    assert epochs[:-epochs_run] == ([start] if start else [])
    assert [epoch.epoch for epoch in epochs[-epochs_run:]] == list(range(1, epochs_run + 1))
    assert [round(epoch.val_loss, 6) for epoch in epochs[-epochs_run:]] == losses[:epochs_run]
    assert_equal(model.get_weights(), [before, *seen][best])


def test_a_loss_that_is_not_finite_in_the_first_epoch_is_an_error() -> None:
    features, label = blobs()
    features[3] = np.nan
    expected = (
        "train_head epoch 1: expected a finite loss, got nan on train and nan on valid at "
        "learning rate 0.1; lower train_head.learning_rate"
    )
    with pytest.raises(UserError, match=f"^{expected}$"):
        fit(loop.dense_head(2, [], 2), (features, label))


def test_a_loss_that_diverges_later_keeps_the_best_weights_before_it() -> None:
    model = loop.dense_head(2, [], 2)
    predict, seen = scripted(model, [0.5, 0.3, float("nan")])
    epochs, fault = fit(model, blobs(), predict=predict)
    assert [epoch.epoch for epoch in epochs] == [1, 2]
    assert fault.startswith("train_head epoch 3: expected a finite loss, got ")
    assert_equal(model.get_weights(), seen[1])


def test_the_training_loss_is_the_mean_over_all_images_of_an_epoch() -> None:
    """At a learning rate of 0 it is that of the unchanged model, for any batches."""
    rows = blobs()
    model = loop.dense_head(2, [3], 2)
    loss, accuracy = loss_and_accuracy(model.predict_on_batch(rows[0]), rows[1])
    for epoch in fit(model, rows, learning_rate=0.0, batch_size=20, epochs=2)[0]:
        assert epoch.loss == pytest.approx(loss, rel=1e-6)
        assert epoch.accuracy == pytest.approx(accuracy, rel=1e-6)
        assert (epoch.val_loss, epoch.val_accuracy) == (loss, accuracy)


@pytest.mark.parametrize(
    "optimizer", get_args(schema.Training.model_fields["optimizer"].annotation)
)
def test_keras_has_every_optimizer_of_the_schema(optimizer: str) -> None:
    model = loop.dense_head(2, [], 2)
    before = model.get_weights()
    fit(model, blobs(), optimizer=optimizer, learning_rate=0.01, epochs=1)
    assert type(model.optimizer).__name__.lower() == optimizer
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
    assert not np.array_equal(model.get_weights()[0], before[0])


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_jax_compiles_its_steps(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """TensorFlow's functions are graphs without XLA; JAX would run one operation at a time."""
    model = Mock()
    monkeypatch.setattr(keras.config, "backend", lambda: backend)
    optimization.compile_for(model, keras.optimizers.SGD())
    assert model.compile.call_args.kwargs["jit_compile"] is (backend == "jax")


def one_loss(logits: NDArray[Any], label: NDArray[Any], **settings: Any) -> float:
    """The loss of a batch, as `fit` computes it."""
    section = schema.DenseHead.model_construct(**SETTINGS | settings)
    model = Mock()
    optimization.compile_for(model, keras.optimizers.SGD(), section)
    batch = logits, label
    _, targets = optimization.prepared(
        batch, section, None, logits.shape[1], np.random.default_rng(0)
    )
    return float(model.compile.call_args.kwargs["loss"](targets, logits))


@pytest.mark.parametrize("gamma", [None, 2.0])
@pytest.mark.parametrize("smoothing", [None, 0.2])
def test_smoothed_labels_give_every_class_a_share_and_a_focal_loss_weighs_by_certainty(
    smoothing: float | None, gamma: float | None
) -> None:
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    label = np.array([0, 3, 1, 2, 2])
    shares = np.full((5, 4), (smoothing or 0) / 4)
    shares[np.arange(5), label] += 1 - (smoothing or 0)
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    weight = (1 - probability) ** (gamma or 0)
    expected = -(shares * weight * np.log(probability)).sum(axis=1).mean()
    found = one_loss(logits, label, label_smoothing=smoothing, focal_gamma=gamma)
    assert found == pytest.approx(expected, rel=1e-5)


def mixed(
    inputs: NDArray[Any], label: NDArray[Any], **settings: Any
) -> list[optimization.Prepared]:
    """A hundred batches, each (inputs, targets), of three classes."""
    section = schema.FineTune.model_construct(**SETTINGS | settings)
    rng = np.random.default_rng(0)
    weights = np.array([1, 2, 4], np.float32) if "weighted" in settings else None
    return [optimization.prepared((inputs, label), section, weights, 3, rng) for _ in range(100)]


def test_mixup_mixes_inputs_and_targets_in_the_same_shares() -> None:
    label = np.arange(6) % 3
    inputs = np.eye(6, dtype=np.float32)  # a share of each image of the batch
    shares = []
    for mixture, targets in mixed(inputs, label, mixup=0.4):
        assert_allclose(mixture @ np.eye(3)[label], targets, atol=1e-6)
        assert_allclose(targets.sum(axis=1), 1, rtol=1e-6)
        shares.append(mixture.max())
    assert np.mean(np.array(shares) > 0.9) > 0.3  # Beta(0.4, 0.4) is mostly near 0 or 1
    assert min(shares) < 0.7


def test_cutmix_puts_one_rectangle_of_another_image_in_and_targets_have_its_area() -> None:
    label = np.arange(6) % 3
    inputs = np.broadcast_to(np.arange(6.0)[:, None, None, None], (6, 20, 30, 3)).copy()
    areas = []
    for images, targets in mixed(inputs, label, cutmix=1.0):
        for number, image in enumerate(images):
            strange = image[..., 0] != number
            share = strange.mean()
            if share:
                rows, columns = np.nonzero(strange)
                box = strange[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
                assert box.all()
                other = int(image[rows[0], columns[0], 0])
                expected = np.eye(3)[label[number]] * (1 - share) + np.eye(3)[label[other]] * share
                assert_allclose(targets[number], expected, atol=1e-6)
                areas.append(share)
    assert 0.05 < np.mean(areas) < 0.6
    assert_equal(inputs[:, 0, 0, 0], np.arange(6.0))  # the batch itself is not changed


def test_with_mixup_and_cutmix_batches_take_turns_and_class_weights_follow_the_shares() -> None:
    label = np.arange(6) % 3
    inputs = np.broadcast_to(np.arange(6.0)[:, None, None, None], (6, 8, 8, 3)).copy()
    whole = 0
    for images, targets, weight in mixed(inputs, label, mixup=1.0, cutmix=1.0, weighted=True):
        assert_allclose(weight, targets @ [1, 2, 4], rtol=1e-5)
        whole += int((images == np.rint(images)).all())
    assert 30 < whole < 70


def test_an_average_of_weights_replaces_them_after_each_epoch() -> None:
    def after(steps: int, **settings: Any) -> NDArray[Any]:
        keras.utils.set_random_seed(0)
        model = loop.dense_head(2, [], 2)
        once: dict[str, Any] = {"epochs": 1, "batch_size": 14, "steps_per_epoch": steps}
        fit(model, blobs(), **once, **settings)
        kernel: NDArray[Any] = model.get_weights()[0]
        return kernel

    first, second, third = map(after, (1, 2, 3))
    expected = 0.5 * (0.5 * first + 0.5 * second) + 0.5 * third  # starts at the first weights
    assert np.abs(expected - third).max() > 0.01
    assert_allclose(after(3, ema=0.5), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "lion"])
def test_the_learning_rate_of_single_variables_can_be_lower(optimizer: str) -> None:
    moved = []
    for factor in (1.0, 0.25):
        keras.utils.set_random_seed(0)
        model = loop.dense_head(2, [], 2)
        kernel, bias = model.get_weights()
        rates = {optimization.key_of(model.trainable_weights[0]): factor}
        once: dict[str, Any] = {"epochs": 1, "batch_size": 42, "optimizer": optimizer}
        fit(model, blobs(), **once, rates=rates)
        after = model.get_weights()
        moved.append((after[0] - kernel, after[1] - bias))
    assert_allclose(moved[1][0], 0.25 * moved[0][0], rtol=1e-3, atol=1e-7)
    assert_allclose(moved[1][1], moved[0][1], rtol=1e-5)


def test_smoothed_labels_keep_the_model_from_being_certain() -> None:
    largest = {}
    for smoothing in (None, 0.3):
        keras.utils.set_random_seed(0)
        model = loop.dense_head(2, [], 2)
        fit(model, blobs(), epochs=30, label_smoothing=smoothing)
        features, _ = blobs()
        largest[smoothing] = np.abs(np.diff(model.predict_on_batch(features))).max()
    assert largest[0.3] < largest[None] / 1.5


def test_decay_shrinks_weights_and_clipping_shortens_steps() -> None:
    def moved(**settings: Any) -> float:
        keras.utils.set_random_seed(0)
        model = loop.dense_head(2, [], 2)
        kernel = model.get_weights()[0]
        one_step: dict[str, Any] = {"epochs": 1, "batch_size": 42, "learning_rate": 0.5}
        fit(model, blobs(), **one_step, **settings)
        return float(np.linalg.norm(model.get_weights()[0] - kernel))

    keras.utils.set_random_seed(0)
    kernel = np.linalg.norm(loop.dense_head(2, [], 2).get_weights()[0])
    assert moved(clip_norm=1e-6) < 1e-5 < moved()
    assert moved(clip_norm=1e-6, weight_decay=0.2) == pytest.approx(0.5 * 0.2 * kernel, rel=1e-3)


def test_the_step_size_rises_then_falls_by_a_cosine() -> None:
    steps = optimization.Steps(0.1, 4, 12, "cosine")
    rising = [0.025, 0.05, 0.075, 0.1]
    falling = [0.05 * (1 + np.cos(np.pi * step / 8)) for step in range(8)]
    assert_allclose([float(steps(step)) for step in range(12)], [*rising, *falling], rtol=1e-5)
    flat = optimization.Steps(0.1, 2, 12, "constant")
    assert_allclose([float(flat(step)) for step in range(4)], [0.05, 0.1, 0.1, 0.1])


@pytest.mark.parametrize("steps", [None, 2, 5])
def test_an_epoch_may_have_fewer_or_more_steps_than_a_pass(steps: int | None) -> None:
    seen: list[int] = []
    fit(loop.dense_head(2, [], 2), blobs(), epochs=2, steps_per_epoch=steps, seen=seen)
    assert seen == [16, 16, 10, 16, 16][: steps or 3] * 2


@pytest.mark.parametrize(("hidden", "n_outputs", "batch_norm"), [([], 1, False), ([5, 4], 2, True)])
def test_a_separable_set_is_learnt_and_the_head_gives_the_same_logits_as_arrays(
    hidden: list[int], n_outputs: int, batch_norm: bool
) -> None:
    """Also with a sigmoid, and with batch norms, which are folded."""
    keras.utils.set_random_seed(0)
    features, label = blobs()
    model = loop.dense_head(2, hidden, n_outputs, batch_norm=batch_norm)
    epochs, _ = fit(model, (features, label), optimizer="adam", epochs=20)
    assert epochs[-1].val_accuracy == 1.0
    assert epochs[-1].val_loss < epochs[0].val_loss
    expected = model.predict_on_batch(features)
    assert expected.shape == (42, 2)
    found = loop.head_arrays(model).logits(features)
    assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_class_weights_are_balanced_or_as_configured() -> None:
    labels = labels_of(np.array([0, 0, 0, 1]))

    def weights(wanted: object) -> Any:
        section = schema.DenseHead.model_construct(class_weights=wanted)
        return optimization.class_weights(section, labels, "fine_tune")

    assert weights(None) is None
    assert_allclose(weights("balanced"), [2 / 3, 2])
    assert_allclose(weights([1.0, 3.0]), [1, 3])
    with pytest.raises(UserError, match=r"fine_tune.class_weights: expected 2 numbers, .*, got 1"):
        weights([1.0])


def test_a_class_of_double_weight_counts_like_two_of_its_images() -> None:
    """With full batches of plain gradient descent, steps are linear in the weights."""
    features, label = blobs()
    second = label == 1
    twice = np.concatenate([features, features[second]]), np.concatenate([label, label[second]])
    models = [loop.dense_head(2, [], 2) for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    weighted: dict[str, Any] = {"learning_rate": 0.63, "class_weights": [1.0, 2.0]}
    fit(models[0], (features, label), epochs=1, batch_size=42, **weighted)
    fit(models[1], twice, epochs=1, batch_size=63, learning_rate=0.63 * 63 / 42)
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        assert_allclose(one, other, atol=1e-5)


def test_the_mean_of_histories_takes_the_best_epoch_of_those_that_have_ended() -> None:
    long = [Epoch(number, 1.0, 0.5, loss, 0.5) for number, loss in ((1, 0.6), (2, 0.4), (3, 0.5))]
    short = [Epoch(1, 3.0, 0.7, 0.2, 0.9), Epoch(2, 3.0, 0.7, 0.8, 0.9)]
    found = history.mean([long, short])
    assert [epoch.epoch for epoch in found] == [1, 2, 3]
    assert [round(epoch.val_loss, 6) for epoch in found] == [0.4, 0.6, 0.35]
    assert (found[2].loss, round(found[2].val_accuracy, 6)) == (2.0, 0.7)
