"""The schema of `params.yaml`, as pydantic models: types, ranges, and rules between keys.

The descriptions of fields are the comments of `params.yaml` and the table in `docs/parameters.md`.
"""

import re
import reprlib
from typing import Annotated, Any, Literal

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
from pydantic_core import PydanticCustomError

from pipeline.runtime import machine


def _number(value: object) -> object:
    """Read `1e-05`, which DVC writes and PyYAML takes for a string; refuse true and false."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("float_type", "")


def _distinct(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError(f"expected each name once, got {names}; remove the repeated one")
    return names


def show(value: object) -> str:
    """Return the value as Python writes it, cut short: a little YAML can stand for gigabytes."""
    shorter = reprlib.Repr()
    shorter.maxlevel, shorter.maxlist, shorter.maxdict = 2, 4, 4
    shorter.maxstring = shorter.maxlong = shorter.maxother = 60
    try:
        return shorter.repr(value)
    except ValueError:  # Python 3.11 does not write an integer of more than 4,300 digits
        return "a number of very many digits"


def _one_of_kinds(expected: str, *kinds: Any) -> BeforeValidator:
    """Return a check with one sentence for a value that is of none of the kinds."""

    def check(value: object) -> object:
        for kind in kinds:
            try:
                return TypeAdapter(kind).validate_python(value)
            except ValidationError:
                continue
        raise ValueError(f"expected {expected}, got {show(value)}; change it")

    return BeforeValidator(check)


Float = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Fraction = Annotated[Float, Field(ge=0, lt=1)]
NotNegative = Annotated[Float, Field(ge=0)]
Positive = Annotated[Float, Field(gt=0)]
Count = Annotated[StrictInt, Field(ge=1, lt=2**31)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**31)]
Text = Annotated[StrictStr, Field(min_length=1)]
ClassWeights = Annotated[
    str | list[float] | None,
    _one_of_kinds(
        "null, balanced, or a list of positive numbers, one a class",
        Literal["balanced"] | None,
        Annotated[list[Positive], Field(min_length=2)],
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
LayerName = Annotated[
    str | None,
    _one_of_kinds("null or a layer's name", StrictStr | None),
    BeforeValidator(  # runs first: [conv1] says what conv1 says
        lambda value: value[0] if isinstance(value, list) and len(value) == 1 else value
    ),
]
LayersShown = Annotated[
    int | list[str],
    _one_of_kinds(
        "a number of layers from 1 on, or a list of their names",
        Annotated[StrictInt, Field(ge=1, le=100)],
        Annotated[list[StrictStr], Field(min_length=1)],
    ),
]


def key(description: str, *, optional: bool = False) -> Any:
    """Declare a key with the comment that explains it; an optional one may be left out or null."""
    return (
        Field(default=None, description=description) if optional else Field(description=description)
    )


def _yaml(value: object) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else repr(value)


class Section(BaseModel):
    """A section of `params.yaml`: frozen, without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(Section):
    train: Text = key("labeled images: a zip or a folder")
    test: Text = key("unlabeled images: a zip or a folder; repeat data.train if there are none")
    classes: Annotated[list[StrictStr], Field(min_length=2), AfterValidator(_distinct)] | None = (
        key("class names, in order; null: all folders or name prefixes", optional=True)
    )


class Split(Section):
    valid: Annotated[Float, Field(gt=0, lt=1)] = key(
        "fraction of each class that chooses the epoch and the final model"
    )
    test: Fraction = key("held-out test fraction of each class; 0 for none")
    per_class_limit: Count | None = key(
        "use only the first N files of each class; null: all", optional=True
    )
    max_rejected: Fraction = key("fail if a larger fraction of the files is unreadable")
    near_duplicates: Annotated[Float, Field(gt=0, le=1)] | None = key(
        "images that correlate this much stay in one subset; null: exact copies only", optional=True
    )
    seed: Seed = key("another seed, another split")

    @model_validator(mode="after")
    def _leave_some_to_train(self) -> "Split":
        if self.valid + self.test >= 1:
            raise ValueError(
                "expected valid + test below 1, so that some images are left to train, "
                f"got {self.valid} + {self.test}; lower one of them"
            )
        return self


