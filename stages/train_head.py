"""Stage `train_head`: train a classifier on cached features.

Reads the ledger and the features of all backbones, side by side; writes the head, log-probabilities
of every accepted image (also the unlabelled ones), metrics and history.
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
    """Fit on `train`, choose the epoch on `valid`, predict every row."""
    params = config.read()
    threadpoolctl.threadpool_limits(params.compute.threads or processors(), user_api="blas")
    rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
    labels = ledger.labels(rows)
    features = array_views.open_features(params.backbones, ledger.fingerprint(rows))
    head, epochs, report = head_training.train(params, features, labels)
    with atomic_files.replacing(paths.HEAD) as partial:
        partial.mkdir()
        head.save(paths.head_file(partial))
        sealed_files.seal(paths.head_file(partial))
        arrays.write(
            paths.predictions(partial),
            head_training.predict(features, params.predict.views, head.logits),
            shape=(len(features), len(labels.classes)),
            dtype=np.float32,
            fingerprint=features.fingerprint,
        )
    best = history.rounded(history.best_epoch(epochs))
    kind = params.train_head.kind
    metrics = {"kind": kind, "parameters": head.parameters, "best": best, **report}
    tables.write_json(paths.HEAD_METRICS, metrics)
    history.write(paths.HEAD_HISTORY, epochs)


if __name__ == "__main__":
    sys.exit(main())
