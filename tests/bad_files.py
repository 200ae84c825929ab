"""Files that stages hand on to stages, damaged behind their back."""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from bad_inputs import Bad

from pipeline.storage import arrays

TOLD = (
    "What one stage hands on to the next, changed behind DVC's back: the pixels in "
    "`resized.zarr`, the head in `head.npz`, the choice in `evaluate.json`, the row cache. Of the "
    "cache, rejected means that such rows are computed again. The words of zarr and numpy, which "
    "change with their versions, are left out."
)

Make = Callable[[list[bytes]], bytes]


def _file(name: str, change: Callable[[bytes], bytes]) -> Make:
    """Of the good files of a folder, each behind its name and a NUL, the named one changed."""

    def make(good: list[bytes]) -> bytes:
        start = name.encode() + b"\0"
        (whole,) = (file for file in good if file.startswith(start))
        return start + change(whole[len(start) :])

    return make


def _described(**changed: object) -> Make:
    """The description of an array with other values, and without its sum, as another's."""

    def change(text: bytes) -> bytes:
        described = json.loads(text)
        del described["attributes"][arrays.SUM]
        return json.dumps({**described, **changed}).encode()

    return _file("zarr.json", change)


def _first(change: Callable[[bytes], bytes]) -> Make:
    return lambda good: change(good[0])


def _npz(**arrays: Any) -> Make:
    def make(good: list[bytes]) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    return make


def _flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def _figures(**changed: object) -> Make:
    return _first(lambda text: json.dumps({**json.loads(text), **changed}).encode())


