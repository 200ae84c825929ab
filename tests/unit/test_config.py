"""`params.yaml` is checked completely; `settings` has what affects each stage, and nothing else."""

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import parameter_table
import pytest
from bad_params import ABSENT, change

from pipeline import config, paths
from pipeline.backbones import build
from pipeline.runtime.errors import UserError

Content = dict[str, Any]
NET = "backbones.convnet"
MOVES = {"rotation": 5, "shift": 0.1, "shear": 0.1, "zoom": 0.1, "flip": True}
POOLINGS = ("predictions", "log_predictions")
LOGISTIC = {"train_head": {"kind": "logistic", "max_iterations": 500}}
FROZEN: Content = {"fine_tune": None, f"{NET}.unfreeze_from": None}
OPENVINO = {"extract.engine": "openvino"}
VIEWS = {"extract.views": 4, "extract.augment": MOVES | {"seed": 0}}
CACHED = VIEWS | {"fine_tune.cache_frozen": True, "fine_tune.augment": None}
IMAGENET = {"weights": "imagenet", "include_top": False, "preprocessing": "backbone"}
IMAGENET |= {"pooling": "flatten", "unfreeze_from": "conv1"}
VGG = {"backbones.VGG16": IMAGENET | {"unfreeze_from": None}}
FILE = {f"{NET}.seed": None, f"{NET}.weights": "file", f"{NET}.path": "a.h5"}
FILE |= {f"{NET}.sha256": "0" * 64}
ONNX_KEYS: Content = {"weights": "file", "path": "a.onnx", "sha256": "0" * 64, "pooling": "flatten"}
ONNX_KEYS |= {"mean": [0, 0, 0], "std": [1, 1, 1]}
ONNX = {**OPENVINO, **FROZEN, "backbones.Net": ONNX_KEYS}
PRESET_KEYS: Content = {"weights": "preset", "path": "folder", "pooling": "cls"}
PRESET = {"fine_tune": None, "backbones.Pre": PRESET_KEYS}
OTHERS = {"output": "y", "layout": "NCHW", "size": 96, "pooling": "avg"}
FINE_TUNED = {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 9, "steps_per_epoch": 5}
FINE_TUNED |= {"batch_size": 8, "patience": None, "class_weights": "balanced", "seed": 1}
FINE_TUNED |= {"input_dropout": 0.1, "dropout": 0.1}


def changed(params: Content, changes: Mapping[str, Any]) -> Content:
    content = copy.deepcopy(params)
    for key, value in changes.items():
        change(content, key, value if value is ABSENT else copy.deepcopy(value))
    return content


def settings(params: Content, changes: Mapping[str, Any]) -> dict[str, Any]:
    return config.settings(config.check(changed(params, changes)))


