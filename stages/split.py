"""Stage `split`: judge every file in the inputs and assign labelled images to subsets.

Reads `data.train` and `data.test` in place, and `data/label_fixes.csv`. Writes the ledger
`data/split.csv`, one row per file, and its counts `metrics/split.json`.
"""

import os
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from pipeline import config, paths
from pipeline.images import judge, labels, sources
from pipeline.images.judge import Candidate
from pipeline.runtime.parallel import in_order
from pipeline.runtime.progress import progress
from pipeline.stage import stage
from pipeline.storage import ledger, tables


@stage
def main() -> None:
    """Write the ledger and its counts."""
    params = config.read()
    options = params.split
    fixes = judge.read_fixes(paths.LABEL_FIXES)
    with ExitStack() as stack:
        train = stack.enter_context(sources.open_source(Path(params.data.train)))
        states = [(train, train.state())]
        layout = labels.infer_layout(train.names, params.data.train, params.data.classes)
        selected = list(labels.limit_per_class(layout.entries, options.per_class_limit))
        candidates = [Candidate("train", train, entry) for entry in selected]
        if os.path.realpath(params.data.test) != os.path.realpath(params.data.train):
            test = stack.enter_context(sources.open_source(Path(params.data.test)))
            states.append((test, test.state()))
            unlabelled = labels.unlabelled(test.names)
            candidates += [Candidate("test", test, entry) for entry in unlabelled]
        rows, thumbnails = [], []
        with progress("split", len(candidates)) as bar:
            for row, thumbnail in in_order(
                lambda one: judge.judge(one, layout.classes), candidates
            ):
                rows.append(row)
                if thumbnail is not None:
                    thumbnails.append(thumbnail)
                bar.update()
        for archive, state in states:
            archive.require_unchanged(state)
    rejected = judge.require_few_rejected(rows, options.max_rejected)
    _print([f"rejected {row.member}: {row.reason}" for row in rejected], ", see the ledger")
    judge.require_unique_ids(rows)
    rows = judge.group(rows, np.array(thumbnails), options.near_duplicates)
    preset = {entry.name: entry.subset for entry in selected}
    fractions = {"valid": options.valid, "test": options.test}
    rows = judge.assign(rows, layout.classes, preset, **fractions, seed=options.seed)
    rows, fixed, unmatched = judge.apply_fixes(rows, fixes, layout.classes, paths.LABEL_FIXES)
    _print([f"{paths.LABEL_FIXES}: no accepted labelled image {fix.member}" for fix in unmatched])
    ledger.write_ledger(paths.LEDGER, rows)
    metrics = ledger.summary(rows, layout.classes) | {
        "beyond_per_class_limit": len(layout.entries) - len(selected),
        "passed_over": dict(sum((Counter(archive.ignored) for archive, _ in states), Counter())),
        "label_fixes": fixed,
    }
    tables.write_json(paths.SPLIT_METRICS, metrics)
    for line in judge.summary_lines(metrics):
        print(f"split: {line}")


def _print(lines: list[str], rest: str = "") -> None:
    for line in judge.first_lines(lines, rest):
        print(f"split: {line}")


if __name__ == "__main__":
    sys.exit(main())
