"""Batch norms folded into the convolutions beside them: the same output with less work.

In inference a batch norm is one multiplication and one addition a channel,

    scale = gamma / sqrt(moving variance + epsilon)        shift = beta - scale * moving mean

which a convolution beside it takes over: B. Jacob et al., "Quantization and Training of Neural
Networks for Efficient Integer-Arithmetic-Only Inference" (2018), section 3.2; the notation is that
of S. Ioffe and C. Szegedy, "Batch Normalization" (2015). A batch norm is folded
  - if its input is a convolution's output, or the joined channels of several, which nothing else
    uses and which went through no activation: scale * conv(x) + shift;
  - else if its output goes to one Conv2D or DepthwiseConv2D that pads nothing:
    conv(scale * x + shift).
It stays behind an addition, a pooling or a concatenation that others use too and before an
activation (ResNetV2, DenseNet); where zeros are padded between it and the convolution, because they
would need another value; where it or the convolution is called twice; on another axis than the
last; and where it is called with `training=True`.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
from keras.layers import Conv2D, Conv2DTranspose, DepthwiseConv2D, SeparableConv2D
from numpy.typing import NDArray

LAST_AXIS = (-1, 3)  # of (n, height, width, channels)


class Affine(NamedTuple):
    """What a batch norm does to each channel in inference."""

    scale: NDArray[np.float64]  # (channels,)
    shift: NDArray[np.float64]  # (channels,)


class Plan(NamedTuple):
    """Which batch norms go, and what each convolution, by its name, takes over from them."""

    folded: set[str]
    before: dict[str, Affine]
    after: dict[str, Affine]


def fold(model: keras.Model, dtype: str = "float32") -> keras.Model:
    """A model with the same input, output and weights, its batch norms folded where that is exact.

    For inference only. The given model stays as it is; layers keep their names. A model inside the
    model is folded by itself.

    Args:
        model: functional, computing in float32.
        dtype: policy of the new model's layers, "float32" or "bfloat16". Rescaling and
            Normalization, which see pixels and their means, compute in float32 in any case.
    """
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    plan = _plan(model)

    def clone(operation: keras.Operation) -> keras.Operation:
        if isinstance(operation, keras.Model):
            return fold(operation, dtype)
        config = operation.get_config()
        if isinstance(operation, keras.layers.Layer):
            pixels = isinstance(operation, (keras.layers.Rescaling, keras.layers.Normalization))
            config["dtype"] = "float32" if pixels else dtype
            # They are overwritten: do not draw them from a seed that others use.
            config |= {key: "zeros" for key in config if key.endswith("_initializer")}
        if operation.name in plan.before or operation.name in plan.after:
            config["use_bias"] = True
        return type(operation).from_config(config)

    def call(operation: keras.Operation, *args: Any, **kwargs: Any) -> Any:
        return args[0] if operation.name in plan.folded else operation(*args, **kwargs)

    new = keras.models.clone_model(model, _inputs(model), clone, call)
    for layer in new.layers:
        if isinstance(layer, keras.Model):  # it has its weights
            continue
        old = model.get_layer(layer.name)
        before, after = plan.before.get(layer.name), plan.after.get(layer.name)
        layer.set_weights(_weights(old, before, after) if before or after else old.get_weights())
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    return new


def _inputs(model: keras.Model) -> Any:
    """New inputs by the old ones' names, which `clone_model` does not keep."""
    kind = keras.layers.InputLayer
    names = {id(layer.output): layer.name for layer in model.layers if isinstance(layer, kind)}
    return keras.tree.map_structure(
        lambda old: keras.Input(batch_shape=old.shape, dtype=old.dtype, name=names[id(old)]),
        model.input,
    )


