"""Decide which files are images and which subset each gets: the rows of the ledger."""

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.images import decode, labels, near_duplicates, sources
from pipeline.runtime import links
from pipeline.runtime.errors import UserError
from pipeline.schema import Params
from pipeline.storage import cache_key
from pipeline.storage.ledger import OWN, Ledger, LedgerRow, unpacked
from pipeline.storage.texts import first_of_equal

MANY_NEAR = 0.05  # more near duplicates than this fraction suggest a threshold that is too low
PART = 256  # files that a thread or a worker judges at a time
MOST_LISTED = 10  # files that are listed on the screen; the ledger lists all


class Judging:
    """The work of stage `split` on its files: those of `data.train`, then those of `data.test`.

    On a cluster, each worker opens the inputs and infers the layout once.
    """

    def __init__(self, params: Params) -> None:
        self.params, inputs = params, params.data
        same = links.same(inputs.test, inputs.train)
        self.paths = [Path(one) for one in (inputs.train, *([] if same else [inputs.test]))]
        self.key = cache_key.of("split", {})

    def __getstate__(self) -> dict[str, Any]:
        paths = [path.absolute() for path in self.paths]
        return {"params": self.params, "paths": paths, "key": self.key}

    @functools.cached_property
    def archives(self) -> list[sources.Source]:
        """The open inputs."""
        cache_key.require_same("split", self.key)
        encoding = self.params.data.zip_encoding
        return [sources.open_source(path, encoding) for path in self.paths]

    @functools.cached_property
    def layout(self) -> tuple[labels.Entries, list[str]]:
        """All entries of `data.train`, and the classes in order."""
        data = self.params.data
        subsets = data.subsets.model_dump() if data.subsets else None
        return labels.infer_layout(self.archives[0].names, data.train, data.classes, subsets)

    @functools.cached_property
    def entries(self) -> list[labels.Entries]:
        """The entries of each input that are judged."""
        limit = self.params.split.per_class_limit
        others = [labels.unlabelled(archive.names) for archive in self.archives[1:]]
        return [labels.limit_per_class(self.layout[0], limit), *others]

    def parts(self) -> list[range]:
        """Return ranges of files, to be judged at a time."""
        count = sum(map(len, self.entries))
        return [range(at, min(at + PART, count)) for at in range(0, count, PART)]

    def __call__(self, part: range) -> tuple[list[LedgerRow], NDArray[np.uint8]]:
        """Return the rows of some files, and the thumbnails of the accepted ones."""
        rows, thumbnails = [], [np.empty((0, near_duplicates.SIDE, near_duplicates.SIDE), np.uint8)]
        for number in part:
            of_test = number >= len(self.entries[0])
            place = number - len(self.entries[0]) if of_test else number
            source = "test" if of_test else "train"
            archive, entry = self.archives[of_test], self.entries[of_test][place]
            row, thumbnail = judge(source, archive, entry, self.layout[1])
            rows.append(row)
            thumbnails += [] if thumbnail is None else [thumbnail[None]]
        return rows, np.concatenate(thumbnails)

    def close(self) -> None:
        """Close the inputs."""
        for archive in vars(self).get("archives", []):
            archive.close()

    def __del__(self) -> None:
        self.close()  # also in a worker, which is told of no end


def judge(
    source: str, archive: sources.Source, entry: labels.Entry, classes: Sequence[str]
) -> tuple[LedgerRow, NDArray[np.uint8] | None]:
    """Read and decode a file of `source`; return its row, and its thumbnail if accepted.

    The row's subset is the one that folders give.
    """
    index = classes.index(entry.label) if entry.label else -1
    known = (entry.id, source, entry.name, entry.label or "", index, entry.subset or "")
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


def require_few_rejected(rows: Ledger, most: float) -> Ledger:
    """Return the rejected rows; raise `UserError` if they exceed the fraction `most`."""
    rejected = rows.where(~rows.is_accepted())
    if len(rejected) > most * len(rows):
        listed = ", ".join(f"{row.member} ({row.reason})" for row in rejected[:MOST_LISTED])
        raise UserError(
            f"split: expected at most {most:.1%} of the files to be rejected "
            f"(split.max_rejected), got {len(rejected)} of {len(rows)}: {listed}; "
            "fix or remove them, or raise the limit"
        )
    return rejected


def require_unique_ids(rows: Ledger) -> None:
    """Raise `UserError` if two unlabelled images, which both inputs may hold, share an id."""
    ids = rows.where(rows.equal("subset", "unlabelled")).texts("id")
    if len(twins := np.flatnonzero(first_of_equal(ids) != np.arange(len(ids)))):
        raise UserError(
            f"split: expected a unique id for each unlabelled image, got {ids[twins[0]]!r} in "
            "data.train and in data.test; remove the unlabelled images from data.train"
        )


