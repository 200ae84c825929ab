"""Stage `audit`: what may be wrong with the data: labels, outliers, bad light, copies.

Reads the ledger_at, pixels and features, of two backbones side by side; writes figures, and tables
ranked by suspicion. The same features named twice count once.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.evaluation import blas, classification, data_quality
from pipeline.evaluation.probabilities import log_softmax
from pipeline.runtime import atomic_files
from pipeline.runtime.parallel import in_order
from pipeline.runtime.progress import progress
from pipeline.stage import stage
from pipeline.storage import array_views, arrays, ledger, tables
from pipeline.training import logistic

BATCH = 64  # images at a time
SHOWN, SHOWN_AT_LEAST = 0.05, 50  # of the labelled images, fraction and number a table may have
STRENGTH = 0.01  # of the regression, where there are too few images to cross-validate it
MOST_FEATURES, PROJECTED = 4_096, 1_024  # of more than the first, so many random sums are taken
MOST_VALUES = 2**26  # of all images, 256 MiB; beyond, fewer sums are taken
DECIMALS = 6


@stage
def main() -> None:
    """Rank labels and images by suspicion."""
    params = config.read()
    blas.limit_threads(params.compute.threads)
    rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
    labels, fingerprint = ledger.labels(rows), ledger.fingerprint(rows)
    accepted = [row for row in rows if row.accepted]
    images = arrays.StoredArray(atomic_files.require(paths.RESIZED, "resize"), fingerprint)
    features = array_views.open_features(params.backbones, fingerprint)

    labelled = np.flatnonzero(labels.label >= 0)
    held, label = _first_view(features, labelled), labels.label[labelled]
    groups = {name: number for number, name in enumerate(sorted({row.group for row in accepted}))}
    group = np.array([groups[accepted[place].group] for place in labelled])
    with progress("audit labels", len(label)) as bar:
        test = labels.subset[labelled] == "test"
        predicted = data_quality.out_of_fold(held, label, group, test, _fit(), bar.update)
    suspicion = data_quality.label_quality(predicted, label, test)
    with progress("audit neighbours", len(label)) as bar:
        near = data_quality.neighbors(held, bar.update)
    light = _light(images)
    faults = data_quality.light_faults(light)

    with atomic_files.replacing(paths.AUDIT) as partial:
        partial.mkdir()
        most = max(SHOWN_AT_LEAST, round(SHOWN * len(labelled)))
        doubted = int((suspicion.margin > 0).sum())
        by_doubt = np.argsort(-suspicion.margin, kind="stable")
        likely = np.flatnonzero(suspicion.likely[by_doubt]) + 1
        _write(
            partial / "labels.csv",
            ("label", "suggested", "margin", "likely"),
            (
                (accepted[labelled[at]], *_of_label(suspicion, at, label, labels.classes))
                for at in by_doubt[: min(doubted, max(most, likely.max(initial=0)))]
            ),
        )
        _write(
            partial / "outliers.csv",
            ("label", "isolation"),
            (
                (accepted[labelled[at]], labels.classes[label[at]], float(near.isolation[at]))
                for at in np.argsort(-near.isolation, kind="stable")[:most]
            ),
        )
        _write(
            partial / "light.csv",
            ("fault", "mean", "spread", "sharpness"),
            (
                (accepted[at], fault, *(float(values[at]) for values in light))
                for fault, found in faults.items()
                for at in np.flatnonzero(found)[:most]
            ),
        )
        copies = list(_copies(accepted))
        _write(partial / "copies.csv", ("group", "label"), copies[:most])
        alike = list(_alike(near, [accepted[place] for place in labelled]))
        _write(
            partial / "alike.csv",
            ("label", "other", "other_source", "other_subset", "other_label", "likeness"),
            alike[:most],
        )
    of_light = {fault: int(found.sum()) for fault, found in faults.items()}
    summary = {
        "images": len(labelled),
        "out_of_fold": classification.summary(predicted, label, labels.classes, DECIMALS),
        "likely_label_errors": int(suspicion.likely.sum()),
        "light": of_light,
        "copies": len(copies),
        "alike_pairs": len(alike),
    }
    tables.write_json(paths.AUDIT_METRICS, summary)
    told = ", ".join(f"{count} {fault}" for fault, count in of_light.items())
    print(
        f"audit: {summary['likely_label_errors']} of {len(labelled):,} labels are likely wrong; "
        f"{told}; {summary['copies']} images have a copy, {len(alike)} pairs look like copies"
    )


def _first_view(features: arrays.Readable, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Of the images themselves, float32 (n, d): all features, or random sums if they are too many.

    Random sums keep distances: D. Achlioptas, "Database-friendly random projections" (2003).
    """
    d, signs = features.shape[-1], None
    columns = min(d if d <= MOST_FEATURES else PROJECTED, max(1, MOST_VALUES // len(rows)))
    if columns < d:
        one = np.float32(1 / np.sqrt(columns))
        signs = np.random.default_rng(0).choice(np.array([-one, one]), (d, columns))
    held = np.empty((len(rows), columns), np.float32)
    done = 0
    for batch in features.batches(BATCH, rows):
        of_images = batch[:, 0].astype(np.float32)
        held[done : done + len(batch)] = of_images if signs is None else of_images @ signs
        done += len(batch)
    return held


def _fit() -> Callable[[data_quality.Features, NDArray[np.int64]], data_quality.Predict]:
    """A logistic regression, as strong in all folds as cross-validation asks for in the first."""
    strength: list[float | None] = [None]

    def fit(features: data_quality.Features, label: NDArray[np.int64]) -> data_quality.Predict:
        too_few = int(np.bincount(label).max()) < 2
        fitted = logistic.fit(
            features[:, None],
            label,
            int(label.max()) + 1,
            inverse_regularization=STRENGTH if too_few else strength[0],
            max_iterations=200,
        )
        if not too_few:
            strength[0] = fitted.inverse_regularization
        return lambda others: log_softmax(fitted.head.logits(others))

    return fit


def _light(images: arrays.StoredArray) -> data_quality.Light:
    with progress("audit light", len(images)) as bar:
        found = []
        for part in in_order(data_quality.light, images.batches(BATCH)):
            found.append(part)
            bar.update(len(part.mean))
    return data_quality.Light(*(np.concatenate(values) for values in zip(*found, strict=True)))


def _of_label(
    suspicion: data_quality.LabelQuality,
    at: int,
    label: NDArray[np.int64],
    classes: tuple[str, ...],
) -> tuple[Any, ...]:
    return (
        classes[label[at]],
        classes[suspicion.suggested[at]],
        float(suspicion.margin[at]),
        "yes" if suspicion.likely[at] else "no",
    )


def _copies(rows: list[ledger.LedgerRow]) -> Iterator[tuple[ledger.LedgerRow, str, str]]:
    """Images of a group of several, by `split`; groups that lie in several subsets come first."""
    groups: dict[str, list[ledger.LedgerRow]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    several = [members for members in groups.values() if len(members) > 1]
    for members in sorted(several, key=lambda group: len({row.subset for row in group}) == 1):
        for row in members:
            yield row, row.group, row.label


def _alike(
    near: data_quality.Neighbors, rows: list[ledger.LedgerRow]
) -> Iterator[tuple[ledger.LedgerRow, str, str, str, str, str, float]]:
    """Pairs that features tell to be copies and `split` does not, those across subsets first."""
    found: dict[tuple[int, int], float] = {}
    for at in np.flatnonzero(near.likeness < data_quality.ALIKE).tolist():
        pair = min(at, int(near.nearest[at])), max(at, int(near.nearest[at]))
        if rows[pair[0]].group != rows[pair[1]].group:
            found[pair] = min(float(near.likeness[at]), found.get(pair, np.inf))
    pairs = [(rows[first], rows[other], ratio) for (first, other), ratio in found.items()]
    for row, other, ratio in sorted(
        pairs, key=lambda pair: (pair[0].subset == pair[1].subset, pair[2])
    ):
        yield row, row.label, other.member, other.source, other.subset, other.label, ratio


def _write(path: Path, header: tuple[str, ...], lines: Any) -> None:
    """Each line begins with a row of the ledger."""
    tables.write_csv(
        path,
        ("member", "source", "subset", *header),
        (
            (row.member, row.source, row.subset, *(_rounded(value) for value in values))
            for row, *values in lines
        ),
    )


def _rounded(value: object) -> object:
    return round(value, DECIMALS) if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main())
