"""An npz file is refused by what it declares, before any array in it is read."""

import io
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.lib import format as npy
from numpy.testing import assert_array_equal

from pipeline.runtime.errors import UserError
from pipeline.training import head, npz

PATH = Path("head.npz")
KERNEL, BIAS = np.ones((3, 2), np.float32), np.zeros(2, np.float32)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def declared(shape: tuple[int, ...], descr: object, content: bytes) -> bytes:
    """An npy file whose header says what it likes."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": descr})
    return file.getvalue() + content


def put(name: str, content: bytes, how: int = zipfile.ZIP_STORED) -> Callable[[], None]:
    def write() -> None:
        with zipfile.ZipFile(PATH, "w", how) as archive:
            archive.writestr(name, content)

    return write


def packed() -> None:
    np.savez_compressed(PATH, kernel_0=np.zeros((1000, 1000), np.float32), bias_0=BIAS)


FAULTS: dict[str, tuple[Callable[[], object], str]] = {
    "terabytes declared": (
        put("kernel_0.npy", declared((2**40, 1), "<f4", b"")),
        "'kernel_0.npy' of float32 (1099511627776, 1) in 0 bytes, not 4,398,046,511,104",
    ),
    "more bytes than declared": (
        put("kernel_0.npy", declared((1,), "<f4", b"12345678")),
        "'kernel_0.npy' of float32 (1,) in 8 bytes, not 4",
    ),
    "a negative length": (
        put("kernel_0.npy", declared((-1, -1), "<f4", b"1234")),
        "'kernel_0.npy' of float32 (-1, -1) in 4 bytes, not 4",
    ),
    "packed": (packed, "a packed array or another file inside, 'kernel_0.npy'"),
    "pickled objects": (
        put("kernel_0.npy", declared((1,), "|O", pickle.dumps(["x"]))),
        "'kernel_0.npy' of object (1,) in ",
    ),
    "fields": (
        put("kernel_0.npy", declared((1,), [("x", "<f4")], b"1234")),
        "'kernel_0.npy' of [('x', '<f4')] (1,) in 4 bytes, not 4",
    ),
    "another file": (
        put("../kernel_0", b"1234"),
        "a packed array or another file inside, '../kernel_0'",
    ),
    "no header": (put("kernel_0.npy", b"1234"), ""),
    "a header that is code": (put("kernel_0.npy", b"\x93NUMPY\x01\x00\x0a\x00exit(3)   "), ""),
    "no zip": (lambda: PATH.write_text("text"), "File is not a zip file"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_trap_is_refused_unread(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write, words = FAULTS[fault]
    write()

    def read(*_: object, **__: object) -> None:
        raise AssertionError("contents were read")

    monkeypatch.setattr(np, "load", read)
    with pytest.raises(UserError) as told:
        head.load(PATH)
    assert str(told.value).startswith(f"head.npz: expected the arrays of a head, got {words}")
    assert re.fullmatch(r"[^\n]+; run `dvc repro train_head` again", str(told.value))


def test_what_savez_wrote_is_read() -> None:
    np.savez(PATH, kernel_0=KERNEL, bias_0=BIAS)
    found = npz.read(PATH)
    assert found.keys() == {"kernel_0", "bias_0"}
    assert_array_equal(found["kernel_0"], KERNEL)


FITTING = "layers that fit each other"


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        (
            {"kernel_0": KERNEL, "bias_0": np.zeros(3, np.float32)},
            f"{FITTING}, got a kernel (3, 2) with a bias (3,)",
        ),
        (
            {"kernel_0": KERNEL[0], "bias_0": BIAS},
            f"{FITTING}, got a kernel (2,) with a bias (2,)",
        ),
        (
            {"kernel_0": KERNEL.astype(np.int64), "bias_0": BIAS},
            "arrays of float32, got others",
        ),
        (
            {"kernel_0": KERNEL, "bias_0": BIAS, "kernel_1": KERNEL, "bias_1": BIAS},
            f"{FITTING}, got a kernel (3, 2) with a bias (2,)",
        ),
    ],
)
def test_layers_that_do_not_fit_together_are_no_head(
    arrays: dict[str, np.ndarray], told: str
) -> None:
    np.savez(PATH, **arrays)  # type: ignore[arg-type]
    with pytest.raises(UserError) as refused:
        head.load(PATH)
    assert str(refused.value) == (f"head.npz: expected {told}; run `dvc repro train_head` again")