SHARD = "c/0/0/0/0"
INPUTS = [
    Bad(
        "array: empty description",
        "no byte in zarr.json",
        _file("zarr.json", lambda _: b""),
        (
            "refused: resized.zarr: expected a zarr array, got ...; remove resized.zarr and "
            "run `dvc repro` again"
        ),
        "store",
    ),
    Bad(
        "array: no JSON",
        "half of zarr.json",
        _file("zarr.json", lambda text: text[:100]),
        (
            "refused: resized.zarr: expected a zarr array, got ...; remove resized.zarr and "
            "run `dvc repro` again"
        ),
        "store",
    ),
    Bad(
        "array: another sum",
        "a shape that its sum does not fit",
        _file("zarr.json", lambda text: text.replace(b"[\n    6,", b"[\n    5,", 1)),
        (
            "refused: resized.zarr/zarr.json: expected what fits its crc32, got something else; "
            "remove resized.zarr and run `dvc repro` again"
        ),
        "store",
    ),
    Bad(
        "array: another shape",
        "a trillion rows",
        _described(shape=[10**12, 4, 4, 3]),
        (
            "refused: resized.zarr: expected 333333333334 shards, got 333333333332 missing "
            "or empty, the first is 2; remove resized.zarr and run `dvc repro` again"
        ),
        "store",
    ),
    Bad(
        "array: no axis",
        "a single number",
        _described(shape=[]),
        (
            "refused: resized.zarr: expected a zarr array, got ...; remove resized.zarr and "
            "run `dvc repro` again"
        ),
        "store",
    ),
    Bad(
        "array: empty chunks",
        "chunks without a row of pixels",
        _described(
            chunk_grid={"name": "regular", "configuration": {"chunk_shape": [3, False, 4, 3]}}
        ),
        (
            "refused: resized.zarr rows 0 to 5: expected bytes that fit their checksum, got ...; "
            "remove resized.zarr and run `dvc repro` again"
        ),
        "store",
    ),
    Bad(
        "array: attributes",
        "a list in place of the attributes",
        _described(attributes=[]),
        (
            "refused: resized.zarr: expected a zarr array, got ...; remove resized.zarr and "
            "run `dvc repro` again"
        ),
        "store",
    ),
    Bad(
        "array: of another ledger",
        "the fingerprint of other images",
        _described(attributes={"fingerprint": "another"}),
        (
            "refused: resized.zarr: expected the rows of the data/split.csv that stands "
            "there now, got 6 rows of another one; run `dvc repro` to make it anew"
        ),
        "store",
    ),
    Bad(
        "array: empty shard",
        "no byte in a shard",
        _file(SHARD, lambda _: b""),
        (
            "refused: resized.zarr: expected 2 shards, got 1 missing or empty, the first is "
            "0; remove resized.zarr and run `dvc repro` again"
        ),
        "store",
    ),
    Bad(
        "array: a bit",
        "one bit of a shard flipped",
        _file(SHARD, _flipped),
        (
            "refused: resized.zarr rows 0 to 5: expected bytes that fit their checksum, got "
            "...; remove resized.zarr and run `dvc repro` again"
        ),
        "store",
    ),
    Bad(
        "array: shard cut",
        "half a shard",
        _file(SHARD, lambda c: c[: len(c) // 2]),
        (
            "refused: resized.zarr rows 0 to 5: expected bytes that fit their checksum, got "
            "...; remove resized.zarr and run `dvc repro` again"
        ),
        "store",
    ),
    Bad(
        "array: digests cut",
        "half of sha256.npy",
        _file("sha256.npy", lambda c: c[: len(c) // 2]),
        (
            "refused: resized.zarr/sha256.npy: expected the digests of its rows, got ...; "
            "remove resized.zarr and run `dvc repro` again"
        ),
        "store",
    ),
    Bad(
        "array: digests' header",
        "a bracket that does not end in the header of sha256.npy",
        _file("sha256.npy", lambda c: c.replace(b")", b"(", 1)),
        (
            "refused: resized.zarr/sha256.npy: expected the digests of its rows, got ...; "
            "remove resized.zarr and run `dvc repro` again"
        ),
        "store",
    ),
    Bad(
        "head: no byte",
        "an empty head.npz",
        _first(lambda _: b""),
        (
            "refused: head.npz: expected the arrays of a head, got ...; run `dvc repro "
            "train_head` again"
        ),
        "head",
    ),
    Bad(
        "head: cut",
        "half of head.npz",
        _first(lambda c: c[: len(c) // 2]),
        (
            "refused: head.npz: expected the arrays of a head, got ...; run `dvc repro "
            "train_head` again"
        ),
        "head",
    ),
    Bad(
        "head: a byte",
        "one byte more in head.npz",
        _first(lambda c: c.replace(b"\n", b"\n?", 1)),
        (
            "refused: head.npz: expected the arrays of a head, got ...; run `dvc repro "
            "train_head` again"
        ),
        "head",
    ),
    Bad(
        "head: a pickle",
        "Python objects, which would run code",
        _npz(kernel_0=np.array([{}], dtype=object), bias_0=np.zeros(2)),
        (
            "refused: head.npz: expected the arrays of a head, got ...; run `dvc repro "
            "train_head` again"
        ),
        "head",
    ),
    Bad(
        "head: a number",
        "a kernel without axes",
        _npz(kernel_0=np.float32(1), bias_0=np.float32(1)),
        (
            "refused: head.npz: expected layers that fit each other, got a kernel () with a "
            "bias (); run `dvc repro train_head` again"
        ),
        "head",
    ),
    Bad(
        "head: layers that do not fit",
        "a bias of another length",
        _npz(kernel_0=np.zeros((5, 2), np.float32), bias_0=np.zeros(3, np.float32)),
        (
            "refused: head.npz: expected layers that fit each other, got a kernel (5, 2) "
            "with a bias (3,); run `dvc repro train_head` again"
        ),
        "head",
    ),
    Bad(
        "head: text",
        "a kernel of letters",
        _npz(kernel_0=np.zeros((5, 2), "U1"), bias_0=np.zeros(2, "U1")),
        (
            "refused: head.npz: expected the arrays of a head, got ...; run `dvc repro "
            "train_head` again"
        ),
        "head",
    ),
    Bad(
        "head: of other features",
        "a kernel for more features than there are",
        _npz(kernel_0=np.zeros((9, 2), np.float32), bias_0=np.zeros(2, np.float32)),
        (
            "refused: head: expected one on 5 features for 2 classes, got one on 9 for 2; "
            "run `dvc repro train_head` again"
        ),
        "head",
    ),
    Bad(
        "choice: conflict",
        "git's marks of a conflict in evaluate.json",
        _first(lambda text: b"<<<<<<< HEAD\n" + text),
        (
            "refused: evaluate.json: expected a JSON object, got 'Expecting value: line 1 "
            "column 1 (char 0)'; run `dvc repro evaluate` again"
        ),
        "figures",
    ),
    Bad(
        "choice: a list",
        "a list",
        _first(lambda text: b"[]"),
        (
            "refused: evaluate.json: expected a JSON object, got 'list'; run `dvc repro "
            "evaluate` again"
        ),
        "figures",
    ),
    Bad(
        "choice: deep",
        "100,000 lists, each inside another",
        _first(lambda text: b"[" * 100_000),
        (
            "refused: evaluate.json: expected a JSON object, got 'lists in lists, too deep'; "
            "run `dvc repro evaluate` again"
        ),
        "figures",
    ),
    Bad(
        "choice: not UTF-8",
        "bytes that are no text",
        _first(lambda text: b"\xff" + text),
        (
            "refused: evaluate.json: expected a JSON object, got \"'utf-8' codec can't decode "
            'byte 0xff in position 0: invalid start byte"; run `dvc repro evaluate` again'
        ),
        "figures",
    ),
    Bad(
        "choice: nothing chosen",
        "no key `chosen`",
        _first(lambda text: text.replace(b"chosen", b"taken")),
        (
            "refused: evaluate.json: expected chosen, temperature and clip, got figures "
            "without; run `dvc repro evaluate` again"
        ),
        "figures",
    ),
    Bad(
        "choice: an unknown model",
        "a model that there is not",
        _figures(chosen="best"),
        (
            "refused: evaluate.json: expected as chosen one of head, fine_tune, as "
            "temperature a number above 0, as clip one from 0 to below 0.5, got others; run "
            "`dvc repro evaluate` again"
        ),
        "figures",
    ),
    Bad(
        "choice: NaN",
        "a temperature that is no number",
        _figures(temperature=float("nan")),
        (
            "refused: evaluate.json: expected as chosen one of head, fine_tune, as "
            "temperature a number above 0, as clip one from 0 to below 0.5, got others; run "
            "`dvc repro evaluate` again"
        ),
        "figures",
    ),
    Bad(
        "choice: text",
        "a clip in quotes",
        _figures(clip="0.01"),
        (
            "refused: evaluate.json: expected as chosen one of head, fine_tune, as "
            "temperature a number above 0, as clip one from 0 to below 0.5, got others; run "
            "`dvc repro evaluate` again"
        ),
        "figures",
    ),
    Bad("cache: a bit", "one bit of the row cache flipped", _first(_flipped), "rejected", "cache"),
    Bad(
        "cache: cut",
        "half a file of the row cache",
        _first(lambda c: c[: len(c) // 2]),
        "rejected",
        "cache",
    ),
    Bad(
        "cache: no byte",
        "an empty file of the row cache",
        _first(lambda c: c[: c.index(0) + 1]),
        "rejected",
        "cache",
    ),
]
