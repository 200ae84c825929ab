"""The classifier on top of features: dense layers as plain arrays, without Keras.

A head is a stack of kernels and biases with relu between them; its outputs are logits, one per
class. A head with a single output is for two classes: the output is the logit of class 1, and that
of class 0 is 0. A logistic regression is a head of one layer. Stored as npz, never as a pickle.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from numpy.lib import format as npy
from numpy.typing import NDArray

from pipeline.evaluation.probabilities import log_softmax
from pipeline.runtime.errors import UserError, of_the_machine

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """Dense layers: float32 kernels (d, h1), (h1, h2), ..., (hk, n_classes or 1), and biases."""

    kernels: tuple[FloatArray, ...]
    biases: tuple[FloatArray, ...]

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(array.size for array in self.kernels + self.biases)

    def require(self, n_features: int, n_classes: int) -> None:
        """Raise a `UserError` for a head that was trained on other features or classes."""
        own_features, own_classes = self.kernels[0].shape[0], max(2, len(self.biases[-1]))
        if (own_features, own_classes) != (n_features, n_classes):
            raise UserError(
                f"head: expected one on {n_features:,} features for {n_classes} classes, got one "
                f"on {own_features:,} for {own_classes}; run `dvc repro train_head` again"
            )

    def logits(self, features: NDArray[Any]) -> FloatArray:
        """Compute logits (n, n_classes), float32, from features (n, d).

        A single output z gives [0, z], since softmax([0, z]) = [1 - sigmoid(z), sigmoid(z)].
        """
        x = features.astype(np.float32, copy=False)
        for kernel, bias in zip(self.kernels[:-1], self.biases[:-1], strict=True):
            x = np.maximum(x @ kernel + bias, 0)
        x = x @ self.kernels[-1] + self.biases[-1]
        if x.shape[1] == 1:
            x = np.concatenate([np.zeros_like(x), x], axis=1)
        return np.asarray(x, dtype=np.float32)

    def save(self, path: Path) -> None:
        """Write an npz of kernel_0, bias_0, kernel_1, ..., the same bytes every time."""
        arrays: dict[str, Any] = {}
        for number, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            arrays |= {f"kernel_{number}": kernel, f"bias_{number}": bias}
        np.savez(path, **arrays)


def mean(heads: Sequence[Head]) -> Head:
    """Return one head whose logits are the mean of those of heads with the same layers.

    Its hidden layers are those of all heads, side by side, with zeros between them.
    """
    layers = list(zip(*(one.kernels for one in heads), strict=True))
    biases = list(zip(*(one.biases for one in heads), strict=True))
    if len(layers) == 1:
        last = np.mean(layers[0], axis=0)
        kernels = []
    else:
        last = np.concatenate(layers[-1]) / len(heads)
        inner = (scipy.linalg.block_diag(*same) for same in layers[1:-1])
        kernels = [np.concatenate(layers[0], axis=1), *inner]
    return Head(
        tuple(np.asarray(one, np.float32) for one in (*kernels, last)),
        (*map(np.concatenate, biases[:-1]), np.mean(biases[-1], axis=0, dtype=np.float32)),
    )


def load(path: Path) -> Head:
    """Read a file that `Head.save` wrote; a `UserError` for another or a damaged one."""
    again = "run `dvc repro train_head` again"
    try:
        arrays = _read_npz(path)
        layers = range(max(1, len(arrays) // 2))
        if arrays.keys() != {f"{kind}_{i}" for i in layers for kind in ("kernel", "bias")}:
            raise ValueError(f"{', '.join(arrays) or 'none'} in place of kernel_0, bias_0, ...")
    except Exception as error:  # numpy, zipfile and zlib raise a dozen kinds on damage
        if of_the_machine(error, path):
            raise
        raise UserError(f"{path}: expected the arrays of a head, got {error}; {again}") from None
    kernels = tuple(arrays[f"kernel_{i}"] for i in layers)
    biases = tuple(arrays[f"bias_{i}"] for i in layers)
    inputs = [kernel.shape[:1] for kernel in kernels[1:]] + [biases[-1].shape]
    for kernel, bias, following in zip(kernels, biases, inputs, strict=True):
        if kernel.ndim != 2 or not bias.shape == kernel.shape[1:] == following or 0 in kernel.shape:
            raise UserError(
                f"{path}: expected layers that fit each other, got a kernel {kernel.shape} with a "
                f"bias {bias.shape}; {again}"
            )
    if {array.dtype for array in kernels + biases} != {np.dtype(np.float32)}:
        raise UserError(f"{path}: expected arrays of float32, got others; {again}")
    return Head(kernels, biases)


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Read what `np.savez` wrote; no array may be larger than its bytes in the file, or pickled."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"a compressed file inside, {member.filename!r}")
            file = io.BytesIO(archive.read(member))
            npy.read_magic(file)
            shape, fortran, dtype = npy.read_array_header_1_0(file)
            array = np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran else "C")
            arrays[member.filename.removesuffix(".npy")] = array
    return arrays


def loss_and_accuracy(logits: NDArray[Any], label: NDArray[np.int64]) -> tuple[float, float]:
    """Return the mean negative log likelihood in nats, and the fraction of correct argmax."""
    of_label = log_softmax(logits)[np.arange(len(label)), label]
    return float(-of_label.mean(dtype=np.float64)), float((logits.argmax(axis=1) == label).mean())
