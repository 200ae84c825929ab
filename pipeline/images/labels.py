"""The labels that file names tell. Pure: names in, rows out.

`arrange` and `arrange_unlabelled` turn the names of an archive's members into `Found` rows, in
natural order (2 before 10).
"""

import difflib
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.runtime.errors import UserError

SUBSETS = {  # name of a folder, in any case -> its subset
    "train": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "test": "test",
    "test1": "test",  # in Kaggle's first Dogs vs. Cats
}
_FLAT = re.compile(r"([^/.]+)\.[0-9]+\.[^/.]+")  # cat.0.jpg


@dataclass(frozen=True, slots=True)
class Found:
    """One member and what its name tells.

    `label` None with `subset` "unlabelled": an image to predict. `label` and `subset` None: the
    member stands outside the layout (a readme beside the class folders); the caller makes it a
    rejected row with the reason "no label: ...". A label with `subset` None: not split yet.
    """

    name: str
    id: str  # the path below the wrapping folders, without extension; unique
    label: str | None
    subset: str | None  # "train", "valid", "test", "unlabelled"


@dataclass(frozen=True, slots=True)
class Arrangement:
    """`found` in natural order of name, and the `classes` in the order that gives their numbers."""

    found: list[Found]
    classes: list[str]


def natural_key(name: str) -> tuple[tuple[tuple[str, int, str], ...], str]:
    """Sort key under which "cat.2.jpg" comes before "cat.10.jpg"; equal for equal names only."""
    tokens = re.findall("([^0-9]*)([0-9]*)", name)
    numbers = ((text, digits, digits.lstrip("0")) for text, digits in tokens)
    # A longer number is a larger one: no int(), which refuses more than 4,300 digits.
    return tuple((text, len(n) if digits else -1, n) for text, digits, n in numbers), name


def arrange(names: Sequence[str], where: str, classes: Sequence[str] | None) -> Arrangement:
    """Labels and subsets from names alone; `where` begins the sentence of a `UserError`.

    Understood, each inside any number of wrapping folders: `cat.0.jpg` (Kaggle's flat names, more
    than half of the files), `cats/1.jpg` (a folder a class, any folders below), and either of them
    inside `train`, `valid` and `test`. A flat `test` without labels is "unlabelled". Where `train`
    is all that is labelled, its images get `subset` None: they are still to be split.

    With `classes`, these and no others must be there, and their order holds.
    """
    names = sorted(names, key=natural_key)
    top = _look_through(names)
    folders = _folders(names, top)
    subsets = [folder for folder in folders if folder.casefold() in SUBSETS]
    strangers = [folder for folder in folders if folder not in subsets]
    # A class may be called "train", but then it holds images and no classes.
    split = len(subsets) > 1 or any(_labels(names, f"{top}{folder}/") for folder in subsets)
    if subsets and strangers and not split and subsets[0] not in (classes or ()):
        split, strangers = True, subsets  # a flat `test` beside classes: which one is it?
    if not split or _flat_labels(names, top):
        rows = {
            name: Found(name, name.removeprefix(top), label, None)
            for name, label in _labels(names, top).items()
        }
    elif strangers:
        raise UserError(
            f"{where}: expected either subset folders ('train', 'valid', 'test') or class folders, "
            f"got {strangers[0]!r} among {_listed(folders)}; move it elsewhere"
        )
    else:
        rows = _in_subsets(names, where, top, folders)
    present = {row.label for row in rows.values() if row.label is not None}
    if not present:
        raise _unknown_layout(where, names)
    order = _class_order(sorted(present, key=natural_key), where, classes)
    found = [rows.get(name) or Found(name, name.removeprefix(top), None, None) for name in names]
    return Arrangement(_with_unique_ids(found), order)


def first_of_each_class(found: Iterable[Found], limit: int | None) -> Iterator[Found]:
    """The first `limit` files of each class (and given subset) in natural order, or all."""
    taken: Counter[tuple[str | None, str | None]] = Counter()
    for item in found:
        taken[item.subset, item.label] += 1
        if limit is None or item.label is None or taken[item.subset, item.label] <= limit:
            yield item


def arrange_unlabelled(names: Sequence[str]) -> list[Found]:
    """Every member as an image to predict, in natural order of name."""
    names = sorted(names, key=natural_key)
    top = _look_through(names)
    return _with_unique_ids(
        [Found(name, name.removeprefix(top), None, "unlabelled") for name in names]
    )


