"""Stage `submit`: the final model's probabilities of the unlabelled images, as Kaggle takes them.

Reads the ledger, both models' log-probabilities and the metrics, which name the final one.
    python -m stages.submit data/split.csv data/head data/model metrics/evaluate.json \\
        data/submission.csv
Two classes: `id,label`, the probability of the second class. More: `id,` and a column a class.
"""

import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages import params as parameters
from stages.scripts import arguments, stage
from stages.store import arrays, files, tables


@stage
def main() -> None:
    """Write one row for every unlabelled file, in natural order, rejected ones included."""
    ledger, head_folder, model_folder, figures, out = map(Path, arguments(__doc__, count=5))
    params = parameters.read()
    clip = params.submit.clip
    rows = tables.read_ledger(files.require(ledger, "split"))
    final = json.loads(files.require(figures, "evaluate").read_text(encoding="utf-8"))["final"]
    folder, writer = (head_folder, "train_head") if final == "head" else (model_folder, "fine_tune")
    stored = arrays.Rows(
        files.require(folder / "predictions.zarr", writer), tables.fingerprint(rows)
    )
    labels = tables.labels(rows)
    probability = iter(np.exp(stored.read(0, len(stored)))[labels.subset == "unlabelled"])
    prior = _training_prior(labels)
    lines: list[tuple[object, ...]] = []
    for row in rows:
        if row.subset == "unlabelled":
            if not row.accepted:
                print(f"submit: {row.member} was rejected ({row.reason}); it gets the prior")
            values = _clipped(next(probability) if row.accepted else prior, clip)
            lines.append((row.id, *(f"{value:.6f}" for value in values)))
    header = ("label",) if len(labels.classes) == 2 else labels.classes
    tables.write_csv(out, ("id", *header), lines)
    print(f"submit: {len(lines):,} rows by {final} in {out}")


def _training_prior(labels: tables.Labels) -> NDArray[np.float64]:
    """Each class' share of the training images, float64 (n_classes,)."""
    train = labels.label[labels.subset == "train"]
    return np.bincount(train, minlength=len(labels.classes)) / len(train)


def _clipped(probability: NDArray[np.floating], clip: float) -> list[float]:
    """No probability nearer to 0 or 1 than `clip`; of two classes the second's alone.

    One wrong answer given with certainty costs more log loss than all others together. With more
    classes, a share of 2 `clip` is spread evenly over them, so that they still add up to 1.
    """
    if len(probability) == 2:
        return [float(np.clip(np.float64(probability[1]), clip, 1 - clip))]
    mixed = (1 - 2 * clip) * probability.astype(np.float64) + 2 * clip / len(probability)
    return [float(value) for value in mixed]


if __name__ == "__main__":
    sys.exit(main())
