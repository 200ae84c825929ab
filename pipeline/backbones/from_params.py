"""Extractors and views as `params.yaml` describes them. `keras_setup.start` comes first."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

from pipeline.backbones import batch_norm_folding, build, views
from pipeline.schema import Params


def extractor(
    params: Params,
    backbone: str,
    size: int,
    weights: Path,
    fold_for: str | None = None,
) -> keras.Model:
    """Build the network from images (n, size, size, 3) to features (n, d), with its weights.

    Args:
        fold_for: precision of inference for which batch norms are folded; None leaves them.

    Raises:
        UserError: a backbone, layer or weights that do not fit.
    """
    settings = params.backbones[backbone]
    logits = settings.pooling in build.PREDICTIONS
    base = build.network(backbone, size, settings.include_top, weights, logits=logits)

    def change(trunk: keras.Model) -> keras.Model:
        return batch_norm_folding.fold(trunk, fold_for) if fold_for else trunk

    return build.extractor(
        base, backbone, settings.layer, settings.pooling, change, settings.preprocessing
    )


def view(
    params: Params, images: NDArray[np.uint8], digests: Sequence[bytes], number: int
) -> NDArray[np.uint8]:
    """Return view `number` of each image; `digests` are the sha256 of each image's pixels."""
    ranges, seed = params.extract.changes()
    return views.make(images, digests, number, views.Ranges(**ranges), seed)
