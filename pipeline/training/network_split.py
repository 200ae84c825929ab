"""Join backbones and a head into one network, or split it where training begins.

Joined: images (n, size, size, 3) to logits (n, n_classes). Split: the frozen part, images to
activations, runs once per image and view; the rest, activations to logits, is trained and shares
its weights with the joined network.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras

from pipeline.backbones import batch_norm_folding, build, keras_private
from pipeline.runtime.errors import UserError, nearest

KEY = "fine_tune.unfreeze_from"


def join(
    extractors: Sequence[keras.Model], classifier: Callable[[Any], Any], shape: tuple[int, ...]
) -> keras.Model:
    """Build the model from images (n, *shape) through all extractors to logits."""
    images = keras.Input(shape, name="images")
    features = _concatenate([extractor(images) for extractor in extractors])
    return keras.Model(images, classifier(features), name="model")


def split(
    extractors: Sequence[keras.Model],
    layers: Sequence[str | None],
    classifier: keras.Model,
    precision: str = "float32",
) -> tuple[keras.Model, keras.Model]:
    """Split each extractor before its layer; without one, after its features.

    Return a model from images to activations (n, d), flat and joined, with folded batch norms, in
    `precision`, and one from these to logits. No such layer, or a bypassed one, is a `UserError`.
    """
    places = [
        layer and _before(build.trunk(one), layer)
        for one, layer in zip(extractors, layers, strict=True)
    ]
    fold = functools.partial(batch_norm_folding.fold, dtype=precision)
    first, rest, _ = _split(extractors, places, classifier, fold)
    return first, rest


def split_at_last_convolutions(
    extractors: Sequence[keras.Model], classifier: keras.Model
) -> tuple[keras.Model, keras.Model, list[tuple[int, ...]]]:
    """Split behind the last convolutions; return also each one's (height, width, channels)."""
    places = [build.last_feature_map(build.trunk(extractor)).output for extractor in extractors]
    return _split(extractors, places, classifier, lambda part: part)


def _split(
    extractors: Sequence[keras.Model],
    places: Sequence[Any],
    classifier: keras.Model,
    transform: Callable[[keras.Model], keras.Model],
) -> tuple[keras.Model, keras.Model, list[tuple[int, ...]]]:
    """Split at a tensor of each trunk, None for its features; transform the parts before."""
    halves = [_halves(one, place, transform) for one, place in zip(extractors, places, strict=True)]
    first = join([before for before, _ in halves], lambda x: x, extractors[0].input_shape[1:])
    shapes = [after.input_shape[1:] for _, after in halves]
    ends = [*itertools.accumulate(math.prod(shape) for shape in shapes)]
    activations = keras.Input((ends[-1],), name="activations")
    features = []
    for (_, after), shape, end in zip(halves, shapes, ends, strict=True):
        part = activations[:, end - math.prod(shape) : end]
        features.append(after(keras.layers.Reshape(shape, dtype="float32")(part)))
    return first, keras.Model(activations, classifier(_concatenate(features))), shapes


def _halves(
    extractor: keras.Model, place: Any, transform: Callable[[keras.Model], keras.Model]
) -> tuple[keras.Model, keras.Model]:
    """Return images to flat activations, and these, not flat, to features."""
    trunk, pooling = build.trunk(extractor), extractor.get_layer("pooling")
    between = trunk.output if place is None else place
    images = keras.Input(extractor.input_shape[1:])
    before = build.InferenceMode(transform(keras.Model(trunk.inputs, between)))
    x = before(extractor.get_layer("preprocess")(images))
    x = pooling(x) if place is None else x
    rest = middle = keras.Input(x.shape[1:])
    if between is not trunk.output:
        rest = build.InferenceMode(keras.Model(between, trunk.output))(middle)
    rest = rest if place is None else pooling(rest)
    flat = keras.layers.Flatten(dtype="float32")(x)
    return keras.Model(images, flat), keras.Model(middle, rest)


def _concatenate(features: Sequence[Any]) -> Any:
    if len(features) == 1:
        return features[0]
    return keras.layers.Concatenate(name="features", dtype="float32")(features)


def _before(trunk: keras.Model, layer: str) -> Any:
    """Return the one tensor that the layer and all after it take from earlier layers."""
    first = trunk.layers.index(build.find_layer(trunk, layer, KEY))
    passing = _passing(trunk, first)
    if len(passing) == 1:
        return passing[0]
    possible = [
        other.name
        for place, other in enumerate(trunk.layers)
        if other.weights and len(_passing(trunk, place)) == 1
    ]
    raise UserError(
        f"params.yaml: {KEY}: expected a layer that no connection bypasses, as "
        f"fine_tune.cache_frozen is true, got {layer!r}, where {len(passing)} tensors enter; "
        f"the nearest that fit are {nearest(layer, possible)}, or set cache_frozen: false"
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
