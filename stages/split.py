"""Stage `split`: judge every file in the inputs and assign labelled images to subsets.

Reads `data.train` and `data.test` in place, and `data/label_fixes.csv`. Writes the ledger
`data/split.csv`, one row per file, and its counts `metrics/split.json`.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.images import judge, label_fixes, labels
from pipeline.images.near_duplicates import SIDE
from pipeline.runtime import environment
from pipeline.runtime.parallel import parts_in_order
from pipeline.runtime.progress import progress
from pipeline.schema import Params
from pipeline.stage import stage
from pipeline.storage import ledger, tables


@stage
def main() -> None:
    """Write the ledger and its counts."""
    params = config.read()
    options, fixes = params.split, label_fixes.read(paths.LABEL_FIXES)
    rows, thumbnails, classes, counts = _judged(params)
    rejected = judge.require_few_rejected(rows, options.max_rejected)
    _print([f"rejected {row.member}: {row.reason}" for row in rejected], ", see the ledger")
    judge.require_unique_ids(rows)
    judge.group(rows, thumbnails, options.near_duplicates)
    judge.assign(rows, classes, **options.model_dump(include={"valid", "test", "seed"}))
    fixed, unmatched = label_fixes.apply(fixes, rows, classes, paths.LABEL_FIXES)
    _print([f"{paths.LABEL_FIXES}: no accepted labelled image {member}" for member in unmatched])
    ledger.write_ledger(paths.LEDGER, rows)
    metrics = ledger.summary(rows, classes) | counts | {"label_fixes": fixed}
    tables.write_json(paths.SPLIT_METRICS, metrics)
    for line in judge.summary_lines(metrics):
        print(f"split: {line}")


def _judged(
    params: Params,
) -> tuple[ledger.Ledger, NDArray[np.uint8], list[str], dict[str, object]]:
    """Judge all files; return their rows, thumbnails, the classes, and counts of other files."""
    with contextlib.closing(judge.Judging(params)) as work:
        _print([note for archive in work.archives for note in archive.notes])
        found, classes = work.layout
        _print([*labels.empty_folders(work.archives[0].empty, found)])
        if outside := len(work.archives[0].names) - len(found):
            _print([f"{outside:,} files are in folders that data.subsets does not name: not read"])
        thumbnails = bytearray()
        with progress("split", sum(map(len, work.entries))) as bar:

            def judged() -> Iterator[ledger.LedgerRow]:
                parts = parts_in_order(work, work.parts(), environment.cluster())
                for rows, of_rows in parts:
                    thumbnails.extend(of_rows.data)
                    bar.update(len(rows))
                    yield from rows

            rows = ledger.Ledger(judged())
        for archive in work.archives:
            archive.require_unchanged()
        ignored = sum((Counter(archive.ignored) for archive in work.archives), Counter())
        ignored += Counter({"outside data.subsets": outside})
        beyond = len(found) - len(work.entries[0])
    counts = {"beyond_per_class_limit": beyond, "passed_over": dict(ignored)}
    return rows, np.frombuffer(thumbnails, np.uint8).reshape(-1, SIDE, SIDE), classes, counts


def _print(lines: list[str], rest: str = "") -> None:
    for line in lines[: judge.MOST_LISTED]:
        print(f"split: {line}")
    if len(lines) > judge.MOST_LISTED:
        print(f"split: and {len(lines) - judge.MOST_LISTED} more{rest}")


if __name__ == "__main__":
    sys.exit(main())
