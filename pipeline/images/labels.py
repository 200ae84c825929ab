"""Infer labels and subsets from file names. Pure: names in, entries out, in natural order."""

import difflib
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.runtime.errors import UserError

SUBSETS = {  # case-folded name of a folder -> subset
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "test": "test",
    "test1": "test",  # in Kaggle's first Dogs vs. Cats
}
_FLAT = re.compile(r"([^/.]+)\.[0-9]+\.[^/.]+")  # cat.0.jpg
Paths = dict[str, str]  # name of each member -> its path below the folder that is looked at


@dataclass(frozen=True, slots=True)
class Entry:
    """A member and what its name says."""

    name: str
    id: str  # the path below the wrapping folders, without extension; unique
    label: str | None = None  # None, without "unlabelled": outside the layout, to be rejected
    subset: str | None = None  # "train", "valid", "test", "unlabelled"; None: not split yet


def natural_key(name: str) -> tuple[tuple[tuple[str, int, str], ...], str]:
    """Return a sort key that puts "cat.2.jpg" before "cat.10.jpg"; different for any two names."""
    tokens = re.findall("([^0-9]*)([0-9]*)", name)
    numbers = ((text, digits, digits.lstrip("0")) for text, digits in tokens)
    # A longer number is a larger one: no int(), which refuses more than 4,300 digits.
    return tuple((text, len(n) if digits else -1, n) for text, digits, n in numbers), name


def infer_layout(
    names: Sequence[str], where: str, classes: Sequence[str] | None
) -> tuple[list[Entry], list[str]]:
    """Infer label and subset of each member from all names; return entries and ordered classes.

    Layouts, each inside any number of wrapping folders: `cat.0.jpg` (Kaggle's flat names, more than
    half of the files), `cats/1.jpg` (a folder per class, any folders below), and either of them
    inside `train`, `valid` and `test`. A flat `test` without labels is "unlabelled". If only
    `train` is labelled, its images are still to be split. `classes` must all be there, and no
    others; None: any. Raise `UserError`, whose message begins with `where`.
    """
    names = sorted(names, key=natural_key)
    paths = _unwrap({name: name for name in names})
    folders = _folders(paths)
    subsets = [folder for folder in folders if folder.casefold() in SUBSETS]
    others = [folder for folder in folders if folder not in subsets]
    # A class may be called "train", but then it holds images and no classes.
    split = len(subsets) > 1 or any(_labels(folders[folder]) for folder in subsets)
    if subsets and others and not split and subsets[0] not in (classes or ()):
        split, others = True, subsets  # a flat `test` beside classes is ambiguous
    if not split or _flat_labels(paths):
        known = {name: Entry(name, paths[name], label) for name, label in _labels(paths).items()}
    elif others:
        raise UserError(
            f"{where}: expected either subset folders ('train', 'valid', 'test') or class folders, "
            f"got {others[0]!r} among {_listed(folders)}; move it elsewhere"
        )
    else:
        known = _in_subsets(folders, where)
    present = {entry.label for entry in known.values() if entry.label is not None}
    if not present:
        raise _unknown_layout(where, names)
    order = _class_order(sorted(present, key=natural_key), where, classes)
    entries = [known.get(name) or Entry(name, paths.get(name, name)) for name in names]
    return _with_unique_ids(entries), order


def unlabelled(names: Sequence[str]) -> list[Entry]:
    """Return every member as an image to predict."""
    names = sorted(names, key=natural_key)
    paths = _unwrap({name: name for name in names})
    entries = [Entry(name, paths.get(name, name), None, "unlabelled") for name in names]
    return _with_unique_ids(entries)


def limit_per_class(entries: Iterable[Entry], limit: int | None) -> Iterator[Entry]:
    """Yield the first `limit` entries of each class and subset, and all without a label."""
    counts: Counter[tuple[str | None, str | None]] = Counter()
    for entry in entries:
        counts[entry.subset, entry.label] += 1
        if limit is None or entry.label is None or counts[entry.subset, entry.label] <= limit:
            yield entry


