"""Outputs of one stage, damaged before the next stage reads them."""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from bad_inputs import Make, table

INTRO = (
    "Pixels in `resized.zarr`, the head in `head.npz` and the choice of the model in "
    "`evaluate.json`."
)


def file(name: str, change: Callable[[bytes], bytes]) -> Make:
    """Change the named file; each of the good ones is its name, a NUL and its content."""

    def make(good: list[bytes]) -> bytes:
        start = name.encode() + b"\0"
        (content,) = (one for one in good if one.startswith(start))
        return start + change(content[len(start) :])

    return make


def metadata(**changed: object) -> Make:
    """Change values of `zarr.json`, without the checksum, as another program would write it."""

    def change(text: bytes) -> bytes:
        described = json.loads(text)
        described["attributes"].pop("crc32")
        return json.dumps({**described, **changed}).encode()

    return file("zarr.json", change)


def first(change: Callable[[bytes], bytes]) -> Make:
    return lambda good: change(good[0])


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def choice(**changed: object) -> Make:
    return first(lambda text: json.dumps({**json.loads(text), **changed}).encode())


SHARD = "c/0/0/0/0"
REMAKE = "remove resized.zarr and run `dvc repro` again"
TRAIN_AGAIN = "run `dvc repro train_head` again"
CHOOSE_AGAIN = "run `dvc repro evaluate` again"
ARRAY = {
    f"refused: resized.zarr: expected a zarr array, got ... ; {REMAKE}": {
        "half of zarr.json": file("zarr.json", half)
    },
    f"refused: resized.zarr: expected 333333333334 shards, got ... ; {REMAKE}": {
        "zarr.json that declares a trillion rows": metadata(shape=[10**12, 4, 4, 3])
    },
    f"refused: resized.zarr rows 0 to 5: expected ... checksum, got ... ; {REMAKE}": {
        "one bit flipped in a shard": file(SHARD, flipped),
        "half a shard": file(SHARD, half),
    },
    f"refused: resized.zarr: expected 2 shards, got ... ; {REMAKE}": {
        "an empty shard": file(SHARD, lambda _: b"")
    },
    "refused: resized.zarr: expected the rows of the current data/split.csv, got 6 rows ": {
        "pixels of other images": metadata(attributes={"fingerprint": "another"})
    },
    f"refused: resized.zarr/sha256.npy: expected the sha256 of each row, got ... ; {REMAKE}": {
        "half of sha256.npy": file("sha256.npy", half)
    },
}
HEAD: dict[str, dict[str, Make | bytes]] = {
    f"refused: head.npz: expected the arrays of a head, got ... ; {TRAIN_AGAIN}": {
        "half of head.npz": first(half),
        "Python objects in head.npz, which could run code": npz(
            kernel_0=np.array([{}], dtype=object), bias_0=np.zeros(2)
        ),
    },
    f"refused: head.npz: expected layers that fit each other, got ... ; {TRAIN_AGAIN}": {
        "a bias of another length": npz(
            kernel_0=np.zeros((5, 2), np.float32), bias_0=np.zeros(3, np.float32)
        )
    },
    f"refused: head.npz: expected arrays of float32, got ... ; {TRAIN_AGAIN}": {
        "a kernel of letters": npz(kernel_0=np.zeros((5, 2), "U1"), bias_0=np.zeros(2, "U1"))
    },
    f"refused: head: expected ... 5 features ... got ... 9 ... ; {TRAIN_AGAIN}": {
        "a kernel for more features": npz(
            kernel_0=np.zeros((9, 2), np.float32), bias_0=np.zeros(2, np.float32)
        )
    },
}
CHOICE: dict[str, dict[str, Make | bytes]] = {
    f"refused: metrics/evaluate.json: expected a JSON object, got ... ; {CHOOSE_AGAIN}": {
        "marks of a git conflict in evaluate.json": first(lambda text: b"<<<<<<< HEAD\n" + text),
        "a list in evaluate.json": b"[]",
        "bytes in evaluate.json that are not UTF-8": first(lambda text: b"\xff" + text),
    },
    f"refused: metrics/evaluate.json: expected ... ; {CHOOSE_AGAIN}": {
        "no key `chosen`": first(lambda text: text.replace(b"chosen", b"taken")),
        "an unknown model": choice(chosen="best"),
        "a temperature of NaN": choice(temperature=float("nan")),
        "a clip in quotes": choice(clip="0.01"),
        "one class": choice(classes=["a"]),
        "a class twice": choice(classes=["a", "b", "a"]),
        "a number among the classes": choice(classes=["a", "b", 1]),
        "a text as the classes": choice(classes="ab"),
    },
}
INPUTS = [*table(ARRAY, "store"), *table(HEAD, "head"), *table(CHOICE, "choice")]
