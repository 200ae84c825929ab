"""Infer labels and subsets from file names. Pure: names in, entries out, in natural order.

What is known of the names is in columns, about 25 bytes a name beside the name itself.
"""

import copy
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime.errors import UserError, did_you_mean
from pipeline.storage.texts import Ints, Texts, natural_key, naturally_sorted, repeated

SUBSETS = {  # words of a folder's name -> subset
    "train|training": "train",
    "valid|validation|val|dev": "valid",
    "test|testing|test1": "test",  # test1 in Kaggle's first Dogs vs. Cats
    "pred|predict|prediction|unlabell?ed": "unlabelled",
}
_NEUTRAL = "(?:[ _-]|sets?|seg|data|images?|imgs?|photos?|pictures?|split)*"  # no word of another
_NAMES = {re.compile(f"{_NEUTRAL}(?:{word}){_NEUTRAL}"): name for word, name in SUBSETS.items()}
_FLAT = re.compile(r"([^/.]+)\.[0-9]+\.[^/.]+")  # cat.0.jpg
_LETTER = re.compile(r"[^\W\d_]")
_LOST = re.compile("[?_\ufffd]+")  # letters that a zip or a file system could not hold


@dataclass(frozen=True, slots=True)
class Paths:
    """Names of members, and by iteration their paths below the folder that is looked at."""

    names: Texts
    at: Ints  # places of the names, ascending
    skip: int = 0  # length of the path of that folder

    def __len__(self) -> int:
        return len(self.at)

    def __iter__(self) -> Iterator[str]:
        return (name[self.skip :] for name in self.names.of(self.at))


@dataclass(frozen=True, slots=True)
class Labelled:
    """Labels of some paths; false without any."""

    texts: list[str]
    code: NDArray[np.int32]  # of each path, its label's place; -1 for none

    def __bool__(self) -> bool:
        return bool(self.texts)


NONE = Labelled([], np.empty(0, np.int32))


@dataclass(frozen=True, slots=True)
class Entry:
    """A member and what its name says."""

    name: str
    id: str  # the path below the wrapping folders, without extension; unique
    label: str | None = None  # None, without "unlabelled": outside the layout, to be rejected
    subset: str | None = None  # "train", "valid", "test", "unlabelled"; None: not split yet


class Entries(Sequence[Entry]):
    """Entries of some names, each made when it is asked for; at first nothing is known of them."""

    def __init__(self, names: Texts) -> None:
        self.names, self.at = names, np.arange(len(names))  # the place of the name of each entry
        self._texts: list[str | None] = [None, ""]  # of labels, subsets and prefixes
        self._label, self._subset, self._skip = np.zeros((3, len(names)), np.int32)
        self._prefix = np.ones(len(names), np.int32)
        self._level = np.zeros(len(names), np.int8)  # how much of its path is an id

    def __len__(self) -> int:
        return len(self.at)

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> "Entries": ...
    def __getitem__(self, place: int | slice) -> "Entry | Entries":
        return self._taken(self.at[place]) if isinstance(place, slice) else self._of(self.at[place])

    def __iter__(self) -> Iterator[Entry]:
        return map(self._of, self.at)

    def _of(self, at: np.int64) -> Entry:
        name, label, subset = self.names[int(at)], self._label[at], self._subset[at]
        whole = f"{self._texts[self._prefix[at]]}{name[self._skip[at] :]}"
        id_ = (posixpath.splitext(whole)[0], whole, name)[self._level[at]]
        return Entry(name, id_, self._texts[label], self._texts[subset])

    def _taken(self, at: Ints) -> "Entries":
        taken = copy.copy(self)
        taken.at = at
        return taken

    def where(self, chosen: Iterable[bool]) -> "Entries":
        """Return some of the entries."""
        return self._taken(self.at[np.fromiter(chosen, np.bool_, len(self))])

    def mark(
        self, paths: Paths, labels: Labelled = NONE, subset: str | None = None, prefix: str = ""
    ) -> None:
        """Say what the paths tell: all of them, or with labels only those that have one."""
        at, has = paths.at, labels.code >= 0
        if labels:
            at = at[has]
            codes = np.array([self._code(text) for text in labels.texts], np.int32)
            self._label[at] = codes[labels.code[has]]
        self._subset[at], self._prefix[at] = self._code(subset), self._code(prefix)
        self._skip[at] = paths.skip

    def classes(self) -> set[str]:
        """Return the labels of the entries."""
        return {text for one in np.unique(self._label[self.at]) if (text := self._texts[one])}

    def make_ids_unique(self) -> None:
        """Drop the extension from each id; where two would be equal, keep more of the path."""
        ids = (entry.id for entry in self)
        while twins := repeated(ids, (entry.id for entry in self), len(self)):
            same = np.fromiter((entry.id in twins for entry in self), np.bool_, len(self))
            self._level[self.at[same]] = np.minimum(2, self._level[self.at[same]] + 1)
            ids = (entry.id for entry in self)

    def _code(self, text: str | None) -> int:
        if text not in self._texts:
            self._texts.append(text)
        return self._texts.index(text)


