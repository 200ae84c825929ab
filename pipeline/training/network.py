"""The network of a run: what `params.yaml` describes, with the weights of the stages before.

Images (n, size, size, 3) RGB, values 0 to 255, through one extractor a backbone and the head, to
logits (n, n_classes). `engine.start` comes before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import config as parameters
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError
from pipeline.training import head


@dataclass(frozen=True, slots=True)
class Network:
    """Keras models that share their weights.

    Attributes:
        extractors: images to features (n, d_i), by the backbone's name.
        classifier: features, joined (n, d_1 + ... + d_k), to logits, or for two classes perhaps
            to that of the second alone, (n, 1).
        whole: images to what `classifier` gives.
    """

    extractors: dict[str, Any]
    classifier: Any
    whole: Any


def assemble(
    params: parameters.Params,
    size: int,
    weights: Mapping[str, Path],
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
        weights: a file of each backbone of `train_head.backbones`, in that order.
        precision: of the backbones' arithmetic.
        input_dropout, dropout, seed: of the classifier, for training.

    Raises:
        UserError: a backbone, layer or weights that do not fit, or a head of other features.
    """
    from pipeline.backbones import build
    from pipeline.training import loop, network_split

    pooling = params.extract.pooling
    extractors = {}
    for name, path in weights.items():
        with network_split.arithmetic(precision):
            base = build.network(
                name,
                size,
                params.fetch_weights[name].include_top,
                path,
                logits=pooling in build.PREDICTIONS,
            )
            extractors[name] = build.extractor(
                base,
                name,
                params.extract.layer,
                pooling,
                preprocessing=params.extract.preprocessing,
            )
    width = sum(int(extractor.output_shape[-1]) for extractor in extractors.values())
    trained.require(width, n_classes)
    classifier = loop.head_model(trained, input_dropout=input_dropout, dropout=dropout, seed=seed)
    every = list(extractors.values())
    return Network(extractors, classifier, network_split.whole(every, classifier, (size, size, 3)))


def load(
    params: parameters.Params,
    size: int,
    weights: Mapping[str, Path],
    head_folder: Path,
    model_folder: Path,
    n_classes: int,
    chosen: str,
) -> Network:
    """The network that predicts, as `evaluate` has chosen it, in float32.

    Args:
        head_folder, model_folder: what `train_head` and `fine_tune` wrote.
        chosen: "head" or "fine_tune".

    Raises:
        UserError: a file is missing or does not fit.
    """
    from pipeline.backbones import weights_file

    trained = head.load(atomic_files.require_sealed(head_folder / "head.npz", "train_head"))
    network = assemble(params, size, weights, trained, n_classes)
    if chosen == "fine_tune" and params.fine_tune.epochs:
        tuned = atomic_files.require_sealed(model_folder / "model.weights.h5", "fine_tune")
        try:
            weights_file.load(network.whole, tuned)
        except weights_file.WeightsFileError as error:
            raise UserError(
                f"{tuned}: expected the weights of the fine-tuned network, got a file that does "
                f"not fit ({error}); run `dvc repro fine_tune` again"
            ) from None
    return network
