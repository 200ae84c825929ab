"""Faults of `params.yaml`: by key, by the text of a value, and of the complete text."""

import copy
import re
from collections.abc import Callable
from typing import Any

import yaml
from bad_inputs import Bad

TOLD = "In place of `params.yaml`. Accepted ones show the value that is read."
ABSENT = object()  # in place of a value: the key is removed
ALL = (
    "data, split, resize, backbones, extract, train_head, fine_tune, predict, evaluate, explain, "
    "submit, compute, verify"
)
MISSING = "this key, got nothing; docs/parameters.md lists all keys"
MOVES = dict.fromkeys(("rotation", "shift", "shear", "zoom"), 0) | {"flip": True}
FILE = {"weights": "file", "include_top": False, "preprocessing": "backbone", "pooling": "avg"}
NAMES = "a network name of letters, digits and _, got {!r}; change it"
NET = "backbones.convnet"

# Name: key, value, what is expected instead; then the key in the sentence, if it is another one.
FAULTS: dict[str, tuple[str, Any, str] | tuple[str, Any, str, str]] = {
    "an unknown key": (
        *("resize.siez", 64),
        "one of size, fit, interpolation, got an unknown key; did you mean 'size'?",
    ),
    "an unknown key like no other": (
        *("resize.colour", "red"),
        "one of size, fit, interpolation, got an unknown key; remove it",
    ),
    "an unknown key two sections down": (
        *("fine_tune.augment.rotations", 3),
        "one of rotation, shift, shear, zoom, flip, brightness, got an unknown key; "
        "did you mean 'rotation'?",
    ),
    "an unknown key of a backbone": (
        *(f"{NET}.sha", "0"),
        "one of weights, path, sha256, seed, include_top, preprocessing, layer, pooling, "
        "unfreeze_from, got an unknown key; did you mean 'sha256'?",
    ),
    "a key of another kind of head": (
        *("train_head", {"kind": "logistic", "max_iterations": 5, "epochs": 3}),
        "one of kind, inverse_regularization, max_iterations, got an unknown key; remove it",
        "train_head.epochs",
    ),
    "an unknown section": (
        *("resizing", {"size": 64}),
        f"one of {ALL}, got an unknown key; did you mean 'resize'?",
    ),
    "a missing key": ("split.seed", ABSENT, MISSING),
    "a missing section": ("submit", ABSENT, MISSING),
    "a head without its kind": ("train_head.kind", ABSENT, MISSING),
    "a section that is null": ("split", None, "a section of keys"),
    "a section that is a list": ("data", ["train.zip"], "a section of keys"),
    "backbones that are null": ("backbones", None, "a section of keys"),
    "a backbone that is a number": (NET, 1, "a section of keys"),
    "a key that is a number": (
        *("evaluate", {"calibration": "none", "decimals": 6, 1: 2}),
        *("keys that are text, got 1; change it", "evaluate.1"),
    ),
    "text for a whole number": ("resize.size", "64", "a whole number"),
    "a float for a whole number": ("resize.size", 64.0, "a whole number"),
    "true for a whole number": ("extract.batch_size", True, "a whole number"),
    "text for a number": ("fine_tune.learning_rate", "fast", "a number"),
    "true for a number": ("fine_tune.learning_rate", True, "a number"),
    "null for a number": ("split.valid", None, "a number"),
    "not a number": ("fine_tune.learning_rate", float("nan"), "a finite number"),
    "an infinite number": ("train_head.learning_rate", float("inf"), "a finite number"),
    "1 for true": ("fine_tune.augment.flip", 1, "true or false"),
    "yes": ("fine_tune.cache_frozen", "yes", "true or false"),
    "a number for text": ("data.train", 3, "text"),
    "no path": ("data.test", "", "some text"),
    "text for a list": ("data.classes", "cat", "a list"),
    "one class": ("data.classes", ["cat"], "2 or more entries"),
    "a class that is a number": (
        *("data.classes", ["cat", 2]),
        *("text, got 2; change it", "data.classes.1"),
    ),
    "a class twice": (
        *("data.classes", ["cat", "cat"]),
        "each name once, got ['cat', 'cat']; remove the repeated one",
    ),
    "no backbones": ("backbones", {}, "1 or more entries"),
    "a number below its range": ("resize.size", 7, "8 or more"),
    "a number above its range": ("fine_tune.augment.rotation", 181, "180 or less"),
    "a fraction of zero where some is needed": ("split.valid", 0, "a number above 0"),
    "a fraction of one": ("split.test", 1, "a number below 1"),
    "a seed below zero": ("split.seed", -1, "0 or more"),
    "a seed that is too large": ("split.seed", 2**31, "a number below 2147483648"),
    "a huge count": ("extract.batch_size", 10**30, "a number below 2147483648"),
    "fewer than no epochs of a dense head": ("train_head.epochs", -1, "0 or more"),
    "no epochs of fine-tuning": ("fine_tune.epochs", 0, "1 or more"),
    "weights of classes that are neither": (
        *("fine_tune.class_weights", "blanced"),
        "null, balanced, or a list of positive numbers, one per class",
    ),
    "a clip of a half": ("submit.clip", 0.5, "auto, or a number from 0 to below 0.5"),
    "a layer that is a number": (f"{NET}.unfreeze_from", 3, "null or a layer's name"),
    "two layers of a backbone": (f"{NET}.layer", ["a", "b"], "null or a layer's name"),
    "no layers to explain": (
        *("explain.layers", 0),
        "a number of layers from 1 to 100, or a list of layer names",
    ),
    "a warm-up that never ends": (
        *("fine_tune.warmup_epochs", 30),
        "fewer than fine_tune.epochs (30), got 30; lower it",
    ),
    "a choice that is none": ("resize.fit", "stretch", "one of 'squash', 'crop' or 'pad'"),
    "a kind of head that is none": ("train_head.kind", "forest", "one of 'logistic' or 'dense'"),
    "an instruction set in small letters": (
        *("compute.instruction_set", "avx2"),
        "one of 'SSE41', 'AVX', 'AVX2', 'AVX2_VNNI', 'AVX512_CORE', 'AVX512_CORE_VNNI', "
        "'AVX512_CORE_BF16' or 'AVX512_CORE_AMX'",
    ),
    "a pooling that is none": (
        *(f"{NET}.pooling", "mean"),
        "one of 'avg', 'max', 'flatten', 'predictions' or 'log_predictions'",
    ),
    "predictions of a backbone without its classifier": (
        *(f"{NET}.pooling", "predictions"),
        "true, as pooling is 'predictions', got false; change one of them",
        f"{NET}: include_top",
    ),
    "predictions of a layer": (
        NET,
        FILE | {"weights": "imagenet", "include_top": True, "pooling": "predictions", "layer": "a"},
        *("null, as pooling is 'predictions', got 'a'; change one of them", f"{NET}: layer"),
    ),
    "an engine that is none": ("extract.engine", "onnx", "one of 'keras' or 'openvino'"),
    "a backend that is none": ("compute.backend", "torch", "one of 'tensorflow' or 'jax'"),
    "a precision that is none": (
        *("extract.precision", "float16"),
        "one of 'float32' or 'bfloat16'",
    ),
    "a precision that the instruction set lacks": (
        *("extract.precision", "bfloat16"),
        "null or AVX512_CORE or above, as extract.precision is bfloat16, got 'AVX2'; change one",
        "compute.instruction_set",
    ),
    "no views": ("extract.views", 0, "1 or more"),
    "more views than there is room for": ("extract.views", 65, "64 or less"),
    "three views without augment": (
        *("extract.views", 3),
        "augment, as views is 3 and views from the third on are augmented, got none; add it, or "
        "set views: 2",
        "extract",
    ),
    "views that are augmented without a seed": (
        *("extract.augment", MOVES),
        *(MISSING, "extract.augment.seed"),
    ),
    "views that are made brighter": (
        *("extract.augment", MOVES | {"seed": 0, "brightness": 0.1}),
        "one of rotation, shift, shear, zoom, flip, seed, got an unknown key; remove it",
        "extract.augment.brightness",
    ),
    "a shift of the complete image": (
        *("extract.augment", MOVES | {"seed": 0, "shift": 1}),
        *("a number below 1, got 1; change it", "extract.augment.shift"),
    ),
    "predictions from no views": ("predict.views", 0, "1 or more"),
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
    "an optimizer that Keras does not know": (
        *("fine_tune.optimizer", "adma"),
        "one of 'sgd', 'rmsprop', 'adam', 'adamw', 'adamax', 'nadam', 'adagrad', 'adadelta', "
        "'lion' or 'ftrl'",
    ),
    "an output that is neither": ("train_head.output", "linear", "one of 'softmax' or 'sigmoid'"),
    "weights of a file without its hash": (
        *(NET, FILE | {"path": "w.h5", "sha256": None}),
        "path and sha256 with `weights: file`, got path; add what is missing, remove the rest",
    ),
    "weights of a file with half a hash": (
        *(NET, FILE | {"path": "w.h5", "sha256": "ABC"}),
        "a sha256 of 64 lowercase hexadecimal digits, got 'ABC'; change it",
        f"{NET}.sha256",
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
        NAMES.format("x$(rm)"),
    ),
    "a name that is a path": (
        *("backbones", {"../mine": FILE | {"weights": "imagenet"}}),
        NAMES.format("../mine"),
    ),
}