def under(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{section}.{key}": value for key, value in values.items()}


def reverse(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    return {key: reverse(value) for key, value in reversed(content.items())}


STILL = {"extract.augment": dict.fromkeys(MOVES, 0) | {"flip": False, "seed": 0}}
NO_PATIENCE = {"train_head.patience": None, "fine_tune.patience": None}
UNTRAINED: Content = {"train_head.epochs": 0}
ONE_LAYER: Content = {"train_head.hidden": []}
UNTRAINED_TOO = {"epochs": 0, "seed": 0}
FOLDERS = {"data.subsets": {"train": ["a"], "valid": None, "test": "b"}}
HARMLESS: list[tuple[str, Content, Content]] = [
    ("0.0 for 0", {}, {"train_head.dropout": 0.0, "fine_tune.augment.rotation": 0.0}),
    ("no key for null", {}, {"data.classes": ABSENT, "train_head.class_weights": ABSENT}),
    ("whole numbers", {"fine_tune.class_weights": [1.0, 2.0]}, {"fine_tune.class_weights": [1, 2]}),
    ("augment with two views", {}, {"extract.augment": MOVES | {"seed": 3}}),
    ("no fine-tuning", FROZEN, {f"{NET}.unfreeze_from": "conv2"}),
    ("changes of nothing", {"fine_tune.augment.flip": False}, {"fine_tune.augment": None}),
    ("verify", {}, {"verify.absolute": 1, "verify.relative": 0.5, "verify.pixels": 0.1}),
    ("no smoothing", {}, {f"{one}.label_smoothing": 0.0 for one in ("train_head", "fine_tune")}),
    ("another path to the same file", {}, {"data.train": "./data/../data/sample/train.zip"}),
    ("other images at another path", {}, {"data.train": "a", "data.test": "b"}),
    ("weights at another path", FILE, {f"{NET}.path": "b.h5"}),
    ("an ONNX file at another path", ONNX, {"backbones.Net.path": "b.onnx"}),
    ("the size of all images", {}, {f"{NET}.size": 64}),
    ("another Unicode form", {"data.classes": ["\u00e9", "a"]}, {"data.classes": ["e\u0301", "a"]}),
    ("a name for a list", FOLDERS, {"data.subsets.test": ["b"], "data.subsets.valid": ABSENT}),
    ("another name of an encoding", {"data.zip_encoding": "cp932"}, {"data.zip_encoding": "ms932"}),
    ("the default encoding", {}, {"data.zip_encoding": "IBM437"}),
    ("preprocessing that is the network's own", {}, {f"{NET}.preprocessing": "rescale"}),
    ("a seed of no changes", {"extract.views": 3, **STILL}, {"extract.augment.seed": 1}),
    ("a longer patience than a head", NO_PATIENCE, {"train_head.patience": 19}),
    ("a longer patience than fine-tuning", NO_PATIENCE, {"fine_tune.patience": 30}),
    ("an untrained head", UNTRAINED, under("train_head", FINE_TUNED | UNTRAINED_TOO)),
    ("no layer to drop out of", ONE_LAYER, under("train_head", {"dropout": 0.5})),
    ("no layer to normalize", ONE_LAYER, under("train_head", {"batch_norm": True})),
    ("dropout after one layer", ONE_LAYER, {"fine_tune.dropout": 0.5}),
    ("images per batch of Keras", OPENVINO, {"extract.batch_size": 8}),
    ("dropout after a regression", LOGISTIC, {"fine_tune.dropout": 0.5}),
]


@pytest.mark.parametrize(
    ("base", "changes"), [case[1:] for case in HARMLESS], ids=[case[0] for case in HARMLESS]
)
def test_a_harmless_change_changes_no_setting(
    params: Content, base: Content, changes: Content
) -> None:
    assert settings(params, {**base, **changes}) == settings(params, base)


def test_the_order_of_keys_changes_no_setting(params: Content) -> None:
    assert config.settings(config.check(reverse(params))) == settings(params, {})


REGULARIZED = {"label_smoothing": 0.1, "weight_decay": 0.01, "clip_norm": 1.0}
REGULARIZED |= {"ema": 0.9, "focal_gamma": 2.0, "mixup": 0.2}
HARD_WIRED = "extract fine_tune explain"
MEANINGFUL: list[tuple[str, Content, Content]] = [
    ("split", {}, {"data.classes": ["cat", "dog"], "data.test": "./data/sample/train.zip"}),
    ("split", {}, under("split", {"valid": 0.2, "test": 0, "per_class_limit": 9, "seed": 1})),
    ("split", {}, under("split", {"max_rejected": 0.5, "near_duplicates": None})),
    ("split", {}, {**FOLDERS, "data.zip_encoding": "gbk"}),
    ("split", FOLDERS, under("data.subsets", {"train": "c", "valid": "c", "test": "c"})),
    ("resize", {}, under("resize", {"size": 32, "fit": "pad", "interpolation": "box"})),
    ("fetch_weights", {}, {f"{NET}.seed": 1}),
    ("fetch_weights", {}, {NET: IMAGENET}),
    ("fetch_weights", FILE, {f"{NET}.sha256": "1" * 64}),
    (f"fetch_weights {HARD_WIRED}", {}, {f"{NET}.include_top": True}),
    ("fetch_weights", ONNX, {"backbones.Net.sha256": "1" * 64}),
    ("fetch_weights explain", ONNX, under("backbones.Net", OTHERS)),
    ("fetch_weights explain", ONNX, under("backbones.Net", {"mean": [1, 2, 3], "std": [2, 2, 2]})),
    (HARD_WIRED, {}, {f"{NET}.size": 32}),
    ("extract explain fetch_weights", PRESET, {"backbones.Pre.sha256": "1" * 64}),
    ("extract explain fetch_weights", PRESET, {"backbones.Pre.path": "b"}),
    ("extract explain", PRESET, {"backbones.Pre.size": 64}),  # null is the preset's own
    ("fetch_weights explain", ONNX, {"backbones.Net.size": 64}),
    ("extract explain", PRESET, under("backbones.Pre", {"layer": "a", "size": 96})),
    ("extract explain", PRESET, {"backbones.Pre.pooling": "mean"}),
    ("fine_tune", {"backbones.Pre": PRESET_KEYS}, {"backbones.Pre.unfreeze_from": "a"}),
    (HARD_WIRED, {}, under(NET, {"layer": "a", "pooling": "avg"})),
    (HARD_WIRED, VGG, {"backbones.VGG16.preprocessing": "rescale"}),
    ("fine_tune", {}, {f"{NET}.unfreeze_from": "conv2"}),
    ("extract", {}, under("extract", {"views": 3, "batch_size": 8})),
    ("fetch_weights extract", {}, OPENVINO),
    ("fetch_weights explain fine_tune", OPENVINO, under(NET, {"layer": "a", "pooling": "avg"})),
    ("fetch_weights resize", OPENVINO, {"resize.size": 32}),
    ("extract", {}, {"extract.dtype": "float16"}),
    ("extract", VIEWS, under("extract.augment", {**dict.fromkeys(MOVES, 0.5), "flip": False})),
    ("extract", VIEWS, {"extract.augment.seed": 1, "extract.views": 5}),
    ("extract fine_tune", CACHED, {"extract.augment.seed": 1, "extract.views": 5}),
    ("extract fine_tune", VIEWS | {"predict.views": 3}, {"extract.augment.zoom": 0.2}),
    ("train_head", {}, {"train_head": LOGISTIC["train_head"]}),
    ("train_head", LOGISTIC, {"train_head.kind": "logistic", "train_head.max_iterations": 9}),
    ("train_head", LOGISTIC, {"train_head.inverse_regularization": 1}),
    ("train_head", {}, under("train_head", FINE_TUNED | {"hidden": [], "batch_norm": True})),
    ("train_head", {}, {"train_head.output": "sigmoid", "train_head.patience": 18}),
    ("fine_tune", {}, {"fine_tune.patience": 29}),
    ("train_head", UNTRAINED, under("train_head", {"seed": 1, "batch_norm": True})),
    ("fine_tune", {}, under("fine_tune", FINE_TUNED | {"warmup_epochs": 1, "decay": "cosine"})),
    ("train_head", {}, under("train_head", REGULARIZED)),
    ("train_head evaluate", {"fine_tune": None}, {"train_head.folds": 3}),
    ("train_head evaluate", {**LOGISTIC, "fine_tune": None}, {"train_head.folds": 3}),
    ("fine_tune", {}, under("fine_tune", REGULARIZED)),
    ("fine_tune", {}, {"fine_tune.augment": None}),
    ("fine_tune", {}, under("fine_tune.augment", dict.fromkeys(MOVES, 0.5) | {"flip": False})),
    ("fine_tune", {}, under("fine_tune.augment", {"brightness": 0.5, "rand_augment": 0.5})),
    ("fine_tune", {}, {"fine_tune.cutmix": 1.0, "fine_tune.layer_rate": 0.5}),
    ("fine_tune", {"fine_tune.augment": None}, {"fine_tune.cache_frozen": True}),
    ("fine_tune explain", {f"{NET}.unfreeze_from": None}, {"fine_tune": None}),
    ("train_head fine_tune", {}, {"predict.views": 1}),
    ("evaluate", {}, {"evaluate.calibration": "none", "evaluate.decimals": 5}),
    ("explain", {}, under("explain", {"examples": 1, "image": "a", "layers": 1, "filters": 0})),
    ("explain", {}, {"explain.seed": 1}),
    ("submit", {}, {"submit.clip": 0}),
    (f"fetch_weights {HARD_WIRED} train_head", {}, {"compute.backend": "jax"}),
    (f"{HARD_WIRED} audit train_head", {}, {"compute.threads": 1}),
    (f"{HARD_WIRED} audit train_head", LOGISTIC, {"compute.threads": 1}),
    (f"{HARD_WIRED} train_head", {}, {"compute.instruction_set": None}),
    (HARD_WIRED, LOGISTIC, {"compute.instruction_set": None}),
    ("extract", {"compute.instruction_set": None}, {"extract.precision": "bfloat16"}),
    ("fine_tune", {"compute.instruction_set": None}, {"fine_tune.precision": "bfloat16"}),
]
ONE_BY_ONE = [
    (stages, base, key, value)
    for stages, base, changes in MEANINGFUL
    for key, value in changes.items()
    if (key, value) not in (("train_head.kind", "logistic"), ("extract.views", 3))
]


@pytest.mark.parametrize(
    ("stages", "base", "key", "value"), ONE_BY_ONE, ids=[case[2] for case in ONE_BY_ONE]
)
def test_a_key_changes_the_settings_of_the_stages_that_use_it(
    params: Content, stages: str, base: Content, key: str, value: object
) -> None:
    before, after = settings(params, base), settings(params, {**base, key: value})
    assert {name for name in before if before[name] != after[name]} == set(stages.split())


def test_networks_are_converted_by_tensorflow_only(params: Content) -> None:
    sentence = "extract.engine: expected keras, as compute.backend is jax, got 'openvino'; change"
    with pytest.raises(UserError, match=f"^params.yaml: {sentence}"):
        settings(params, {**OPENVINO, "compute.backend": "jax"})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            ONNX | {"extract.engine": "keras"},
            "extract.engine: expected openvino, as backbones.Net is an ONNX file, got 'keras'; ch",
        ),
        (
            {"backbones.Net": ONNX_KEYS, **OPENVINO},
            "fine_tune: expected null, as backbones.Net is an ONNX file, which cannot be trained,",
        ),
        (
            ONNX | {"backbones.Net": ONNX_KEYS | {"mean": 127}},
            "backbones.Net.mean: expected [red, green, blue], three numbers, got 127; change it",
        ),
        (
            ONNX | {"backbones.Net": ONNX_KEYS | {"std": [1, 0, 1]}},
            "backbones.Net.std: expected numbers other than 0, got [1.0, 0.0, 1.0]; change it",
        ),
        (
            ONNX | {"backbones.Net": ONNX_KEYS | {"sise": 1}},
            "backbones.Net.sise: expected one of weights, path, sha256, output, layout, mean, std,",
        ),
        (
            {"train_head.folds": 3},
            "fine_tune: expected null, as train_head.folds is 3 and its heads have seen valid, got",
        ),
        (
            {"fine_tune.augment": None, "fine_tune.cache_frozen": True, "fine_tune.cutmix": 1.0},
            "fine_tune.cutmix: expected null, as fine_tune.cache_frozen is true and there are no i",
        ),
        (
            {"train_head.folds": 1},
            "train_head.folds: expected 2 or more, got 1; change it",
        ),
        (
            {f"{NET}.weights": "presett"},
            "backbones.convnet.weights: expected imagenet, file, random or preset, got 'presett';",
        ),
        (
            {"backbones.onnx": IMAGENET | {"siize": 1}},  # a name that is a kind, too
            "backbones.onnx.siize: expected one of weights, path, sha256, seed, include_top, prep",
        ),
    ],
)
def test_values_that_cannot_be_are_one_sentence(
    params: Content, changes: Content, sentence: str
) -> None:
    with pytest.raises(UserError) as refused:
        settings(params, changes)
    assert str(refused.value).startswith(f"params.yaml: {sentence}")
    assert "\n" not in str(refused.value)


