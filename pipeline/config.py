"""Read and check `params.yaml`, and select the settings of each stage.

`read()` checks every key and returns `Params`. Stages and commands read it; library modules take
plain values. `settings(params)` maps each stage to the values that affect its outputs, in one
spelling and with optional keys filled in: stages depend on these, not on `params.yaml` itself.
"""

import os
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pipeline import paths
from pipeline.runtime.errors import UserError, did_you_mean
from pipeline.runtime.links import same
from pipeline.runtime.machine import installed
from pipeline.schema import (
    AnyBackbone,
    FineTune,
    OnnxFile,
    Params,
    Preset,
    Section,
    Training,
    ViewAugment,
    sections,
)
from pipeline.schema_values import show

_OFF = {"dropout": 0.0, "batch_norm": False}  # after hidden layers, where there is none
OF_A_PRESET = ("preset", "keras-hub")  # which one, and the version of what builds it
KIND_AT = {"train_head": 1, "backbones": 2}  # where pydantic inserts the kind into a location
KINDS = {"dense": 1, "onnx": 1, "preset": 2}  # the place among those of the section, if not 0
RESCALED = ("convnet", "gabor")  # backbones for which both kinds of preprocessing are one


class _Loader(yaml.SafeLoader):
    """YAML loader that reads 1e-05 as a number, and refuses a key that is repeated."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            keys = [name.value for name, _ in node.value]
            twice = next(name for name, _ in node.value[::-1] if keys.count(name.value) > 1)
            raise yaml.constructor.ConstructorError(
                "while constructing a mapping",
                node.start_mark,
                f"found the key {show(twice.value)} twice",
                twice.start_mark,
            )
        return mapping


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), [*"-+0123456789"]
)


def read(path: Path = paths.PARAMS) -> Params:
    """Read `path` and check every key; a `UserError` has one sentence per fault."""
    return check(load(path), path)


def load(path: Path) -> Any:
    """Parse a YAML file, or raise a `UserError`."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  a SafeLoader
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"{path}: expected the parameters, got no such file; run `make recipe NAME=sample` in "
            "the project's folder"
        ) from None
    # PyYAML passes on ValueErrors of numbers and dates, and recurses into nested lists.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        got = "lists nested too deeply" if deep else " ".join(str(error).split())
        raise UserError(f"{path}: expected YAML, got {got!r}; correct that line") from None


def check(content: Any, path: Path = paths.PARAMS) -> Params:
    """Check the parsed content of `path`; a `UserError` has one sentence per fault."""
    try:
        return Params.model_validate(content)
    except ValidationError as faults:
        raise UserError("\n".join(_sentence(path, fault) for fault in faults.errors())) from None


def require_backbone(params: Params, name: str) -> AnyBackbone:
    """Return the section of a backbone, or raise a `UserError`."""
    if name not in params.backbones:
        raise UserError(
            f"params.yaml: backbones: expected an entry for {name!r}, got only "
            f"{', '.join(params.backbones)}; add it"
        )
    return params.backbones[name]


def missing_files(params: Params) -> list[str]:
    """Return one sentence for each file or folder that `params` names and that is not there."""
    named: dict[str, str | None] = {"data.train": params.data.train, "data.test": params.data.test}
    named |= {
        f"backbones.{name}.path": one.path
        for name, one in params.backbones.items()
        if not isinstance(one, Preset)  # whose path may be a name
    }
    return [
        f"{paths.PARAMS}: {key}: expected a file or folder, got nothing at {path!r}; put it there "
        "or correct the path"
        for key, path in named.items()
        if path is not None and not os.path.exists(path)  # unlike Path.exists, it takes any name
    ]


def settings(params: Params) -> dict[str, Any]:
    """Return for each stage the values that affect its outputs, as plain data."""
    compute = params.compute.model_dump()
    blas = {"threads": params.compute.threads}
    networks = {name: _network(name, one, params) for name, one in params.backbones.items()}
    extract = params.extract.model_dump(exclude={"augment"})
    augment = _changing(params.extract.augment)
    extract["augment"] = augment if params.extract.views > 2 else None
    by_openvino = params.extract.engine == "openvino"  # a network that `fetch_weights` converts
    if by_openvino:
        del extract["batch_size"]
    head = params.train_head
    hidden = head.hidden if head.kind == "dense" else []
    encoding = params.data.zip_encoding
    return {
        "split": {
            **params.data.model_dump(include={"classes", "subsets"}),
            "zip_encoding": None if encoding == "cp437" else encoding,
            "one_source": same(params.data.train, params.data.test),
            **params.split.model_dump(),
        },
        # Not `size`: DVC leaves keys of that name out of its run-cache (dvc/stage/cache.py).
        "resize": {"pixels": params.resize.size, **params.resize.model_dump(exclude={"size"})},
        "fetch_weights": {
            name: {
                **one.model_dump(include={"weights", "sha256", "seed", "include_top"}),
                **{key: networks[name][key] for key in OF_A_PRESET if key in networks[name]},
                "backend": params.compute.backend,
                "converted": {**networks[name], "pixels": params.resize.size}
                if by_openvino
                else None,
            }
            for name, one in params.backbones.items()
        },
        "extract": {
            name: {**({} if by_openvino else network), **extract, "compute": compute}
            for name, network in networks.items()
        },
        "audit": {"backbones": [*params.backbones], **blas},
        "train_head": {
            "backbones": [*params.backbones],
            **(_training(head, hidden) if head.kind == "dense" else head.model_dump()),
            "views": params.predict.views,
            "compute": compute if head.kind == "dense" else blas,
        },
        "fine_tune": _fine_tuning(params, networks, augment, hidden),
        "evaluate": {**params.evaluate.model_dump(), "folds": head.folds is not None},
        "explain": {
            **params.explain.model_dump(),
            "backbones": [{"name": name, **one} for name, one in networks.items()],
            "fine_tuned": params.fine_tune is not None,
            "compute": compute,
        },
        "submit": params.submit.model_dump(),
    }


