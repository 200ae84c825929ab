"""Faults of `params.yaml`, by key and as a text."""

import copy
from collections.abc import Callable
from typing import Any

import yaml
from bad_inputs import Bad

TOLD = (
    "In place of `params.yaml`, which every stage checks whole before it works. What is accepted "
    "is told by the value that is read. Paths may lead anywhere: the data lie where you put them."
)
ABSENT = object()  # in place of a value: the key is taken away

Change = tuple[str, object]


def change(params: dict[str, Any], key: str, value: object) -> None:
    """Set the key of this dotted name, or take it away."""
    *path, last = key.split(".")
    for part in path:
        params = params[part]
    if value is ABSENT:
        del params[last]
    else:
        params[last] = value


FILE = {"source": "file", "include_top": False}
FAULTS: dict[str, tuple[Change, str]] = {
    "an unknown key": (
        ("resize.siez", 64),
        "resize.siez: expected one of size, fit, interpolation, got an unknown key; "
        "did you mean 'size'?",
    ),
    "an unknown key like no other": (
        ("resize.colour", "red"),
        "resize.colour: expected one of size, fit, interpolation, got an unknown key; remove it",
    ),
    "an unknown key two sections down": (
        ("fine_tune.augment.rotations", 3),
        "fine_tune.augment.rotations: expected one of rotation, shift, shear, zoom, flip, "
        "brightness, got an unknown key; did you mean 'rotation'?",
    ),
    "an unknown key of one backbone's weights": (
        ("fetch_weights.convnet.sha", "0"),
        "fetch_weights.convnet.sha: expected one of source, include_top, path, sha256, seed, "
        "got an unknown key; did you mean 'sha256'?",
    ),
    "an unknown section": (
        ("resizing", {"size": 64}),
        "resizing: expected one of data, split, resize, fetch_weights, extract, train_head, "
        "fine_tune, predict, evaluate, explain, submit, compute, verify, got an unknown key; did "
        "you mean 'resize'?",
    ),
    "a missing key": (
        ("split.seed", ABSENT),
        "split.seed: expected this key, got nothing; recipes/ holds complete files",
    ),
    "a missing section": (
        ("submit", ABSENT),
        "submit: expected this key, got nothing; recipes/ holds complete files",
    ),
    "a section that is null": (
        ("split", None),
        "split: expected a section of keys, got None; change it",
    ),
    "a section that is a list": (
        ("data", ["train.zip"]),
        "data: expected a section of keys, got ['train.zip']; change it",
    ),
    "weights that are null": (
        ("fetch_weights", None),
        "fetch_weights: expected a section of keys, got None; change it",
    ),
    "weights of one backbone that are a number": (
        ("fetch_weights.convnet", 1),
        "fetch_weights.convnet: expected a section of keys, got 1; change it",
    ),
    "a key that is a number": (
        ("evaluate", {"calibration": "none", "decimals": 6, 1: 2}),
        "evaluate.1: expected keys that are text, got 1; change it",
    ),
    "text for a whole number": (
        ("resize.size", "64"),
        "resize.size: expected a whole number, got '64'; change it",
    ),
    "a float for a whole number": (
        ("resize.size", 64.0),
        "resize.size: expected a whole number, got 64.0; change it",
    ),
    "true for a whole number": (
        ("extract.batch_size", True),
        "extract.batch_size: expected a whole number, got True; change it",
    ),
    "text for a number": (
        ("fine_tune.learning_rate", "fast"),
        "fine_tune.learning_rate: expected a number, got 'fast'; change it",
    ),
    "true for a number": (
        ("fine_tune.learning_rate", True),
        "fine_tune.learning_rate: expected a number, got True; change it",
    ),
    "null for a number": (
        ("split.valid", None),
        "split.valid: expected a number, got None; change it",
    ),
    "not a number": (
        ("fine_tune.learning_rate", float("nan")),
        "fine_tune.learning_rate: expected a finite number, got nan; change it",
    ),
    "an infinite number": (
        ("train_head.logistic.inverse_regularization", float("inf")),
        "train_head.logistic.inverse_regularization: expected a finite number, got inf; change it",
    ),
    "1 for true": (
        ("fine_tune.augment.flip", 1),
        "fine_tune.augment.flip: expected true or false, got 1; change it",
    ),
    "a number for text": (
        ("data.train", 3),
        "data.train: expected text, got 3; change it",
    ),
    "no path": (
        ("data.test", ""),
        "data.test: expected some text, got ''; change it",
    ),
    "text for a list": (
        ("data.classes", "cat"),
        "data.classes: expected a list, got 'cat'; change it",
    ),
    "one class": (
        ("data.classes", ["cat"]),
        "data.classes: expected a list of 2 or more, got ['cat']; change it",
    ),
    "a class that is a number": (
        ("data.classes", ["cat", 2]),
        "data.classes.1: expected text, got 2; change it",
    ),
    "no backbones": (
        ("extract.backbones", []),
        "extract.backbones: expected a list of 1 or more, got []; change it",
    ),
    "a number below its range": (
        ("resize.size", 7),
        "resize.size: expected 8 or more, got 7; change it",
    ),
    "a number above its range": (
        ("fine_tune.augment.rotation", 181),
        "fine_tune.augment.rotation: expected 180 or less, got 181; change it",
    ),
    "a fraction of zero where some is needed": (
        ("split.valid", 0),
        "split.valid: expected a number above 0, got 0; change it",
    ),
    "a fraction of one": (
        ("split.test", 1),
        "split.test: expected a number below 1, got 1; change it",
    ),
    "a seed below zero": (
        ("split.seed", -1),
        "split.seed: expected 0 or more, got -1; change it",
    ),
    "fewer than no epochs of a dense head": (
        ("train_head.dense.epochs", -1),
        "train_head.dense.epochs: expected 0 or more, got -1; change it",
    ),
    "weights of classes that are neither": (
        ("fine_tune.class_weights", "blanced"),
        "fine_tune.class_weights: expected null, balanced, or a list of positive numbers, one a "
        "class, got 'blanced'; change it",
    ),
    "a layer that is a number": (
        ("fine_tune.unfreeze_from", 3),
        "fine_tune.unfreeze_from: expected null, a layer's name, or a list of them, one a "
        "backbone, got 3; change it",
    ),
    "a warm-up that never ends": (
        ("fine_tune.warmup_epochs", 30),
        "fine_tune.warmup_epochs: expected fewer than fine_tune.epochs (30), got 30; lower it",
    ),
    "a choice that is none": (
        ("resize.fit", "stretch"),
        "resize.fit: expected one of 'squash', 'crop' or 'pad', got 'stretch'; change it",
    ),
    "an instruction set in small letters": (
        ("compute.instruction_set", "avx2"),
        "compute.instruction_set: expected one of 'SSE41', 'AVX', 'AVX2', 'AVX2_VNNI', "
        "'AVX512_CORE', 'AVX512_CORE_VNNI', 'AVX512_CORE_BF16' or 'AVX512_CORE_AMX', got 'avx2'; "
        "change it",
    ),
    "a pooling that is none": (
        ("extract.pooling", "mean"),
        "extract.pooling: expected one of 'avg', 'max', 'flatten', 'predictions' or "
        "'log_predictions', got 'mean'; change it",
    ),
    "predictions of a backbone without its classifier": (
        ("extract.pooling", "predictions"),
        "fetch_weights.convnet.include_top: expected true, as extract.pooling is 'predictions', "
        "got false; change one of them",
    ),
    "an engine that is none": (
        ("extract.engine", "onnx"),
        "extract.engine: expected one of 'keras' or 'openvino', got 'onnx'; change it",
    ),
    "a precision that is none": (
        ("extract.precision", "float16"),
        "extract.precision: expected one of 'float32' or 'bfloat16', got 'float16'; change it",
    ),
    "no views": (
        ("extract.views", 0),
        "extract.views: expected 1 or more, got 0; change it",
    ),
    "more views than there is room for": (
        ("extract.views", 65),
        "extract.views: expected 64 or less, got 65; change it",
    ),
    "views that are augmented without a seed": (
        ("extract.augment.seed", ABSENT),
        "extract.augment.seed: expected this key, got nothing; recipes/ holds complete files",
    ),
    "views that are made brighter": (
        ("extract.augment.brightness", 0.1),
        "extract.augment.brightness: expected one of rotation, shift, shear, zoom, flip, seed, "
        "got an unknown key; remove it",
    ),
    "a view that is turned too far": (
        ("extract.augment.rotation", -1),
        "extract.augment.rotation: expected 0 or more, got -1; change it",
    ),
    "a shift of the whole image": (
        ("extract.augment.shift", 1),
        "extract.augment.shift: expected a number below 1, got 1; change it",
    ),
    "a seed of the views that is too large": (
        ("extract.augment.seed", 2**31),
        "extract.augment.seed: expected a number below 2147483648, got 2147483648; change it",
    ),
    "predictions from no views": (
        ("predict.views", 0),
        "predict.views: expected 1 or more, got 0; change it",
    ),
    "predictions from more views than there are": (
        ("predict.views", 3),
        "predict.views: expected at most extract.views (2), got 3; change one of them",
    ),
    "nothing left to train": (
        ("split.valid", 0.85),
        "split: expected valid + test below 1, so that some images are left to train, "
        "got 0.85 + 0.15; lower one of them",
    ),
    "a backbone without weights": (
        ("extract.backbones", ["convnet", "vgg16"]),
        "fetch_weights.vgg16: expected where its weights come from, as extract.backbones asks for "
        "it, got nothing; add it here or remove it there",
    ),
    "a head on a backbone that is not extracted": (
        ("train_head.backbones", ["vgg16"]),
        "train_head.backbones: expected some of extract.backbones (convnet), got 'vgg16'; "
        "change one of them",
    ),
    "a head on three backbones": (
        ("train_head.backbones", ["a", "b", "c"]),
        "train_head.backbones: expected a list of 2 or fewer, got ['a', 'b', 'c']; change it",
    ),
    "a layer for another number of backbones": (
        ("fine_tune.unfreeze_from", ["conv1", "conv2"]),
        "fine_tune.unfreeze_from: expected a layer for each of train_head.backbones (convnet), or "
        "null to train the head alone, got ['conv1', 'conv2']; list them",
    ),
    "augmentation of what is computed once": (
        ("fine_tune.cache_frozen", True),
        "fine_tune.augment: expected no changes, as fine_tune.cache_frozen is true and each view "
        "is computed once, got flip; take more views (extract.views, extract.augment), or set "
        "cache_frozen: false",
    ),
    "an optimizer that Keras does not know": (
        ("fine_tune.optimizer", "adma"),
        "fine_tune.optimizer: expected one of 'sgd', 'rmsprop', 'adam', 'adamw', 'adamax', "
        "'nadam', 'adagrad', 'adadelta', 'lion' or 'ftrl', got 'adma'; change it",
    ),
    "an output that is neither": (
        ("train_head.dense.output", "linear"),
        "train_head.dense.output: expected one of 'softmax' or 'sigmoid', got 'linear'; change it",
    ),
    "weights of a file without its hash": (
        ("fetch_weights.convnet", FILE | {"path": "w.h5"}),
        "fetch_weights.convnet: expected of path, sha256 and seed beside `source: file` path and "
        "sha256, got path; add what lacks, remove the rest",
    ),
    "weights of a file whose hash is null": (
        ("fetch_weights.convnet", FILE | {"path": "w.h5", "sha256": None}),
        "fetch_weights.convnet: expected of path, sha256 and seed beside `source: file` path and "
        "sha256, got path; add what lacks, remove the rest",
    ),
    "weights of a file with half a hash": (
        ("fetch_weights.convnet", FILE | {"path": "w.h5", "sha256": "ABC"}),
        "fetch_weights.convnet.sha256: expected the 64 hexadecimal digits of a sha256, in small "
        "letters, got 'ABC'; change it",
    ),
    "a seed of ImageNet's weights": (
        ("fetch_weights.convnet.source", "imagenet"),
        "fetch_weights.convnet: expected of path, sha256 and seed beside `source: imagenet` none, "
        "got seed; add what lacks, remove the rest",
    ),
    "random weights without a seed": (
        ("fetch_weights.convnet.seed", None),
        "fetch_weights.convnet: expected of path, sha256 and seed beside `source: random` seed, "
        "got none; add what lacks, remove the rest",
    ),
}


