"""Infer labels and subsets from file names. Pure: names in, entries out, in natural order."""

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.runtime.errors import UserError, did_you_mean

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
    names: Sequence[str],
    where: str,
    classes: Sequence[str] | None,
    subsets: Mapping[str, Sequence[str] | None] | None = None,
) -> tuple[list[Entry], list[str]]:
    """Infer label and subset of each member from all names; return entries and ordered classes.

    Layouts, each inside any number of wrapping folders: `cat.0.jpg` (Kaggle's flat names, more than
    half of the files), `cats/1.jpg` (a folder per class, any folders below), and either of them
    inside `train`, `valid` and `test`, in the spellings of `SUBSETS`. A flat `test` without labels
    is "unlabelled". If only `train` is labelled, its images are still to be split. `classes` must
    all be there, and no others; None: any. `subsets` names the folders of each subset; there are
    no entries for files in others. Raise `UserError`, whose message begins with `where`.
    """
    names = sorted(names, key=natural_key)
    named = {one: subset for subset, ones in (subsets or {}).items() for one in ones or ()}
    paths = _unwrap({name: name for name in names}, unless=named)
    folders = _folders(paths)
    are_classes = classes is not None and set(folders) <= set(classes)
    if named:
        known = _in_subsets(folders, _require_all(named, folders, where), where, classes)
        tops = {name: path.partition("/") for name, path in paths.items()}
        outside = {name for name, (top, slash, _) in tops.items() if slash and top not in named}
        names = [name for name in names if name not in outside]
    elif not _flat_labels(paths) and (split := _split(folders, are_classes, where)):
        known = _in_subsets(folders, split, where, classes)
    else:
        known = {name: Entry(name, paths[name], label) for name, label in _labels(paths).items()}
        if not _flat_labels(paths) and not are_classes:
            _require_different(folders, where)
    labelled = [entry for entry in known.values() if entry.label is not None]
    present = {entry.label for entry in labelled if entry.label is not None}
    flat = [one.label for one in labelled if one.id.count("/") == (one.subset is not None)]
    dates = classes is None and len(flat) < 2 * len({*flat})  # "at 12.10.jpg" tells no class
    if not present or dates:
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


def _in_subsets(
    folders: dict[str, Paths],
    subsets: Mapping[str, str],
    where: str,
    classes: Sequence[str] | None,
) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    inside = {one: _unwrap(folders[one], one, subset) for one, subset in subsets.items()}
    labels = {
        folder: {} if subsets[folder] == "unlabelled" else _labels(paths)
        for folder, paths in inside.items()
    }
    only_train = {subset for folder, subset in subsets.items() if labels[folder]} == {"train"}
    trained = {label for f in subsets if subsets[f] == "train" for label in labels[f].values()}
    for folder, paths in inside.items():
        if not labels[folder] and subsets[folder] in ("test", "unlabelled"):
            entries |= {name: Entry(name, paths[name], None, "unlabelled") for name in paths}
            continue
        if not _flat_labels(paths) and not trained <= {*(classes or ())}:
            _require_different(_folders(paths), where)
        if not labels[folder] or not trained:
            raise _unknown_layout(where, [*paths])
        if unknown := sorted(set(labels[folder].values()) - trained, key=natural_key):
            raise UserError(
                f"{where}: expected in {folder!r} only classes of the training images, "
                f"{listed(trained)}, got {unknown[0]!r}; rename or remove it"
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


def _flat_labels(paths: Paths) -> dict[str, str]:
    """Return name -> label if more than half of the files have Kaggle's flat names, else {}."""
    matches = {name: _FLAT.fullmatch(path) for name, path in paths.items()}
    labels = {name: one[1] for name, one in matches.items() if one and _LETTER.search(one[1])}
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
