"""Fold batch norms into adjacent convolutions: the same output with less work.

In inference a batch norm is one multiplication and one addition per channel,

    scale = gamma / sqrt(moving variance + epsilon)        shift = beta - scale * moving mean

which a convolution beside it can absorb (B. Jacob et al., "Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference", 2018, section 3.2). It is folded
  - if its input is the output of a convolution, or of several joined by channels, that has no other
    use and no activation: scale * conv(x) + shift;
  - else if its output goes to one Conv2D or DepthwiseConv2D without padding:
    conv(scale * x + shift).
It stays before an activation, unless a convolution is before it (ResNetV2, DenseNet); before a
convolution with padding, where zeros would need another value; and if it or the convolution is
called twice, or in training mode.
"""

from collections import defaultdict
from typing import Any, NamedTuple

import keras
import numpy as np
from keras.layers import Conv2D, DepthwiseConv2D, SeparableConv2D
from numpy.typing import NDArray

from pipeline.backbones.keras_private import producers

LAST_AXIS = (-1, 3)  # of (n, height, width, channels)


class Affine(NamedTuple):
    """The map that a batch norm applies to each channel in inference."""

    scale: NDArray[np.float64]  # (channels,)
    shift: NDArray[np.float64]  # (channels,)


class Plan(NamedTuple):
    """Batch norms to remove, and the maps that each convolution, by name, absorbs."""

    removed: set[str]
    before: dict[str, Affine]
    after: dict[str, Affine]


def fold(model: keras.Model, dtype: str = "float32") -> keras.Model:
    """Return a copy of a functional float32 model, for inference, with batch norms folded.

    Layers keep their names and compute in `dtype`, "float32" or "bfloat16"; Rescaling and
    Normalization always in float32, since they process pixels and their means. Layers of KerasHub
    are shared with the model, and so is their dtype.
    """
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    if any(map(_of_keras_hub, model.layers)) and not any(map(_is_batch_norm, model.layers)):
        return model  # nothing to fold, and some of these layers cannot say their config
    plan = _plan(model)

    def clone(operation: keras.Operation) -> keras.Operation:
        if isinstance(operation, keras.Model):
            return fold(operation, dtype)
        if _of_keras_hub(operation):
            return operation  # some cannot be made anew from their own config
        config = operation.get_config()
        if isinstance(operation, keras.layers.Layer):
            pixels = isinstance(operation, (keras.layers.Rescaling, keras.layers.Normalization))
            config["dtype"] = "float32" if pixels else dtype
            # Overwritten below: do not consume random numbers of the global seed.
            config |= {key: "zeros" for key in config if key.endswith("_initializer")}
        if operation.name in plan.before or operation.name in plan.after:
            config["use_bias"] = True
        return type(operation).from_config(config)

    def call(operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        return args[0] if operation.name in plan.removed else operation(*args, **kwargs)

    new = keras.models.clone_model(model, None, clone, call)
    for layer in new.layers:
        if isinstance(layer, keras.Model) or not layer.weights:  # a model already has them
            continue
        old = model.get_layer(layer.name)
        before, after = plan.before.get(layer.name), plan.after.get(layer.name)
        layer.set_weights(_weights(old, before, after) if before or after else old.get_weights())
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    return new


def _of_keras_hub(operation: keras.Operation) -> bool:
    return type(operation).__module__.startswith("keras_hub.")


def _is_batch_norm(operation: keras.Operation) -> bool:
    return type(operation) is keras.layers.BatchNormalization


def _plan(model: keras.Model) -> Plan:
    plan = Plan(set(), {}, {})
    sources, users = _graph(model)
    layers: dict[str, Any] = {layer.name: layer for layer in model.layers}

    def convolutions_into(name: str) -> list[Any]:
        """Return the convolutions whose joined channels that layer outputs, if it has one user."""
        layer: Any = layers.get(name)
        if len(users[name]) != 1:
            return []
        if type(layer) is keras.layers.Concatenate and layer.axis in LAST_AXIS:
            parts = [convolutions_into(source) for source in sources.get(name, [])]
            return [part for some in parts for part in some] if all(parts) else []
        kinds = (Conv2D, DepthwiseConv2D, SeparableConv2D)
        return [layer] if _is(layer, kinds) and layer.activation is keras.activations.linear else []

    for name, norm in layers.items():
        if not _is_batch_norm(norm) or norm.axis not in LAST_AXIS:
            continue
        if len(sources.get(name, [])) != 1:
            continue
        affine, user = _affine(norm), users[name][0]
        if convolutions := convolutions_into(sources[name][0]):
            ends = np.cumsum([part.output.shape[-1] for part in convolutions])[:-1]
            pieces = zip(*(np.split(vector, ends) for vector in affine), strict=True)
            for part, piece in zip(convolutions, pieces, strict=True):
                plan.after[part.name] = Affine(*piece)
        elif len(users[name]) == 1 and user in sources and _absorbs_before(layers.get(user)):
            plan.before[user] = affine
        else:
            continue
        plan.removed.add(name)
    return plan


def _graph(model: keras.Model) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the sources and the users of each operation, by name; "" for the model's output.

    Only operations that are called once, and not in training mode, have sources.
    """
    config = model.get_config()
    sources, users = {}, defaultdict(list)
    for operation in config["layers"]:
        name, calls = operation["name"], operation["inbound_nodes"]
        inputs = list(producers(calls))
        for source in inputs:
            users[source].append(name)
        if len(calls) == 1 and calls[0]["args"] and not calls[0]["kwargs"].get("training"):
            sources[name] = inputs
    for leaf in keras.tree.flatten(config["output_layers"]):  # name, call, tensor, name, ...
        if isinstance(leaf, str):
            users[leaf].append("")
    return sources, users


def _is(layer: Any, convolutions: tuple[type, ...]) -> bool:
    return type(layer) in convolutions and layer.data_format == "channels_last"


def _absorbs_before(layer: Any) -> bool:
    in_one_group = _is(layer, (Conv2D, DepthwiseConv2D)) and getattr(layer, "groups", 1) == 1
    return in_one_group and (layer.padding == "valid" or set(layer.kernel_size) == {1})


def _affine(norm: Any) -> Affine:
    *factors, mean, variance = (array.astype(np.float64) for array in norm.get_weights())
    scale = 1 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * factors[0]
    shift = -scale * mean
    return Affine(scale, shift + factors[-1] if norm.center else shift)


def _weights(layer: Any, before: Affine | None, after: Affine | None) -> list[NDArray[np.float32]]:
    """Return a convolution's kernels and bias with the maps absorbed, computed in float64."""
    arrays = [array.astype(np.float64) for array in layer.get_weights()]
    bias = arrays.pop() if layer.use_bias else np.zeros(1)  # (channels out,)
    *depthwise, kernel = arrays  # a SeparableConv2D has two kernels
    kind = type(layer)
    if before:  # of (height, width, channels in, channels out or multiplier)
        axes = (0, 1, 2) if kind is Conv2D else (0, 1)
        bias = bias + (kernel * before.shift[:, None]).sum(axis=axes).ravel()
        kernel = kernel * before.scale[:, None]
    if after:
        kernel = kernel * after.scale.reshape(kernel.shape[2:] if kind is DepthwiseConv2D else -1)
        bias = bias * after.scale + after.shift
    return [array.astype(np.float32) for array in (*depthwise, kernel, bias)]
