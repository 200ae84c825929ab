"""Stage `split`: judge every file in the inputs, and give each labelled image its subset.

Reads `data.train` and `data.test` in place, and known faults of labels; writes the ledger and the
figures about it.
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

import numpy as np
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.images import decode, label_fixes, labels, near_duplicates, sources, subsets
from pipeline.images.label_fixes import Fix
from pipeline.runtime.errors import UserError
from pipeline.runtime.parallel import in_order
from pipeline.runtime.progress import progress
from pipeline.schema import Split
from pipeline.stage import stage
from pipeline.storage import ledger, tables
from pipeline.storage.ledger import Row

MANY_NEAR = 0.05  # fraction of images that are seldom copies of others
NAMED = 10  # rejected files that are named on the screen; the ledger names all


@stage
def main() -> None:
    """Write the ledger and its figures."""
    params = config.read()
    fixes = _read_fixes(paths.LABEL_FIXES)
    with ExitStack() as opened:
        train = opened.enter_context(sources.open_source(Path(params.data.train)))
        states = [(train, train.state())]
        found = labels.infer_layout(train.names, params.data.train, params.data.classes)
        chosen = list(labels.limit_per_class(found.entries, params.split.per_class_limit))
        work = [("train", train, item) for item in chosen]
        passed_over = Counter(train.ignored)
        if os.path.realpath(params.data.test) != os.path.realpath(params.data.train):
            test = opened.enter_context(sources.open_source(Path(params.data.test)))
            states.append((test, test.state()))
            work += [("test", test, item) for item in labels.unlabelled(test.names)]
            passed_over.update(test.ignored)
        with progress("split", len(work)) as bar:
            rows, thumbnails = [], []
            for row, thumbnail in in_order(lambda item: _judge(found.classes, *item), work):
                rows.append(row)
                if thumbnail is not None:
                    thumbnails.append(thumbnail)
                bar.update()
        for archive, state in states:
            archive.require_unchanged(state)
    given = {item.name: item.subset for item in chosen}
    _refuse_too_many_rejected(rows, params.split.max_rejected)
    _refuse_repeated_ids(rows)
    rows = _grouped(rows, np.array(thumbnails), params.split.near_duplicates)
    rows = _assign(rows, found.classes, given, params.split)
    rows, fixed = _fix(rows, fixes, found.classes, paths.LABEL_FIXES)
    ledger.write_ledger(paths.LEDGER, rows)
    counts = ledger.summary(rows, found.classes)
    counts |= {
        "beyond_per_class_limit": len(found.entries) - len(chosen),
        "passed_over": dict(passed_over),
        "label_fixes": fixed,
    }
    tables.write_json(paths.SPLIT_METRICS, counts)
    _print_summary(counts)


def _judge(
    classes: Sequence[str], name: str, archive: sources.Source, item: labels.Entry
) -> tuple[Row, NDArray[np.uint8] | None]:
    """Read one file, decode it whole, and write down what it is, or why it is rejected.

    With the thumbnail by which near duplicates are found.
    """
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
        facts, image = decode.decode_with_info(content)
    except decode.Unreadable as fault:
        return replace(row, reason=str(fault)), None
    row = replace(row, width=facts.width, height=facts.height, mode=facts.mode)
    return row, near_duplicates.thumbnail(image)


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


def _read_fixes(path: Path) -> list[Fix]:
    if not path.exists():
        raise UserError(
            f"{path}: expected known faults of labels, got no such file; a file with the one line "
            "member,label,source says that there are none"
        )
    return [Fix(*line) for line in ledger.read_label_fixes(path)]


def _fix(
    rows: Sequence[Row], fixes: Sequence[Fix], classes: Sequence[str], path: Path
) -> tuple[list[Row], dict[str, int]]:
    """Correct or take out what trains and chooses; test images are only marked."""
    rows = list(rows)
    labelled = [place for place, row in enumerate(rows) if row.accepted and row.label]
    members = [rows[place].member for place in labelled]
    found, unmatched = label_fixes.match(fixes, members, classes, str(path))
    counts = Counter({"excluded": 0, "relabelled": 0, "in_test": 0, "unmatched": len(unmatched)})
    for place, fix in ((labelled[place], fix) for place, fix in found.items()):
        row = replace(rows[place], fix=fix.label)
        if row.subset == "test":
            counts["in_test"] += 1
        elif fix.label == label_fixes.EXCLUDE:
            reason = f"excluded by {path.name}: {fix.source or 'no source given'}"
            row = replace(row, subset="", group="", reason=reason)
            counts["excluded"] += 1
        else:
            row = replace(row, label=fix.label, index=classes.index(fix.label))
            counts["relabelled"] += 1
        rows[place] = row
    for fix in unmatched[:NAMED]:
        print(f"split: {path} names {fix.member}, of which there is no accepted labelled image")
    if len(unmatched) > NAMED:
        print(f"split: and {len(unmatched) - NAMED} more")
    return rows, dict(counts)


def _print_summary(counts: Mapping[str, Any]) -> None:
    for name, subsets_of_class in counts["subsets"].items():
        told = ", ".join(f"{subsets_of_class[key]:,} {key}" for key in sorted(subsets_of_class))
        print(f"split: class {name}: {told}")
    fixed = counts["label_fixes"]
    if any(fixed.values()):
        print(
            f"split: label fixes: {fixed['relabelled']} images relabelled, {fixed['excluded']} "
            f"excluded; {fixed['in_test']} in test, which keep their labels"
        )
    if near := counts["near_duplicates"]:
        print(
            f"split: {near} images are nearly the same as another one; a group lies in one subset"
        )
    if near > MANY_NEAR * counts["accepted"]:
        print(
            f"split: warning: these are {near / counts['accepted']:.0%} of all; if they are no "
            "copies, but images that are all alike, raise split.near_duplicates, or set it to null"
        )
    for key, what in (
        ("duplicates_with_other_label", "images that are in the data under two labels"),
        ("duplicates_across_subsets", "images of which copies lie in different subsets"),
    ):
        if counts[key]:
            print(f"split: warning: {counts[key]} {what}; group in the ledger tells which")


def _grouped(
    rows: Sequence[Row], thumbnails: NDArray[np.uint8], threshold: float | None
) -> list[Row]:
    """Fill in the group: of the same bytes, and of nearly the same pixels if that is asked for."""
    accepted = [row for row in rows if row.accepted]
    first: dict[str, int] = {}
    same = [first.setdefault(row.sha256, place) for place, row in enumerate(accepted)]
    if threshold is not None and accepted:
        kept = np.array(sorted(set(same)))
        nearest = dict(
            zip(kept, kept[near_duplicates.group(thumbnails[kept], threshold)], strict=True)
        )
        same = [nearest[place] for place in same]
    names = iter([f"{accepted[place].source}/{accepted[place].id}" for place in same])
    return [replace(row, group=next(names)) if row.accepted else row for row in rows]


def _assign(
    rows: Sequence[Row],
    classes: Sequence[str],
    given: dict[str, str | None],
    split: Split,
) -> list[Row]:
    """Fill in the subset."""
    rows = list(rows)
    labelled = [place for place, row in enumerate(rows) if row.accepted and row.label]
    # A group is known by its content, so that names and places in the data move nothing.
    content: dict[str, str] = {}
    for row in (rows[place] for place in labelled):
        content[row.group] = min(row.sha256, content.get(row.group, row.sha256))
    for index, name in enumerate(classes):
        if all(rows[place].index != index for place in labelled):
            raise UserError(
                f"split: expected at least one readable image of class {name!r}, got none; "
                "mend its files, or take them away"
            )
    assigned = subsets.assign(
        classes,
        [rows[place].index for place in labelled],
        [content[rows[place].group] for place in labelled],
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
