"""Stage `train_head`: train a classifier on cached features.

Reads the ledger and the features of all backbones, side by side; writes the head, log-probabilities
of every accepted image (also the unlabelled ones), metrics and history. With folds, the head is the
mean of several, and the log-probabilities of `train` and `valid` are out of fold.
"""

import sys

import numpy as np
import threadpoolctl

from pipeline import config, paths
from pipeline.runtime import atomic_files
from pipeline.runtime.machine import processors
from pipeline.stage import stage
from pipeline.storage import array_views, arrays, ledger, sealed_files, tables
from pipeline.training import head_training, history


@stage
def main() -> None:
    """Fit on `train`, choose the epoch on `valid`, or do both by folds; predict every row."""
    params = config.read()
    threadpoolctl.threadpool_limits(params.compute.threads or processors(), user_api="blas")
    rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
    labels = ledger.labels(rows)
    features = array_views.open_features(params.backbones, ledger.fingerprint(rows))
    group = rows.accepted().texts("group")
    fitted = head_training.train(params, features, labels, group)
    with atomic_files.replacing(paths.HEAD) as partial:
        partial.mkdir()
        fitted.head.save(paths.head_file(partial))
        sealed_files.seal(paths.head_file(partial))
        arrays.write(
            paths.predictions(partial),
            head_training.predictions(features, params.predict.views, fitted),
            shape=(len(features), len(labels.classes)),
            dtype=np.float32,
            fingerprint=features.fingerprint,
        )
    metrics = {
        "kind": params.train_head.kind,
        "parameters": fitted.head.parameters,
        "best": history.rounded(history.best_epoch(fitted.epochs)),
        **fitted.metrics,
    }
    tables.write_json(paths.HEAD_METRICS, metrics)
    history.write(paths.HEAD_HISTORY, fitted.epochs)


if __name__ == "__main__":
    sys.exit(main())