def infer_layout(
    names: Sequence[str],
    where: str,
    classes: Sequence[str] | None,
    subsets: Mapping[str, Sequence[str] | None] | None = None,
) -> tuple[Entries, list[str]]:
    """Infer label and subset of each member from all names; return entries and ordered classes.

    Layouts, each inside any number of wrapping folders: `cat.0.jpg` (Kaggle's flat names, more than
    half of the files), `cats/1.jpg` (a folder per class, any folders below), and either of them
    inside `train`, `valid` and `test`, in the spellings of `SUBSETS`. A flat `test` without labels
    is "unlabelled". If only `train` is labelled, its images are still to be split. `classes` must
    all be there, and no others; None: any. `subsets` names the folders of each subset; there are
    no entries for files in others. Raise `UserError`, whose message begins with `where`.
    """
    ordered = naturally_sorted(names)
    named = {one: subset for subset, ones in (subsets or {}).items() for one in ones or ()}
    paths = _unwrap(Paths(ordered, np.arange(len(ordered))), unless=named)
    folders = _folders(paths)
    are_classes = classes is not None and set(folders) <= set(classes)
    entries = Entries(ordered)
    entries.mark(paths)
    if named:
        _set_subsets(entries, folders, _require_all(named, folders, where), where, classes)
        tops = (path.partition("/") for path in paths)
        outside = np.zeros(len(ordered), np.bool_)
        outside[paths.at] = [bool(slash) and top not in named for top, slash, _ in tops]
        entries = entries.where(~outside)
    elif not _flat_labels(paths) and (split := _split(folders, are_classes, where)):
        _set_subsets(entries, folders, split, where, classes)
    else:
        if labels := _labels(paths):
            entries.mark(paths, labels)
        if not _flat_labels(paths) and not are_classes:
            _require_different(folders, where)
    present = entries.classes()
    flat: Counter[str] = Counter()
    for one in entries:
        if one.label and one.id.count("/") == (one.subset is not None):
            flat[one.label] += 1
    dates = classes is None and flat.total() < 2 * len(flat)  # "at 12.10.jpg" tells no class
    if not present or dates:
        raise _unknown_layout(where, [one.name for one in entries[:1]])
    order = _class_order(sorted(present, key=natural_key), where, classes)
    entries.make_ids_unique()
    return entries, order


def unlabelled(names: Sequence[str]) -> Entries:
    """Return every member as an image to predict."""
    ordered = naturally_sorted(names)
    everything = Paths(ordered, np.arange(len(ordered)))
    entries = Entries(ordered)
    entries.mark(everything, subset="unlabelled")
    entries.mark(_unwrap(everything), subset="unlabelled")
    entries.make_ids_unique()
    return entries


def limit_per_class(entries: Entries, limit: int | None) -> Entries:
    """Return the first `limit` entries of each class and subset, and all without a label."""
    counts: Counter[tuple[str | None, str | None]] = Counter()

    def keeps(entry: Entry) -> bool:
        counts[entry.subset, entry.label] += 1
        return entry.label is None or counts[entry.subset, entry.label] <= (limit or 0)

    return entries if limit is None else entries.where(map(keeps, entries))


