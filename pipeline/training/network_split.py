"""Fine-tuning's networks: backbones side by side with a head on top, whole or cut in two.

Whole: images (n, size, size, 3) to logits (n, n_classes). Cut where training begins: what lies
before, images to activations, runs once an image and view; what lies behind, activations to logits,
is what is trained, and shares its weights with the whole.
"""

import contextlib
import difflib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from pipeline.backbones import batch_norm_folding, keras_private
from pipeline.backbones.build import InferenceMode, find_layer
from pipeline.runtime.errors import UserError

KEY = "fine_tune.unfreeze_from"
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


@contextlib.contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Layers that the block makes compute in "float32" or "bfloat16"; weights stay float32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def whole(
    extractors: Sequence[keras.Model], classifier: keras.Model, shape: tuple[int, ...]
) -> keras.Model:
    """Images (n, *shape) through every extractor, their features joined, to logits."""
    images = keras.Input(shape, name="images")
    return keras.Model(images, classifier(joined([e(images) for e in extractors])), name="model")


def cut(
    extractors: Sequence[keras.Model],
    layers: Sequence[str | None],
    classifier: keras.Model,
    precision: str = "float32",
) -> tuple[list[keras.Model], keras.Model]:
    """Cut each extractor before its layer, and one without a layer behind its features.

    Returns:
        For each extractor the model from images to flat activations (n, d_i) float32, batch norms
        folded, computing in `precision`; and one model from all activations, joined
        (n, d_1 + ... + d_k), to logits.

    Raises:
        UserError: no such layer, or one that not everything passes.
    """
    halves = [
        _halves(extractor, layer, precision)
        for extractor, layer in zip(extractors, layers, strict=True)
    ]
    shapes = [rest.input_shape[1:] for _, rest in halves]
    sizes = [math.prod(shape) for shape in shapes]
    activations = keras.Input((sum(sizes),), name="activations")
    features = []
    for number, ((_, rest), shape) in enumerate(zip(halves, shapes, strict=True)):
        part = Part(sum(sizes[:number]), shape, name=f"part_{number}")
        features.append(rest(part(activations)))
    return (
        [frozen for frozen, _ in halves],
        keras.Model(activations, classifier(joined(features)), name="rest"),
    )


def joined(features: Sequence[Any]) -> Any:
    """The features (n, d_i) of every extractor as one tensor (n, d_1 + ... + d_k)."""
    if len(features) == 1:
        return features[0]
    return keras.layers.Concatenate(name="features", dtype="float32")(features)


class Part(keras.layers.Layer):  # type: ignore[misc]
    """Some columns of (n, d), from `start` on, as (n, *shape)."""

    def __init__(self, start: int, shape: tuple[int, ...], name: str) -> None:
        super().__init__(name=name, dtype="float32")
        self.start, self.shape = start, shape

    def call(self, activations: Any) -> Any:
        columns = activations[:, self.start : self.start + math.prod(self.shape)]
        return keras.ops.reshape(columns, (-1, *self.shape))

    def compute_output_shape(self, shape: tuple[int | None, int]) -> tuple[int | None, ...]:
        return shape[0], *self.shape


def _halves(
    extractor: keras.Model, layer: str | None, precision: str
) -> tuple[keras.Model, keras.Model]:
    """Images to flat activations, and activations to features; without a layer these are both."""
    trunk, pooling = extractor.get_layer("trunk").model, extractor.get_layer("pooling")
    between = trunk.output if layer is None else _before(trunk, layer)
    images = keras.Input(extractor.input_shape[1:], name="images")
    before = batch_norm_folding.fold(keras.Model(trunk.inputs, between, name="before"), precision)
    x = InferenceMode(before)(extractor.get_layer("preprocess")(images))
    x = pooling(x) if layer is None else x
    flat = keras.layers.Flatten(name="activations", dtype="float32")(x)
    rest = middle = keras.Input(x.shape[1:], name="middle")
    if layer is not None:
        behind = keras.Model(between, trunk.output, name="behind")
        rest = pooling(InferenceMode(behind)(middle))
    return (
        keras.Model(images, flat, name="frozen"),
        keras.Model(middle, rest, name=f"{extractor.name}_rest"),
    )


def _before(trunk: keras.Model, layer: str) -> Any:
    """The one tensor that the layer and all behind it take from those before."""
    first = trunk.layers.index(find_layer(trunk, layer, KEY))
    passing = _passing(trunk, first)
    if len(passing) == 1:
        return passing[0]
    clean = [
        known.name
        for place, known in enumerate(trunk.layers)
        if known.weights and len(_passing(trunk, place)) == 1
    ]
    near = difflib.get_close_matches(layer, clean, n=3, cutoff=0)
    raise UserError(
        f"params.yaml: {KEY}: expected a layer that everything passes, as "
        f"fine_tune.cache_frozen is true, got {layer!r}, which {len(passing)} tensors pass; "
        f"the nearest that serve are {', '.join(near)}, or set cache_frozen: false"
    )


def _passing(trunk: keras.Model, first: int) -> list[Any]:
    """The tensors that the operations from layer number `first` on take from those before."""
    operations = list(trunk.operations)  # layers and what stands between them, in their order
    behind = operations[operations.index(trunk.layers[first]) :]
    late = {id(operation) for operation in behind}
    found = {}
    for operation in behind:
        if isinstance(operation, keras.layers.InputLayer):
            continue
        for tensor in keras.tree.flatten(operation.input):
            if id(keras_private.operation_of(tensor)) not in late:
                found[id(tensor)] = tensor
    return list(found.values())