class Resize(Section):
    size: Annotated[StrictInt, Field(ge=8, le=4096)] = key("width and height in pixels")
    fit: Literal["squash", "crop", "pad"] = key("squash, crop or pad")
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box"] = key(
        "nearest, bilinear, bicubic, lanczos or box"
    )


class Backbone(Section):
    weights: Literal["imagenet", "file", "random"] = key(
        "imagenet (Keras' download), file (with path and sha256) or random (with seed)"
    )
    path: StrictStr | None = key("the weights file, for weights: file", optional=True)
    sha256: Annotated[StrictStr, Field(pattern=r"^[0-9a-f]{64}$")] | None = key(
        "hash of that file", optional=True
    )
    seed: Seed | None = key("of the weights, for weights: random", optional=True)
    include_top: StrictBool = key("with the classifier of 1,000 ImageNet classes")
    preprocessing: Literal["backbone", "rescale"] = key(
        "backbone: the network's own preprocessing; rescale: pixels / 255"
    )
    layer: LayerName = key(
        "layer to take features from; null: the last convolutional one", optional=True
    )
    pooling: Literal["avg", "max", "flatten", "predictions", "log_predictions"] = key(
        "avg, max, flatten, predictions or log_predictions"
    )
    unfreeze_from: LayerName = key("first layer that fine-tuning trains; null: none", optional=True)

    @model_validator(mode="after")
    def _have_what_the_weights_need(self) -> "Backbone":
        needed = {"imagenet": set(), "file": {"path", "sha256"}, "random": {"seed"}}[self.weights]
        present = {name for name in ("path", "sha256", "seed") if getattr(self, name) is not None}
        if present != needed:
            expected, got = (" and ".join(sorted(names)) or "none" for names in (needed, present))
            raise ValueError(
                f"expected of path, sha256 and seed beside `weights: {self.weights}` {expected}, "
                f"got {got}; add what is missing, remove the rest"
            )
        if self.pooling.endswith("predictions"):
            for name, wanted in (("include_top", True), ("layer", None)):
                if (value := getattr(self, name)) != wanted:
                    raise ValueError(
                        f"{name}: expected {_yaml(wanted)}, as pooling is {self.pooling!r}, got "
                        f"{_yaml(value)}; change one of them"
                    )
        return self

    def network(self) -> dict[str, Any]:
        """Return the keys that determine the extractor, apart from the weights."""
        return self.model_dump(include={"include_top", "preprocessing", "layer", "pooling"})


class Geometry(Section):
    """How far an image may be moved without changing its label."""

    rotation: Annotated[Float, Field(ge=0, le=180)] = key("degrees to either side")
    shift: Fraction = key("fraction of height and width")
    shear: Fraction = key("fraction")
    zoom: Fraction = key("fraction")
    flip: StrictBool = key("mirror left and right")


class ViewAugment(Geometry):
    seed: Seed = key("another seed, other views")


class Extract(Section):
    views: Annotated[StrictInt, Field(ge=1, le=64)] = key(
        "per image: the image, its mirror image, then augmented ones"
    )
    augment: ViewAugment | None = key("changes in the views from the third on", optional=True)
    engine: Literal["keras", "openvino"] = key("keras or, if installed, openvino")
    precision: Literal["float32", "bfloat16"] = key("of the arithmetic: float32 or bfloat16")
    batch_size: Count = key("images per batch")
    dtype: Literal["float16", "float32"] = key("of the stored features: float32 or float16")

    @model_validator(mode="after")
    def _know_how_to_augment(self) -> "Extract":
        if self.views > 2 and self.augment is None:
            raise ValueError(
                f"expected augment, as views is {self.views} and those from the third on are "
                "augmented, got none; add it, or set views: 2"
            )
        return self

    def changes(self) -> tuple[dict[str, Any], int]:
        """Return the ranges of changes and the seed of augmented views; zeros if there are none."""
        ranges = (self.augment or _NO_CHANGES).model_dump()
        return ranges, ranges.pop("seed")


