"""Confidence intervals of metrics, and paired differences between models or runs.

`predictions` are log-probabilities (n, n_classes) by model, all of the same images. Results for
JSON are rounded to `decimals`; an interval there is [low, high].
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.evaluation import bootstrap, classification, resampled_metrics
from pipeline.evaluation.bootstrap import Interval
from pipeline.evaluation.probabilities import Floats, Ints
from pipeline.evaluation.resampled_metrics import MetricSamples
from pipeline.evaluation.selected_model import Run
from pipeline.storage import ledger

NO_DIFFERENCE = "no difference shown"
LOWER_IS_BETTER = ("log_loss", "brier", "expected_calibration_error")
COMPARED = ("accuracy", "roc_auc", "average_precision", *LOWER_IS_BETTER)
DECIMALS = 6  # of differences between runs


class Scored(NamedTuple):
    """One subset: log-probabilities (n, n_classes) by model, and labels (n,)."""

    predictions: dict[str, Floats]
    label: Ints


def intervals_and_differences(
    scored: Mapping[str, Scored],
    classes: Sequence[str],
    pairs: Iterable[tuple[str, str]],
    decimals: int,
) -> dict[str, Any]:
    """Return the intervals of each model on each subset, and the differences of `pairs`."""
    report: dict[str, Any] = {
        "confidence": bootstrap.CONFIDENCE,
        "resamples": bootstrap.RESAMPLES,
        "differences": {},
    }
    pairs = list(pairs)
    for subset, (predictions, label) in scored.items():
        samples = resampled_metrics.samples(predictions, label)
        for model, predicted in predictions.items():
            bounds = metric_intervals(predicted, label, samples[model], classes, decimals)
            report.setdefault(model, {})[subset] = bounds
        for pair in pairs:
            difference = paired_differences(predictions, label, samples, pair, decimals)
            name = f"{pair[1]} against {pair[0]}"
            report["differences"].setdefault(name, {})[subset] = difference
    return report


def metric_intervals(
    log_probability: Floats,
    label: Ints,
    samples: MetricSamples,
    classes: Sequence[str],
    decimals: int,
) -> dict[str, Any]:
    """Return the interval of each metric of one model, keyed like `classification.summary`.

    Wilson's interval for proportions, from `samples` for the rest.
    """
    counts = classification.confusion(log_probability, label)
    correct, actual, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)

    def proportion(count: Any, total: Any) -> list[float]:
        return _bounds(bootstrap.wilson(int(count), int(total)), decimals)

    def resampled(name: str, value: float) -> list[float]:
        symmetric = name == "expected_calibration_error"
        interval = bootstrap.symmetric_interval if symmetric else bootstrap.bca_interval
        return _bounds(interval(value, samples[name]), decimals)

    values = classification.metrics(log_probability, label)
    f1 = 2 * correct / np.maximum(actual + predicted, 1)
    return {
        **{name: resampled(name, value) for name, value in values.items() if name != "accuracy"},
        "accuracy": proportion(correct.sum(), len(label)),
        "per_class": {
            name: {
                "precision": proportion(correct[i], predicted[i]),
                "recall": proportion(correct[i], actual[i]),
                "f1": _bounds(bootstrap.bca_interval(float(f1[i]), samples["f1"][:, i]), decimals),
            }
            for i, name in enumerate(classes)
        },
    }


def paired_differences(
    predictions: Mapping[str, Floats],
    label: Ints,
    samples: Mapping[str, MetricSamples],
    pair: tuple[str, str],
    decimals: int,
) -> dict[str, dict[str, Any]]:
    """Return the second model's metrics minus the first's, paired by image, with a verdict each."""
    first, second = pair
    old, new = (classification.metrics(predictions[name], label) for name in pair)
    differences = {
        name: bootstrap.bca_interval(
            new[name] - old[name], samples[second][name] - samples[first][name]
        )
        for name in COMPARED
        if name in old
    }
    return {
        name: {
            "difference": round(difference.value, decimals),
            "interval": _bounds(difference, decimals),
            "shown": verdict(name, difference),
        }
        for name, difference in differences.items()
    }


def verdict(metric: str, difference: Interval) -> str:
    """Return "better" or "worse", or that no difference is shown if the interval spans 0."""
    if difference.low <= 0 <= difference.high:
        return NO_DIFFERENCE
    return "better" if (difference.value < 0) == (metric in LOWER_IS_BETTER) else "worse"


def compare_runs(old: Run, new: Run, subset: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Compare the final models of two runs on the images of a subset that both hold out.

    Only images in the same subset with the same label in both runs count, so neither model was
    trained on them. Return their number, and by metric its old and new value beside
    `paired_differences`; empty if the runs share no image.
    """
    old_rows, new_rows = _shared_images(old.rows, new.rows, subset)
    if not len(old_rows):
        return 0, {}
    label = np.array([new.rows[row].index for row in new_rows], dtype=np.int64)
    predictions = {"old": old.log_probability[old_rows], "new": new.log_probability[new_rows]}
    samples = resampled_metrics.samples(predictions, label)
    values = {side: classification.metrics(of, label) for side, of in predictions.items()}
    paired = paired_differences(predictions, label, samples, ("old", "new"), DECIMALS)
    return len(label), {
        name: {side: values[side][name] for side in values} | difference
        for name, difference in paired.items()
    }


def _shared_images(
    old: Sequence[ledger.LedgerRow], new: Sequence[ledger.LedgerRow], subset: str
) -> tuple[Ints, Ints]:
    """Return row numbers of images with equal content and label in the subset of both runs."""
    first_row: list[dict[tuple[str, str], int]] = [{}, {}]
    for rows, by_content in zip((old, new), first_row, strict=True):
        for number, row in enumerate(rows):
            if row.subset == subset:
                by_content.setdefault((row.sha256, row.label), number)
    shared = [key for key in first_row[1] if key in first_row[0]]
    in_old, in_new = (np.array([of[key] for key in shared], np.int64) for of in first_row)
    return in_old, in_new


def _bounds(interval: Interval, decimals: int) -> list[float]:
    return [round(interval.low, decimals), round(interval.high, decimals)]
