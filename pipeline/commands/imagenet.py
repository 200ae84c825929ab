"""What a backbone itself says of images: the 1,000 classes that it was trained on.

Its weights with the classifier, and the names of the classes, come from the run, from files, or by
Keras' downloads.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.commands.formatters import TOP, Named
from pipeline.commands.predictor import Final, Function
from pipeline.runtime.errors import UserError


def function(final: Final, given: Path | None) -> Function:
    """From images (n, size, size, 3) to the ImageNet probabilities (n, 1000), first backbone.

    Args:
        given: a file of its weights with the classifier; None for those of the run, where these
            have it, else for Keras' download.

    Raises:
        UserError: no such weights, or a backbone that has none.
    """
    from pipeline.backbones import build

    name = final.params.train_head.backbones[0]
    if name in build.BUILT_IN:
        raise UserError(
            f"predict --imagenet: expected a backbone that was trained on ImageNet, got "
            f"{name!r}, which has no classes of its own; leave --imagenet out"
        )
    if given is not None and not given.is_file():
        raise UserError(
            f"predict --imagenet-weights: expected a weights file, got nothing at "
            f"{str(given)!r}; correct the path"
        )
    if given is None and final.params.fetch_weights[name].include_top:
        given = final.weights[name]
    base = build.network(name, final.params.resize.size, True, given, logits=True)
    if given is None:
        _download(base, name)
    return final.function(build.extractor(base, name, None, "predictions"))


def classes(path: Path | None) -> list[str]:
    """The names of the 1,000 classes, from a file or by Keras' download."""
    if path is not None:
        try:
            index = json.loads(path.read_text(encoding="utf-8"))
            return [str(index[str(number)][1]) for number in range(1000)]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(
                f"predict --imagenet-classes: expected Keras' imagenet_class_index.json, got "
                f"{str(path)!r} ({error}); correct the path"
            ) from None
    from pipeline.backbones import weights

    remedy = "connect once, or give `--imagenet-classes FILE`"
    return classes(download.fetch(weights.class_index(), "predict --imagenet", remedy))


def likeliest(probability: NDArray[np.float32], names: Sequence[str]) -> list[list[Named]]:
    """Of each row of (n, 1000), the likeliest first."""
    order = np.argsort(-probability, axis=1, kind="stable")[:, :TOP]
    return [
        [(names[place], float(row[place])) for place in places]
        for row, places in zip(probability, order, strict=True)
    ]


def _download(base: Any, name: str) -> None:
    """Fill in Keras' own ImageNet weights; needs the network the first time."""
    from pipeline.backbones import weights

    remedy = "connect once, or give `--imagenet-weights FILE`"
    published = weights.published(name, include_top=True)
    path = download.fetch(published, "predict --imagenet", remedy)
    values = weights.from_download(name, True, path).get_weights()
    try:
        base.set_weights(values)
    except ValueError:
        raise UserError(
            f"predict --imagenet: expected images of the size that the classifier of {name} "
            f"takes, got resize.size {base.input_shape[1]}; leave --imagenet out"
        ) from None