_NO_CHANGES = ViewAugment(rotation=0, shift=0, shear=0, zoom=0, flip=False, seed=0)


class Training(Section):
    """Keys that dense heads and fine-tuning share."""

    input_dropout: Fraction = key("dropout rate of the features")
    dropout: Fraction = key("dropout rate after each hidden layer")
    optimizer: Literal[
        "sgd", "rmsprop", "adam", "adamw", "adamax", "nadam", "adagrad", "adadelta", "lion", "ftrl"
    ] = key("an optimizer by its Keras name")
    learning_rate: Positive = key("highest learning rate")
    steps_per_epoch: Count | None = key("null: every image once an epoch", optional=True)
    batch_size: Count = key("images per batch")
    patience: Count | None = key(
        "epochs without a lower validation loss before training stops; null: never", optional=True
    )
    class_weights: ClassWeights = key("balanced, or one number a class; null: all 1", optional=True)
    seed: Seed = key("of weights, order, dropout and augmentation")


class LogisticHead(Section):
    kind: Literal["logistic"] = key("logistic regression")
    inverse_regularization: Positive | None = key(
        "scikit-learn's C, smaller is smoother; null: by cross-validation", optional=True
    )
    max_iterations: Count = key("of L-BFGS")


class DenseHead(Training):
    kind: Literal["dense"] = key("fully connected layers")
    hidden: list[Count] = key("units of each hidden layer")
    batch_norm: StrictBool = key("after each hidden layer")
    output: Literal["softmax", "sigmoid"] = key("softmax or, for two classes, sigmoid")
    epochs: Annotated[StrictInt, Field(ge=0, lt=2**31)] = key(
        "at most; 0 leaves the head untrained"
    )


class Augment(Geometry):
    brightness: Fraction = key("fraction of the value range")

    def active(self) -> list[str]:
        """Return the names of the changes that are made at all."""
        return [name for name, value in self.model_dump().items() if value]


NO_AUGMENT = Augment(rotation=0, shift=0, shear=0, zoom=0, flip=False, brightness=0)


class FineTune(Training):
    cache_frozen: StrictBool = key(
        "compute the frozen layers once a view and train from their output"
    )
    precision: Literal["float32", "bfloat16"] = key("of the arithmetic: float32 or bfloat16")
    warmup_epochs: NotNegative = key("epochs in which the learning rate rises from 0")
    decay: Literal["constant", "cosine"] = key("constant, or cosine: down to 0 at the last epoch")
    epochs: Count = key("at most")
    augment: Augment | None = key("random changes to training images; null: none", optional=True)


class Predict(Section):
    views: Count = key("averaged for a prediction; at most extract.views")


class Evaluate(Section):
    calibration: Literal["temperature", "none"] = key(
        "of probabilities, fitted on valid: temperature or none"
    )
    decimals: Annotated[StrictInt, Field(ge=2, le=12)] = key("of the numbers in metrics/")


class Explain(Section):
    examples: Annotated[StrictInt, Field(ge=1, le=100)] = key("images per gallery, at most")
    image: StrictStr | None = key(
        "member of data/split.csv to show activations of; null: one drawn at random", optional=True
    )
    layers: LayersShown = key("layers to show activations and filters of: a number, or their names")
    filters: Annotated[StrictInt, Field(ge=0, le=64)] = key("drawn per layer; 0: none")
    seed: Seed = key("of galleries drawn at random and of the filters' noise")


class Submit(Section):
    clip: Clip = key("clip probabilities to [clip, 1 - clip]; auto: chosen on valid")