def empty_folders(folders: Iterable[str], entries: Iterable[Entry]) -> Iterator[str]:
    """Yield a sentence for each folder without images, by whether it lies beside classes."""
    inside = (f"/{one.name}".partition(f"/{one.label}/") for one in entries if one.label)
    beside_classes = {before for before, found, _ in inside if found}
    for folder in folders:
        kind = "class folder" if f"/{folder}".rpartition("/")[0] in beside_classes else "folder"
        yield f"{kind} {folder!r} holds no images"


def _subset(folder: str) -> str | None:
    """Return the subset that a name says, such as "Testing", "val-images" and "seg_train"."""
    folded = folder.casefold()
    return next((name for names, name in _NAMES.items() if names.fullmatch(folded)), None)


def _split(folders: dict[str, Paths], are_classes: bool, where: str) -> dict[str, str]:
    """Return the subset of each folder; nothing if the folders are classes."""
    split = {folder: subset for folder in folders if (subset := _subset(folder))}
    others = [folder for folder in folders if folder not in split]
    # A class may be called "train", but then it holds images and no classes.
    if are_classes or not split:
        return {}
    if len(split) == 1 and not any(_labels(folders[folder]) for folder in split):
        others = [*split]  # a flat `test` beside classes is ambiguous
    if others:
        raise UserError(
            f"{where}: expected either subset folders ('train', 'valid', 'test') or class folders, "
            f"got {others[0]!r} among {listed(folders)}; move it elsewhere, list the folders in "
            "data.classes if all are classes, or say in data.subsets which to use"
        )
    return split


def _require_all(named: dict[str, str], folders: Iterable[str], where: str) -> dict[str, str]:
    if missing := [folder for folder in named if folder not in folders]:
        raise UserError(
            f"{where}: expected the folder {missing[0]!r} of data.subsets, got "
            f"{listed(folders) or 'no folders'}; correct data.subsets"
        )
    return named


def _require_different(folders: dict[str, Paths], where: str) -> None:
    """Raise `UserError` for two folders with a common folder inside: a class, or a subset?"""
    first: dict[str, str] = {}
    for folder, paths in folders.items():
        for below in _folders(paths):
            other = first.setdefault(below, folder)
            if other != folder and not re.fullmatch(_NEUTRAL, below.casefold()):
                raise UserError(
                    f"{where}: expected one folder per class, or subset folders ('train', 'valid', "
                    f"'test'), got {below!r} in {other!r} and in {folder!r}; say which they are: "
                    f"`data.classes: [{other}, {folder}, ...]` if they are classes, else "
                    f"data.subsets, such as `{{train: {other}, test: {folder}}}`"
                )


def _set_subsets(
    entries: Entries,
    folders: dict[str, Paths],
    subsets: Mapping[str, str],
    where: str,
    classes: Sequence[str] | None,
) -> None:
    inside = {one: _unwrap(folders[one], one, subset) for one, subset in subsets.items()}
    labels = {
        folder: NONE if subsets[folder] == "unlabelled" else _labels(paths)
        for folder, paths in inside.items()
    }
    only_train = {subset for folder, subset in subsets.items() if labels[folder]} == {"train"}
    trained = {label for f in subsets if subsets[f] == "train" for label in labels[f].texts}
    for folder, paths in inside.items():
        if not labels[folder] and subsets[folder] in ("test", "unlabelled"):
            entries.mark(paths, subset="unlabelled")
            continue
        if not _flat_labels(paths) and not trained <= {*(classes or ())}:
            _require_different(_folders(paths), where)
        if not labels[folder] or not trained:
            raise _unknown_layout(where, [*paths.names.of(paths.at[:1])])
        if unknown := sorted({*labels[folder].texts} - trained, key=natural_key):
            raise UserError(
                f"{where}: expected in {folder!r} only classes of the training images, "
                f"{listed(trained)}, got {unknown[0]!r}; rename or remove it"
            )
        prefix, subset = ("", None) if only_train else (f"{folder}/", subsets[folder])
        entries.mark(paths, labels[folder], subset, prefix)


