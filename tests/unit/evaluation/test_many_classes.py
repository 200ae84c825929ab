"""Any number of classes and images has metrics; beyond 30 classes other code computes them."""

import itertools
import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

from pipeline.evaluation import (
    bootstrap,
    classification,
    comparison,
    data_quality,
    discriminant,
    ranking,
    scores,
)
from pipeline.evaluation.comparison import NO_DIFFERENCE, Scored
from pipeline.evaluation.probabilities import Floats, Ints, log_softmax
from pipeline.evaluation.selected_model import Selection

KINDS = {"right": 9.0, "wrong": -9.0, "random": 0.0}  # added to the logit of the label
PAIRS = [("head", "fine_tune"), ("fine_tune", "final")]


def drawn(n_classes: int, images: int, better: float, seed: int = 0) -> tuple[Floats, Ints]:
    """Log-probabilities and labels of `images` images per class."""
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.repeat(np.arange(n_classes), images))
    logits = rng.normal(0, 1, (len(label), n_classes))
    logits[np.arange(len(label)), label] += better
    return log_softmax(logits), label


def tied(n_classes: int, images: int) -> tuple[Floats, Ints]:
    log_probability, label = drawn(n_classes, images, 1.0)
    return log_probability.round(), label


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n_classes", "images"), [*itertools.product((2, 3, 10, 12, 50), (1, 2, 3, 8))]
)
def test_intervals_are_ordered_or_not_available(
    n_classes: int, images: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 200)
    head, label = drawn(n_classes, images, KINDS[kind])
    fine_tuned, _ = drawn(n_classes, images, KINDS[kind] + 1)
    models: dict[str, Floats] = {"head": head, "fine_tune": fine_tuned, "final": fine_tuned}
    scored, classes = {"test": Scored(models, label)}, [f"{n}" for n in range(n_classes)]
    summary = scores.summary(Selection("fine_tune", 1, 0.01), scored, classes, 6)
    report = comparison.intervals_and_differences(scored, classes, PAIRS, 6)
    curves = scores.curves(scored["test"])
    json.dumps([summary, report], allow_nan=False)
    assert all(
        np.isfinite(column).all() for of in curves.values() for c in of.values() for column in c
    )
    metrics, bounds = summary["final"]["test"], report["final"]["test"]
    assert bounds.keys() == metrics.keys() - {"images", "misclassified"}
    flat = [one for name, one in bounds.items() if name != "per_class"]
    flat += [one for of_class in bounds["per_class"].values() for one in of_class.values()]
    assert all(one is None or one[0] <= one[1] for one in flat)
    low, high = bounds["accuracy"]
    assert low <= metrics["accuracy"] <= high
    has_areas = bounds["roc_auc"] is not None and bounds["average_precision"] is not None
    if images == 1 or kind == "right":  # a class that cannot vary; a metric that does not
        assert not has_areas
    elif kind == "random" and (images == 8 or n_classes > 3):
        assert has_areas == (images > 2 or n_classes == 50)
    same = report["differences"]["final against fine_tune"]["test"].values()
    assert [one["interval"] for one in same] == [[0, 0]] * len(same)
    for one in report["differences"]["fine_tune against head"]["test"].values():
        assert one["interval"] is not None or one["shown"] == NO_DIFFERENCE


@pytest.mark.parametrize("present", [1, 39])
def test_a_class_without_an_image_leaves_out_the_areas(present: int) -> None:
    log_probability, label = drawn(40, 2, 1.0)
    scored = {"test": Scored({"head": log_probability}, label % present)}
    classes = [f"{n}" for n in range(40)]
    bounds = comparison.intervals_and_differences(scored, classes, [], 6)["head"]["test"]
    assert "roc_auc" not in bounds
    assert bounds["per_class"]["39"]["recall"] == [0, 1]


def test_the_areas_are_those_of_scikit_learn() -> None:
    for log_probability, label in (drawn(40, 3, 1.0), tied(40, 3)):
        truth = label[:, None] == np.arange(40)
        expected = {
            "roc_auc": roc_auc_score(truth, log_probability),
            "average_precision": average_precision_score(truth, log_probability),
        }
        assert classification.areas(log_probability, label) == pytest.approx(expected, rel=1e-12)


def test_the_points_of_the_curves_are_those_of_scikit_learn() -> None:
    log_probability, label = tied(40, 3)
    curves = classification.curves(log_probability, label)
    truth = (label[:, None] == np.arange(40)).ravel()
    false_rate, true_rate, _ = roc_curve(truth, log_probability.ravel(), drop_intermediate=False)
    precision, recall, _ = precision_recall_curve(truth, log_probability.ravel())
    for kind, x, y in (
        ("roc", false_rate, true_rate),
        ("precision_recall", recall, precision),
    ):
        points = set(zip(x.round(9).tolist(), y.round(9).tolist(), strict=True))
        drawn_points = zip(*(values.round(9).tolist() for values in curves[kind]), strict=True)
        assert set(drawn_points) <= points
        assert (np.diff(curves[kind][0]) >= 0).all()
        assert len(curves[kind][0]) <= ranking.POINTS + 2