def _plan(model: keras.Model) -> Plan:
    plan = Plan(set(), {}, {})
    sources, users = _graph(model)
    known: dict[str, Any] = {layer.name: layer for layer in model.layers}

    def joined(name: str) -> list[Any]:
        """The convolutions whose joined channels are what that layer gives to one other alone."""
        layer: Any = known.get(name)
        if len(users[name]) != 1:
            return []
        if type(layer) is keras.layers.Concatenate and layer.axis in LAST_AXIS:
            parts = [joined(source) for source in sources.get(name, [])]
            return [part for some in parts for part in some] if all(parts) else []
        kinds = (Conv2D, DepthwiseConv2D, SeparableConv2D, Conv2DTranspose)
        return [layer] if _is(layer, kinds) and layer.activation is keras.activations.linear else []

    for name, norm in known.items():
        if type(norm) is not keras.layers.BatchNormalization or norm.axis not in LAST_AXIS:
            continue
        if len(sources.get(name, [])) != 1:
            continue
        affine, user = _affine(norm), users[name][0]
        if convolutions := joined(sources[name][0]):
            ends = np.cumsum([part.output.shape[-1] for part in convolutions])[:-1]
            pieces = zip(*(np.split(vector, ends) for vector in affine), strict=True)
            for part, piece in zip(convolutions, pieces, strict=True):
                plan.after[part.name] = Affine(*piece)
        elif len(users[name]) == 1 and user in sources and _pads_nothing(known.get(user)):
            plan.before[user] = affine
        else:
            continue
        plan.folded.add(name)
    return plan


def _graph(model: keras.Model) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Whose output each operation takes, and whose input its own is ("" for the model's output).

    Only operations that are called once, and not in training mode, have sources.
    """
    config = model.get_config()
    sources = {}
    users = defaultdict(list)
    for operation in config["layers"]:
        name, calls = operation["name"], operation["inbound_nodes"]
        producers = list(_producers(calls))
        for producer in producers:
            users[producer].append(name)
        if len(calls) == 1 and calls[0]["args"] and not calls[0]["kwargs"].get("training"):
            sources[name] = producers
    for leaf in keras.tree.flatten(config["output_layers"]):  # name, call, tensor, name, ...
        if isinstance(leaf, str):
            users[leaf].append("")
    return sources, users


def _producers(call: Any) -> Iterator[str]:
    """The names of the operations that made the tensors in a call's serialized arguments."""
    if isinstance(call, dict):
        if "keras_history" in call:
            yield call["keras_history"][0]
        call = list(call.values())
    if isinstance(call, (list, tuple)):
        for argument in call:
            yield from _producers(argument)


def _is(layer: Any, convolutions: tuple[type, ...]) -> bool:
    return type(layer) in convolutions and layer.data_format == "channels_last"


def _pads_nothing(layer: Any) -> bool:
    """Whether it is a convolution that can take over what comes before it, borders included."""
    if not _is(layer, (Conv2D, DepthwiseConv2D)):
        return False
    return layer.padding == "valid" or set(layer.kernel_size) == {1}


def _affine(norm: Any) -> Affine:
    scale = 1 / np.sqrt(_float64(norm.moving_variance) + norm.epsilon)
    if norm.scale:
        scale = scale * _float64(norm.gamma)
    shift = -scale * _float64(norm.moving_mean)
    return Affine(scale, shift + _float64(norm.beta) if norm.center else shift)


def _float64(variable: keras.Variable) -> NDArray[np.float64]:
    return np.asarray(keras.ops.convert_to_numpy(variable), dtype=np.float64)


def _weights(layer: Any, before: Affine | None, after: Affine | None) -> list[NDArray[np.float32]]:
    """A convolution's kernels and bias, computed in float64, with what it takes over."""
    arrays = [array.astype(np.float64) for array in layer.get_weights()]
    bias = arrays.pop() if layer.use_bias else np.zeros(1)  # (channels out,)
    *depthwise, kernel = arrays  # a SeparableConv2D has two kernels
    kind = type(layer)
    if before and kind is Conv2D:  # (height, width, channels in of a group, channels out)
        by_group = (vector.reshape(layer.groups, -1).T for vector in before)
        each = layer.filters // layer.groups
        scale, shift = (np.repeat(vectors, each, axis=1) for vectors in by_group)
        bias = bias + (kernel * shift).sum(axis=(0, 1, 2))
        kernel = kernel * scale
    elif before:  # (height, width, channels in, multiplier)
        bias = bias + (kernel * before.shift[:, None]).sum(axis=(0, 1)).ravel()
        kernel = kernel * before.scale[:, None]
    if after:
        channels = {DepthwiseConv2D: kernel.shape[2:], Conv2DTranspose: (-1, 1)}.get(kind, (-1,))
        kernel = kernel * after.scale.reshape(channels)
        bias = bias * after.scale + after.shift
    return [array.astype(np.float32) for array in (*depthwise, kernel, bias)]
