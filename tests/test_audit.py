"""Planted faults of data come out on top; what is sound does not."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from pipeline.evaluation import data_quality
from pipeline.evaluation.losses import Floats, Ints
from pipeline.training import head

NONE = np.zeros(1_000, np.bool_)


def fit(features: data_quality.Features, label: Ints) -> data_quality.Predict:
    fitted = head.fit_logistic(
        np.array(features[:, None]),
        label,
        int(label.max()) + 1,
        inverse_regularization=0.01,
        max_iterations=100,
    )
    return lambda others: head.log_softmax(fitted.head.logits(others))


def clusters(images: int, n_classes: int) -> tuple[data_quality.Features, Ints]:
    rng = np.random.default_rng(0)
    label = np.arange(images) % n_classes
    centres = rng.normal(0, 3, (n_classes, 16))
    return (centres[label] + rng.normal(0, 1, (images, 16))).astype(np.float32), label


@pytest.mark.parametrize("n_classes", [2, 4])
def test_swapped_labels_are_the_most_suspicious_and_likely_wrong(n_classes: int) -> None:
    features, label = clusters(600, n_classes)
    swapped = np.arange(0, 600, 50)
    given = label.copy()
    given[swapped] = (label[swapped] + 1) % n_classes
    predicted = data_quality.out_of_fold(features, given, np.arange(600), NONE[:600], fit)
    found = data_quality.suspicious_labels(predicted, given, NONE[: len(given)])
    top = np.argsort(-found.margin, kind="stable")[: len(swapped)]
    assert sorted(top) == swapped.tolist()
    assert found.suggested[swapped].tolist() == label[swapped].tolist()
    likely = np.flatnonzero(found.likely)
    assert set(likely) <= set(swapped)
    assert len(likely) >= len(swapped) / 3


def test_a_copy_with_the_same_wrong_label_does_not_vouch_for_it() -> None:
    features, label = clusters(200, 2)
    copies = np.repeat(features[:1], 20, axis=0)
    both = np.concatenate([features, copies])
    given = np.concatenate([label, np.full(20, 1 - label[0])])
    alone, together = np.arange(220), np.r_[np.arange(200), np.full(20, 200)]
    margins = [
        data_quality.suspicious_labels(
            data_quality.out_of_fold(both, given, group, NONE[:220], fit), given, NONE[:220]
        ).margin[200:]
        for group in (alone, together)
    ]
    assert margins[1].min() > margins[0].max()


def test_the_only_image_of_a_class_is_not_judged_and_the_others_are() -> None:
    features, label = clusters(90, 3)
    alone = np.append(label, 3)
    everything = np.concatenate([features, np.full((1, 16), 50, np.float32)])
    predicted = data_quality.out_of_fold(everything, alone, np.arange(91), NONE[:91], fit)
    assert_allclose(predicted[90], np.log(1 / 4))
    assert (predicted[:90].argmax(axis=1) == label).all()
    assert not data_quality.suspicious_labels(predicted, alone, NONE[:91]).likely.any()


def test_copies_of_one_image_are_too_few_to_judge_any() -> None:
    predicted = data_quality.out_of_fold(
        np.ones((6, 4), np.float32),
        np.array([0, 1, 0, 1, 0, 1]),
        np.zeros(6, np.int64),
        NONE[:6],
        fit,
    )
    assert_allclose(predicted, np.log(1 / 2))


def test_what_is_held_out_fits_no_model_and_is_judged_all_the_same() -> None:
    features, label = clusters(300, 2)
    test = np.arange(300) % 3 == 0
    swapped = np.where(test, 1 - label, label)
    group = np.arange(300)
    first, second = (
        data_quality.out_of_fold(features, given, group, test, fit) for given in (label, swapped)
    )
    assert_allclose(first, second)  # whatever the labels of the held-out images say
    assert (first.argmax(axis=1) == label).all()
    copies = np.where(
        group == 4, 3, group
    )  # one of the images that fit is a copy of a held-out one
    without = data_quality.out_of_fold(features, label, copies, test, fit)
    assert np.abs(without[test] - first[test]).max() > 0


def test_a_label_is_likely_wrong_where_another_class_is_as_sure_as_usual() -> None:
    probability = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55], [0.1, 0.9]])
    label = np.array([0, 0, 1, 0, 0])
    found = data_quality.suspicious_labels(np.log(probability), label, NONE[:5])
    # Of images labelled 1 the usual probability is 0.7: 0.55 is less, 0.9 is more.
    assert found.likely.tolist() == [False, False, False, False, True]
    assert_allclose(found.margin, np.log([1 / 9, 1 / 4, 3 / 7, 55 / 45, 9]))
    assert found.suggested.tolist() == [1, 1, 0, 1, 1]


def test_what_is_usual_for_a_label_owes_nothing_to_what_is_held_out() -> None:
    probability = np.array([[0.9, 0.1], [0.4, 0.6], [0.05, 0.95], [0.01, 0.99]])
    label, held_out = np.array([0, 0, 1, 1]), np.array([False, False, False, True])
    without = data_quality.suspicious_labels(np.log(probability), label, held_out)
    label[3] = 0
    held = data_quality.suspicious_labels(np.log(probability), label, held_out)
    assert held.likely[:3].tolist() == without.likely[:3].tolist()
    assert held.likely[3]


def test_a_class_without_an_image_is_never_suggested_as_likely() -> None:
    log_probability: Floats = np.log(np.array([[0.1, 0.1, 0.8], [0.2, 0.7, 0.1]]))
    assert not data_quality.suspicious_labels(
        log_probability, np.array([0, 1]), NONE[:2]
    ).likely.any()


def test_what_is_far_from_all_others_is_the_most_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    features, _ = clusters(300, 3)
    features[7] = -features[7] * np.float32(0.9) + np.float32(5)
    found = data_quality.neighbours(features)
    assert int(found.isolation.argmax()) == 7
    assert (found.isolation >= -1e-6).all()
    monkeypatch.setattr(data_quality, "BLOCK", 1_000)
    again = data_quality.neighbours(features)
    assert_allclose(again.isolation, found.isolation, atol=1e-5)
    assert again.nearest.tolist() == found.nearest.tolist()


def test_only_copies_are_much_nearer_than_other_neighbours() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(0, 1, (300, 256)).astype(np.float32)
    copies = features[:5] + rng.normal(0, 0.2, (5, 256)).astype(np.float32)
    found = data_quality.neighbours(np.concatenate([features, copies]))
    alike = np.flatnonzero(found.likeness < data_quality.ALIKE).tolist()
    assert alike == [0, 1, 2, 3, 4, 300, 301, 302, 303, 304]
    assert found.nearest[alike].tolist() == [300, 301, 302, 303, 304, 0, 1, 2, 3, 4]


def test_images_that_are_all_the_same_are_alike_and_none_is_isolated() -> None:
    found = data_quality.neighbours(np.ones((20, 4), np.float32))
    assert_allclose(found.isolation, 1)  # no direction from their mean, none is like another
    twice = data_quality.neighbours(np.repeat(np.eye(4, dtype=np.float32), 12, axis=0))
    assert_allclose(twice.likeness, 0, atol=1e-3)


def test_light_and_sharpness_are_those_worked_out_by_hand() -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    board = np.indices((8, 8)).sum(axis=0) % 2 * 200
    images = np.stack([black, np.repeat(board[:, :, None], 3, axis=2).astype(np.uint8)])
    found = data_quality.light(images)
    assert_allclose(found.mean, [0, 100], atol=1e-3)
    assert_allclose(found.spread, [0, 100], atol=1e-3)
    # Each inner pixel differs by 200 from its four neighbours: a Laplacian of 800 or -800.
    assert_allclose(found.sharpness, [0, 800**2], rtol=1e-5)


def test_an_image_is_blank_or_else_dark_light_or_blurred() -> None:
    found = data_quality.Light(
        np.array([0.0, 20, 240, 120, 120]),
        np.array([1.0, 20, 20, 40, 40]),
        np.array([0.0, 500, 500, 3, 500]),
    )
    faults = {
        name: np.flatnonzero(there).tolist()
        for name, there in data_quality.faults_of_light(found).items()
    }
    assert faults == {"blank": [0], "dark": [1], "light": [2], "blurred": [3]}