def _in_subsets(folders: dict[str, Paths], where: str) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    subsets = {folder: SUBSETS[folder.casefold()] for folder in folders}
    inside = {folder: _unwrap(folders[folder], subset) for folder, subset in subsets.items()}
    labels = {folder: _labels(paths) for folder, paths in inside.items()}
    only_train = {subset for folder, subset in subsets.items() if labels[folder]} == {"train"}
    trained = {label for f in folders if subsets[f] == "train" for label in labels[f].values()}
    for folder, paths in inside.items():
        if not labels[folder] and subsets[folder] == "test":
            entries |= {name: Entry(name, paths[name], None, "unlabelled") for name in paths}
            continue
        if not labels[folder] or not trained:
            raise _unknown_layout(where, [*paths])
        if unknown := sorted(set(labels[folder].values()) - trained, key=natural_key):
            raise UserError(
                f"{where}: expected in {folder!r} only classes of the training images, "
                f"{_listed(trained)}, got {unknown[0]!r}; rename or remove it"
            )
        prefix, subset = ("", None) if only_train else (f"{folder}/", subsets[folder])
        for name, label in labels[folder].items():
            entries[name] = Entry(name, prefix + paths[name], label, subset)
    return entries


def _folders(paths: Paths) -> dict[str, Paths]:
    """Return the folders, in natural order, each with the paths inside it."""
    folders: dict[str, Paths] = defaultdict(dict)
    for name, path in paths.items():
        folder, slash, below = path.partition("/")
        if slash:
            folders[folder][name] = below
    return {folder: folders[folder] for folder in sorted(folders, key=natural_key)}


def _unwrap(paths: Paths, subset: str | None = None) -> Paths:
    """Enter folders that have no sibling; with `subset`, only those of its name."""
    while len(folders := _folders(paths)) == 1 and not _flat_labels(paths):
        [(folder, inside)] = folders.items()
        if subset and SUBSETS.get(folder.casefold()) != subset:
            break
        paths = inside
    return paths


def _flat_labels(paths: Paths) -> dict[str, str]:
    """Return name -> label if more than half of the files have Kaggle's flat names, else {}."""
    matches = {name: _FLAT.fullmatch(path) for name, path in paths.items()}
    labels = {name: match[1] for name, match in matches.items() if match}
    return labels if 2 * len(labels) > len(paths) else {}


def _labels(paths: Paths) -> dict[str, str]:
    """Return name -> label, without the members outside the layout."""
    by_folder = {name: folder for folder, inside in _folders(paths).items() for name in inside}
    return _flat_labels(paths) or by_folder


def _with_unique_ids(entries: list[Entry]) -> list[Entry]:
    """Drop the extension from each id; where two would be equal, keep more of the path."""
    choices = [(posixpath.splitext(entry.id)[0], entry.id, entry.name) for entry in entries]
    level = [0] * len(entries)
    while True:
        ids = [choice[at] for choice, at in zip(choices, level, strict=True)]
        counts = Counter(ids)
        if len(counts) == len(ids):
            return [replace(entry, id=id_) for entry, id_ in zip(entries, ids, strict=True)]
        level = [min(2, at + (counts[id_] > 1)) for at, id_ in zip(level, ids, strict=True)]


def _class_order(present: list[str], where: str, classes: Sequence[str] | None) -> list[str]:
    if len(present) == 1:
        raise UserError(
            f"{where}: expected two classes or more, got only {present[0]!r}; "
            "add the images of another class"
        )
    folded = {label.casefold(): label for label in present}
    if twins := [label for label in present if folded[label.casefold()] != label]:
        raise UserError(
            f"{where}: expected classes that differ in more than case, got {twins[0]!r} and "
            f"{folded[twins[0].casefold()]!r}; rename one"
        )
    if classes is None:
        return present
    if missing := [label for label in classes if label not in present]:
        near = difflib.get_close_matches(missing[0], present, 1)
        hint = f"did you mean {near[0]!r}?" if near else "correct the list of classes"
        raise UserError(
            f"{where}: expected the class {missing[0]!r}, got {_listed(present)}; {hint}"
        )
    if surplus := [label for label in present if label not in classes]:
        raise UserError(
            f"{where}: expected only the classes {_listed(classes)}, got {surplus[0]!r}; "
            "list it too or remove its images"
        )
    return list(classes)


def _unknown_layout(where: str, names: Sequence[str]) -> UserError:
    return UserError(
        f"{where}: expected labels in file names ('cat.0.jpg') or one folder per class "
        f"('cats/1.jpg'), got {names[0] if names else 'nothing'!r}; rename or rearrange the images"
    )


def _listed(labels: Iterable[str]) -> str:
    quoted = [repr(label) for label in sorted(labels, key=natural_key)]
    more = f" and {len(quoted) - 10} more" if len(quoted) > 10 else ""  # one readable sentence
    return ", ".join(quoted[:10]) + more