def _folders(paths: Paths) -> dict[str, Paths]:
    """Return the folders, in natural order, each with the paths inside it."""
    parts = (path.partition("/") for path in paths)
    found = _coded((folder if slash else None for folder, slash, _ in parts), len(paths))
    order = np.argsort(found.code, kind="stable")
    bounds = np.searchsorted(found.code[order], np.arange(len(found.texts) + 1))
    inside = {
        folder: Paths(paths.names, paths.at[order[start:stop]], paths.skip + len(folder) + 1)
        for folder, start, stop in zip(found.texts, bounds, bounds[1:], strict=False)
    }
    return {folder: inside[folder] for folder in sorted(inside, key=natural_key)}


def _unwrap(
    paths: Paths, only: str | None = None, subset: str = "", unless: Iterable[str] = ()
) -> Paths:
    """Enter folders that have no sibling; with `only`, those of this name or of that subset."""
    while len(folders := _folders(paths)) == 1 and not _flat_labels(paths):
        [(folder, inside)] = folders.items()
        if folder in unless or (only and folder != only and _subset(folder) != subset):
            break
        paths = inside
    return paths


def _flat_labels(paths: Paths) -> Labelled:
    """Return labels if more than half of the files have Kaggle's flat names, else none."""
    matches = map(_FLAT.fullmatch, paths)
    texts = (one[1] if one and _LETTER.search(one[1]) else None for one in matches)
    found = _coded(texts, len(paths))
    return found if 2 * np.count_nonzero(found.code >= 0) > len(paths) else NONE


def _labels(paths: Paths) -> Labelled:
    """Return the label of each path, none for those outside the layout."""
    if flat := _flat_labels(paths):
        return flat
    parts = (path.partition("/") for path in paths)
    return _coded((folder if slash else None for folder, slash, _ in parts), len(paths))


def _coded(texts: Iterable[str | None], count: int) -> Labelled:
    codes: dict[str | None, int] = {None: -1}
    code = np.fromiter((codes.setdefault(one, len(codes) - 1) for one in texts), np.int32, count)
    return Labelled([text for text in codes if text is not None], code)


def _class_order(present: list[str], where: str, classes: Sequence[str] | None) -> list[str]:
    if lost := [label for label in present if _LOST.fullmatch(label)]:
        raise UserError(
            f"{where}: expected class names with letters or digits, got {lost[0]!r}, as where they "
            "could not be stored; make the archive again or rename that folder"
        )
    if len(present) == 1:
        raise UserError(
            f"{where}: expected two classes or more, got only {present[0]!r}; "
            "add the images of another class"
        )
    folded = {label.lower(): label for label in present}
    if twins := [label for label in present if folded[label.lower()] != label]:
        raise UserError(
            f"{where}: expected classes that differ in more than case, got {twins[0]!r} and "
            f"{folded[twins[0].lower()]!r}; rename one"
        )
    if classes is None:
        return present
    if missing := [label for label in classes if label not in present]:
        hint = did_you_mean(missing[0], present, "correct the list of classes")
        raise UserError(
            f"{where}: expected the class {missing[0]!r}, got {listed(present)}; {hint}"
        )
    if surplus := [label for label in present if label not in classes]:
        raise UserError(
            f"{where}: expected only the classes {listed(classes)}, got {surplus[0]!r}; "
            "list it too or remove its images"
        )
    return list(classes)


def _unknown_layout(where: str, names: Sequence[str]) -> UserError:
    return UserError(
        f"{where}: expected labels in file names ('cat.0.jpg') or one folder per class "
        f"('cats/1.jpg'), got {names[0] if names else 'nothing'!r}; rename or rearrange the images"
    )


def listed(names: Iterable[str], most: int = 10) -> str:
    """Quote the first names, in natural order, for one readable sentence."""
    quoted = [repr(name) for name in sorted(names, key=natural_key)]
    more = f" and {len(quoted) - most} more" if len(quoted) > most else ""
    return ", ".join(quoted[:most]) + more
