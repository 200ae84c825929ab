"""Join backbones and a head into one network, or split it where training begins.

Joined: images (n, size, size, 3) to logits (n, n_classes). Split: the frozen part, images to
activations, runs once per image and view; the rest, activations to logits, is trained and shares
its weights with the joined network.
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
    """Create layers in the block that compute in `precision`; their weights stay float32."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(POLICIES[precision])
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def join(
    extractors: Sequence[keras.Model], classifier: keras.Model, shape: tuple[int, ...]
) -> keras.Model:
    """Build the model from images (n, *shape) through all extractors to logits."""
    images = keras.Input(shape, name="images")
    features = concatenate([extractor(images) for extractor in extractors])
    return keras.Model(images, classifier(features), name="model")


def split(
    extractors: Sequence[keras.Model],
    layers: Sequence[str | None],
    classifier: keras.Model,
    precision: str = "float32",
) -> tuple[list[keras.Model], keras.Model]:
    """Split each extractor before its layer; without one, after its features.

    Returns:
        For each extractor the model from images to flat activations (n, d_i) float32, batch norms
        folded, computing in `precision`; and one model from all activations, joined
        (n, d_1 + ... + d_k), to logits.

    Raises:
        UserError: no such layer, or one that a connection bypasses.
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
        keras.Model(activations, classifier(concatenate(features)), name="rest"),
    )


def concatenate(features: Sequence[Any]) -> Any:
    """Join the features (n, d_i) of all extractors to (n, d_1 + ... + d_k)."""
    if len(features) == 1:
        return features[0]
    return keras.layers.Concatenate(name="features", dtype="float32")(features)


class Part(keras.layers.Layer):  # type: ignore[misc]
    """Take columns of (n, d) from `start` on and reshape them to (n, *shape)."""

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
    """Return images to flat activations, and these to features; without a layer both are equal."""
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
    """Return the one tensor that the layer and all after it take from earlier layers."""
    first = trunk.layers.index(find_layer(trunk, layer, KEY))
    passing = _passing(trunk, first)
    if len(passing) == 1:
        return passing[0]
    possible = [
        other.name
        for place, other in enumerate(trunk.layers)
        if other.weights and len(_passing(trunk, place)) == 1
    ]
    near = difflib.get_close_matches(layer, possible, n=3, cutoff=0)
    raise UserError(
        f"params.yaml: {KEY}: expected a layer that no connection bypasses, as "
        f"fine_tune.cache_frozen is true, got {layer!r}, where {len(passing)} tensors enter; "
        f"the nearest that fit are {', '.join(near)}, or set cache_frozen: false"
    )


def _passing(trunk: keras.Model, first: int) -> list[Any]:
    """Return the tensors that operations from layer number `first` on take from earlier ones."""
    operations = list(trunk.operations)  # layers and operations between them, in their order
    later = operations[operations.index(trunk.layers[first]) :]
    numbers = {id(operation) for operation in later}
    tensors = {
        id(tensor): tensor
        for operation in later
        if not isinstance(operation, keras.layers.InputLayer)
        for tensor in keras.tree.flatten(operation.input)
        if id(keras_private.operation_of(tensor)) not in numbers
    }
    return list(tensors.values())
