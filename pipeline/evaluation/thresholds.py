"""From which probability of the second of two classes an image is taken for it.

`probability` is float (n,), of the second class; `label` is int (n,), 0 or 1. Chosen on some
images, a threshold is then held against others.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.losses import Floats, Ints


class Errors(NamedTuple):
    """Shares of images: of all that are right, and of each class that are taken for the other."""

    accuracy: float
    error_of_first: float
    error_of_second: float


def errors(probability: Floats, label: Ints, threshold: float) -> Errors:
    """What a threshold does; of a class without an image the share is 0."""
    return Errors(*(float(share[0]) for share in curves(probability, label, np.array([threshold]))))


def curves(
    probability: Floats, label: Ints, threshold: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """The fields of `Errors` at each of many thresholds, float64 of the shape of `threshold`."""
    first, second = (np.sort(probability[label == index].astype(np.float64)) for index in (0, 1))
    wrong_of_first = len(first) - np.searchsorted(first, threshold, side="left")
    wrong_of_second = np.searchsorted(second, threshold, side="left")
    return (
        1 - (wrong_of_first + wrong_of_second) / len(label),
        wrong_of_first / max(1, len(first)),
        wrong_of_second / max(1, len(second)),
    )


def chosen(probability: Floats, label: Ints, decimals: int) -> dict[str, float]:
    """Thresholds by what they are chosen for, rounded to `decimals`.

    "half" is 0.5; "symmetric" makes the shares of errors of both classes as equal as can be;
    "accurate" has the most images right. Candidates lie midway between the probabilities of two
    neighbours; of equally good ones the nearest to 0.5 is taken.
    """
    candidates = _candidates(probability, decimals)
    accuracy, error_of_first, error_of_second = curves(probability, label, candidates)
    return {
        "half": 0.5,
        "symmetric": float(candidates[np.argmin(np.abs(error_of_first - error_of_second))]),
        "accurate": float(candidates[np.argmax(accuracy)]),
    }


def report(
    valid: str,
    subsets: Mapping[str, tuple[Floats, Ints]],
    classes: Sequence[str],
    decimals: int,
) -> dict[str, Any]:
    """Thresholds chosen on the subset `valid`, and what each does on all, ready for JSON.

    Args:
        subsets: by name, probability of the second class and label, each (n,).
    """

    def told(subset: str, threshold: float) -> dict[str, Any]:
        found = errors(*subsets[subset], threshold)
        shares = zip(classes, found[1:], strict=True)
        return {
            "accuracy": round(found.accuracy, decimals),
            "error_rate": {name: round(share, decimals) for name, share in shares},
        }

    return {
        name: {"threshold": threshold, **{subset: told(subset, threshold) for subset in subsets}}
        for name, threshold in chosen(*subsets[valid], decimals).items()
    }


def _candidates(probability: Floats, decimals: int) -> NDArray[np.float64]:
    """Rounded, the nearest to 0.5 first."""
    known = np.unique(probability.astype(np.float64))
    midway = (known[1:] + known[:-1]) / 2
    rounded = np.unique(np.round([0.5, *midway], decimals))
    return np.asarray(rounded[np.argsort(np.abs(rounded - 0.5), kind="stable")])
