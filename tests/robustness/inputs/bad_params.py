"""Faults of `params.yaml`: by key, by the text of a value, and of the complete text."""

import re
from typing import Any

import yaml
from bad_inputs import Bad, Make, table

INTRO = "In place of `params.yaml`. Accepted ones show the value of `split.valid` that is read."
ABSENT = object()  # in place of a value: the key is removed
ALL = (
    "data, split, resize, backbones, extract, train_head, fine_tune, predict, evaluate, explain, "
    "submit, compute, verify"
)
MISSING = "this key, got nothing; docs/parameters.md lists all keys"
FILE = {"weights": "file", "include_top": False, "preprocessing": "backbone", "pooling": "avg"}
NET = "backbones.convnet"

# Name: key, value, what is expected instead; then the key in the sentence, if it is another one.
FAULTS: dict[str, tuple[str, Any, str] | tuple[str, Any, str, str]] = {
    "an unknown key": (
        *("resize.siez", 64),
        "one of size, fit, interpolation, got an unknown key; did you mean 'size'?",
    ),
    "a key of another kind of head": (
        *("train_head", {"kind": "logistic", "max_iterations": 5, "epochs": 3}),
        "one of kind, folds, inverse_regularization, max_iterations, got an unknown key; remove it",
        "train_head.epochs",
    ),
    "an unknown section": (
        *("resizing", {"size": 64}),
        f"one of {ALL}, got an unknown key; did you mean 'resize'?",
    ),
    "a missing key": ("split.seed", ABSENT, MISSING),
    "a missing section": ("submit", ABSENT, MISSING),
    "a section that is null": ("split", None, "a section of keys"),
    "a key that is a number": (
        *("evaluate", {"calibration": "none", "decimals": 6, 1: 2}),
        *("keys that are text, got 1; change it", "evaluate.1"),
    ),
    "text for a whole number": ("resize.size", "64", "a whole number"),
    "a float for a whole number": ("resize.size", 64.0, "a whole number"),
    "text for a number": ("fine_tune.learning_rate", "fast", "a number"),
    "not a number": ("fine_tune.learning_rate", float("nan"), "a finite number"),
    "yes": ("fine_tune.cache_frozen", "yes", "true or false"),
    "a number for text": ("data.train", 3, "text"),
    "no path": ("data.test", "", "some text"),
    "text for a list": ("data.classes", "cat", "a list"),
    "one class": ("data.classes", ["cat"], "2 or more entries"),
    "a class twice": (
        *("data.classes", ["cat", "cat"]),
        "each name once, got ['cat', 'cat']; remove the repeated one",
    ),
    "a class twice, in two Unicode forms": (
        *("data.classes", ["caf\u00e9", "cafe\u0301"]),
        "each name once, got ['caf\u00e9', 'caf\u00e9']; remove the repeated one",
    ),
    "a folder for two subsets": (
        *("data.subsets", {"train": ["a", "b"], "test": "b"}),
        "each name once, got ['a', 'b', 'b']; remove the repeated one",
    ),
    "subsets without train": ("data.subsets", {"test": "a"}, MISSING, "data.subsets.train"),
    "a number as a folder": (
        *("data.subsets", {"train": 1}),
        "a folder's name or a list of them, got 1; change it",
        "data.subsets.train",
    ),
    "an unknown encoding of names": (
        *("data.zip_encoding", "gkb"),
        "null or an encoding of names in zips, such as gbk, cp932 or cp1251",
    ),
    "an encoding in which ASCII is not ASCII": (
        *("data.zip_encoding", "utf-16"),
        "null or an encoding of names in zips, such as gbk, cp932 or cp1251",
    ),
    "no backbones": ("backbones", {}, "1 or more entries"),
    "a number below its range": ("resize.size", 7, "8 or more"),
    "a number above its range": ("fine_tune.augment.rotation", 181, "180 or less"),
    "a fraction of zero where some is needed": ("split.valid", 0, "a number above 0"),
    "a fraction of one": ("split.test", 1, "a number below 1"),
    "a seed that is too large": ("split.seed", 2**31, "a number below 2147483648"),
    "weights of classes that are neither": (
        *("fine_tune.class_weights", "blanced"),
        "null, balanced, or a list of positive numbers, one per class",
    ),
    "a clip of a half": ("submit.clip", 0.5, "auto, or a number from 0 to below 0.5"),
    "no layers to explain": (
        *("explain.layers", 0),
        "a number of layers from 1 to 100, or a list of layer names",
    ),
    "a warm-up that never ends": (
        *("fine_tune.warmup_epochs", 30),
        "fewer than fine_tune.epochs (30), got 30; lower it",
    ),
    "a choice that is none": ("resize.fit", "stretch", "one of 'squash', 'crop' or 'pad'"),
    "predictions of a backbone without its classifier": (
        *(f"{NET}.pooling", "predictions"),
        "true, as pooling is 'predictions', got false; change one of them",
        f"{NET}: include_top",
    ),
    "a precision that the instruction set lacks": (
        *("extract.precision", "bfloat16"),
        "null or AVX512_CORE or above, as extract.precision is bfloat16, got 'AVX2'; change one",
        "compute.instruction_set",
    ),
    "three views without augment": (
        *("extract.views", 3),
        "augment, as views is 3 and views from the third on are augmented, got none; add it, or "
        "set views: 2",
        "extract",
    ),
    "predictions from more views than there are": (
        *("predict.views", 3),
        "at most extract.views (2), got 3; change one of them",
    ),
    "nothing left to train": (
        *("split.valid", 0.85),
        "valid + test below 1, so that images are left to train on, got 0.85 + 0.15; lower one of "
        "them",
        "split",
    ),
    "augmentation of what is computed once": (
        *("fine_tune.cache_frozen", True),
        "no changes, as fine_tune.cache_frozen is true and each view is computed once, got flip; "
        "use more views (extract.views, extract.augment), or set cache_frozen: false",
        "fine_tune.augment",
    ),
    "weights of a file without its hash": (
        *(NET, FILE | {"path": "w.h5", "sha256": None}),
        "path and sha256 with `weights: file`, got path; add what is missing, remove the rest",
    ),
    "a seed of ImageNet's weights": (
        *(f"{NET}.weights", "imagenet"),
        "no path, sha256 or seed with `weights: imagenet`, got seed; add what is missing, remove "
        "the rest",
        NET,
    ),
    "random weights without a seed": (
        *(f"{NET}.seed", None),
        "seed with `weights: random`, got none; add what is missing, remove the rest",
        NET,
    ),
    "a name with a command": (
        *("backbones", {"x$(rm)": FILE | {"weights": "imagenet"}}),
        "a network name of letters, digits and _, got 'x$(rm)'; change it",
    ),
}


