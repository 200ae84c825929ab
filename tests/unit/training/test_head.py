"""Heads: dense layers as arrays, against float64 and Keras; damaged files are refused."""

import io
import itertools
import pickle
import re
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib import format as npy
from numpy.testing import assert_allclose, assert_array_equal, assert_equal

from pipeline.runtime.errors import UserError
from pipeline.training import head, loop

PATH = Path("head.npz")


def some_head(sizes: tuple[int, ...], seed: int = 0) -> head.Head:
    rng = np.random.default_rng(seed)
    return head.Head(
        tuple(rng.normal(size=shape).astype(np.float32) for shape in itertools.pairwise(sizes)),
        tuple(rng.normal(size=size).astype(np.float32) for size in sizes[1:]),
    )


def test_logits_are_dense_layers_with_relu_between_them() -> None:
    kernels = (np.array([[1, -1], [0, 2]], np.float32), np.array([[1, 0], [1, 3]], np.float32))
    biases = (np.array([0, -1], np.float32), np.array([10, 20], np.float32))
    logits = head.Head(kernels, biases).logits(np.array([[1, 1], [-1, 0], [2, 0]]))
    # hidden values: (1, 0), (0, 0) since relu cuts -1, and (2, 0) since it cuts -3
    assert logits.dtype == np.float32
    assert_array_equal(logits, [[11, 20], [10, 20], [12, 20]])


def test_a_single_output_is_the_logit_of_class_1() -> None:
    single = head.Head((np.array([[2], [1]], np.float32),), (np.array([1], np.float32),))
    assert_array_equal(single.logits(np.array([[1, 1], [-1, 0]])), [[0, 4], [0, -1]])


def test_loss_is_the_mean_negative_log_likelihood_and_accuracy_a_fraction() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]]))
    loss, accuracy = head.loss_and_accuracy(logits, np.array([0, 2]))
    assert loss == pytest.approx((np.log(2) + np.log(8)) / 2, rel=1e-6)
    assert accuracy == 0.5


@pytest.mark.parametrize(
    ("sizes", "count"), [((6, 2), 14), ((6, 1), 7), ((6, 5, 4, 3), 35 + 24 + 15)]
)
def test_keras_and_arrays_give_the_same_logits(sizes: tuple[int, ...], count: int) -> None:
    arrays = some_head(sizes)
    assert arrays.parameters == count
    model = loop.head_model(arrays, input_dropout=0.5, dropout=0.5)
    features = np.random.default_rng(1).normal(size=(9, 6)).astype(np.float32)
    assert_allclose(model.predict_on_batch(features), arrays.logits(features), atol=1e-5)
    assert_equal(asdict(loop.head_arrays(model)), asdict(arrays))


def test_a_saved_head_comes_back_and_has_the_same_bytes_every_time(tmp_path: Path) -> None:
    paths = tmp_path / "one.npz", tmp_path / "two.npz"
    for path in paths:
        some_head((7, 5, 3)).save(path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert_equal(asdict(head.load(paths[0])), asdict(some_head((7, 5, 3))))


KERNEL, BIAS = np.ones((3, 2), np.float32), np.zeros(2, np.float32)
ARRAYS = "expected the arrays of a head, got "
FITTING = "expected layers that fit each other, got a kernel "


def header(shape: tuple[int, ...], descr: object) -> bytes:
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": descr})
    return file.getvalue()


def member(content: bytes, name: str = "kernel_0.npy") -> None:
    with zipfile.ZipFile(PATH, "w") as archive:
        archive.writestr(name, content)


def savez(kernel: object, bias: object, **others: Any) -> None:
    np.savez(PATH, kernel_0=kernel, bias_0=bias, **others)  # type: ignore[arg-type]


FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "cut short": (lambda: PATH.write_bytes(b"PK\3\4 cut short"), f"{ARRAYS}File is not a zip"),
    "terabytes declared": (lambda: member(header((2**40, 1), "<f4")), ARRAYS),
    "compressed": (
        lambda: np.savez_compressed(PATH, kernel_0=KERNEL, bias_0=BIAS),
        f"{ARRAYS}a compressed file inside, 'kernel_0.npy'",
    ),
    "pickles": (lambda: member(header((1,), "|O") + pickle.dumps(["x"])), ARRAYS),
    "a name outside": (lambda: member(header((0,), "<f4"), "../x"), f"{ARRAYS}../x in place of"),
    "code": (lambda: member(b"\x93NUMPY\x01\x00\x0a\x00exit(3)   "), ARRAYS),
    "another bias": (lambda: savez(KERNEL, BIAS[:1]), f"{FITTING}(3, 2) with a bias (1,)"),
    "one axis": (lambda: savez(BIAS, BIAS), f"{FITTING}(2,) with a bias (2,)"),
    "another next layer": (
        lambda: savez(KERNEL, BIAS, kernel_1=KERNEL, bias_1=BIAS),
        f"{FITTING}(3, 2) with a bias (2,)",
    ),
    "integers": (lambda: savez(KERNEL.astype(int), BIAS), "expected arrays of float32"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_another_file_is_refused_without_unpacking_or_unpickling(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pickle, "load", None)
    write, sentence = FAULTS[fault]
    write()
    expected = rf"^head.npz: {re.escape(sentence)}[^\n]*; run `dvc repro train_head` again$"
    with pytest.raises(UserError, match=expected):
        head.load(PATH)


def test_a_head_for_other_features_or_classes_is_refused() -> None:
    some_head((6, 1)).require(6, 2)
    with pytest.raises(UserError, match="expected one on 7 features for 3 classes, got one on 6"):
        some_head((6, 2)).require(7, 3)


@pytest.mark.parametrize("sizes", [(6, 3), (6, 1), (6, 5, 3), (6, 5, 4, 3), (6, 5, 4, 1)])
def test_the_mean_of_heads_has_the_mean_of_their_logits(
    sizes: tuple[int, ...], tmp_path: Path
) -> None:
    heads = [some_head(sizes, seed) for seed in range(3)]
    features = np.random.default_rng(9).normal(size=(7, 6)).astype(np.float32)
    expected = np.mean([one.logits(features) for one in heads], axis=0)
    mean = head.mean(heads)
    assert_allclose(mean.logits(features), expected, rtol=1e-5, atol=1e-5)
    mean.save(tmp_path / PATH)
    assert_equal(asdict(head.load(tmp_path / PATH)), asdict(mean))
