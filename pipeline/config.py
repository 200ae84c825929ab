"""The only reader of `params.yaml`: every section is checked before any stage works.

Scripts call `read()`; the packages below them never see a params object.
"""

import difflib
import re
import reprlib
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from pipeline.runtime.errors import UserError

PATH = Path("params.yaml")
# Told to stay within these, TensorFlow's oneDNN fails or crashes at bfloat16.
NO_BFLOAT16 = ("SSE41", "AVX", "AVX2", "AVX2_VNNI")


def _number(value: object) -> object:
    """Read `1e-05`, which DVC writes and PyYAML takes for a string; refuse true and false."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("float_type", "")


def _no_bfloat16(key: str, instruction_set: str | None) -> str:
    return (
        "compute.instruction_set: expected null or AVX512_CORE or above, as "
        f"{key} is bfloat16, got {instruction_set!r}; change one"
    )


def _any_layer(given: str | list[str | None] | None) -> str | list[str | None] | None:
    """A list without a name says what null says."""
    return given if isinstance(given, str) or any(given or []) else None


def _each_once(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError(f"expected each name once, got {names}; remove the repeated one")
    return names


def _names(given: list[str]) -> list[str]:
    """A name becomes part of paths that DVC removes and of pages; so it is a word and no more."""
    for name in given:
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(
                f"expected the name of a network, of letters, digits and _, got {name!r}; change it"
            )
    return given


Float = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Fraction = Annotated[Float, Field(ge=0, lt=1)]
Positive = Annotated[Float, Field(gt=0)]
Count = Annotated[StrictInt, Field(ge=1, lt=2**31)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**31)]


def _shown(value: object) -> str:
    """The value as Python writes it, cut short: a few lines of YAML can stand for gigabytes."""
    shorter = reprlib.Repr()
    shorter.maxlevel, shorter.maxlist, shorter.maxdict = 2, 4, 4
    shorter.maxstring = shorter.maxlong = shorter.maxother = 60
    try:
        return shorter.repr(value)
    except ValueError:  # Python 3.11 writes no whole number of more than 4,300 digits
        return "a number of very many digits"


def _one_of_kinds(expected: str, *kinds: Any) -> Any:
    """One sentence for a value that is of none of the kinds."""

    def check(value: object) -> object:
        for kind in kinds:
            try:
                return TypeAdapter(kind).validate_python(value)
            except ValidationError:
                continue
        raise ValueError(f"expected {expected}, got {_shown(value)}; change it")

    return BeforeValidator(check)


ClassWeights = Annotated[
    str | list[float] | None,
    _one_of_kinds(
        "null, balanced, or a list of positive numbers, one a class",
        Literal["balanced"] | None,
        Annotated[list[Positive], Field(min_length=2)],
    ),
]
Layers = Annotated[
    str | list[str | None] | None,
    _one_of_kinds(
        "null, a layer's name, or a list of them, one a backbone",
        StrictStr | None,
        Annotated[list[StrictStr | None], Field(min_length=1)],
    ),
    AfterValidator(_any_layer),
]
LayersShown = Annotated[
    int | list[str],
    _one_of_kinds(
        "a number of layers from 1 on, or a list of their names",
        Annotated[StrictInt, Field(ge=1, le=100)],
        Annotated[list[StrictStr], Field(min_length=1)],
    ),
]
Clip = Annotated[
    Literal["auto"] | float,
    _one_of_kinds(
        "auto, or a number from 0 to below 0.5",
        Literal["auto"],
        Annotated[Float, Field(ge=0, lt=0.5)],
    ),
]
Names = Annotated[
    list[StrictStr], Field(min_length=1), AfterValidator(_each_once), AfterValidator(_names)
]
Backbones = Annotated[Names, Field(max_length=2)]


class Section(BaseModel):
    """A section of `params.yaml`: frozen, no key missing, none unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(Section):
    train: Annotated[StrictStr, Field(min_length=1)]
    test: Annotated[StrictStr, Field(min_length=1)]
    classes: Annotated[list[StrictStr], Field(min_length=2), AfterValidator(_each_once)] | None


class Split(Section):
    valid: Annotated[Float, Field(gt=0, lt=1)]
    test: Fraction
    per_class_limit: Count | None
    max_rejected: Fraction
    near_duplicates: Annotated[Float, Field(gt=0, le=1)] | None
    seed: Seed

    @model_validator(mode="after")
    def _leave_some_to_train(self) -> "Split":
        if self.valid + self.test >= 1:
            raise ValueError(
                "expected valid + test below 1, so that some images are left to train, "
                f"got {self.valid} + {self.test}; lower one of them"
            )
        return self


class Resize(Section):
    size: Annotated[StrictInt, Field(ge=8, le=4096)]
    fit: Literal["squash", "crop", "pad"]
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box"]


