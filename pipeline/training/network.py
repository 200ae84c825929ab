"""The network of a run: backbones and head as `params.yaml` describes them, with their weights.

Images (n, size, size, 3) RGB, values 0 to 255, through one extractor a backbone and the head, to
logits (n, n_classes). `keras_setup.start` comes first.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.runtime.errors import UserError
from pipeline.schema import Params
from pipeline.storage import sealed_files
from pipeline.training import head


@dataclass(frozen=True, slots=True)
class Network:
    """Keras models that share their weights.

    Attributes:
        extractors: images to features (n, d_i), by the backbone's name.
        classifier: joined features (n, d_1 + ... + d_k) to logits, for two classes perhaps to the
            logit of the second one alone, (n, 1).
        whole: images to the output of `classifier`.
    """

    extractors: dict[str, Any]
    classifier: Any
    whole: Any


def weights(params: Params) -> dict[str, Path]:
    """Return the weights file of each backbone, in the order of the features.

    Raises:
        UserError: one is missing or damaged.
    """
    return {
        name: sealed_files.require_sealed(paths.weights(name), f"fetch_weights@{name}")
        for name in params.backbones
    }


def trained_head() -> head.Head:
    """Return the head that `train_head` wrote."""
    return head.load(sealed_files.require_sealed(paths.head_file(), "train_head"))


def assemble(
    params: Params,
    size: int,
    trained: head.Head,
    n_classes: int,
    *,
    precision: str = "float32",
    input_dropout: float = 0,
    dropout: float = 0,
    seed: int = 0,
) -> Network:
    """Put backbones and a head together; nothing is trainable or frozen yet.

    Args:
        size: of the images, in pixels.
        precision: of the backbones' arithmetic.
        input_dropout, dropout, seed: of the classifier, for training.

    Raises:
        UserError: a backbone, layer or weights that do not fit, or a head for other features.
    """
    from pipeline.backbones import build
    from pipeline.training import loop, network_split

    extractors = {}
    for name, path in weights(params).items():
        backbone = params.backbones[name]
        with network_split.arithmetic(precision):
            base = build.network(
                name,
                size,
                backbone.include_top,
                path,
                logits=backbone.pooling in build.PREDICTIONS,
            )
            extractors[name] = build.extractor(
                base,
                name,
                backbone.layer,
                backbone.pooling,
                preprocessing=backbone.preprocessing,
            )
    width = sum(int(extractor.output_shape[-1]) for extractor in extractors.values())
    trained.require(width, n_classes)
    classifier = loop.head_model(trained, input_dropout=input_dropout, dropout=dropout, seed=seed)
    whole = network_split.whole([*extractors.values()], classifier, (size, size, 3))
    return Network(extractors, classifier, whole)


def load(params: Params, size: int, n_classes: int, model: str) -> Network:
    """Return the network that predicts, in float32.

    Args:
        model: the one that `evaluate` selected, "head" or "fine_tune".

    Raises:
        UserError: a file is missing or does not fit.
    """
    from pipeline.backbones import weights_file

    network = assemble(params, size, trained_head(), n_classes)
    if model == "fine_tune" and params.fine_tune is not None:
        tuned = sealed_files.require_sealed(paths.model_weights(), "fine_tune")
        try:
            weights_file.load(network.whole, tuned)
        except weights_file.WeightsFileError as error:
            raise UserError(
                f"{tuned}: expected the weights of the fine-tuned network, got a file that does "
                f"not fit ({error}); run `dvc repro fine_tune` again"
            ) from None
    return network
