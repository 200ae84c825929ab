"""Decision thresholds for two classes: an image is assigned the second class from there on.

`probability` is float (n,), of the second class; `label` is int (n,), 0 or 1. Thresholds are chosen
on one subset and then measured on others.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.probabilities import Floats, Ints


def curves(
    probability: Floats, label: Ints, threshold: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return accuracy and the error rates of both classes, float64, each in `threshold`'s shape.

    The error rate of a class without images is 0.
    """
    first, second = (np.sort(probability[label == index].astype(np.float64)) for index in (0, 1))
    wrong_of_first = len(first) - np.searchsorted(first, threshold, side="left")
    wrong_of_second = np.searchsorted(second, threshold, side="left")
    return (
        1 - (wrong_of_first + wrong_of_second) / len(label),
        wrong_of_first / max(1, len(first)),
        wrong_of_second / max(1, len(second)),
    )


def choose(probability: Floats, label: Ints, decimals: int) -> dict[str, float]:
    """Choose a threshold by each criterion, rounded to `decimals`.

    "half" is 0.5, "symmetric" balances the error rates of both classes, "accurate" has the highest
    accuracy. Candidates lie midway between neighboring probabilities; ties go to the one nearest
    to 0.5.
    """
    values = np.unique(probability.astype(np.float64))
    candidates = np.unique(np.round([0.5, *(values[1:] + values[:-1]) / 2], decimals))
    candidates = candidates[np.argsort(np.abs(candidates - 0.5), kind="stable")]
    accuracy, error_of_first, error_of_second = curves(probability, label, candidates)
    return {
        "half": 0.5,
        "symmetric": float(candidates[np.argmin(np.abs(error_of_first - error_of_second))]),
        "accurate": float(candidates[np.argmax(accuracy)]),
    }


def report(
    valid: str, subsets: Mapping[str, tuple[Floats, Ints]], classes: Sequence[str], decimals: int
) -> dict[str, Any]:
    """Choose thresholds on the subset `valid` and measure them on all `subsets`, ready for JSON."""

    def measured(subset: str, threshold: float) -> dict[str, Any]:
        accuracy, *errors = curves(*subsets[subset], np.array([threshold]))
        rates = zip(classes, errors, strict=True)
        return {
            "accuracy": round(float(accuracy[0]), decimals),
            "error_rate": {name: round(float(rate[0]), decimals) for name, rate in rates},
        }

    return {
        name: {"threshold": threshold} | {subset: measured(subset, threshold) for subset in subsets}
        for name, threshold in choose(*subsets[valid], decimals).items()
    }