# Name: YAML in place of the value of `split.valid`, what is expected instead, what it got.
VALUES = {
    "NaN as YAML writes it": (".nan", "a finite number", "nan"),
    "minus infinity": ("-.inf", "a finite number", "-inf"),
    "an exponent too large": ("1e999", "a finite number", "inf"),
    "a number in sixties": ("1:30", "a number below 1", "90"),
    "a number of 400 digits": ("1" * 400, "a number", f"{'1' * 28}...{'1' * 29}"),
    "a number of base 16 with 5,000 digits": (
        *(f"0x{'f' * 5000}", "a number"),
        "a number of more than 4,300 digits",
    ),
    "a long text": ("a" * 100_000, "a number", f"'{'a' * 27}...{'a' * 28}'"),
    "a list in itself": ("&a [*a]", "a number", "[[[...]]]"),
}

# Name: YAML before the parameters, and what the parser says.
AT = 'in "<unicode string>", line {}, column {}: '
UNREADABLE = {
    "a bracket": (
        "a: [1\nb: 2\n",
        f"while parsing a flow sequence {AT.format(1, 4)}a: [1 ^ expected ',' or ']', but got ':' "
        f"{AT.format(2, 2)}b: 2 ^",
    ),
    "tabs": (
        "a:\n\tb: 1\n",
        "while scanning for the next token found character '\\t' that cannot start any token "
        f"{AT.format(2, 1)}b: 1 ^",
    ),
    "two documents": (
        "a: 1\n---\n",
        f"expected a single document in the stream {AT.format(1, 1)}a: 1 ^ but found another "
        f"document {AT.format(2, 1)}--- ^",
    ),
    "a NUL byte": (
        "\0",
        "unacceptable character #x0000: special characters are not allowed in "
        '"<unicode string>", position 0',
    ),
    "a key twice": (
        "a: 1\na: 2\n",
        f"while constructing a mapping {AT.format(1, 1)}a: 1 ^ found the key 'a' twice "
        f"{AT.format(2, 1)}a: 2 ^",
    ),
    "a tag of Python, which would run code": (
        "a: !!python/object/apply:os.system [id]\n",
        "could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/"
        f"apply:os.system' {AT.format(1, 4)}a: !!python/object/apply:os.system [id] ^",
    ),
    "an unknown tag": (
        "a: !half 1\n",
        f"could not determine a constructor for the tag '!half' {AT.format(1, 4)}a: !half 1 ^",
    ),
    "an alias without its anchor": (
        "a: *half\n",
        f"found undefined alias 'half' {AT.format(1, 4)}a: *half ^",
    ),
    "a list as a key": (
        "? [a]\n: 1\n",
        f"while constructing a mapping {AT.format(1, 1)}? [a] ^ found unhashable key "
        f"{AT.format(1, 3)}? [a] ^",
    ),
    "a date that does not exist": ("a: 2026-13-01\n", "month must be in 1..12"),
    "a number of 5,000 digits": (
        f"a: {'1' * 5000}\n",
        "Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits; "
        "use sys.set_int_max_str_digits() to increase the limit",
    ),
    "2,000 nested lists": (f"a: {'[' * 2000}{']' * 2000}\n", "lists nested too deeply"),
}
COMPLETE = {  # in place of all parameters
    "an empty file": ("", "None"),
    "comments alone": ("# nothing\n", "None"),
    "a list": ("- data\n- split\n", "['data', 'split']"),
    "a number": ("42\n", "42"),
}
ACCEPTED: dict[str, tuple[Callable[[str], bytes], str]] = {
    "a byte order mark": (lambda text: b"\xef\xbb\xbf" + text.encode(), "0.15"),
    "lines that end as in Windows": (lambda text: text.replace("\n", "\r\n").encode(), "0.15"),
    "a number as DVC writes it, text to YAML": (lambda text: valid(text, "1e-05"), "1e-05"),
}
PATHS = {
    "a path outside of the project": "../../nowhere",
    "a path with NUL": "a\0b",
    "a path of 300 letters": "a" * 300,
    "a device": "/dev/null",
}
CLASSES = {"a class too many": ["cat", "dog", "bird"], "a class too few": ["cat", "bird"]}
LAUGHS = f"laughs: expected one of {ALL}, got an unknown key; remove it"


