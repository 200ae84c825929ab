"""Stage `fine_tune`: train backbones and head further, together, starting from the trained head.

Reads the ledger, pixels, weights and head; writes the model, log-probabilities of every accepted
image, metrics and history. With `fine_tune: null` the head is copied.
"""

import sys

import numpy as np

from pipeline import config, paths
from pipeline.backbones import keras_setup
from pipeline.evaluation import bootstrap
from pipeline.runtime import atomic_files
from pipeline.stage import stage
from pipeline.storage import arrays, ledger, tables
from pipeline.training import history


@stage
def main() -> None:
    """Train on `train`, keep the best epoch on `valid`, predict every row."""
    params = config.read()
    rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
    labels, fingerprint = ledger.labels(rows), ledger.fingerprint(rows)
    images = arrays.StoredArray(atomic_files.require(paths.RESIZED, "resize"), fingerprint)
    stored = atomic_files.require(paths.predictions(paths.HEAD), "train_head")
    of_head = arrays.StoredArray(stored, fingerprint).read(0, len(images))
    start = history.measured(0, labels, lambda rows: [of_head[rows]])
    with atomic_files.replacing(paths.MODEL) as partial:
        if params.fine_tune is None:
            atomic_files.copy_folder(paths.HEAD, partial)
            epochs, fault = [start], ""
        else:
            partial.mkdir()
            precision = params.fine_tune.precision
            keras_setup.start(**params.compute.model_dump(), precision=precision)
            from pipeline.training.fine_tuning import FineTuning

            run = FineTuning(params, params.fine_tune, images, labels)
            epochs, fault = run.train(start, partial)
        of_model = arrays.StoredArray(paths.predictions(partial)).read(0, len(images))
    best, valid = history.best_epoch(epochs), labels.rows("valid")
    label = labels.label[valid]
    # The epoch was chosen on the same images, so on other images the gain is rather smaller.
    gain = of_model[valid, label].astype(np.float64) - of_head[valid, label]
    interval = zip(("mean", "low", "high"), bootstrap.mean_interval(gain), strict=True)
    tables.write_json(
        paths.FINE_TUNE_METRICS,
        {
            "best": history.rounded(best),
            "epochs": len(epochs) - 1,
            "taken": "fine_tuned" if best.epoch else "head",
            "valid_log_loss_gain": {name: round(one, history.DECIMALS) for name, one in interval},
            "fault": fault,
        },
    )
    history.write(paths.FINE_TUNE_HISTORY, epochs)
    paths.CHECKPOINT.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
