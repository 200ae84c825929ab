"""Stage `audit`: what may be wrong with the data: labels, outliers, bad light, copies.

Reads the ledger, pixels and features, of all backbones side by side; writes metrics, and tables
ranked by suspicion. The models that judge labels are logistic regressions, or linear discriminants
of more than `MANY_CLASSES` classes.
"""

import sys
from collections.abc import Callable

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.evaluation import audit, classification, data_quality, discriminant
from pipeline.evaluation.probabilities import log_softmax
from pipeline.evaluation.ranking import MANY_CLASSES
from pipeline.runtime import atomic_files, environment
from pipeline.runtime.machine import processors
from pipeline.runtime.parallel import parts_in_order
from pipeline.runtime.progress import progress
from pipeline.stage import stage
from pipeline.storage import array_views, ledger, tables
from pipeline.training import logistic

STRENGTH = 0.01  # of the regression, where there are too few images to cross-validate it


@stage
def main() -> None:
    """Rank labels and images by suspicion."""
    cluster, params = environment.cluster(), config.read()
    threadpoolctl.threadpool_limits(params.compute.threads or processors(), user_api="blas")
    rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
    labels, fingerprint = ledger.labels(rows), ledger.fingerprint(rows)
    accepted = rows.accepted()
    atomic_files.require(paths.RESIZED, "resize")
    features = array_views.open_features(params.backbones, fingerprint)

    at = np.flatnonzero(labels.label >= 0)
    labelled, label, test = accepted.take(at), labels.label[at], labels.subset[at] == "test"
    first_view = audit.first_view(features, at)
    group = np.unique(labelled.texts("group"), return_inverse=True)[1]
    many = len(labels.classes) > MANY_CLASSES
    fit = discriminant.fit if many else _fit()
    with progress("audit labels", len(label)) as bar:
        predicted = data_quality.out_of_fold(first_view, label, group, test, fit, bar.update)
    if many:
        data_quality.calibrate(predicted, label, test)
    quality = data_quality.label_quality(predicted, label, test)
    near = data_quality.neighbors(first_view)
    work = audit.Light(paths.RESIZED, fingerprint)
    light = np.empty((len(work.images), 3))
    with progress("audit light", len(light)) as bar:
        parts = work.parts()
        for part, of_part in zip(parts, parts_in_order(work, parts, cluster), strict=True):
            light[part.start : part.stop] = of_part
            bar.update(len(part))

    judged = quality, near, light
    found, counts = audit.tables_and_counts(accepted, labelled, labels.classes, *judged)
    with atomic_files.replacing(paths.AUDIT) as partial:
        partial.mkdir()
        for name, lines in found.items():
            audit.write(partial, lines, name)
    out_of_fold = classification.summary(predicted, label, labels.classes, audit.DECIMALS)
    summary = {"images": len(labelled), "out_of_fold": out_of_fold, **counts}
    tables.write_json(paths.AUDIT_METRICS, summary)
    faults = ", ".join(f"{count} {fault}" for fault, count in counts["light"].items())
    print(
        f"audit: {counts['likely_label_errors']} of {len(labelled):,} labels are likely wrong; "
        f"{faults}; {counts['copies']} images have a copy, {counts['alike_pairs']} pairs look like "
        "copies"
    )


def _fit() -> Callable[[data_quality.Features, NDArray[np.int64]], data_quality.Predict]:
    """A logistic regression, as strong in all folds as cross-validation asks for in the first."""
    strength = None

    def fit(features: data_quality.Features, label: NDArray[np.int64]) -> data_quality.Predict:
        nonlocal strength
        too_few = int(np.bincount(label).max()) < 2
        fitted = logistic.fit(
            features[:, None],
            label,
            int(label.max()) + 1,
            inverse_regularization=STRENGTH if too_few else strength,
            max_iterations=200,
        )
        if not too_few:
            strength = fitted.inverse_regularization
        return lambda others: log_softmax(fitted.head.logits(others))

    return fit


if __name__ == "__main__":
    sys.exit(main())
