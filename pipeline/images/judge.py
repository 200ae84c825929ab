"""Decide which files are images and which subset each gets: the rows of the ledger.

Nothing is written here. Rows keep the order of the entries that are passed in.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.images import decode, label_fixes, labels, near_duplicates, sources, subsets
from pipeline.images.label_fixes import Fix
from pipeline.runtime.errors import UserError
from pipeline.storage import tables
from pipeline.storage.ledger import LedgerRow

MANY_NEAR = 0.05  # more near duplicates than this fraction suggest a threshold that is too low
MOST_LISTED = 10  # files that are listed on the screen; the ledger lists all

Thumbnail = NDArray[np.uint8]


class Candidate(NamedTuple):
    """A file to judge: its input ("train" or "test"), open, and what its name says."""

    source: str
    archive: sources.Source
    entry: labels.Entry


def judge(candidate: Candidate, classes: Sequence[str]) -> tuple[LedgerRow, Thumbnail | None]:
    """Read and decode a file; return its row without group, and its thumbnail if accepted."""
    source, archive, entry = candidate
    row = LedgerRow(
        id=entry.id,
        source=source,
        member=entry.name,
        label=entry.label or "",
        index=classes.index(entry.label) if entry.label else -1,
        subset="unlabelled" if entry.subset == "unlabelled" else "",
        sha256="",
        width=0,
        height=0,
        mode="",
        group="",
        reason="",
    )
    try:
        if entry.label is None and entry.subset is None:
            raise decode.Unreadable("no label: it lies outside the folders of the classes")
        content = archive.read(entry.name)
        row = replace(row, sha256=hashlib.sha256(content).hexdigest())
        info, image = decode.decode_with_info(content)
    except decode.Unreadable as fault:
        return replace(row, reason=str(fault)), None
    row = replace(row, width=info.width, height=info.height, mode=info.mode)
    return row, near_duplicates.thumbnail(image)


def require_few_rejected(rows: Sequence[LedgerRow], most: float) -> list[LedgerRow]:
    """Return the rejected rows; raise `UserError` if they exceed the fraction `most`."""
    rejected = [row for row in rows if not row.accepted]
    if len(rejected) > most * len(rows):
        listed = ", ".join(f"{row.member} ({row.reason})" for row in rejected[:MOST_LISTED])
        raise UserError(
            f"split: expected at most {most:.1%} of the files to be rejected "
            f"(split.max_rejected), got {len(rejected)} of {len(rows)}: {listed}; "
            "fix or remove them, or raise the limit"
        )
    return rejected


def require_unique_ids(rows: Iterable[LedgerRow]) -> None:
    """Raise `UserError` if two unlabelled images, which both inputs may hold, share an id."""
    ids = Counter(row.id for row in rows if row.subset == "unlabelled")
    for name, count in ids.most_common(1):
        if count > 1:
            raise UserError(
                f"split: expected a unique id for each unlabelled image, got {name!r} in "
                "data.train and in data.test; remove the unlabelled images from data.train"
            )


def group(
    rows: Sequence[LedgerRow], thumbnails: Thumbnail, threshold: float | None
) -> list[LedgerRow]:
    """Fill in the group of accepted rows: equal bytes, and nearly equal pixels unless None.

    Args:
        thumbnails: uint8 (n, side, side), one per accepted row.
        threshold: correlation from which two images are near duplicates.
    """
    accepted = [row for row in rows if row.accepted]
    first: dict[str, int] = {}
    same = [first.setdefault(row.sha256, place) for place, row in enumerate(accepted)]
    if threshold is not None and accepted:
        distinct = np.array(sorted(set(same)))
        near = distinct[near_duplicates.group(thumbnails[distinct], threshold)]
        nearest = dict(zip(distinct, near, strict=True))
        same = [nearest[place] for place in same]
    names = iter([f"{accepted[place].source}/{accepted[place].id}" for place in same])
    return [replace(row, group=next(names)) if row.accepted else row for row in rows]


def assign(
    rows: Sequence[LedgerRow],
    classes: Sequence[str],
    preset: Mapping[str, str | None],
    *,
    valid: float,
    test: float,
    seed: int,
) -> list[LedgerRow]:
    """Fill in the subset of labelled rows; see `subsets.assign`.

    Args:
        preset: subset by the data's own folders or None, by member.
    """
    labelled = [place for place, row in enumerate(rows) if row.accepted and row.label]
    # A group is identified by its content: names and positions in the data have no influence.
    content: dict[str, str] = {}
    for row in (rows[place] for place in labelled):
        content[row.group] = min(row.sha256, content.get(row.group, row.sha256))
    present = {rows[place].index for place in labelled}
    for index, name in enumerate(classes):
        if index not in present:
            raise UserError(
                f"split: expected at least one readable image of class {name!r}, got none; "
                "fix its files, or remove them"
            )
    assigned = subsets.assign(
        classes,
        [rows[place].index for place in labelled],
        [content[rows[place].group] for place in labelled],
        [preset[rows[place].member] for place in labelled],
        valid=valid,
        test=test,
        seed=seed,
    )
    rows = list(rows)
    for place, subset in zip(labelled, assigned, strict=True):
        rows[place] = replace(rows[place], subset=subset)
    return rows


def read_fixes(path: Path) -> list[Fix]:
    """Read the label fixes; the file has to exist."""
    if not path.exists():
        raise UserError(
            f"{path}: expected label fixes, got no such file; write one with the single line "
            "member,label,source if there are none"
        )
    return label_fixes.parse(tables.read_rows(path, label_fixes.COLUMNS, label_fixes.CORRECT))


def apply_fixes(
    rows: Sequence[LedgerRow], fixes: Sequence[Fix], classes: Sequence[str], path: Path
) -> tuple[list[LedgerRow], dict[str, int], list[Fix]]:
    """Relabel or reject training and validation images; only mark test images.

    Returns:
        the rows, how many were fixed in which way, and the fixes that match no row.
    """
    rows = list(rows)
    labelled = [place for place, row in enumerate(rows) if row.accepted and row.label]
    members = [rows[place].member for place in labelled]
    matched, unmatched = label_fixes.match(fixes, members, classes, str(path))
    counts = Counter({"excluded": 0, "relabelled": 0, "in_test": 0, "unmatched": len(unmatched)})
    for place, fix in ((labelled[i], fix) for i, fix in matched.items()):
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
    return rows, dict(counts), unmatched


def first_lines(lines: Sequence[str], rest: str = "") -> Iterator[str]:
    """Yield the first `MOST_LISTED` lines and how many more there are."""
    yield from lines[:MOST_LISTED]
    if len(lines) > MOST_LISTED:
        yield f"and {len(lines) - MOST_LISTED} more{rest}"


def summary_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield what `metrics/split.json` says, for the screen."""
    for name, by_subset in metrics["subsets"].items():
        yield f"class {name}: " + ", ".join(
            f"{by_subset[key]:,} {key}" for key in sorted(by_subset)
        )
    fixed = metrics["label_fixes"]
    if any(fixed.values()):
        yield (
            f"label fixes: {fixed['relabelled']} images relabelled, {fixed['excluded']} excluded; "
            f"{fixed['in_test']} in test, which keep their labels"
        )
    if near := metrics["near_duplicates"]:
        yield f"{near} images are nearly equal to another one; a group lies in one subset"
    if near > MANY_NEAR * metrics["accepted"]:
        yield (
            f"warning: these are {near / metrics['accepted']:.0%} of all; if they are different "
            "images that look alike, raise split.near_duplicates, or set it to null"
        )
    for key, what in (
        ("duplicates_with_other_label", "images are in the data under two labels"),
        ("duplicates_across_subsets", "images have copies in another subset"),
    ):
        if metrics[key]:
            yield f"warning: {metrics[key]} {what}; see the column group of the ledger"