def _with(key: str, value: object) -> Callable[[str], bytes]:
    def make(text: str) -> bytes:
        params = copy.deepcopy(yaml.safe_load(text))
        change(params, key, value)
        return yaml.safe_dump(params).encode()

    return make


def written(text: str, old: str, new: str) -> bytes:
    """The text with another value behind its key; the key must be there once."""
    assert text.count(old) == 1, old
    return text.replace(old, new).encode()


def _shown(value: object) -> str:
    return "no such key" if value is ABSENT else f"`{value!r}`"


def laughs(text: str) -> bytes:
    """Nine lists, each of nine times the one before: 9 ** 9 words if it is written out."""
    lists = ["&a0 [lol]"]
    lists += [f"&a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    return f"laughs: [{', '.join(lists)}]\n{text}".encode()


NOT_YAML = "refused: params.yaml: expected YAML, got {!r}; correct that line"
LINE = "valid: 0.15 "

INPUTS = [
    *(
        Bad(
            fault, f"{key}: {_shown(value)}", _with(key, value), f"refused: params.yaml: {sentence}"
        )
        for fault, ((key, value), sentence) in FAULTS.items()
    ),
    Bad(
        "no byte",
        "an empty file",
        lambda text: b"",
        "refused: params.yaml: expected a section of keys, got None; change it",
    ),
    Bad(
        "a comment alone",
        "a file of comments",
        lambda text: b"# nothing\n",
        "refused: params.yaml: expected a section of keys, got None; change it",
    ),
    Bad(
        "a list",
        "a list of keys",
        lambda text: b"- data\n- split\n",
        "refused: params.yaml: expected a section of keys, got ['data', 'split']; change it",
    ),
    Bad(
        "a number",
        "one number",
        lambda text: b"42\n",
        "refused: params.yaml: expected a section of keys, got 42; change it",
    ),
    Bad(
        "two documents",
        "the parameters behind another document",
        lambda text: b"a: 1\n---\n" + text.encode(),
        (
            "refused: params.yaml: expected YAML, got 'expected a single document in the "
            'stream in "<unicode string>", line 1, column 1: a: 1 ^ but found another '
            'document in "<unicode string>", line 2, column 1: --- ^\'; correct that line'
        ),
    ),
    Bad(
        "cut off",
        "a file without its last section",
        lambda text: text[: text.index("verify:")].encode(),
        (
            "refused: params.yaml: verify: expected this key, got nothing; recipes/ holds "
            "complete files"
        ),
    ),
    Bad(
        "a bracket",
        "a list that does not end",
        lambda text: b"data: [\n" + text.encode(),
        (
            "refused: params.yaml: expected YAML, got 'while parsing a flow sequence in "
            "\"<unicode string>\", line 1, column 7: data: [ ^ expected \\',\\' or \\']\\', but "
            "got \\':\\' in \"<unicode string>\", line 6, column 8: train: train.zip # labelled "
            "images: ... ^'; correct that line"
        ),
    ),
    Bad(
        "tabs",
        "lines indented by tabs",
        lambda text: text.replace("\n  ", "\n\t").encode(),
        (
            "refused: params.yaml: expected YAML, got 'while scanning for the next token "
            "found character \\'\\\\t\\' that cannot start any token in \"<unicode string>\", line "
            "5, column 1: train: train.zip # labelled i ... ^'; correct that line"
        ),
    ),
    Bad(
        "not UTF-8",
        "a file in UTF-16",
        lambda text: text.encode("utf-16"),
        (
            "refused: params.yaml: expected YAML, got \"'utf-8' codec can't decode byte 0xff "
            'in position 0: invalid start byte"; correct that line'
        ),
    ),
    Bad(
        "Latin-1",
        "an umlaut in Latin-1",
        lambda text: b"# \xfc\n" + text.encode(),
        (
            "refused: params.yaml: expected YAML, got \"'utf-8' codec can't decode byte 0xfc "
            'in position 2: invalid start byte"; correct that line'
        ),
    ),
    Bad(
        "byte order mark",
        "UTF-8 as Windows marks it",
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        "accepted: 0.15",
        "split.valid",
    ),
    Bad(
        "CR LF",
        "lines that end as in Windows",
        lambda text: text.replace("\n", "\r\n").encode(),
        "accepted: 0.15",
        "split.valid",
    ),
    Bad(
        "NUL",
        "a NUL byte",
        lambda text: b"\0" + text.encode(),
        (
            "refused: params.yaml: expected YAML, got 'unacceptable character #x0000: "
            'special characters are not allowed in "<unicode string>", position 0\'; correct '
            "that line"
        ),
    ),
    Bad(
        "a key twice",
        "`split.valid` on two lines",
        lambda text: written(text, f"  {LINE}", f"  valid: 0.3\n  {LINE}"),
        (
            "refused: params.yaml: expected YAML, got 'while constructing a mapping found "
            "the key \\'valid\\' twice in \"<unicode string>\", line 10, column 3: valid: 0.3 "
            "^'; correct that line"
        ),
    ),
    Bad(
        "a section twice",
        "`submit` at the beginning, too",
        lambda text: b"submit: {clip: 0.1}\n" + text.encode(),
        (
            "refused: params.yaml: expected YAML, got 'while constructing a mapping found "
            "the key \\'submit\\' twice in \"<unicode string>\", line 1, column 1: submit: "
            "{clip: 0.1} ^'; correct that line"
        ),
    ),
    Bad(
        "a tag of Python",
        "`!!python/object`, which would run code",
        lambda text: written(text, LINE, "valid: !!python/object/apply:os.system [id] "),
        (
            "refused: params.yaml: expected YAML, got 'could not determine a constructor for "
            "the tag \\'tag:yaml.org,2002:python/object/apply:os.system\\' in \"<unicode "
            "string>\", line 10, column 10: valid: !!python/object/apply:os.system ... ^'; "
            "correct that line"
        ),
    ),
    Bad(
        "an unknown tag",
        "a tag that there is not",
        lambda text: written(text, LINE, "valid: !half 1 "),
        (
            "refused: params.yaml: expected YAML, got 'could not determine a constructor for "
            "the tag \\'!half\\' in \"<unicode string>\", line 10, column 10: valid: !half 1 # "
            "fraction o ... ^'; correct that line"
        ),
    ),
    Bad(
        "billion laughs",
        "lists of lists that hold 9 ** 9 words",
        laughs,
        (
            "refused: params.yaml: laughs: expected one of data, split, resize, "
            "fetch_weights, extract, train_head, fine_tune, predict, evaluate, explain, "
            "submit, compute, verify, got an unknown key; remove it"
        ),
    ),
    Bad(
        "laughs for a number",
        "such lists as a number",
        lambda text: laughs(text).replace(LINE.encode(), b"valid: *a9 "),
        (
            "refused: params.yaml: split.valid: expected a number, got [[[...], [...], "
            "[...], [...], ...], [[...], [...], [...], [...], ...], [[...], [...], [...], "
            "[...], ...], [[...], [...], [...], [...], ...], ...]; change it\nparams.yaml: "
            "laughs: expected one of data, split, resize, fetch_weights, extract, "
            "train_head, fine_tune, predict, evaluate, explain, submit, compute, verify, got an "
            "unknown key; remove it"
        ),
    ),
    Bad(
        "a list in itself",
        "a list that holds itself, as a number",
        lambda text: written(text, LINE, "valid: &a [*a] "),
        "refused: params.yaml: split.valid: expected a number, got [[[...]]]; change it",
    ),
    Bad(
        "deep lists",
        "2,000 lists, each inside another, as a number",
        lambda text: written(text, LINE, f"valid: {'[' * 2000}{']' * 2000} "),
        (
            "refused: params.yaml: expected YAML, got 'lists in lists in lists, too deep'; "
            "correct that line"
        ),
    ),
    Bad(
        "an anchor of none",
        "an alias without its anchor",
        lambda text: written(text, LINE, "valid: *half "),
        (
            "refused: params.yaml: expected YAML, got 'found undefined alias \\'half\\' in "
            '"<unicode string>", line 10, column 10: valid: *half # fraction of ... ^\'; '
            "correct that line"
        ),
    ),
    Bad(
        "a list as a key",
        "a key that is a list",
        lambda text: written(text, LINE, "? [valid]\n  : 0.15 "),
        (
            "refused: params.yaml: expected YAML, got 'while constructing a mapping in "
            '"<unicode string>", line 10, column 3: ? [valid] ^ found unhashable key in '
            '"<unicode string>", line 10, column 5: ? [valid] ^\'; correct that line'
        ),
    ),
    Bad(
        "a day that there is not",
        "a date in a month 13, as a number",
        lambda text: written(text, LINE, "valid: 2026-13-01 "),
        "refused: params.yaml: expected YAML, got 'month must be in 1..12'; correct that line",
    ),
    Bad(
        "a number of 5,000 digits",
        "more digits than Python reads",
        lambda text: written(text, LINE, f"valid: {'1' * 5000} "),
        (
            "refused: params.yaml: expected YAML, got 'Exceeds the limit (4300 digits) for "
            "integer string conversion: value has 5000 digits; use "
            "sys.set_int_max_str_digits() to increase the limit'; correct that line"
        ),
    ),
    Bad(
        "a number of 400 digits",
        "a number that no float holds",
        lambda text: written(text, LINE, f"valid: {'1' * 400} "),
        (
            "refused: params.yaml: split.valid: expected a number, got "
            f"{'1' * 28}...{'1' * 29}; change it"
        ),
    ),
    Bad(
        "a long text",
        "a text of 100,000 letters as a number",
        lambda text: written(text, LINE, f"valid: {'a' * 100_000} "),
        (
            "refused: params.yaml: split.valid: expected a number, got "
            f"'{'a' * 27}...{'a' * 28}'; change it"
        ),
    ),
    Bad(
        "a huge count",
        "`extract.batch_size` of 30 digits",
        _with("extract.batch_size", 10**30),
        (
            "refused: params.yaml: extract.batch_size: expected a number below 2147483648, "
            "got 1000000000000000000000000000000; change it"
        ),
    ),
    Bad(
        "an exponent too large",
        "`1e999`",
        lambda text: written(text, LINE, "valid: 1e999 "),
        "refused: params.yaml: split.valid: expected a finite number, got '1e999'; change it",
    ),
    Bad(
        "NaN as YAML writes it",
        "`.nan`",
        lambda text: written(text, LINE, "valid: .nan "),
        "refused: params.yaml: split.valid: expected a finite number, got nan; change it",
    ),
    Bad(
        "minus infinity",
        "`-.inf`",
        lambda text: written(text, LINE, "valid: -.inf "),
        "refused: params.yaml: split.valid: expected a finite number, got -inf; change it",
    ),
    Bad(
        "a number as DVC writes it",
        "`1e-05`, a text to YAML",
        lambda text: written(text, LINE, "valid: 1e-05 "),
        "accepted: 1e-05",
        "split.valid",
    ),
    Bad(
        "a number in sixties",
        "`1:30`, 90 to YAML",
        lambda text: written(text, LINE, "valid: 1:30 "),
        "refused: params.yaml: split.valid: expected a number below 1, got 90; change it",
    ),
    Bad(
        "yes",
        "`yes`, which is true to YAML",
        _with("fine_tune.cache_frozen", "yes"),
        (
            "refused: params.yaml: fine_tune.cache_frozen: expected true or false, got "
            "'yes'; change it"
        ),
    ),
    Bad(
        "a path outside",
        "`data.train` outside of the project, where nothing is",
        _with("data.train", "../../nowhere"),
        "refused: ../../nowhere: expected a zip file or a folder of images, got nothing at that "
        "path; put the images there or correct the path",
    ),
    Bad(
        "a number of base 16",
        "more digits than Python writes",
        lambda text: written(text, LINE, f"valid: 0x{'f' * 5000} "),
        (
            "refused: params.yaml: split.valid: expected a number, got a number of very many "
            "digits; change it"
        ),
    ),
    Bad(
        "a path with NUL",
        "`data.train` with a NUL byte",
        _with("data.train", "a\0b"),
        (
            "refused: a\\x00b: expected a zip file or a folder of images, got nothing at that "
            "path; put the images there or correct the path"
        ),
    ),
    Bad(
        "a long path",
        "`data.train` of 300 letters",
        _with("data.train", "a" * 300),
        (
            "refused: "
            f"{'a' * 300}: "
            "expected a zip file or a folder of images, got nothing at that path; put the "
            "images there or correct the path"
        ),
    ),
    Bad(
        "a device",
        "`data.train` is a device",
        _with("data.train", "/dev/null"),
        (
            "refused: /dev/null: expected a zip file or a folder of images, got nothing at "
            "that path; put the images there or correct the path"
        ),
    ),
    Bad(
        "a class that there is not",
        "`data.classes` with one class more",
        _with("data.classes", ["cat", "dog", "bird"]),
        (
            "refused: train.zip: expected the class 'bird', got 'cat', 'dog'; correct the "
            "list of classes"
        ),
    ),
    Bad(
        "a class too few",
        "`data.classes` without a class that is there",
        _with("data.classes", ["cat", "bird"]),
        (
            "refused: train.zip: expected the class 'bird', got 'cat', 'dog'; correct the "
            "list of classes"
        ),
    ),
]