def test_every_key_of_the_schema_is_in_a_table_above() -> None:
    keys = re.findall(r"(?m)^\| `([\w.]+)` \|", parameter_table.table())
    tried = {key for _, base, changes in (*HARMLESS, *MEANINGFUL) for key in (*base, *changes)}
    names = ("backbones.convnet", "backbones.Net", "backbones.Pre")
    for key in keys:
        assert tried & {key.replace("backbones.NAME", name) for name in names}, key


def test_the_backbones_that_rescale_anyway_are_those_of_the_project() -> None:
    assert config.RESCALED == build.BUILT_IN


def test_another_backbone_leaves_the_entries_of_the_first_one_as_they_are(params: Content) -> None:
    before = settings(params, {})
    after = settings(params, {"backbones.gabor": params["backbones"]["convnet"]})
    for stage in ("fetch_weights", "extract"):
        assert after[stage]["convnet"] == before[stage]["convnet"]
    unchanged = {name for name in before if before[name] == after[name]}
    assert unchanged == {"split", "resize", "evaluate", "submit"}


def test_the_order_of_backbones_matters_to_what_joins_their_features(params: Content) -> None:
    one = params["backbones"]["convnet"]
    before = settings(params, {"backbones": {"convnet": one, "gabor": one}})
    after = settings(params, {"backbones": {"gabor": one, "convnet": one}})
    differing = {name for name in before if before[name] != after[name]}
    assert differing == {"audit", "train_head", "fine_tune", "explain"}


