"""Infer labels and subsets from file names. Pure: names in, entries out.

`infer_layout` and `unlabelled` turn the names of an archive's members into entries in natural order
(2 before 10).
"""

import difflib
import posixpath
import re
from collections import Counter
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


@dataclass(frozen=True, slots=True)
class Entry:
    """A member and what its name says.

    `label` None with `subset` "unlabelled": an image to predict. `label` and `subset` None: a file
    outside the layout (a readme beside the class folders), which the caller rejects. A label with
    `subset` None: not split yet.
    """

    name: str
    id: str  # the path below the wrapping folders, without extension; unique
    label: str | None
    subset: str | None  # "train", "valid", "test", "unlabelled"


@dataclass(frozen=True, slots=True)
class Layout:
    """`entries` in natural order of name, and the `classes` in the order of their indices."""

    entries: list[Entry]
    classes: list[str]


def natural_key(name: str) -> tuple[tuple[tuple[str, int, str], ...], str]:
    """Return a sort key that puts "cat.2.jpg" before "cat.10.jpg"; different for any two names."""
    tokens = re.findall("([^0-9]*)([0-9]*)", name)
    numbers = ((text, digits, digits.lstrip("0")) for text, digits in tokens)
    # A longer number is a larger one: no int(), which refuses more than 4,300 digits.
    return tuple((text, len(n) if digits else -1, n) for text, digits, n in numbers), name


def infer_layout(names: Sequence[str], where: str, classes: Sequence[str] | None) -> Layout:
    """Infer label and subset of each member from all names.

    Layouts, each inside any number of wrapping folders: `cat.0.jpg` (Kaggle's flat names, more than
    half of the files), `cats/1.jpg` (a folder per class, any folders below), and either of them
    inside `train`, `valid` and `test`. A flat `test` without labels is "unlabelled". If only
    `train` is labelled, its images get `subset` None: they are still to be split.

    Args:
        where: begins the message of a `UserError`.
        classes: exactly these must be there, and their order is kept; None: natural order.
    """
    names = sorted(names, key=natural_key)
    top = _unwrap(names)
    folders = _folders(names, top)
    subsets = [folder for folder in folders if folder.casefold() in SUBSETS]
    others = [folder for folder in folders if folder not in subsets]
    # A class may be called "train", but then it holds images and no classes.
    split = len(subsets) > 1 or any(_labels(names, f"{top}{folder}/") for folder in subsets)
    if subsets and others and not split and subsets[0] not in (classes or ()):
        split, others = True, subsets  # a flat `test` beside classes is ambiguous
    if not split or _flat_labels(names, top):
        labelled = {
            name: Entry(name, name.removeprefix(top), label, None)
            for name, label in _labels(names, top).items()
        }
    elif others:
        raise UserError(
            f"{where}: expected either subset folders ('train', 'valid', 'test') or class folders, "
            f"got {others[0]!r} among {_listed(folders)}; move it elsewhere"
        )
    else:
        labelled = _in_subsets(names, where, top, folders)
    present = {entry.label for entry in labelled.values() if entry.label is not None}
    if not present:
        raise _unknown_layout(where, names)
    order = _class_order(sorted(present, key=natural_key), where, classes)
    entries = [
        labelled.get(name) or Entry(name, name.removeprefix(top), None, None) for name in names
    ]
    return Layout(_with_unique_ids(entries), order)


def unlabelled(names: Sequence[str]) -> list[Entry]:
    """Return every member as an image to predict, in natural order of name."""
    names = sorted(names, key=natural_key)
    top = _unwrap(names)
    return _with_unique_ids(
        [Entry(name, name.removeprefix(top), None, "unlabelled") for name in names]
    )


def limit_per_class(entries: Iterable[Entry], limit: int | None) -> Iterator[Entry]:
    """Yield the first `limit` entries of each class and subset, and all without a label."""
    counts: Counter[tuple[str | None, str | None]] = Counter()
    for entry in entries:
        counts[entry.subset, entry.label] += 1
        if limit is None or entry.label is None or counts[entry.subset, entry.label] <= limit:
            yield entry


def _in_subsets(names: list[str], where: str, top: str, folders: list[str]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    subsets = {folder: SUBSETS[folder.casefold()] for folder in folders}
    roots = {f: _unwrap(names, f"{top}{f}/", subset) for f, subset in subsets.items()}
    labels = {folder: _labels(names, root) for folder, root in roots.items()}
    labelled = {subset for folder, subset in subsets.items() if labels[folder]}
    trained = {label for f in folders if subsets[f] == "train" for label in labels[f].values()}
    for folder, root in roots.items():
        inside = [name for name in names if name.startswith(root)]
        if not labels[folder] and subsets[folder] == "test":
            entries |= {n: Entry(n, n.removeprefix(root), None, "unlabelled") for n in inside}
            continue
        if not labels[folder] or not trained:
            raise _unknown_layout(where, inside)
        if unknown := sorted(set(labels[folder].values()) - trained, key=natural_key):
            raise UserError(
                f"{where}: expected in {folder!r} only classes of the training images, "
                f"{_listed(trained)}, got {unknown[0]!r}; rename or remove it"
            )
        prefix, subset = (f"{folder}/", subsets[folder]) if labelled != {"train"} else ("", None)
        entries |= {
            name: Entry(name, prefix + name.removeprefix(root), label, subset)
            for name, label in labels[folder].items()
        }
    return entries


def _folders(names: list[str], prefix: str) -> list[str]:
    below = (name[len(prefix) :] for name in names if name.startswith(prefix))
    return sorted({path.partition("/")[0] for path in below if "/" in path}, key=natural_key)


def _unwrap(names: list[str], prefix: str = "", subset: str | None = None) -> str:
    """Extend `prefix` by folders that have no sibling; with `subset`, only by those of its name."""
    folders = _folders(names, prefix)
    while len(folders) == 1 and not _flat_labels(names, prefix):
        if subset and SUBSETS.get(folders[0].casefold()) != subset:
            break
        prefix += f"{folders[0]}/"
        folders = _folders(names, prefix)
    return prefix


def _flat_labels(names: list[str], prefix: str) -> dict[str, str]:
    """Return name -> label if more than half of the files have Kaggle's flat names, else {}."""
    inside = [name for name in names if name.startswith(prefix)]
    matches = {name: _FLAT.fullmatch(name, len(prefix)) for name in inside}
    labels = {name: match[1] for name, match in matches.items() if match}
    return labels if 2 * len(labels) > len(inside) else {}


def _labels(names: list[str], prefix: str) -> dict[str, str]:
    """Return name -> label of the members below `prefix`, without those outside the layout."""
    below = {name: name[len(prefix) :] for name in names if name.startswith(prefix)}
    by_folder = {name: path.partition("/")[0] for name, path in below.items() if "/" in path}
    return _flat_labels(names, prefix) or by_folder


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