def _in_subsets(names: list[str], where: str, top: str, folders: list[str]) -> dict[str, Found]:
    rows: dict[str, Found] = {}
    subsets = {folder: SUBSETS[folder.casefold()] for folder in folders}
    roots = {f: _look_through(names, f"{top}{f}/", subset) for f, subset in subsets.items()}
    labels = {folder: _labels(names, root) for folder, root in roots.items()}
    labelled = {subset for folder, subset in subsets.items() if labels[folder]}
    taught = {label for f in folders if subsets[f] == "train" for label in labels[f].values()}
    for folder, root in roots.items():
        inside = [name for name in names if name.startswith(root)]
        if not labels[folder] and subsets[folder] == "test":
            rows |= {n: Found(n, n.removeprefix(root), None, "unlabelled") for n in inside}
            continue
        if not labels[folder] or not taught:
            raise _unknown_layout(where, inside)
        if unknown := sorted(set(labels[folder].values()) - taught, key=natural_key):
            raise UserError(
                f"{where}: expected in {folder!r} only classes that are in the training images, "
                f"{_listed(taught)}, got {unknown[0]!r}; rename or remove it"
            )
        kept, subset = (f"{folder}/", subsets[folder]) if labelled != {"train"} else ("", None)
        rows |= {
            n: Found(n, kept + n.removeprefix(root), x, subset) for n, x in labels[folder].items()
        }
    return rows


def _folders(names: list[str], prefix: str) -> list[str]:
    below = (name[len(prefix) :] for name in names if name.startswith(prefix))
    return sorted({path.partition("/")[0] for path in below if "/" in path}, key=natural_key)


def _look_through(names: list[str], prefix: str = "", subset: str | None = None) -> str:
    """`prefix` and the folders below it that stand alone; with `subset`, only those so called."""
    folders = _folders(names, prefix)
    while len(folders) == 1 and not _flat_labels(names, prefix):
        if subset and SUBSETS.get(folders[0].casefold()) != subset:
            break
        prefix += f"{folders[0]}/"
        folders = _folders(names, prefix)
    return prefix


def _flat_labels(names: list[str], prefix: str) -> dict[str, str]:
    """Name -> label where more than half of the files have Kaggle's flat names, else nothing."""
    inside = [name for name in names if name.startswith(prefix)]
    matches = {name: _FLAT.fullmatch(name, len(prefix)) for name in inside}
    labels = {name: match[1] for name, match in matches.items() if match}
    return labels if 2 * len(labels) > len(inside) else {}


def _labels(names: list[str], prefix: str) -> dict[str, str]:
    """Name -> label of the members below `prefix`; what stands outside the layout is left out."""
    below = {name: name[len(prefix) :] for name in names if name.startswith(prefix)}
    by_folder = {name: path.partition("/")[0] for name, path in below.items() if "/" in path}
    return _flat_labels(names, prefix) or by_folder


def _with_unique_ids(rows: list[Found]) -> list[Found]:
    """Drop the extension of each path that stands as id; where two would meet, keep more of it."""
    choices = [(posixpath.splitext(row.id)[0], row.id, row.name) for row in rows]
    level = [0] * len(rows)
    while True:
        ids = [choice[at] for choice, at in zip(choices, level, strict=True)]
        counts = Counter(ids)
        if len(counts) == len(ids):
            return [replace(row, id=id_) for row, id_ in zip(rows, ids, strict=True)]
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
    for label in classes:
        if label not in present:
            near = difflib.get_close_matches(label, present, 1)
            hint = f"did you mean {near[0]!r}?" if near else "correct the list of classes"
            raise UserError(
                f"{where}: expected the class {label!r}, got {_listed(present)}; {hint}"
            )
    for label in present:
        if label not in classes:
            raise UserError(
                f"{where}: expected only the classes {_listed(classes)}, got {label!r}; "
                "list it too or take its images away"
            )
    return list(classes)


def _unknown_layout(where: str, names: Sequence[str]) -> UserError:
    return UserError(
        f"{where}: expected labels in file names ('cat.0.jpg') or one folder a class "
        f"('cats/1.jpg'), got {names[0] if names else 'nothing'!r}; rename or rearrange the images"
    )


def _listed(labels: Iterable[str]) -> str:
    quoted = [repr(label) for label in sorted(labels, key=natural_key)]
    more = f" and {len(quoted) - 10} more" if len(quoted) > 10 else ""  # one readable sentence
    return ", ".join(quoted[:10]) + more