def group(rows: Ledger, thumbnails: NDArray[np.uint8], threshold: float | None) -> None:
    """Fill in the group of accepted rows: equal bytes, or a correlation of `threshold` or more.

    `thumbnails`, uint8 (n, side, side), has one per accepted row; threshold None: bytes only.
    """
    accepted = rows.accepted()
    same = first_of_equal(accepted.contents())
    if threshold is not None and len(accepted):
        distinct, at = np.unique(same, return_inverse=True)
        different = thumbnails if len(distinct) == len(same) else thumbnails[distinct]
        same = distinct[near_duplicates.group(different, threshold)][at]
    accepted.replace("group", slice(None), OWN)
    copies = np.flatnonzero(same != np.arange(len(same)))
    names = (f"{row.source}/{row.id}" for row in accepted.take(same[copies]))
    accepted.replace("group", copies, names)


def assign(rows: Ledger, classes: Sequence[str], *, valid: float, test: float, seed: int) -> None:
    """Fill in the subset of accepted labelled rows: "train", "valid" or "test".

    Stratified by class; images of one group stay together. The order of the hashes of seed and
    content decides, not names or the order of the rows, so that an added image moves few others.
    Subsets by the data's own folders are kept; a missing one is drawn from `train`, by its fraction
    of each class. Raise `UserError` if a class has too few images.
    """
    labelled = ~rows.equal("label", "")
    rows.replace("subset", np.flatnonzero(labelled & ~rows.is_accepted()), "")
    images = rows.where(labelled & rows.is_accepted())
    images.replace("subset", np.flatnonzero(images.equal("subset", "")), "train")
    fractions = {"test": test, "valid": valid}
    to_draw = {
        name: part
        for name, part in fractions.items()
        if part and not images.equal("subset", name).any()
    }
    of_group = first_of_equal(images.texts("group"))
    place = np.flatnonzero(images.equal("subset", "train"))  # of images to draw from
    place = place[np.argsort(of_group[place], kind="stable")]
    start = np.flatnonzero(np.diff(of_group[place], prepend=-1))  # of each group in them
    size = np.diff(start, append=len(place))
    number = images.numbers("index")[place]
    index = np.minimum.reduceat(number, start) if len(start) else number
    order = _drawing_order(images, of_group, seed)[of_group[place[start]]]
    for of_class in np.unique(index):
        groups = np.flatnonzero(index == of_class)
        groups = groups[np.argsort(order[groups], kind="stable")]
        total = size[groups].sum()
        for subset, fraction in to_draw.items():
            left = max(1, round(fraction * total))
            sizes = np.cumsum(size[groups[::-1]])
            drawn = min(int(np.searchsorted(sizes, left)) + 1, len(groups) - 1)
            groups, taken = np.split(groups, [len(groups) - drawn])
            for at in taken.tolist():
                images.replace("subset", place[start[at] : start[at] + size[at]], subset)
    required = ["train", "valid"] + (["test"] if test else [])
    _require_enough(images, classes, of_group, required)


def _drawing_order(images: Ledger, of_group: NDArray[np.int64], seed: int) -> NDArray[np.bytes_]:
    """Return for the first row of each group the hash of seed and lowest sha256, (n,)."""
    content = np.array(images.contents())
    for at in np.flatnonzero(of_group != np.arange(len(of_group))).tolist():
        first = of_group[at]
        content[first] = min(content[first], content[at])
    texts = map(unpacked, content)
    hashes = (hashlib.sha256(f"{seed}:{one}".encode()).digest() for one in texts)
    return np.fromiter(hashes, "S32", len(content))


def _require_enough(
    images: Ledger, classes: Sequence[str], of_group: NDArray[np.int64], required: Sequence[str]
) -> None:
    present = {(row.label, row.subset) for row in images.distinct("subset")}
    for name in classes:
        missing = [subset for subset in required if (name, subset) not in present]
        if not missing:
            continue
        is_class = images.equal("label", name)
        count, different = is_class.sum(), len(np.unique(of_group[is_class]))
        if not count:
            raise UserError(
                f"split: expected at least one readable image of class {name!r}, got none; "
                "fix its files, or remove them"
            )
        problem = f"{count} readable in all"
        remedy = "add images of this class, or take more of them"
        if different < len(required) <= count:
            problem += f", of which {different} differ: copies stay in one subset"
            remedy = "raise split.near_duplicates or set it to null if they do differ, or add more"
        raise UserError(
            f"class {name!r}: expected at least one image in each of {', '.join(required)}, "
            f"got none in {missing[0]} of {problem}; {remedy}"
        )


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