@pytest.mark.parametrize("text", ["1e-05", "1E-5", "1.0e-05", "0.00001", "+1e-05"])
def test_a_number_in_scientific_notation_is_a_float(
    text: str, write_params: Callable[..., None]
) -> None:
    write_params()
    params = paths.PARAMS.read_text(encoding="utf-8")
    params, count = re.subn(r"learning_rate: 0\.0005\b", f"learning_rate: {text}", params)
    paths.PARAMS.write_text(params, encoding="utf-8")
    assert (count, config.read().fine_tune.learning_rate) == (1, 1e-5)  # type: ignore[union-attr]


def test_all_faults_are_reported_one_per_line(write_params: Callable[..., None]) -> None:
    write_params(resize={"siez": 1, "size": "64"}, split={"seed": None})
    with pytest.raises(UserError) as error:
        config.read()
    faults = [line.split(": ")[1] for line in str(error.value).splitlines()]
    assert faults == ["split.seed", "resize.size", "resize.siez"]


def test_no_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected the parameters.*make recipe NAME=sample"):
        config.read(tmp_path / "params.yaml")


def test_a_backbone_that_is_not_there_is_named(params: Content) -> None:
    checked = config.check(params)
    assert config.require_backbone(checked, "convnet") == checked.backbones["convnet"]
    with pytest.raises(UserError, match="expected an entry for 'VGG16', got only convnet; add it"):
        config.require_backbone(checked, "VGG16")


def test_what_plays_together_is_accepted(params: Content) -> None:
    """bad_params.py has what is refused."""
    top = {"weights": "imagenet", "include_top": True, "preprocessing": "backbone"}
    top |= {"path": None, "sha256": None, "seed": None}
    frozen = {**params["backbones"]["convnet"], "unfreeze_from": None}
    changes = VIEWS | {f"backbones.{name}": top | {"pooling": name} for name in POOLINGS}
    changes |= {"backbones.gabor": frozen, "compute.instruction_set": "AVX512_CORE"}
    changes |= {"fine_tune.cache_frozen": True, "fine_tune.augment": None}
    changes |= {"extract.views": 64, "extract.precision": "bfloat16", "submit.clip": 0}
    checked = config.check(changed(params, changes))
    assert checked.extract.changes() == (MOVES, 0)
    assert checked.backbones["predictions"].sha256 is None
    assert type(checked.submit.clip) is float
    unchanged = config.check(params)
    assert unchanged.extract.changes() == (dict.fromkeys(MOVES, 0) | {"flip": False}, 0)
    assert unchanged.fine_tune.augment.active() == ["flip"]  # type: ignore[union-attr]
