"""Decide which files are images and which subset each gets: the rows of the ledger."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.images import decode, labels, near_duplicates, sources
from pipeline.runtime.errors import UserError
from pipeline.storage.ledger import LedgerRow

MANY_NEAR = 0.05  # more near duplicates than this fraction suggest a threshold that is too low
MOST_LISTED = 10  # files that are listed on the screen; the ledger lists all


def judge(
    source: str, archive: sources.Source, entry: labels.Entry, classes: Sequence[str]
) -> tuple[LedgerRow, NDArray[np.uint8] | None]:
    """Read and decode a file of `source`; return its row, and its thumbnail if accepted."""
    index = classes.index(entry.label) if entry.label else -1
    subset = "unlabelled" if entry.subset == "unlabelled" else ""
    known = (entry.id, source, entry.name, entry.label or "", index, subset)
    row = LedgerRow(*known, sha256="", width=0, height=0, mode="", group="", reason="")
    try:
        if entry.label is None and entry.subset is None:
            raise decode.Unreadable("no label: it lies outside the folders of the classes")
        content = archive.read(entry.name)
        row = replace(row, sha256=hashlib.sha256(content).hexdigest())
        found = decode.decode(content)
    except decode.Unreadable as fault:
        return replace(row, reason=str(fault)), None
    width, height = found.original_size
    row = replace(row, width=width, height=height, mode=found.mode)
    return row, near_duplicates.thumbnail(found.image)


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
    if twins := [name for name, count in ids.items() if count > 1]:
        raise UserError(
            f"split: expected a unique id for each unlabelled image, got {twins[0]!r} in "
            "data.train and in data.test; remove the unlabelled images from data.train"
        )


def group(
    rows: Sequence[LedgerRow], thumbnails: NDArray[np.uint8], threshold: float | None
) -> list[LedgerRow]:
    """Fill in the group of accepted rows: equal bytes, or a correlation of `threshold` or more.

    `thumbnails`, uint8 (n, side, side), has one per accepted row; threshold None: bytes only.
    """
    accepted = [row for row in rows if row.accepted]
    first: dict[str, int] = {}
    same = [first.setdefault(row.sha256, place) for place, row in enumerate(accepted)]
    if threshold is not None and accepted:
        distinct, at = np.unique(same, return_inverse=True)
        same = distinct[near_duplicates.group(thumbnails[distinct], threshold)][at].tolist()
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
    """Fill in the subset of accepted labelled rows: "train", "valid" or "test".

    Stratified by class; images of one group stay together. The order of the hashes of seed and
    content decides, not names or the order of the rows, so that an added image moves few others.
    Subsets by the data's own folders are kept (`preset`, by member); a missing one is drawn from
    `train`, by its fraction of each class. Raise `UserError` if a class has too few images.
    """
    subsets = [
        preset[row.member] or "train" if row.accepted and row.label else row.subset for row in rows
    ]
    fractions = {"test": test, "valid": valid}
    to_draw = {name: part for name, part in fractions.items() if part and name not in subsets}
    groups: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        if row.accepted and row.label:
            groups[row.group].append(place)
    by_class: dict[int, list[tuple[bytes, list[int]]]] = defaultdict(list)
    for places in groups.values():
        content = min(rows[place].sha256 for place in places)
        order = hashlib.sha256(f"{seed}:{content}".encode()).digest()
        if places := [place for place in places if subsets[place] == "train"]:
            by_class[min(rows[place].index for place in places)].append((order, places))
    for remaining in by_class.values():
        remaining.sort()
        total = sum(len(places) for _, places in remaining)
        for subset, fraction in to_draw.items():
            left = max(1, round(fraction * total))
            while left > 0 and len(remaining) > 1:
                _, places = remaining.pop()
                left -= len(places)
                for place in places:
                    subsets[place] = subset
    assigned = [replace(row, subset=new) for row, new in zip(rows, subsets, strict=True)]
    required = ["train", "valid"] + (["test"] if test else [])
    for name in classes:
        present = [row.subset for row in assigned if row.accepted and row.label == name]
        if not present:
            raise UserError(
                f"split: expected at least one readable image of class {name!r}, got none; "
                "fix its files, or remove them"
            )
        if missing := [subset for subset in required if subset not in present]:
            different = len({row.group for row in assigned if row.accepted and row.label == name})
            problem = f"{len(present)} readable in all"
            remedy = "add images of this class, or take more of them"
            if different < len(required) <= len(present):
                problem += f", of which {different} differ: copies stay in one subset"
                remedy = (
                    "raise split.near_duplicates or set it to null if they do differ, or add more"
                )
            raise UserError(
                f"class {name!r}: expected at least one image in each of {', '.join(required)}, "
                f"got none in {missing[0]} of {problem}; {remedy}"
            )
    return assigned


def summary_lines(metrics: Mapping[str, Any]) -> Iterator[str]:
    """Yield what `metrics/split.json` says, for the screen."""
    for name, by_subset in metrics["subsets"].items():
        counts = ", ".join(f"{count:,} {subset}" for subset, count in sorted(by_subset.items()))
        yield f"class {name}: {counts}"
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
    where = "see the column group of the ledger"
    if count := metrics["duplicates_with_other_label"]:
        yield f"warning: {count} images are in the data under two labels; {where}"
    if count := metrics["duplicates_across_subsets"]:
        yield f"warning: {count} images have copies in another subset; {where}"
