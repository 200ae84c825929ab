"""Probabilities that mean what they say: a temperature, and how near to 0 and 1 they may go.

Throughout, `log_probability` is float (n, n_classes), natural logarithms; `label` is int (n,).
What is chosen here is chosen on images that nothing was trained on.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from pipeline.evaluation.losses import Floats, Ints, log_loss

LOG_TEMPERATURE = (-3.0, 3.0)  # bounds: 0.05 to 20
CLIPS = np.geomspace(1e-6, 0.25, 1_000)


def temperature(log_probability: Floats, label: Ints) -> float:
    """The one by which the logarithms are divided for the lowest log loss.

    C. Guo et al., "On Calibration of Modern Neural Networks" (2017), section 4.2.
    """
    found = minimize_scalar(
        lambda log: log_loss(calibrated(log_probability, float(np.exp(log))), label),
        bounds=LOG_TEMPERATURE,
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def calibrated(log_probability: Floats, by: float) -> Floats:
    """Log-probabilities at a temperature, float64 (n, n_classes); at 1 they stay as they are."""
    if by == 1:
        return log_probability
    return np.asarray(log_softmax(log_probability.astype(np.float64) / by, axis=1))


def clipped(probability: Floats, clip: float) -> NDArray[np.float64]:
    """Probabilities (n, n_classes), none nearer to 0 or 1 than `clip`, each row adding up to 1.

    One wrong answer given with certainty costs more log loss than all others together. Of more
    than two classes, a share of 2 `clip` is spread evenly over all.
    """
    probability = probability.astype(np.float64)
    n_classes = probability.shape[1]
    if n_classes == 2:
        second = np.clip(probability[:, 1], clip, 1 - clip)
        return np.stack([1 - second, second], axis=1)
    return np.asarray((1 - 2 * clip) * probability + 2 * clip / n_classes)


def best_clip(log_probability: Floats, label: Ints) -> float:
    """The clip for the lowest log loss where some labels are wrong, whatever a model says.

    One image is counted beside those that are there, half of it labelled well and half not: of
    m images given with certainty, of which k are labelled otherwise, it makes of the share of
    wrong labels (k + 1/2) / (m + 1), the estimate of R. Krichevsky and V. Trofimov, "The
    Performance of Universal Encoding" (1981), never 0 however few images there are.
    """
    probability = np.exp(log_probability)
    rows = np.arange(len(label))
    losses = [
        -np.log(clipped(probability, clip)[rows, label]).sum()
        - (np.log(clip) + np.log1p(-clip)) / 2
        for clip in CLIPS
    ]
    return float(CLIPS[int(np.argmin(losses))])