def _network(name: str, backbone: AnyBackbone, params: Params) -> dict[str, Any]:
    """Return the values that decide what a backbone computes from images, beside its weights."""
    if isinstance(backbone, OnnxFile):
        keys = backbone.model_dump(exclude={"weights", "path", "sha256", "size"})
    elif isinstance(backbone, Preset):
        which = backbone.sha256 or backbone.path, installed("keras-hub")
        keys = backbone.model_dump(include={"layer", "pooling"})
        keys |= zip(OF_A_PRESET, which, strict=True)
    else:
        keys = backbone.model_dump(include={"include_top", "layer", "pooling"})
        keys["preprocessing"] = "backbone" if name in RESCALED else backbone.preprocessing
        if backbone.size == params.resize.size:  # as null, which for the others is the file's own
            return keys
    return keys if backbone.size is None else {**keys, "own_pixels": backbone.size}


def _changing(augment: ViewAugment | None) -> dict[str, Any] | None:
    """Return the changes of views; of changes that are all off, the seed plays no part."""
    ranges = augment.model_dump() if augment else {}
    return ranges if any(ranges[name] for name in ranges if name != "seed") else None


def _training(section: Training, hidden: list[int]) -> dict[str, Any]:
    """Return the keys of a training; off or null are those that play no part in it."""
    keys = section.model_dump()
    if not section.epochs:
        keys |= dict.fromkeys(Training.model_fields.keys() - {"epochs", "seed"})
    for name in ("label_smoothing", "ema"):
        keys[name] = keys[name] or None
    # No epoch of a head precedes its first, and epoch 0 precedes the first of fine-tuning.
    last = section.epochs - (not isinstance(section, FineTune))
    if section.patience is not None and section.patience >= last:
        keys["patience"] = None
    if not hidden:
        keys |= {name: off for name, off in _OFF.items() if name in keys}
    return keys


def _fine_tuning(
    params: Params, networks: dict[str, dict[str, Any]], augment: Any, hidden: list[int]
) -> Any:
    tune = params.fine_tune
    if tune is None:
        return None
    views = params.extract.views if tune.cache_frozen else params.predict.views
    return {
        **_training(tune, hidden),
        "changes": tune.augment.model_dump() if tune.augment and tune.augment.active() else None,
        "backbones": [
            {"name": name, **one, "unfreeze_from": params.backbones[name].unfreeze_from}
            for name, one in networks.items()
        ],
        "views": [views, params.predict.views],
        "augment": augment if views > 2 else None,
        "compute": params.compute.model_dump(),
    }


_EXPECTED = {  # in place of pydantic's own words; by pydantic's name of the fault
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "a section of keys"),
    "invalid_key": "keys that are text",
    "list_type": "a list",
    "too_short": "{min_length} or more entries",
    "string_type": "text",
    "string_too_short": "some text",
    "string_pattern_mismatch": "a sha256 of 64 lowercase hexadecimal digits",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "a number below {lt}",
    "less_than_equal": "{le} or less",
    "literal_error": "one of {expected}",
}


def _sentence(path: Path, fault: ErrorDetails) -> str:
    kind, location = fault["type"], [part for part in fault["loc"] if part != "[key]"]
    at = KIND_AT.get(str(location[0])) if location else None
    if at and len(location) > at:
        del location[at]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        location.append("kind")
    where = ": ".join([str(path), *filter(None, [".".join(map(str, location))])])
    if kind in ("missing", "union_tag_not_found"):
        return f"{where}: expected this key, got nothing; docs/parameters.md lists all keys"
    if kind == "union_tag_invalid":
        tags, got = fault["ctx"]["expected_tags"].replace(", ", " or "), fault["ctx"]["tag"]
        return f"{where}: expected one of {tags}, got {show(got)}; change it"
    if kind == "extra_forbidden":
        known = _keys(fault["loc"][:-1])
        hint = did_you_mean(str(location[-1]), known, "remove it")
        return f"{where}: expected one of {', '.join(known)}, got an unknown key; {hint}"
    if kind == "value_error":
        return f"{where}: {fault['ctx']['error']}"
    context = fault.get("ctx", {}).items()
    limits = {name: f"{value:g}" if isinstance(value, float) else value for name, value in context}
    expected = _EXPECTED[kind].format(**limits) if kind in _EXPECTED else fault["msg"]
    return f"{where}: expected {expected}, got {show(fault['input'])}; change it"


def _keys(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys of the section at pydantic's `location`."""
    section: type[Section] = Params
    for place, part in enumerate(location):
        field = section.model_fields.get(str(part))
        if field and (kinds := sections(field.annotation)):
            tag = location[place + KIND_AT.get(str(part), 0) :][:1]
            section = kinds[KINDS.get(str(*tag), 0)]
    return list(section.model_fields)