class Compute(Section):
    """Keys that change the last bits of a result."""

    backend: Literal["tensorflow", "jax"] = key("of Keras: tensorflow or, if installed, jax")
    threads: Count | None = key("of one operation; null: all processors", optional=True)
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
    ) = key("highest that oneDNN uses: AVX2, AVX512_CORE, ...; null: the best", optional=True)
    devices: Count = key("GPUs that share each batch; without GPUs, virtual ones")


class Verify(Section):
    absolute: NotNegative = key("accepted difference of two numbers, plus")
    relative: NotNegative = key("this fraction of the recorded one")
    pixels: Fraction = key("accepted fraction of differing pixels in a plot")


def _plain_words(backbones: dict[str, Backbone]) -> dict[str, Backbone]:
    """A name becomes part of paths that DVC removes, and of pages: letters and digits only."""
    for name in backbones:
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(
                f"expected the name of a network, of letters, digits and _, got {name!r}; change it"
            )
    return backbones


class Params(Section):
    data: Data = key("The images.")
    split: Split = key("Labeled images: subsets train, valid and test.")
    resize: Resize = key("All images as RGB of one size.")
    backbones: Annotated[dict[str, Backbone], Field(min_length=1), AfterValidator(_plain_words)] = (
        key("Networks by name: convnet, gabor or Keras applications; the head gets all features.")
    )
    extract: Extract = key("Features of every backbone, computed once an image and view.")
    train_head: Annotated[LogisticHead | DenseHead, Field(discriminator="kind")] = key(
        "The classifier on the features; kind: logistic or dense."
    )
    fine_tune: FineTune | None = key(
        "Training backbones and head together from the trained head on; null: none.", optional=True
    )
    predict: Predict = key("Predictions.")
    evaluate: Evaluate = key("Metrics.")
    explain: Explain = key("Pictures of what the model does.")
    submit: Submit = key("The submission file.")
    compute: Compute = key("How to compute; changes the last bits of a result.")
    verify: Verify = key("Differences that `make verify` accepts where bytes are not the same.")

    @model_validator(mode="after")
    def _agree(self) -> "Params":
        for name, precision in (
            ("extract.precision", self.extract.precision),
            ("fine_tune.precision", self.fine_tune.precision if self.fine_tune else None),
        ):
            if precision == "bfloat16" and self.compute.instruction_set in machine.WITHOUT_BFLOAT16:
                raise ValueError(
                    "compute.instruction_set: expected null or AVX512_CORE or above, as "
                    f"{name} is bfloat16, got {self.compute.instruction_set!r}; change one"
                )
        if self.predict.views > self.extract.views:
            raise ValueError(
                f"predict.views: expected at most extract.views ({self.extract.views}), "
                f"got {self.predict.views}; change one of them"
            )
        return self

    @model_validator(mode="after")
    def _agree_on_fine_tuning(self) -> "Params":
        tune = self.fine_tune
        if tune is None:
            return self
        if tune.warmup_epochs >= tune.epochs:
            raise ValueError(
                f"fine_tune.warmup_epochs: expected fewer than fine_tune.epochs ({tune.epochs}), "
                f"got {tune.warmup_epochs:g}; lower it"
            )
        if tune.cache_frozen:
            if tune.augment is not None and tune.augment.active():
                raise ValueError(
                    "fine_tune.augment: expected no changes, as fine_tune.cache_frozen is true and "
                    f"each view is computed once, got {', '.join(tune.augment.active())}; use "
                    "more views (extract.views, extract.augment), or set cache_frozen: false"
                )
            if not any(backbone.unfreeze_from for backbone in self.backbones.values()):
                raise ValueError(
                    "backbones: expected a layer's name as unfreeze_from of one of them, as "
                    "fine_tune.cache_frozen is true, got none; name it, or train the head alone "
                    "with more epochs in train_head"
                )
        return self
