"""Planted faults of the data rank first; sound images are left alone."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pipeline.evaluation import data_quality
from pipeline.evaluation.probabilities import Bools, Floats, Ints, log_softmax
from pipeline.training import logistic

NONE, ALONE = np.zeros(1_000, np.bool_), np.arange(1_000)


def fit(features: data_quality.Features, label: Ints) -> data_quality.Predict:
    views, n_classes = np.array(features[:, None]), int(label.max()) + 1
    fitted = logistic.fit(views, label, n_classes, inverse_regularization=0.01, max_iterations=100)
    return lambda others: log_softmax(fitted.head.logits(others))


def out_of_fold(
    features: data_quality.Features, label: Ints, group: Ints = ALONE, held_out: Bools = NONE
) -> Floats:
    images = len(label)
    return data_quality.out_of_fold(features, label, group[:images], held_out[:images], fit)


def clusters(images: int, n_classes: int) -> tuple[data_quality.Features, Ints]:
    rng = np.random.default_rng(0)
    label = np.arange(images) % n_classes
    centers = rng.normal(0, 3, (n_classes, 16))
    return (centers[label] + rng.normal(0, 1, (images, 16))).astype(np.float32), label


@pytest.mark.parametrize("n_classes", [2, 4])
def test_swapped_labels_are_the_most_suspicious_and_likely_wrong(n_classes: int) -> None:
    features, label = clusters(600, n_classes)
    swapped = np.arange(0, 600, 50)
    wrong = label.copy()
    wrong[swapped] = (label[swapped] + 1) % n_classes
    quality = data_quality.label_quality(out_of_fold(features, wrong), wrong, NONE[:600])
    top = np.argsort(-quality.margin, kind="stable")[: len(swapped)]
    assert sorted(top) == swapped.tolist()
    assert quality.suggested[swapped].tolist() == label[swapped].tolist()
    likely = np.flatnonzero(quality.likely)
    assert set(likely) <= set(swapped)
    assert len(likely) >= len(swapped) / 3


def test_a_copy_with_the_same_wrong_label_does_not_confirm_it() -> None:
    features, label = clusters(200, 2)
    features = np.concatenate([features, np.repeat(features[:1], 20, axis=0)])
    label = np.append(label, np.full(20, 1 - label[0]))
    apart, together = (
        data_quality.label_quality(out_of_fold(features, label, group), label, NONE[:220]).margin
        for group in (np.arange(220), np.r_[np.arange(200), np.full(20, 200)])
    )
    assert together[200:].min() > apart[200:].max()


def test_the_only_image_of_a_class_gets_equal_probabilities() -> None:
    features, label = clusters(90, 3)
    features = np.concatenate([features, np.full((1, 16), 50, np.float32)])
    label = np.append(label, 3)
    predicted = out_of_fold(features, label)
    assert_allclose(predicted[90], np.log(1 / 4))
    assert (predicted[:90].argmax(axis=1) == label[:90]).all()
    assert not data_quality.label_quality(predicted, label, NONE[:91]).likely.any()
    copies = out_of_fold(np.ones((6, 4), np.float32), np.arange(6) % 2, np.zeros(6, np.int64))
    assert_allclose(copies, np.log(1 / 2))


def test_held_out_images_are_predicted_but_fit_no_model() -> None:
    features, label = clusters(150, 2)
    test, group = np.arange(150) % 3 == 0, np.arange(150)
    swapped = np.where(test, 1 - label, label)
    first, second = (out_of_fold(features, given, group, test) for given in (label, swapped))
    assert_allclose(first, second)
    assert (first.argmax(axis=1) == label).all()
    copy_of_held_out = np.where(group == 4, 3, group)
    without = out_of_fold(features, label, copy_of_held_out, test)
    assert np.abs(without[test] - first[test]).max() > 0


def test_a_label_is_likely_wrong_if_another_class_is_as_probable_as_usual() -> None:
    probability = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55], [0.1, 0.9]])
    label = np.array([0, 0, 1, 0, 0])
    quality = data_quality.label_quality(np.log(probability), label, NONE[:5])
    # Usual for label 1 is 0.7: 0.55 is less, 0.9 is more.
    assert quality.likely.tolist() == [False, False, False, False, True]
    assert_allclose(quality.margin, np.log([1 / 9, 1 / 4, 3 / 7, 55 / 45, 9]))
    assert quality.suggested.tolist() == [1, 1, 0, 1, 1]
    held_out = np.arange(5) == 3  # of label 0; without it the same is usual
    assert data_quality.label_quality(np.log(probability), label, held_out).likely[4]
    absent = np.log(np.array([[0.1, 0.1, 0.8], [0.2, 0.7, 0.1]]))  # a third class without images
    assert not data_quality.label_quality(absent, np.array([0, 1]), NONE[:2]).likely.any()


def test_an_outlier_is_the_most_isolated_image(monkeypatch: pytest.MonkeyPatch) -> None:
    features, _ = clusters(300, 3)
    features[7] = -features[7] * np.float32(0.9) + np.float32(5)
    monkeypatch.setattr(data_quality, "BLOCK", 1_000)
    assert int(data_quality.neighbors(features.copy()).isolation.argmax()) == 7
    assert_allclose(data_quality.neighbors(np.ones((20, 4), np.float32)).isolation, 1)


def test_only_copies_are_much_closer_than_other_neighbors() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(0, 1, (300, 256)).astype(np.float32)
    copies = features[:5] + rng.normal(0, 0.2, (5, 256)).astype(np.float32)
    near = data_quality.neighbors(np.concatenate([features, copies]))
    alike = np.flatnonzero(near.likeness < data_quality.ALIKE).tolist()
    assert alike == [0, 1, 2, 3, 4, 300, 301, 302, 303, 304]
    assert near.nearest[alike].tolist() == [300, 301, 302, 303, 304, 0, 1, 2, 3, 4]


def test_light_and_sharpness_are_those_worked_out_by_hand() -> None:
    board = np.indices((8, 8)).sum(axis=0) % 2 * 200
    images = np.stack([np.zeros((8, 8, 3)), np.repeat(board[:, :, None], 3, axis=2)])
    light = data_quality.light(images.astype(np.uint8))
    # Each inner pixel differs by 200 from its four neighbors: a Laplacian of 800 or -800.
    assert_allclose(light, [[0, 0, 0], [100, 100, 800**2]], rtol=1e-5, atol=1e-3)


def test_an_image_is_blank_or_else_dark_light_or_blurred() -> None:
    light = [[0, 1, 0], [20, 20, 500], [240, 20, 500], [120, 40, 3], [120, 40, 500]]
    faults = data_quality.light_faults(np.array(light, np.float64)).items()
    found = {name: np.flatnonzero(mask).tolist() for name, mask in faults}
    assert found == {"blank": [0], "dark": [1], "light": [2], "blurred": [3]}
