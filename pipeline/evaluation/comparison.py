"""How sure the figures of `metrics.summary` are, and which model is better beyond chance.

`predictions` are log-probabilities (n, n_classes) by model, all of the same images; `label` is
int (n,). What comes out is rounded to `decimals`, ready for JSON; an interval is [low, high].
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.evaluation import bootstrap, classification, resampled
from pipeline.evaluation.bootstrap import Interval, Samples
from pipeline.evaluation.losses import Floats, Ints, Scored
from pipeline.evaluation.resampled import Sampled

NO_DIFFERENCE = "no difference shown"
LOWER_IS_BETTER = ("log_loss", "brier", "expected_calibration_error")
COMPARED = ("accuracy", "roc_auc", "average_precision", *LOWER_IS_BETTER)


def of_figures(
    log_probability: Floats,
    label: Ints,
    samples: Sampled,
    classes: Sequence[str],
    decimals: int,
) -> dict[str, Any]:
    """The intervals of one model's figures, by their names in `metrics.summary`.

    Wilson's for proportions, from `samples` (`resampled.samples`) for the rest.
    """
    counts = classification.confusion(log_probability, label)
    right, of_class, said = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)

    def proportion(count: Any, total: Any) -> list[float]:
        return _bounds(bootstrap.wilson(int(count), int(total)), decimals)

    known = classification.figures(log_probability, label)
    del known["accuracy"]
    f1 = 2 * right / np.maximum(of_class + said, 1)
    return {
        "accuracy": proportion(right.sum(), len(label)),
        **{
            figure: _bounds(_interval(figure)(value, samples[figure]), decimals)
            for figure, value in known.items()
        },
        "per_class": {
            name: {
                "precision": proportion(right[index], said[index]),
                "recall": proportion(right[index], of_class[index]),
                "f1": _bounds(
                    bootstrap.around(float(f1[index]), samples["f1"].column(index)), decimals
                ),
            }
            for index, name in enumerate(classes)
        },
    }


def of_difference(
    first: Floats,
    second: Floats,
    label: Ints,
    samples: tuple[Sampled, Sampled],
    decimals: int,
) -> dict[str, Any]:
    """How much more or less the second model's figures are than the first's, paired by image.

    Each with its interval, and in words which is better, or "no difference shown".
    """
    figures = [classification.figures(given, label) for given in (first, second)]
    found = {}
    for name in COMPARED:
        if name not in figures[0]:
            continue
        difference = bootstrap.around(
            figures[1][name] - figures[0][name], samples[1][name].minus(samples[0][name])
        )
        found[name] = {
            "difference": round(difference.value, decimals),
            "interval": _bounds(difference, decimals),
            "shown": verdict(name, difference),
        }
    return found


def verdict(figure: str, difference: Interval) -> str:
    """ "better", "worse", or, where the interval spans 0, that no difference is shown."""
    if difference.spans_zero:
        return NO_DIFFERENCE
    return "better" if (difference.value < 0) == (figure in LOWER_IS_BETTER) else "worse"


def of_subsets(
    scored: Mapping[str, Scored],
    classes: Sequence[str],
    pairs: Iterable[tuple[str, str]],
    decimals: int,
) -> dict[str, Any]:
    """The intervals of each model on each subset, and the differences of `pairs` on each."""
    found: dict[str, Any] = {
        "confidence": bootstrap.CONFIDENCE,
        "resamples": bootstrap.RESAMPLES,
        "differences": {},
    }
    pairs = list(pairs)
    for subset, (predictions, label) in scored.items():
        samples = resampled.samples(predictions, label)
        for model, given in predictions.items():
            bounds = of_figures(given, label, samples[model], classes, decimals)
            found.setdefault(model, {})[subset] = bounds
        for first, second in pairs:
            difference = of_difference(
                *(predictions[first], predictions[second], label),
                (samples[first], samples[second]),
                decimals,
            )
            name = f"{second} against {first}"
            found["differences"].setdefault(name, {})[subset] = difference
    return found


def _interval(figure: str) -> Callable[[float, Samples], Interval]:
    return bootstrap.symmetric if figure == "expected_calibration_error" else bootstrap.around


def _bounds(interval: Interval, decimals: int) -> list[float]:
    return [round(interval.low, decimals), round(interval.high, decimals)]
