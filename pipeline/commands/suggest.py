"""Choose the unlabelled images to label next: those the model is unsure of, unlike each other.

    pipeline suggest
    pipeline suggest 200 --out suggestions

Reads the final model's predictions and the cached features of the unlabelled images of this run.
Writes a folder with `labels.csv`, a line per image whose label is to be filled in, and
`index.html`, which shows them. Of copies one is suggested, and no copy of a labelled image.
"""

import argparse
from pathlib import Path

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.commands.out_folder import require_replaceable
from pipeline.evaluation import audit, selected_model
from pipeline.evaluation.probabilities import Floats, Ints
from pipeline.explanation import galleries
from pipeline.reporting import heatmaps, html
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError
from pipeline.storage import array_views, arrays, ledger, tables

COUNT = 50
CONSIDERED = 10  # times as many, the most uncertain ones, are compared by their features
TABLE, PAGE, IMAGES = "labels.csv", "index.html", "images"
COLUMNS = ("member", "label", "predicted", "probability")  # `label` is empty
DECIMALS = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("count", nargs="?", type=int, default=COUNT, help=f"default {COUNT}")
    parser.add_argument("--out", default=Path("suggestions"), type=Path, metavar="FOLDER")


def run(arguments: argparse.Namespace) -> None:
    """Choose images and write the folder."""
    if arguments.count < 1:
        raise UserError(f"suggest: expected 1 image or more, got {arguments.count}; change it")
    require_replaceable("suggest --out", arguments.out, (TABLE, PAGE, IMAGES))
    params = config.read()
    rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
    accepted, labels, fingerprint = rows.accepted(), ledger.labels(rows), ledger.fingerprint(rows)
    model, predicted = selected_model.read(fingerprint)
    unlabelled = _distinct(accepted, labels)
    if not len(unlabelled):
        raise UserError(
            "suggest: expected unlabelled images in data.test that are no copies of labelled ones, "
            "got none; add some and run `dvc repro`"
        )
    doubt = uncertainty(predicted[unlabelled])
    considered = np.argsort(-doubt, kind="stable")[: CONSIDERED * arguments.count]
    features = array_views.open_features(params.backbones, fingerprint)
    at = np.sort(unlabelled[considered])
    doubt = uncertainty(predicted[at])
    chosen = at[diverse(audit.first_view(features, at), doubt, arguments.count)]
    images = arrays.StoredArray(atomic_files.require(paths.RESIZED, "resize"), fingerprint)
    with atomic_files.replacing(arguments.out) as partial:
        (partial / IMAGES).mkdir(parents=True)
        order = np.sort(chosen)
        for row, pixels in zip(order.tolist(), images.take(order), strict=True):
            heatmaps.write_image(partial / galleries.picture(IMAGES, row), pixels)
        about = (
            f"{len(chosen):,} of {len(unlabelled):,} unlabelled images, the most uncertain first. "
            f"Fill in the column label of {TABLE}, or move them to the folders of their classes."
        )
        group = galleries.Gallery("", about, chosen.tolist(), [""] * len(chosen))
        shown = galleries.described(group, accepted, predicted, labels.classes, set())
        for one in shown["images"]:
            one["subset"] = ""  # it is the same for all
        lines = [
            (one["member"], "", one["said"], f"{one['probability']:.{DECIMALS}f}")
            for one in shown["images"]
        ]
        tables.write_csv(partial / TABLE, COLUMNS, lines)
        size = images.shape[1:3][::-1]
        pictures = {one["picture"]: html.Picture(one["picture"], *size) for one in shown["images"]}
        content: dict[str, object] = {"group": shown, "pictures": pictures, "model": model.name}
        page = html.page(content, "suggestions.html.jinja")
        (partial / PAGE).write_text(page, encoding="utf-8", newline="\n")
    print(
        f"suggest: {len(chosen):,} of {len(unlabelled):,} unlabelled images; "
        f"{arguments.out / PAGE} shows them, {arguments.out / TABLE} takes their labels"
    )


def _distinct(accepted: ledger.Ledger, labels: ledger.Labels) -> Ints:
    """Return the rows without a label, the first of each group that has no labelled image."""
    group, has_label = accepted.texts("group"), labels.subset != "unlabelled"
    _, of_row = np.unique(group, return_inverse=True)
    known = np.zeros(int(of_row.max()) + 1, bool)
    known[of_row[has_label]] = True
    rows = np.flatnonzero(~known[of_row])
    return rows[np.unique(of_row[rows], return_index=True)[1]]


def uncertainty(log_probability: Floats) -> NDArray[np.float64]:
    """Return 1 minus the difference of the two highest probabilities, (n,)."""
    highest = np.sort(np.exp(log_probability.astype(np.float64)), axis=1)[:, -2:]
    return np.asarray(1 - (highest[:, 1] - highest[:, 0]))


def diverse(features: NDArray[np.float32], doubt: NDArray[np.float64], count: int) -> Ints:
    """Return the places of at most `count` images that cover the features, most uncertain first.

    The image nearest to each center of a k-means clustering, weighted by uncertainty: F. Zhdanov,
    "Diverse mini-batch Active Learning" (2019), algorithm 1. Features are scaled to length 1.
    """
    from sklearn.cluster import KMeans

    scaled = features - features.mean(axis=0)
    scaled /= np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), np.float32(1e-12))
    chosen = np.arange(len(doubt))
    if len(doubt) > count:
        with threadpoolctl.threadpool_limits(1):  # sums in one order
            means = KMeans(count, n_init=1, random_state=0)
            cluster = means.fit_predict(scaled, sample_weight=np.maximum(doubt, 1e-6))
            distance = np.linalg.norm(scaled - means.cluster_centers_[cluster], axis=1)
        order = np.lexsort((distance, cluster))
        chosen = order[np.unique(cluster[order], return_index=True)[1]]
    return chosen[np.argsort(-doubt[chosen], kind="stable")]
