"""Stage `split`: judge every file in the inputs, and give each labelled image its subset.

Reads `data.train` and `data.test` in place; writes the ledger and the figures about it.
    python -m stages.split data/split.csv metrics/split.json
"""

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages import params as parameters
from stages.errors import UserError
from stages.images import decode, labels, source, subsets
from stages.progress import progress
from stages.scripts import arguments, stage
from stages.store import files, tables
from stages.store.tables import Row
from stages.threads import in_order

NAMED = 10  # rejected files that are named on the screen; the ledger names all


@stage
def main() -> None:
    """Write the ledger and its figures."""
    ledger, figures = map(Path, arguments(__doc__, count=2))
    params = parameters.read()
    with ExitStack() as opened:
        train = opened.enter_context(source.open_source(Path(params.data.train)))
        found = labels.arrange(train.names, params.data.train, params.data.classes)
        chosen = list(labels.first_of_each_class(found.found, params.split.per_class_limit))
        work = [("train", train, item) for item in chosen]
        passed_over = Counter(train.passed_over)
        if os.path.realpath(params.data.test) != os.path.realpath(params.data.train):
            test = opened.enter_context(source.open_source(Path(params.data.test)))
            work += [("test", test, item) for item in labels.arrange_unlabelled(test.names)]
            passed_over.update(test.passed_over)
        with progress("split", len(work)) as bar:
            rows = []
            for row in in_order(lambda item: _judge(found.classes, *item), work):
                rows.append(row)
                bar.update()
    given = {item.name: item.subset for item in chosen}
    _refuse_too_many_rejected(rows, params.split.max_rejected)
    _refuse_repeated_ids(rows)
    rows = _assign(rows, found.classes, given, params.split)
    tables.write_ledger(ledger, rows)
    counts = tables.summary(rows, found.classes)
    counts |= {
        "beyond_per_class_limit": len(found.found) - len(chosen),
        "passed_over": dict(passed_over),
    }
    files.write_json(figures, counts)
    _print_summary(counts)


def _judge(classes: Sequence[str], name: str, archive: source.Source, item: labels.Found) -> Row:
    """Read one file, decode it whole, and write down what it is, or why it is rejected."""
    row = Row(
        id=item.id,
        source=name,
        member=item.name,
        label=item.label or "",
        index=classes.index(item.label) if item.label else -1,
        subset="unlabelled" if item.subset == "unlabelled" else "",
        sha256="",
        width=0,
        height=0,
        mode="",
        group="",
        reason="",
    )
    try:
        if item.label is None and item.subset is None:
            raise decode.Unreadable("no label: it lies outside the folders of the classes")
        content = archive.read(item.name)
        row = replace(row, sha256=hashlib.sha256(content).hexdigest())
        facts = decode.inspect(content)
    except decode.Unreadable as fault:
        return replace(row, reason=str(fault))
    return replace(row, width=facts.width, height=facts.height, mode=facts.mode)


def _refuse_too_many_rejected(rows: Sequence[Row], most: float) -> None:
    rejected = [row for row in rows if not row.accepted]
    if len(rejected) > most * len(rows):
        named = ", ".join(f"{row.member} ({row.reason})" for row in rejected[:NAMED])
        raise UserError(
            f"split: expected at most {most:.1%} of the files to be rejected "
            f"(split.max_rejected), got {len(rejected)} of {len(rows)}: {named}; "
            "mend or remove them, or raise the limit"
        )
    for row in rejected[:NAMED]:
        print(f"split: rejected {row.member}: {row.reason}")
    if len(rejected) > NAMED:
        print(f"split: and {len(rejected) - NAMED} more, see the ledger")


def _refuse_repeated_ids(rows: Sequence[Row]) -> None:
    """An id names one row of the submission; both inputs may hold unlabelled images."""
    ids = Counter(row.id for row in rows if row.subset == "unlabelled")
    for name, count in ids.most_common(1):
        if count > 1:
            raise UserError(
                f"split: expected each unlabelled image to have an id of its own, got {name!r} in "
                "data.train and in data.test; take the unlabelled images out of data.train"
            )


def _print_summary(counts: Mapping[str, Any]) -> None:
    for name, subsets_of_class in counts["subsets"].items():
        told = ", ".join(f"{subsets_of_class[key]:,} {key}" for key in sorted(subsets_of_class))
        print(f"split: class {name}: {told}")
    for key, what in (
        ("duplicates_with_other_label", "images that are in the data under two labels"),
        ("duplicates_across_subsets", "images of which copies lie in different subsets"),
    ):
        if counts[key]:
            print(f"split: warning: {counts[key]} {what}; group in the ledger tells which")


def _assign(
    rows: Sequence[Row],
    classes: Sequence[str],
    given: dict[str, str | None],
    split: parameters.Split,
) -> list[Row]:
    """Fill in group and subset."""
    first = {row.sha256: f"{row.source}/{row.id}" for row in reversed(rows) if row.accepted}
    rows = [replace(row, group=first[row.sha256]) if row.accepted else row for row in rows]
    labelled = [place for place, row in enumerate(rows) if row.accepted and row.label]
    for index, name in enumerate(classes):
        if all(rows[place].index != index for place in labelled):
            raise UserError(
                f"split: expected at least one readable image of class {name!r}, got none; "
                "mend its files, or take them away"
            )
    assigned = subsets.assign(
        classes,
        [rows[place].index for place in labelled],
        [rows[place].sha256 for place in labelled],
        [given[rows[place].member] for place in labelled],
        valid=split.valid,
        test=split.test,
        seed=split.seed,
    )
    for place, subset in zip(labelled, assigned, strict=True):
        rows[place] = replace(rows[place], subset=subset)
    return rows


if __name__ == "__main__":
    sys.exit(main())
