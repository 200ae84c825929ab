"""Schema of `params.yaml` as pydantic models: types, ranges and rules between keys.

The description of a key is its comment in `params.yaml` and its entry in `docs/parameters.md`.
"""

import re
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from pipeline.schema_values import (
    AnyPooling,
    Avx512,
    Channels,
    ClassWeights,
    Clip,
    Count,
    Float,
    Folders,
    Folds,
    Fraction,
    Interpolation,
    LayerName,
    LayersShown,
    Name,
    NotNegative,
    Pixels,
    Pooling,
    Positive,
    Precision,
    Seed,
    Sha256,
    Text,
    Views,
    WithoutBfloat16,
    ascii_compatible,
    distinct,
    expected,
    not_zero,
)


def key(description: str) -> Any:
    """Declare a key with its comment."""
    return Field(description=description)


def optional(description: str) -> Any:
    """Declare a key that may be left out or null."""
    return Field(default=None, description=description)


class Section(BaseModel):
    """A section of `params.yaml`: immutable; unknown keys and other types are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def sections(annotation: Any) -> list[type[Section]]:
    """Return the sections in the annotation of a field, however nested."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections(part)]


class Subsets(Section):
    """Folders of `data.train`, below those that only wrap others."""

    train: Folders = key("folder or list of folders with training images")
    valid: Folders | None = optional("the same for validation; null: drawn from train")
    test: Folders | None = optional("the same for testing; null: drawn from train")

    @model_validator(mode="after")
    def _name_each_folder_once(self) -> Self:
        distinct([*self.train, *(self.valid or ()), *(self.test or ())])
        return self


class Data(Section):
    train: Text = key("labeled images: a zip file or a folder")
    test: Text = key("unlabeled images, the same; if there are none, repeat data.train")
    classes: Annotated[list[Name], Field(min_length=2), AfterValidator(distinct)] | None = optional(
        "class names, in order; null: every class that is found"
    )
    subsets: Subsets | None = optional("folders that are subsets; null: by their usual names")
    zip_encoding: Annotated[str, AfterValidator(ascii_compatible)] | None = optional(
        "of names in zips that are not UTF-8: gbk, cp932, ...; null: cp437"
    )