def change(params: dict[str, Any], key: str, value: object) -> None:
    """Set the key of this dotted name, or remove it."""
    *path, last = key.split(".")
    for part in path:
        params = params[part]
    if value is ABSENT:
        del params[last]
    else:
        params[last] = value


def having(key: str, value: object) -> Make:
    """Return a function that sets or removes a key."""

    def make(text: str) -> bytes:
        params = yaml.safe_load(text)
        change(params, key, value)
        return yaml.safe_dump(params).encode()

    return make


def valid(value: str) -> Make:
    """Return a function that writes YAML in place of the value of `split.valid`."""

    def make(text: str) -> bytes:
        changed, count = re.subn(r"(?m)^  valid: \S+", lambda _: f"  valid: {value}", text)
        assert count == 1
        return changed.encode()

    return make


def laughs(text: str) -> bytes:
    """Return nine lists, each of nine times the one before: 9 ** 9 words if expanded."""
    lists = ["&a0 [lol]"]
    lists += [f"&a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    return f"laughs: [{', '.join(lists)}]\n{text}".encode()


# YAML in place of the value of `split.valid`: what is expected instead, what it got.
VALUES = {
    "1e999": ("a finite number", "inf"),
    "1:30": ("a number below 1", "90"),  # in sixties
    "a" * 100_000: ("a number", f"'{'a' * 27}...{'a' * 28}'"),
    "&a [*a]": ("a number", "[[[...]]]"),
}

# Name: YAML before the parameters, and the words of the parser.
UNREADABLE = {
    "a bracket": (b"a: [1\nb: 2\n", "while parsing a flow sequence"),
    "tabs": (b"a:\n\tb: 1\n", "that cannot start any token"),
    "two documents": (b"a: 1\n---\n", "but found another document"),
    "a NUL byte": (b"\0", "special characters are not allowed"),
    "an umlaut in Latin-1": (b"# \xfc\n", "decode byte 0xfc in position 2"),
    "a key twice": (b"a: 1\na: 2\n", "found the key ... twice"),
    "a tag of Python, which would run code": (
        b"a: !!python/object/apply:os.system [id]\n",
        "could not determine a constructor for the tag",
    ),
    "an alias without its anchor": (b"a: *half\n", "found undefined alias"),
    "a date that does not exist": (b"a: 2026-13-01\n", "month must be in 1..12"),
    "2,000 nested lists": (b"a: %s%s\n" % (b"[" * 2000, b"]" * 2000), "lists nested too deeply"),
}


def by_key(name: str, key: str, value: object, expected: str, where: str = "") -> Bad:
    what = "no such key" if value is ABSENT else f"`{value!r}`"
    got = "" if ", got " in expected else f", got {value!r}; change it"
    outcome = f"refused: params.yaml: {where or key}: expected {expected}{got}"
    return Bad(f"{name} ({key}: {what})", having(key, value), outcome)


INPUTS = [
    *(by_key(name, *fault) for name, fault in FAULTS.items()),
    *(
        Bad(
            f"split.valid: `{text if len(text) < 30 else f'{text[:9]}...'}`",
            valid(text),
            f"refused: params.yaml: split.valid: expected {expected}, got {got}; change it",
        )
        for text, (expected, got) in VALUES.items()
    ),
    *(
        Bad(
            f"{name} (before all keys)",
            lambda old, start=start: start + old.encode(),
            f"refused: params.yaml: expected YAML, got ... {got} ... ; correct that line",
        )
        for name, (start, got) in UNREADABLE.items()
    ),
    *(
        Bad(
            f"{name} (in place of all keys)",
            content,
            f"refused: params.yaml: expected a section of keys, got {got}; change it",
        )
        for name, content, got in (
            ("an empty file", b"", "None"),
            ("a list", b"- data\n- split\n", "['data', 'split']"),
        )
    ),
    Bad(
        "a path outside of the project (as data.train)",
        having("data.train", "../../nowhere"),
        "refused: ../../nowhere: expected a zip file or a folder of images, got nothing at that "
        "path; put the images there or correct the path",
    ),
    Bad(
        "a class too many (data.classes)",
        having("data.classes", ["cat", "dog", "bird"]),
        "refused: train.zip: expected the class 'bird', got 'cat', 'dog'; correct the list of "
        "classes",
    ),
    Bad(
        "billion laughs (lists of lists that hold 9 ** 9 words)",
        laughs,
        f"refused: params.yaml: laughs: expected one of {ALL}, got an unknown key; remove it",
    ),
    *table(
        {
            "accepted: 0.15": {
                "a byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
                "lines that end as in Windows": lambda text: text.replace("\n", "\r\n").encode(),
            },
            "accepted: 1e-05": {"a number as DVC writes it, text to YAML": valid("1e-05")},
        }
    ),
]