def test_a_linearized_area_changes_with_a_weight_as_the_area_does() -> None:
    for log_probability, label in (drawn(12, 50, 1.0), tied(12, 50)):
        linear = ranking.linearized_areas(log_probability, label)
        exact = comparison.resampled(log_probability, label)
        step, images = 1e-4, len(label)
        weight = np.ones((60, images))
        weight[np.arange(60), np.arange(60) * 10] += step
        changed, before = exact(weight), exact(np.ones((1, images)))
        for name, values in linear.items():
            assert values.mean() == pytest.approx(before[name][0])
            slope = (changed[name] - before[name]) / step * images
            # The few images of a class are spread by sqrt(50 / 49).
            assert_allclose((values - values.mean())[::10], slope, rtol=0.02, atol=5e-3)


@pytest.mark.slow
def test_an_interval_of_linearized_areas_contains_the_true_area_95_times_in_100(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 400)
    expected = ranking.areas(*drawn(40, 1_000, 1.0, 999))["roc_auc"]
    contained = []
    for seed in range(200):
        log_probability, label = drawn(40, 4, 1.0, seed)
        values = ranking.linearized_areas(log_probability, label)["roc_auc"]
        _, low, high = bootstrap.mean_interval(values)
        contained.append(low <= expected <= high)
    assert 0.91 <= np.mean(contained) <= 0.99  # within 3 points, given 200 trials


def clusters(n_classes: int, images: int) -> tuple[data_quality.Features, Ints]:
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(n_classes), images)
    centers = rng.normal(0, 3, (n_classes, 16))
    return (centers[label] + rng.normal(0, 1, (len(label), 16))).astype(np.float32), label


def test_swapped_labels_among_many_classes_are_the_most_suspicious() -> None:
    features, label = clusters(40, 12)
    swapped, wrong = np.arange(0, 480, 40), label.copy()
    wrong[swapped] = (label[swapped] + 1) % 40
    group, held_out = np.arange(480), np.arange(480) % 12 == 5
    predicted = data_quality.out_of_fold(features, wrong, group, held_out, discriminant.fit)
    before = -predicted[np.arange(480), wrong].mean()
    data_quality.calibrate(predicted, wrong, held_out)
    assert -predicted[np.arange(480), wrong].mean() < before
    assert_allclose(np.exp(predicted).sum(axis=1), 1, atol=1e-5)
    quality = data_quality.label_quality(predicted, wrong, held_out)
    assert sorted(np.argsort(-quality.margin, kind="stable")[:12]) == swapped.tolist()
    assert quality.suggested[swapped].tolist() == label[swapped].tolist()


@pytest.mark.parametrize("images", [1, 2, 3])
def test_a_discriminant_of_few_images_is_finite_and_copies_stay_in_one_fold(images: int) -> None:
    features, label = clusters(40, images)
    features[:, 3] = 1  # constant
    predict = discriminant.fit(features.copy(), label)
    assert (predict(features).argmax(axis=1) == label).all()
    constant = discriminant.fit(np.ones((len(label), 4), np.float32), label)
    assert_allclose(np.exp(constant(np.ones((1, 4), np.float32))), 1 / 40, rtol=1e-5)
    group = np.arange(len(label)) // 2
    none = np.zeros(len(label), np.bool_)
    for fitted, others in data_quality._splits(label, group, none):
        assert not set(group[fitted]) & set(group[others])
    predicted = data_quality.out_of_fold(features, label, group, none, discriminant.fit)
    data_quality.calibrate(predicted, label, none)
    assert np.isfinite(predicted).all()


def test_neighbors_among_candidates_are_the_nearest_images(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(0, 1, (2_500, 20)) @ rng.normal(0, 1, (20, 400))).astype(np.float32)
    features[-100:] = features[:100] + rng.normal(0, 0.5, (100, 400))
    exact = data_quality.neighbors(features.copy())
    monkeypatch.setattr(data_quality, "MANY_IMAGES", 1_000)
    found = data_quality.neighbors(features.copy())
    assert (found.nearest == exact.nearest).mean() >= 0.99
    assert_array_equal(found.nearest[-100:], np.arange(100))
    assert_allclose(found.likeness[-100:], exact.likeness[-100:], atol=0.02)
    error = found.isolation - exact.isolation
    assert error.min() > -1e-5
    assert error.mean() < 0.002
    assert_array_equal(data_quality.neighbors(features).isolation, found.isolation)


def test_equal_features_of_many_images_are_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_quality, "MANY_IMAGES", 1_000)
    features = np.random.default_rng(0).normal(0, 1, (1_200, 8)).astype(np.float32)
    features[:600] = features[0]
    near = data_quality.neighbors(features)
    assert (near.nearest[:600] < 600).all()
    assert (near.nearest != np.arange(1_200)).all()
    assert_allclose(near.isolation[:600], 0, atol=1e-6)
    assert_allclose(data_quality.neighbors(np.ones((1_200, 4), np.float32)).isolation, 1)
