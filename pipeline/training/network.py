"""The network of a run: backbones and head as `params.yaml` describes them, with their weights.

Images (n, size, size, 3) RGB, values 0 to 255, pass through one extractor per backbone and the
head, to logits (n, n_classes). `keras_setup.start` comes first.
"""

from pathlib import Path
from typing import Any, NamedTuple

from pipeline import paths
from pipeline.runtime.errors import UserError
from pipeline.schema import FineTune, OnnxFile, Params
from pipeline.storage import sealed_files
from pipeline.training import head


class Network(NamedTuple):
    """Keras models that share their weights; a backbone that Keras cannot build has none."""

    extractors: dict[str, Any]  # images to features (n, d_i), by backbone, in their order
    classifier: Any  # joined features (n, d_1 + ... + d_k) to logits
    model: Any  # images to logits; None without an extractor for each backbone


def weights(params: Params) -> dict[str, Path]:
    """Return each backbone's weights file; a `UserError` if one is missing or damaged."""
    return {
        name: sealed_files.require_sealed(paths.weights(name), f"fetch_weights@{name}")
        for name in params.backbones
    }


def assemble(params: Params, size: int, n_classes: int, tune: FineTune | None = None) -> Network:
    """Join the backbones, for images of `size` pixels, and the trained head; nothing is frozen yet.

    The precision of the backbones and the dropout of the head are those of `tune`. Weights that are
    missing or do not fit, or a head for other features, are a `UserError`.
    """
    import keras

    from pipeline.backbones import from_params
    from pipeline.training import loop, network_split

    if tune and tune.precision == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")  # the weights stay float32
    extractors = {
        name: from_params.extractor(params, name, size, path)
        for name, path in weights(params).items()
        if name not in without_keras(params)
    }
    keras.config.set_dtype_policy("float32")
    trained = head.load(sealed_files.require_sealed(paths.head_file(), "train_head"))
    options = tune.model_dump(include={"input_dropout", "dropout", "seed"}) if tune else {}
    classifier = loop.head_model(trained, **options)
    if without_keras(params):
        return Network(extractors, classifier, None)
    width = sum(int(extractor.output_shape[-1]) for extractor in extractors.values())
    trained.require(width, n_classes)
    model = network_split.join([*extractors.values()], classifier, (size, size, 3))
    return Network(extractors, classifier, model)


def without_keras(params: Params) -> list[str]:
    """Return the names of the backbones that Keras cannot build."""
    return [name for name, one in params.backbones.items() if isinstance(one, OnnxFile)]


def without_maps(params: Params, net: Network) -> list[str]:
    """Return the names of the backbones of which Keras has no layer with height and width."""
    from pipeline.backbones import intermediate

    flat = [name for name, one in net.extractors.items() if not intermediate.spatial_layers(one)]
    return [*without_keras(params), *flat]


def require_keras(params: Params, where: str) -> None:
    """Raise a `UserError` from `where` if there is a backbone that Keras cannot build."""
    if others := without_keras(params):
        raise UserError(
            f"{where}: expected backbones that Keras can build, got an ONNX file for "
            f"{', '.join(others)}; use `pipeline predict` without --engine and --heatmap"
        )


def load(params: Params, size: int, n_classes: int, selected: str) -> Network:
    """Return the network that `evaluate` selected, "head" or "fine_tune", in float32.

    A file that is missing or does not fit is a `UserError`.
    """
    from pipeline.backbones import weights_file

    network = assemble(params, size, n_classes)
    if selected == "fine_tune" and params.fine_tune is not None:
        path = sealed_files.require_sealed(paths.model_weights(), "fine_tune")
        what, remedy = "the weights of the fine-tuned network", "run `dvc repro fine_tune` again"
        weights_file.load(network.model, path, what, remedy)
    return network
