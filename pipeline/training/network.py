"""The network of a run: backbones and head as `params.yaml` describes them, with their weights.

Images (n, size, size, 3) RGB, values 0 to 255, pass through one extractor per backbone and the
head, to logits (n, n_classes). `keras_setup.start` comes first.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.schema import Params
from pipeline.storage import sealed_files
from pipeline.training import head


@dataclass(frozen=True, slots=True)
class Network:
    """Keras models that share their weights.

    Attributes:
        extractors: images to features (n, d_i), by the backbone's name, in the order of features.
        classifier: joined features (n, d_1 + ... + d_k) to logits.
        model: images to logits.
    """

    extractors: dict[str, Any]
    classifier: Any
    model: Any


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
    """Join the backbones and a head; nothing is frozen yet.

    Args:
        size: of the images, in pixels.
        precision: of the backbones' arithmetic.
        input_dropout, dropout, seed: of the classifier, for training.

    Raises:
        UserError: weights that are missing or do not fit, or a head for other features.
    """
    from pipeline.backbones import from_params
    from pipeline.training import loop, network_split

    with network_split.arithmetic(precision):
        extractors = {
            name: from_params.extractor(params, name, size, path)
            for name, path in weights(params).items()
        }
    width = sum(int(extractor.output_shape[-1]) for extractor in extractors.values())
    trained.require(width, n_classes)
    classifier = loop.head_model(trained, input_dropout=input_dropout, dropout=dropout, seed=seed)
    model = network_split.join([*extractors.values()], classifier, (size, size, 3))
    return Network(extractors, classifier, model)


def load(params: Params, size: int, n_classes: int, selected: str) -> Network:
    """Return the network that predicts, in float32.

    Args:
        selected: the model that `evaluate` selected, "head" or "fine_tune".

    Raises:
        UserError: a file is missing or does not fit.
    """
    from pipeline.backbones import weights_file

    network = assemble(params, size, trained_head(), n_classes)
    if selected == "fine_tune" and params.fine_tune is not None:
        path = sealed_files.require_sealed(paths.model_weights(), "fine_tune")
        what, remedy = "the weights of the fine-tuned network", "run `dvc repro fine_tune` again"
        weights_file.load(network.model, path, what, remedy)
    return network