class Weights(Section):
    source: Literal["imagenet", "file", "random"]
    include_top: StrictBool
    path: StrictStr | None = None
    sha256: Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    seed: Seed | None = None

    @model_validator(mode="after")
    def _have_what_the_source_needs(self) -> "Weights":
        needed = {"imagenet": set(), "file": {"path", "sha256"}, "random": {"seed"}}[self.source]
        given = {key for key in ("path", "sha256", "seed") if getattr(self, key) is not None}
        if given != needed:
            expected, got = (" and ".join(sorted(keys)) or "none" for keys in (needed, given))
            raise ValueError(
                f"expected of path, sha256 and seed beside `source: {self.source}` {expected}, "
                f"got {got}; add what lacks, remove the rest"
            )
        return self


class Geometry(Section):
    """How far an image may be moved without changing its label."""

    rotation: Annotated[Float, Field(ge=0, le=180)]
    shift: Fraction
    shear: Fraction
    zoom: Fraction
    flip: StrictBool


class Views(Geometry):
    seed: Seed


class Extract(Section):
    backbones: Names
    preprocessing: Literal["backbone", "rescale"]
    layer: StrictStr | None
    pooling: Literal["avg", "max", "flatten", "predictions", "log_predictions"]
    views: Annotated[StrictInt, Field(ge=1, le=64)]
    augment: Views
    engine: Literal["keras", "openvino"]
    precision: Literal["float32", "bfloat16"]
    batch_size: Count
    dtype: Literal["float16", "float32"]


class Logistic(Section):
    inverse_regularization: Positive | None
    max_iterations: Count


class Training(Section):
    """What dense heads and fine-tuning have in common."""

    input_dropout: Fraction
    dropout: Fraction
    optimizer: Literal[
        "sgd", "rmsprop", "adam", "adamw", "adamax", "nadam", "adagrad", "adadelta", "lion", "ftrl"
    ]
    learning_rate: Positive
    epochs: Annotated[StrictInt, Field(ge=0, lt=2**31)]
    steps_per_epoch: Count | None
    batch_size: Count
    patience: Count | None
    class_weights: ClassWeights
    seed: Seed


class Dense(Training):
    hidden: list[Count]
    batch_norm: StrictBool
    output: Literal["softmax", "sigmoid"]


class TrainHead(Section):
    backbones: Backbones
    kind: Literal["logistic", "dense"]
    logistic: Logistic
    dense: Dense


class Augment(Geometry):
    brightness: Fraction

    def active(self) -> list[str]:
        """The changes that are made at all."""
        return [name for name, value in self.model_dump().items() if value]


class FineTune(Training):
    unfreeze_from: Layers
    cache_frozen: StrictBool
    precision: Literal["float32", "bfloat16"]
    warmup_epochs: Annotated[Float, Field(ge=0)]
    decay: Literal["constant", "cosine"]
    augment: Augment

    def layers(self) -> list[str | None]:
        """Of `unfreeze_from`, one a backbone, None for a frozen one; [] for the head alone."""
        if self.unfreeze_from is None:
            return []
        return [self.unfreeze_from] if isinstance(self.unfreeze_from, str) else self.unfreeze_from


class Predict(Section):
    views: Count


class Evaluate(Section):
    calibration: Literal["temperature", "none"]
    decimals: Annotated[StrictInt, Field(ge=2, le=12)]


class Explain(Section):
    examples: Annotated[StrictInt, Field(ge=1, le=100)]
    image: StrictStr | None
    layers: LayersShown
    filters: Annotated[StrictInt, Field(ge=0, le=64)]
    seed: Seed


class Submit(Section):
    clip: Clip


class Compute(Section):
    backend: Literal["tensorflow", "jax", "torch"]
    threads: Count | None
    devices: Count
    instruction_set: (
        Literal[
            "SSE41",
            "AVX",
            "AVX2",
            "AVX2_VNNI",
            "AVX512_CORE",
            "AVX512_CORE_VNNI",
            "AVX512_CORE_BF16",
            "AVX512_CORE_AMX",
        ]
        | None
    )


class Verify(Section):
    absolute: Annotated[Float, Field(ge=0)]
    relative: Annotated[Float, Field(ge=0)]
    pixels: Fraction


def _known_by_names(weights: dict[str, Weights]) -> dict[str, Weights]:
    _names([*weights])
    return weights