class Split(Section):
    valid: Annotated[Float, Field(gt=0, lt=1)] = key(
        "fraction of each class that selects the epoch and the final model"
    )
    test: Fraction = key("held-out test fraction of each class; 0: no test images")
    per_class_limit: Count | None = optional(
        "use only the first N files of each class; null: all files"
    )
    max_rejected: Fraction = key("stop if a larger fraction of the files is unreadable")
    near_duplicates: Annotated[Float, Field(gt=0, le=1)] | None = optional(
        "correlation from which images stay in one subset; null: exact copies"
    )
    seed: Seed = key("random seed of the split")

    @model_validator(mode="after")
    def _leave_images_to_train(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError(
                "expected valid + test below 1, so that images are left to train on, "
                f"got {self.valid} + {self.test}; lower one of them"
            )
        return self


class Resize(Section):
    size: Pixels = key("width and height in pixels")
    fit: Literal["squash", "crop", "pad"] = key("to the square: squash, crop or pad")
    interpolation: Interpolation = key("nearest, bilinear, bicubic, lanczos or box")


class Backbone(Section):
    """A network of Keras."""

    weights: Annotated[
        Literal["imagenet", "file", "random"], expected("imagenet, file, random or preset")
    ] = key("imagenet (downloaded by Keras), file (path, sha256) or random (seed)")
    path: str | None = optional("path of the weights file, with weights: file")
    sha256: Sha256 | None = optional("sha256 of the weights file, with weights: file")
    seed: Seed | None = optional("random seed of the weights, with weights: random")
    include_top: bool = key("load the classifier of 1,000 ImageNet classes, too")
    preprocessing: Literal["backbone", "rescale"] = key(
        "backbone: as the network was trained; rescale: pixels / 255"
    )
    layer: LayerName = optional("layer to take features from; null: the last convolutional layer")
    pooling: Pooling = key("avg, max, flatten, predictions or log_predictions (with include_top)")
    size: Pixels | None = optional("width and height that the network takes; null: resize.size")
    unfreeze_from: LayerName = optional("first layer that fine-tuning trains; null: none")

    @model_validator(mode="after")
    def _require_keys_of_the_weights(self) -> Self:
        needed = {"imagenet": [], "file": ["path", "sha256"], "random": ["seed"]}[self.weights]
        present = [name for name in ("path", "sha256", "seed") if getattr(self, name) is not None]
        if present != needed:
            raise ValueError(
                f"expected {' and '.join(needed) or 'no path, sha256 or seed'} with `weights: "
                f"{self.weights}`, got {' and '.join(present) or 'none'}; add what is missing, "
                "remove the rest"
            )
        if self.pooling.endswith("predictions") and (self.layer or not self.include_top):
            wrong = "include_top: expected true, as pooling is {!r}, got false; change one of them"
            if self.include_top:
                wrong = "layer: expected null, as pooling is {!r}, got {!r}; change one of them"
            raise ValueError(wrong.format(self.pooling, self.layer))
        return self


OF_ANY_OUTPUT = (
    "of maps: avg, max, flatten; of tokens: cls, mean, cls_and_mean; of a vector: flatten"
)


class OnnxFile(Section):
    """A frozen network in an ONNX file, which OpenVINO runs."""

    unfreeze_from: ClassVar[None] = None

    weights: Literal["file"] = key(
        "file: a network of any framework, with a path that ends in .onnx"
    )
    path: str = key("path of the ONNX file")
    sha256: Sha256 = key("sha256 of the ONNX file")
    output: Text | None = optional("name of the output to take; null: the only one")
    layout: Literal["NCHW", "NHWC"] | None = optional(
        "order of the input's axes; null: by the axis that has 3 channels"
    )
    mean: Channels = key("subtracted from red, green and blue, which are 0 to 255")
    std: Annotated[Channels, AfterValidator(not_zero)] = key("then divides red, green and blue")
    size: Pixels | None = optional(
        "width and height that the network takes; null: as its file says, or resize.size"
    )
    pooling: AnyPooling = key(OF_ANY_OUTPUT)


class Preset(Section):
    """An image backbone of KerasHub."""

    weights: Literal["preset"] = key("preset: an image backbone of KerasHub (extra hub)")
    path: Text = key("folder of the preset, or a name that KerasHub downloads, hf:// or kaggle://")
    sha256: Sha256 | None = optional("of the preset (docs/backbones.md); null: as first downloaded")
    layer: LayerName = optional("layer to take features from; null: the output")
    pooling: AnyPooling = key(OF_ANY_OUTPUT)
    size: Pixels | None = optional(
        "width and height that the network takes; null: as the preset says, or resize.size"
    )
    unfreeze_from: LayerName = optional("first layer that fine-tuning trains; null: none")


def _kind(backbone: Any) -> str:
    """Return the tag of a backbone's section."""
    if isinstance(backbone, Section):
        return {OnnxFile: "onnx", Preset: "preset"}.get(type(backbone), "keras")
    path, weights = (
        backbone.get(name) if isinstance(backbone, dict) else None for name in ("path", "weights")
    )
    if weights == "preset":
        return "preset"
    return "onnx" if isinstance(path, str) and path.lower().endswith(".onnx") else "keras"


AnyBackbone = Annotated[
    Annotated[Backbone, Tag("keras")]
    | Annotated[OnnxFile, Tag("onnx")]
    | Annotated[Preset, Tag("preset")],
    Discriminator(_kind),
]


class Geometry(Section):
    """Limits of random geometric changes."""

    rotation: Annotated[Float, Field(ge=0, le=180)] = key("degrees, to either side")
    shift: Fraction = key("fraction of height and width")
    shear: Fraction = key("fraction of height and width")
    zoom: Fraction = key("fraction, in or out")
    flip: bool = key("mirror left and right, at random")


class ViewAugment(Geometry):
    seed: Seed = key("random seed of the augmented views")


class Extract(Section):
    views: Views = key("per image: 1 the image, 2 its mirror image, from 3 on augmented")
    augment: ViewAugment | None = optional("random changes in the views from the third on")
    engine: Literal["keras", "openvino"] = key("openvino: fastest on a CPU; keras: on a GPU, too")
    precision: Precision = key("arithmetic: float32, bfloat16 or, on NVIDIA GPUs, tf32")
    batch_size: Count = key("images per batch, of engine keras")
    dtype: Literal["float16", "float32"] = key("stored features: float32 or float16")

    @model_validator(mode="after")
    def _require_augment_for_more_views(self) -> Self:
        if self.views > 2 and self.augment is None:
            raise ValueError(
                f"expected augment, as views is {self.views} and views from the third on are "
                "augmented, got none; add it, or set views: 2"
            )
        return self

    def changes(self) -> tuple[dict[str, Any], int]:
        """Return the limits of the changes and the seed of augmented views; zeros without any."""
        ranges = (self.augment or _NO_CHANGES).model_dump()
        return ranges, ranges.pop("seed")


_NO_CHANGES = ViewAugment(rotation=0, shift=0, shear=0, zoom=0, flip=False, seed=0)


class DenseLayers(Section):
    kind: Literal["dense"] = key("dense: fully connected layers")
    hidden: list[Count] = key("units of each hidden layer; []: no hidden layer")
    batch_norm: bool = key("batch normalization after each hidden layer")
    output: Literal["softmax", "sigmoid"] = key("softmax or, for two classes, sigmoid")


class Training(Section):
    """Keys of dense heads and of fine-tuning."""

    input_dropout: Fraction = key("dropout rate of the features")
    dropout: Fraction = key("dropout rate after each hidden layer")
    optimizer: Literal[
        "sgd", "rmsprop", "adam", "adamw", "adamax", "nadam", "adagrad", "adadelta", "lion", "ftrl"
    ] = key("Keras name: sgd, rmsprop, adam, adamw, adamax, nadam, lion, ...")
    learning_rate: Positive = key("peak learning rate")
    epochs: Count = key("epochs, at most")
    steps_per_epoch: Count | None = optional("batches per epoch; null: every image once")
    batch_size: Count = key("images per batch")
    patience: Count | None = optional(
        "stop after this many epochs without a lower loss on valid; null: never"
    )
    class_weights: ClassWeights = optional("balanced, or one number per class; null: all 1")
    label_smoothing: Fraction | None = optional(
        "share of each label that is spread over all classes in the loss; null: 0"
    )
    weight_decay: Positive | None = optional("of all weights, times the learning rate; null: none")
    clip_norm: Positive | None = optional("largest norm of all gradients together; null: any")
    ema: Fraction | None = optional(
        "momentum of averaged weights, taken after each epoch; null: none"
    )
    focal_gamma: Positive | None = optional("exponent of a focal loss; null: cross-entropy")
    mixup: Positive | None = optional(
        "mix pairs of images in shares of Beta(mixup, mixup); null: none"
    )
    seed: Seed = key("random seed of weights, order, dropout and augmentation")


FOLDS = "heads, each trained without a part of train and valid; null: one head"


class LogisticHead(Section):
    """Logistic regression."""

    kind: Literal["logistic"] = key("logistic: logistic regression")
    folds: Folds | None = optional(FOLDS)
    inverse_regularization: Positive | None = optional(
        "C of scikit-learn, lower is smoother; null: cross-validated"
    )
    max_iterations: Count = key("iterations of L-BFGS, at most")


class DenseHead(Training, DenseLayers):  # in this order, DenseLayers has the first keys
    """Fully connected layers."""

    folds: Folds | None = optional(FOLDS)
    epochs: Annotated[int, Field(ge=0, lt=2**31)] = key(
        "epochs, at most; 0: the head stays untrained"
    )


class Augment(Geometry):
    brightness: Fraction = key("fraction of the value range")
    rand_augment: Fraction | None = optional(
        "strength of RandAugment, two random changes; null: none"
    )

    def active(self) -> list[str]:
        """Return the names of the changes that are not switched off."""
        return [name for name, value in self.model_dump().items() if value]


NO_AUGMENT = Augment(rotation=0, shift=0, shear=0, zoom=0, flip=False, brightness=0)


class FineTune(Training):
    cache_frozen: bool = key("run the frozen layers once per view and train on their stored output")
    precision: Precision = key("arithmetic: float32, bfloat16 or, on NVIDIA GPUs, tf32")
    warmup_epochs: NotNegative = key("epochs in which the learning rate rises from 0 to its peak")
    decay: Literal["constant", "cosine"] = key(
        "learning rate: constant, or cosine (falls to 0 by the last epoch)"
    )
    augment: Augment | None = optional("random changes to training images; null: none")
    cutmix: Positive | None = optional(
        "rectangles of other images, of shares of Beta(cutmix, cutmix); null: none"
    )
    layer_rate: Annotated[Float, Field(gt=0, le=1)] | None = optional(
        "learning rate of a layer, over that of the layer after it; null: 1"
    )


class Predict(Section):
    views: Count = key("views averaged for a prediction; at most extract.views")


class Evaluate(Section):
    calibration: Literal["temperature", "none"] = key(
        "of probabilities: temperature, fitted on valid, or none"
    )
    decimals: Annotated[int, Field(ge=2, le=12)] = key("decimals of the numbers in metrics/")


class Explain(Section):
    examples: Annotated[int, Field(ge=1, le=100)] = key("images per gallery, at most")
    image: Name | None = optional(
        "image with activations, a name in data/split.csv; null: a random one"
    )
    layers: LayersShown = key("layers with activations and filters: a number, or a list of names")
    filters: Annotated[int, Field(ge=0, le=64)] = key("filters drawn per layer; 0: none")
    seed: Seed = key("random seed of galleries and of the noise that filters start from")


class Submit(Section):
    clip: Clip = key("clip probabilities to [clip, 1 - clip]; auto: chosen on valid")


class Compute(Section):
    """Keys that change only the last bits of a result."""

    backend: Literal["tensorflow", "jax"] = key(
        "Keras backend: tensorflow, or jax if it is installed"
    )
    threads: Count | None = optional("threads per operation; null: all processors")
    instruction_set: Literal[WithoutBfloat16, Avx512] | None = optional(
        "highest that oneDNN uses: AVX2, AVX512_CORE, ...; null: the best"
    )


class Verify(Section):
    absolute: NotNegative = key("accepted absolute difference of two numbers")
    relative: NotNegative = key("plus this fraction of the recorded number")
    pixels: Fraction = key("accepted fraction of differing pixels in a plot")


def _plain_words(backbones: dict[str, AnyBackbone]) -> dict[str, AnyBackbone]:
    """Allow letters, digits and _ only: a name is part of paths that DVC removes."""
    for name in backbones:
        if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(
                f"expected a network name of letters, digits and _, got {name!r}; change it"
            )
    return backbones


class Params(Section):
    data: Data = key("where the images are")
    split: Split = key("subsets of the labeled images: train, valid and test")
    resize: Resize = key("all images as RGB of one size")
    backbones: Annotated[
        dict[str, AnyBackbone], Field(min_length=1), AfterValidator(_plain_words)
    ] = key("networks: convnet, gabor, Keras applications, presets, ONNX files; the head uses all")
    extract: Extract = key("features of every backbone, computed once per image and view")
    train_head: Annotated[LogisticHead | DenseHead, Field(discriminator="kind")] = key(
        "classifier on the features; kind: logistic or dense"
    )
    fine_tune: FineTune | None = optional(
        "training of backbones and head together, after train_head; null: none"
    )
    predict: Predict = key("how the final model predicts")
    evaluate: Evaluate = key("calibration and metrics")
    explain: Explain = key("plots that explain the model")
    submit: Submit = key("data/submission.csv")
    compute: Compute = key("how to compute; changes the last bits of a result")
    verify: Verify = key("differences that `make verify` accepts where bytes differ")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        tune, instruction_set = self.fine_tune, self.compute.instruction_set
        precisions = {"extract.precision": self.extract.precision}
        if tune is not None:
            precisions["fine_tune.precision"] = tune.precision
        for name, precision in precisions.items():
            if precision == "bfloat16" and instruction_set in get_args(WithoutBfloat16):
                raise ValueError(
                    "compute.instruction_set: expected null or AVX512_CORE or above, as "
                    f"{name} is bfloat16, got {instruction_set!r}; change one"
                )
        if self.predict.views > self.extract.views:
            raise ValueError(
                f"predict.views: expected at most extract.views ({self.extract.views}), "
                f"got {self.predict.views}; change one of them"
            )
        if self.extract.engine == "openvino" and self.extract.precision == "tf32":
            raise ValueError(
                "extract.precision: expected float32 or bfloat16, as extract.engine is openvino, "
                "got 'tf32'; change one of them"
            )
        if self.extract.engine == "openvino" and self.compute.backend != "tensorflow":
            raise ValueError(
                "extract.engine: expected keras, as compute.backend is "
                f"{self.compute.backend}, got 'openvino'; change one of them"
            )
        for name, one in self.backbones.items():
            if isinstance(one, OnnxFile) and tune is not None:
                raise ValueError(
                    f"fine_tune: expected null, as backbones.{name} is an ONNX file, which cannot "
                    "be trained, got a section; change one of them"
                )
            if isinstance(one, OnnxFile) and self.extract.engine != "openvino":
                raise ValueError(
                    f"extract.engine: expected openvino, as backbones.{name} is an ONNX file, got "
                    f"{self.extract.engine!r}; change one of them"
                )
        if tune is not None and self.train_head.folds is not None:
            raise ValueError(
                f"fine_tune: expected null, as train_head.folds is {self.train_head.folds} and its "
                "heads have seen valid, got a section; change one of them"
            )
        if tune is not None and tune.warmup_epochs >= tune.epochs:
            raise ValueError(
                f"fine_tune.warmup_epochs: expected fewer than fine_tune.epochs ({tune.epochs}), "
                f"got {tune.warmup_epochs:g}; lower it"
            )
        if tune is not None and tune.cache_frozen:
            if changes := tune.augment and tune.augment.active():
                raise ValueError(
                    "fine_tune.augment: expected no changes, as fine_tune.cache_frozen is true and "
                    f"each view is computed once, got {', '.join(changes)}; use more views "
                    "(extract.views, extract.augment), or set cache_frozen: false"
                )
            if tune.cutmix is not None:
                raise ValueError(
                    "fine_tune.cutmix: expected null, as fine_tune.cache_frozen is true and there "
                    f"are no images to put rectangles into, got {tune.cutmix:g}; use mixup, or set "
                    "cache_frozen: false"
                )
            if not any(one.unfreeze_from for one in self.backbones.values()):
                raise ValueError(
                    "backbones: expected unfreeze_from in at least one of them, as "
                    "fine_tune.cache_frozen is true, got none; name a layer, or train the head "
                    "alone with more epochs in train_head"
                )
        return self
