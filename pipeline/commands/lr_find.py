"""Find a learning rate: train for some steps while it grows, and draw the loss.

    pipeline lr-find
    pipeline lr-find --stage train_head --steps 200

Trains a copy of what the stage trains, on the same batches, from a rate that changes nothing to one
at which the loss explodes. Prints a suggestion, a tenth of the highest rate at which the average
loss is, up to its noise, the lowest; writes a folder with a table and a picture. The run itself
stays as it is.
"""

import argparse
from pathlib import Path

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.backbones import keras_setup
from pipeline.commands.out_folder import require_replaceable
from pipeline.reporting import plots
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError
from pipeline.runtime.machine import processors
from pipeline.schema import DenseHead, Params
from pipeline.storage import array_views, arrays, ledger, tables
from pipeline.training import head_training
from pipeline.training.history import SMOOTHING, averaged

STEPS = 100
LOWEST, HIGHEST = 1e-7, 10.0
LEAST_STEPS = 10  # before the average of the loss is looked at
TABLE, PICTURE = "rates.csv", "rates.png"
DIGITS = 2  # significant ones of the suggestion
DECIMALS = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--stage",
        choices=("train_head", "fine_tune"),
        help="default: fine_tune if params.yaml has that section, else train_head",
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"default {STEPS}")
    parser.add_argument("--out", default=Path("lr-find"), type=Path, metavar="FOLDER")


def run(arguments: argparse.Namespace) -> None:
    """Run the test, write the folder and print the suggestion."""
    params = config.read()
    stage = arguments.stage or ("train_head" if params.fine_tune is None else "fine_tune")
    if arguments.steps < LEAST_STEPS:
        raise UserError(
            f"lr-find --steps: expected {LEAST_STEPS} or more, got {arguments.steps}; raise it"
        )
    require_replaceable("lr-find --out", arguments.out, (TABLE, PICTURE))
    threadpoolctl.threadpool_limits(params.compute.threads or processors(), user_api="blas")
    rates, losses = _rate_test(params, stage, arguments.steps)
    if len(rates) < LEAST_STEPS:
        raise UserError(
            f"lr-find: expected a loss that stays finite for {LEAST_STEPS} steps, got {len(rates)} "
            f"at rates of {LOWEST:g} and above; check the images and labels"
        )
    smooth = averaged(losses)
    suggested = float(f"{highest_before_rise(rates, losses, smooth) / 10:.{DIGITS}g}")
    with atomic_files.replacing(arguments.out) as partial:
        partial.mkdir()
        lines = zip(
            (f"{rate:.{DECIMALS}g}" for rate in rates), np.round(losses, DECIMALS), strict=True
        )
        tables.write_csv(partial / TABLE, ("learning_rate", "loss"), lines)
        plots.learning_rates(partial / PICTURE, rates, losses, smooth, suggested)
    present = getattr(params, stage).learning_rate
    print(
        f"lr-find: {stage}.learning_rate: {suggested:g} is a tenth of the rate from which the loss "
        f"rises, params.yaml has {present:g}; {arguments.out / PICTURE} shows the loss"
    )


def highest_before_rise(
    rates: list[float], losses: list[float], smooth: NDArray[np.float64]
) -> float:
    """Return the highest rate at which the average is the lowest one, up to three standard errors.

    They are those of the first half, of independent batches: the variance of the losses around
    the average times (1 - s) / (1 + s), with a smoothing s. The average of the first `LEAST_STEPS`
    is of too few losses.
    """
    apart = (np.array(losses) - smooth)[: len(losses) // 2]
    noise = float(apart.std()) * ((1 - SMOOTHING) / (1 + SMOOTHING)) ** 0.5
    known = smooth[LEAST_STEPS - 1 :]
    return rates[LEAST_STEPS - 1 + int(np.flatnonzero(known <= known.min() + 3 * noise)[-1])]


def _rate_test(params: Params, stage: str, steps: int) -> tuple[list[float], list[float]]:
    """Return learning rates and the loss at each."""
    rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
    labels, fingerprint = ledger.labels(rows), ledger.fingerprint(rows)
    if stage == "fine_tune":
        if params.fine_tune is None:
            raise UserError(
                "lr-find --stage: expected train_head, as params.yaml has fine_tune: null, got "
                "'fine_tune'; change one of them"
            )
        images = arrays.StoredArray(atomic_files.require(paths.RESIZED, "resize"), fingerprint)
        precision = params.fine_tune.precision
        keras_setup.start(**params.compute.model_dump(), precision=precision)
        from pipeline.training.fine_tuning import FineTuning

        learning = FineTuning(params, params.fine_tune, images, labels).learning()[1]
    else:
        if not isinstance(params.train_head, DenseHead):
            raise UserError(
                "lr-find: expected a head that is trained by gradient descent, got train_head."
                f"kind: {params.train_head.kind}; set it to dense, or add a section fine_tune"
            )
        features = array_views.open_features(params.backbones, fingerprint)
        learning = head_training.dense_learning(params.train_head, params, features, labels)
    from pipeline.training import loop

    return loop.rate_test(learning, LOWEST, HIGHEST, steps, LEAST_STEPS)