class Params(Section):
    data: Data
    split: Split
    resize: Resize
    fetch_weights: Annotated[dict[str, Weights], AfterValidator(_known_by_names)]
    extract: Extract
    train_head: TrainHead
    fine_tune: FineTune
    predict: Predict
    evaluate: Evaluate
    explain: Explain
    submit: Submit
    compute: Compute
    verify: Verify

    @model_validator(mode="after")
    def _agree_on_backbones(self) -> "Params":
        for name in self.extract.backbones:
            if name not in self.fetch_weights:
                raise ValueError(
                    f"fetch_weights.{name}: expected where its weights come from, as "
                    "extract.backbones asks for it, got nothing; add it here or remove it there"
                )
            if self.extract.pooling.endswith("predictions"):
                if not self.fetch_weights[name].include_top:
                    raise ValueError(
                        f"fetch_weights.{name}.include_top: expected true, as extract.pooling is "
                        f"{self.extract.pooling!r}, got false; change one of them"
                    )
                if self.extract.layer is not None:
                    raise ValueError(
                        f"extract.layer: expected null, as extract.pooling is "
                        f"{self.extract.pooling!r}, got {self.extract.layer!r}; change one of them"
                    )
        if self.extract.precision == "bfloat16" and self.compute.instruction_set in NO_BFLOAT16:
            raise ValueError(_no_bfloat16("extract.precision", self.compute.instruction_set))
        if self.predict.views > self.extract.views:
            raise ValueError(
                f"predict.views: expected at most extract.views ({self.extract.views}), "
                f"got {self.predict.views}; change one of them"
            )
        known = self.extract.backbones
        for name in self.train_head.backbones:
            if name not in known:
                raise ValueError(
                    f"train_head.backbones: expected some of extract.backbones "
                    f"({', '.join(known)}), got {name!r}; change one of them"
                )
        return self

    @model_validator(mode="after")
    def _agree_on_training(self) -> "Params":
        tune = self.fine_tune
        layers, backbones = tune.unfreeze_from, self.train_head.backbones
        if tune.epochs and layers is not None and len(tune.layers()) != len(backbones):
            raise ValueError(
                f"fine_tune.unfreeze_from: expected a layer for each of train_head.backbones "
                f"({', '.join(backbones)}), or null to train the head alone, got {layers!r}; "
                "list them"
            )
        if tune.epochs and tune.warmup_epochs >= tune.epochs:
            raise ValueError(
                f"fine_tune.warmup_epochs: expected fewer than fine_tune.epochs ({tune.epochs}), "
                f"got {tune.warmup_epochs:g}; lower it"
            )
        if tune.cache_frozen and tune.epochs:
            if tune.augment.active():
                raise ValueError(
                    "fine_tune.augment: expected no changes, as fine_tune.cache_frozen is true and "
                    f"each view is computed once, got {', '.join(tune.augment.active())}; take "
                    "more views (extract.views, extract.augment), or set cache_frozen: false"
                )
            if layers is None:
                raise ValueError(
                    "fine_tune.unfreeze_from: expected a layer's name, as fine_tune.cache_frozen "
                    "is true, got null; name it, or raise train_head.dense.epochs, which trains "
                    "the head alone on cached features"
                )
        if tune.precision == "bfloat16" and self.compute.instruction_set in NO_BFLOAT16:
            raise ValueError(_no_bfloat16("fine_tune.precision", self.compute.instruction_set))
        return self


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands in a section twice, of which PyYAML would drop one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            keys = [key.value for key, _ in node.value]
            twice = next(key for key, _ in node.value if keys.count(key.value) > 1)
            raise yaml.constructor.ConstructorError(
                "while constructing a mapping",
                node.start_mark,
                f"found the key {_shown(twice.value)} twice",
                twice.start_mark,
            )
        return mapping


def read(path: Path = PATH) -> Params:
    """Read and check all of `path`.

    Raises:
        UserError: no such file, not YAML, or a sentence a fault, each with the key's full name.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506  a safe one
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(
            f"{path}: expected the parameters, got no such file; start with "
            f"`cp recipes/sample.yaml {path}` in the project's folder"
        ) from None
    # PyYAML lets ValueErrors of numbers and dates pass; lists may be nested too deeply for it.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        told = "lists in lists in lists, too deep" if deep else " ".join(str(error).split())
        raise UserError(f"{path}: expected YAML, got {told!r}; correct that line") from None
    try:
        return Params.model_validate(content)
    except ValidationError as faults:
        raise UserError("\n".join(_sentence(path, fault) for fault in faults.errors())) from None


_EXPECTED = {  # where pydantic's own words are for programmers; by its name of the fault
    "model_type": "a section of keys",
    "dict_type": "a section of keys",
    "invalid_key": "keys that are text",
    "list_type": "a list",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of {max_length} or fewer",
    "string_type": "text",
    "string_too_short": "some text",
    "string_pattern_mismatch": "the 64 hexadecimal digits of a sha256, in small letters",
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


def require_backbone(params: Params, name: str) -> None:
    """Refuse a backbone that `params` does not describe."""
    if name not in params.fetch_weights:
        raise UserError(
            f"params.yaml: fetch_weights: expected an entry for {name!r}, got only "
            f"{', '.join(params.fetch_weights)}; add it"
        )


def _sentence(path: Path, fault: ErrorDetails) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    where = f"{path}: {key}" if key else str(path)
    got = fault["input"]
    if fault["type"] == "missing":
        return f"{where}: expected this key, got nothing; recipes/ holds complete files"
    if fault["type"] == "extra_forbidden":
        known = _keys(fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "; remove it"
        return f"{where}: expected one of {', '.join(known)}, got an unknown key{hint}"
    if fault["type"] == "value_error":
        return f"{where}: {fault['ctx']['error']}"
    words = _EXPECTED.get(fault["type"])
    expected = words.format(**fault.get("ctx", {})) if words else fault["msg"]
    return f"{where}: expected {expected}, got {_shown(got)}; change it"


def _keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at `location` knows."""
    section: Any = Params
    for part in location:
        hint = get_type_hints(section)[str(part)] if section is not Weights else Weights
        section = Weights if part == "fetch_weights" else hint
    return list(section.model_fields)
