"""Calibrate probabilities on held-out images: a temperature, and bounds away from 0 and 1.

C. Guo et al., "On Calibration of Modern Neural Networks" (2017).
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.probabilities import Floats, Ints, log_softmax, losses

LOG_TEMPERATURE = (-3.0, 3.0)  # bounds of the search: 0.05 to 20
PRIOR = 0.3  # standard deviation of the log temperature: few networks need less than 0.5 or over 2
FOLDS, FEWEST = 5, 30  # of the cross-validation; images below which nothing can be shown
CLIPS = np.geomspace(1e-6, 0.25, 1_000)


def fit_temperature(log_probability: Floats, label: Ints) -> float:
    """Return the temperature with the lowest log loss, or 1 if the images do not show a gain.

    C. Guo et al. (2017), section 4.2, with a normal prior on the logarithm, without which a few
    images that are all right would drive it to 0. In cross-validation, the mean gain in log loss
    must exceed its standard error.
    """
    if len(label) < FEWEST:
        return 1.0
    gain, fold = losses(log_probability, label), np.arange(len(label)) % FOLDS
    for number in range(FOLDS):
        out = fold == number
        temperature = _most_likely(log_probability[~out], label[~out])
        gain[out] -= losses(scaled(log_probability[out], temperature), label[out])
    if gain.mean() <= gain.std(ddof=1) / np.sqrt(len(gain)):
        return 1.0
    return _most_likely(log_probability, label)


def _most_likely(log_probability: Floats, label: Ints) -> float:
    from scipy.optimize import minimize_scalar  # not imported by `submit`, which only scales

    shifted = log_probability - log_probability.max(axis=1, keepdims=True)
    shifted, own = shifted.astype(np.float64), losses(shifted, label)
    probability = np.empty_like(shifted)

    def loss(log: float) -> float:
        """Return the negative log-likelihood of all images at exp(log), with the prior's."""
        np.multiply(shifted, np.exp(-log), out=probability)
        total = np.exp(probability, out=probability).sum(axis=1)
        fit = np.log(total).sum() + own.sum() * np.exp(-log)
        return float(fit + (log / PRIOR) ** 2 / 2)

    best = minimize_scalar(loss, bounds=LOG_TEMPERATURE, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(best.x))


def scaled(log_probability: Floats, temperature: float) -> Floats:
    """Return log-probabilities at a temperature, float64; at 1 the input itself."""
    if temperature == 1:
        return log_probability
    return log_softmax(log_probability.astype(np.float64) / temperature, np.float64)


def clipped(probability: Floats, clip: float) -> NDArray[np.float64]:
    """Return probabilities (n, n_classes) away from 0 and 1; each row still sums to 1.

    Two classes are clipped to [clip, 1 - clip], more are mixed with a share 2 * clip of even odds.
    """
    probability = probability.astype(np.float64)
    n_classes = probability.shape[1]
    if n_classes == 2:
        second = np.clip(probability[:, 1], clip, 1 - clip)
        return np.stack([1 - second, second], axis=1)
    return np.asarray((1 - 2 * clip) * probability + 2 * clip / n_classes)


def best_clip(log_probability: Floats, label: Ints) -> float:
    """Return the clip with the lowest log loss, of one more image that is half wrongly labelled.

    The estimated share of k wrong labels among m is (k + 1/2) / (m + 1), never 0: R. Krichevsky and
    V. Trofimov, "The Performance of Universal Encoding" (1981).
    """
    probability, rows = np.exp(log_probability), np.arange(len(label))
    if (n_classes := probability.shape[1]) > 2:  # only the label's own plays a part
        own = probability[rows, label].astype(np.float64)
        losses = [-np.log((1 - 2 * clip) * own + 2 * clip / n_classes).sum() for clip in CLIPS]
    else:
        losses = [-np.log(clipped(probability, clip)[rows, label]).sum() for clip in CLIPS]
    virtual = (np.log(CLIPS) + np.log1p(-CLIPS)) / 2
    return float(CLIPS[np.argmin(losses - virtual)])
