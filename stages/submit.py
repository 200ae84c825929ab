"""Stage `submit`: write the final model's probabilities of the unlabeled images, as for Kaggle.

Reads the ledger, the selected model's log-probabilities, its temperature and clip. The columns are
`id,label` for two classes, with the probability of the second one, else `id` and one per class.
"""

import sys
from collections.abc import Iterator

import numpy as np

from pipeline import config, paths
from pipeline.evaluation import calibration, selected_model
from pipeline.runtime import atomic_files
from pipeline.stage import stage
from pipeline.storage import ledger, tables


@stage
def main() -> None:
    """Write one row for every unlabeled file, in natural order, including rejected ones."""
    params = config.read()
    rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
    model, log_probability = selected_model.read(ledger.fingerprint(rows))
    clip = model.clip if params.submit.clip == "auto" else params.submit.clip
    labels = ledger.labels(rows)
    probability = iter(np.exp(log_probability[labels.subset == "unlabelled"]))
    train = labels.label[labels.subset == "train"]
    prior = np.bincount(train, minlength=len(labels.classes)) / len(train)
    only_second = len(labels.classes) == 2
    unlabelled = rows.where(rows.equal("subset", "unlabelled"))

    def lines() -> Iterator[tuple[str, ...]]:
        for row in unlabelled:
            if not row.accepted:
                print(f"submit: {row.member} was rejected ({row.reason}); it gets the prior")
            of_image = next(probability) if row.accepted else prior
            values = calibration.clipped(of_image[None], clip)[0]
            shown = values[1:] if only_second else values
            yield row.id, *(f"{value:.6f}" for value in shown)

    header = ["label"] if only_second else tables.class_columns(["id"], labels.classes)
    tables.write_csv(paths.SUBMISSION, ("id", *header), lines())
    where = f"in {paths.SUBMISSION}, none nearer to 0 or 1 than {clip:g}"
    print(f"submit: {len(unlabelled):,} rows by {model.name} {where}")


if __name__ == "__main__":
    sys.exit(main())