def change(params: dict[str, Any], key: str, value: object) -> None:
    """Set the key of this dotted name, or remove it."""
    *path, last = key.split(".")
    for part in path:
        params = params[part]
    if value is ABSENT:
        del params[last]
    else:
        params[last] = value


def valid(text: str, value: str) -> bytes:
    """Return the text with YAML in place of the value of `split.valid`."""
    changed, count = re.subn(r"(?m)^  valid: \S+", lambda _: f"  valid: {value}", text)
    assert count == 1
    return changed.encode()


def laughs(text: str) -> bytes:
    """Return nine lists, each of nine times the one before: 9 ** 9 words if expanded."""
    lists = ["&a0 [lol]"]
    lists += [f"&a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    return f"laughs: [{', '.join(lists)}]\n{text}".encode()


def _sentence(key: str, value: object, expected: str, where: str = "") -> str:
    got = "" if ", got " in expected else f", got {value!r}; change it"
    return f"{where or key}: expected {expected}{got}"


def _with(key: str, value: object) -> Callable[[str], bytes]:
    def make(text: str) -> bytes:
        params = copy.deepcopy(yaml.safe_load(text))
        change(params, key, value)
        return yaml.safe_dump(params).encode()

    return make


def _what(key: str, value: object) -> str:
    return f"{key}: no such key" if value is ABSENT else f"{key}: `{value!r}`"


def _refused(
    name: str, what: str, make: Callable[[str], bytes], told: str, where: str = "params.yaml"
) -> Bad:
    return Bad(name, what, make, f"refused: {where}: {told}")


INPUTS = [
    *(
        _refused(name, _what(*fault[:2]), _with(*fault[:2]), _sentence(*fault))
        for name, fault in FAULTS.items()
    ),
    *(
        _refused(
            name,
            f"split.valid: `{text if len(text) < 30 else f'{text[:9]}...'}`",
            lambda old, text=text: valid(old, text),  # type: ignore[misc]
            f"split.valid: expected {expected}, got {got}; change it",
        )
        for name, (text, expected, got) in VALUES.items()
    ),
    *(
        _refused(
            name,
            "before all keys",
            lambda old, text=text: (text + old).encode(),  # type: ignore[misc]
            f"expected YAML, got {got!r}; correct that line",
        )
        for name, (text, got) in UNREADABLE.items()
    ),
    _refused(
        "an umlaut in Latin-1",
        "before all keys",
        lambda text: b"# \xfc\n" + text.encode(),
        "expected YAML, got \"'utf-8' codec can't decode byte 0xfc in position 2: invalid start "
        'byte"; correct that line',
    ),
    *(
        _refused(
            name,
            "in place of all keys",
            lambda _, text=text: text.encode(),  # type: ignore[misc]
            f"expected a section of keys, got {got}; change it",
        )
        for name, (text, got) in COMPLETE.items()
    ),
    *(
        Bad(name, "in the complete file", make, f"accepted: {value}", "split.valid")
        for name, (make, value) in ACCEPTED.items()
    ),
    *(
        _refused(
            name,
            "as data.train",
            _with("data.train", path),
            "expected a zip file or a folder of images, got nothing at that path; put the images "
            "there or correct the path",
            path.replace("\0", "\\x00"),
        )
        for name, path in PATHS.items()
    ),
    *(
        _refused(
            name,
            f"data.classes: `{classes}`",
            _with("data.classes", classes),
            "expected the class 'bird', got 'cat', 'dog'; correct the list of classes",
            "train.zip",
        )
        for name, classes in CLASSES.items()
    ),
    _refused("billion laughs", "lists of lists that hold 9 ** 9 words", laughs, LAUGHS),
    _refused(
        "laughs for a number",
        "such lists as split.valid",
        lambda text: laughs(valid(text, "*a9").decode()),
        f"split.valid: expected a number, got [{'[[...], [...], [...], [...], ...], ' * 4}...]; "
        f"change it\nparams.yaml: {LAUGHS}",
    ),
]
