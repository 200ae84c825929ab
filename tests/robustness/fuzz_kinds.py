"""What is fuzzed: for each kind of input good examples, ways to damage them, and the reader.

An attempt ends as "accepted", "rejected" (with a reason) or "refused" (with a sentence). Anything
else that it raises is a fault of the code.
"""

import contextlib
import copy
import functools
import importlib
import json
import operator
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import bad_images
import bad_params
import bad_tables
import bad_zips
import numpy as np
import yaml
from album import contents
from hypothesis import strategies as st
from project import ROOT

from pipeline import config, paths
from pipeline.evaluation import selected_model
from pipeline.images import decode, label_fixes, labels, near_duplicates, resize, sources
from pipeline.images.resizing import Resizing
from pipeline.runtime.errors import UserError
from pipeline.storage import arrays, ledger, sealed_files, tables
from pipeline.training import head

Strategy = st.SearchStrategy[bytes]
read_once = functools.cache(config.read)
NUMBERS = [
    struct.pack(f"{order}I", number) for order in "<>" for number in (0, 1, 65535, 2**31, 2**32 - 1)
]


@st.composite
def damaged(draw: Any, good: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """Draw one of `good` and replace one to four pieces of it; `tokens` mean something in it."""
    content: bytes = draw(st.sampled_from(good))
    for _ in range(draw(st.integers(1, 4))):
        # Headers and directories are at the ends.
        place = draw(st.integers(-64, 64) | st.integers(0, len(content)))
        start = min(place if place >= 0 else max(0, len(content) + place), len(content))
        end = start + draw(st.sampled_from([0, 1, 1, 2, 4, 8, 40, len(content)]))
        other = draw(st.sampled_from(good))[start : start + 40]
        known = st.sampled_from([b"", *NUMBERS, *tokens])
        content = (
            content[:start] + draw(st.binary(max_size=8) | known | st.just(other)) + content[end:]
        )
    return content


class Kind(NamedTuple):
    """One kind of input; `percent` of all inputs are of it.

    `prepare` creates what `read` needs in the working folder and returns good inputs. `read` reads
    an input by the code of the stages and returns "accepted" or "rejected", or raises `UserError`.
    """

    percent: float
    prepare: Callable[[], list[bytes]]
    read: Callable[[bytes], str]
    tokens: Sequence[bytes] = ()  # words that damage inserts
    others: Callable[[list[bytes]], Strategy] | None = None

    def attempt(self, content: bytes) -> str:
        """Read an input; return how that ended."""
        try:
            return self.read(content)
        except UserError:
            return "refused"

    def inputs(self, good: list[bytes]) -> Strategy:
        """Return the strategy of all inputs."""
        strategy = damaged(good, self.tokens)
        return strategy | self.others(good) if self.others else strategy


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["1e-05", "auto", "balanced", "AVX2", "convnet", "\0", "a" * 5000]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)


def changed(content: Any) -> st.SearchStrategy[Any]:
    """Draw a tree of dictionaries and lists with another value in one place, or none."""

    def put(place: tuple[Any, ...], value: object) -> Any:
        tree = copy.deepcopy(content)
        inner = functools.reduce(operator.getitem, place[:-1], tree)
        if value is bad_params.ABSENT:
            del inner[place[-1]]
        else:
            inner[place[-1]] = value
        return tree

    return st.builds(put, st.sampled_from(list(places(content))), ANY | st.just(bad_params.ABSENT))


def places(content: Any) -> Iterator[tuple[Any, ...]]:
    keys: Any = range(len(content)) if isinstance(content, list) else content
    for key in keys if isinstance(content, dict | list) else ():
        yield (key,)
        yield from ((key, *more) for more in places(content[key]))


def images() -> list[bytes]:
    jpeg = bad_images.encoded(bad_images.noise(64, 48), "JPEG", quality=60)
    good = [jpeg, bad_images.encoded(bad_images.noise(40, 30), "JPEG", progressive=True)]
    for kind in decode.FORMATS:
        for mode in ("RGB", "L", "P", "LA", "RGBA", "CMYK", "1"):
            with contextlib.suppress(OSError, ValueError):  # a format without that mode
                image = bad_images.noise(20, 14).convert(mode)
                good.append(bad_images.encoded(image, kind))
    good += [
        bad_images.encoded(bad_images.noise(20, 14), "TIFF", compression=packed)
        for packed in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "zstd")
    ]
    made = (bad.made(jpeg) for bad in bad_images.INPUTS)
    return [*good, *(content for content in made if 0 < len(content) < 20_000)]


def read_image(content: bytes) -> str:
    """Read as `split` and `resize` do: what `split` accepts, `resize` can read."""
    try:
        image = decode.decode(content).image
    except decode.Unreadable:
        return "rejected"
    assert near_duplicates.thumbnail(image).shape == (near_duplicates.SIDE, near_duplicates.SIDE)
    assert resize.decode_and_resize(content, 8, "crop", "bicubic").shape == (8, 8, 3)
    return "accepted"


def with_valid_chunks(content: bytes) -> bytes:
    """Correct the checksums of a PNG, so that damage inside of its chunks is read."""
    corrected, at = bytearray(content), 8
    while at + 12 <= len(corrected):
        end = at + 8 + int.from_bytes(corrected[at : at + 4], "big")
        corrected[end : end + 4] = struct.pack(">I", zlib.crc32(corrected[at + 4 : end]))
        at = end + 4
    return bytes(corrected)


def zips() -> list[bytes]:
    members = {f"{label}.{n}.jpg": b"pixels" * 9 for label in ("cat", "dog") for n in (0, 1)}
    made = (bad.made(members) for bad in bad_zips.INPUTS)
    good = [bad_zips.zipped(members.items(), how) for how in (0, zipfile.ZIP_DEFLATED)]
    return [*good * 9, *(content for content in made if 0 < len(content) < 4_000)]


def read_zip(content: bytes) -> str:
    path = Path("input.zip")
    path.write_bytes(content)
    word = "accepted"
    with sources.open_source(path) as opened:
        for name in opened.names:
            try:
                assert len(opened.read(name)) <= sources.MAX_MEMBER_BYTES
            except decode.Unreadable:
                word = "rejected"
        assert len(labels.unlabelled(opened.names)) == len(opened.names)
        entries, _ = labels.infer_layout(opened.names, str(path), None)
        assert len(entries) == len(opened.names)
    return word


def zips_by_names(good: list[bytes]) -> Strategy:
    part = st.sampled_from(["train", "test", "cat", "Cat", "cat.1.jpg", "..", ".", "", "a.zip"])
    part |= st.text(st.characters(codec="utf-8"), max_size=8)
    name = st.lists(part, min_size=1, max_size=4).map("/".join)
    return st.lists(st.tuples(name, st.binary(max_size=9)), max_size=8).map(bad_zips.zipped)


def parameters() -> list[bytes]:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    made = (bad.made(text) for bad in bad_params.INPUTS)
    plain = yaml.safe_dump(yaml.safe_load(text)).encode()
    return [plain] * 20 + [content for content in made if 0 < len(content) < 9_000]


def read_params(content: bytes) -> str:
    path = Path("params.yaml")
    path.write_bytes(content)
    config.read(path)
    return "accepted"


def fixes() -> list[bytes]:
    return [
        bad_tables.GOOD,
        *(bad.made(None) for bad in bad_tables.FIXES if "200,000" not in bad.name),
    ]


def read_fixes(content: bytes) -> str:
    path = Path("label_fixes.csv")
    path.write_bytes(content)
    rows = [
        ledger.LedgerRow("", "train", f"{label}.{n}.jpg", label, 0, "train", "", 0, 0, "", "", "")
        for label in ("cat", "dog")
        for n in range(10)
    ]
    label_fixes.apply(label_fixes.read(path), ledger.Ledger(rows), ["cat", "dog"], path)
    return "accepted"


def ledgers() -> list[bytes]:
    rows = [
        ledger.LedgerRow(
            *(f"{label}.{n}", "train", f"{label}.{n}.jpg", label, index, subset),
            *(f"{index}{n}" * 32, 64, 48, "RGB", f"train/{label}.{n}", ""),
        )
        for index, label in enumerate(["cat", "dog"])
        for n, subset in enumerate(["train", "valid", "test"])
    ]
    ledger.write_ledger(Path("split.csv"), rows)
    return [Path("split.csv").read_bytes()]


def read_ledger(content: bytes) -> str:
    path = paths.LEDGER
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    rows = ledger.read_ledger(path)
    found = ledger.labels(rows)
    ledger.fingerprint(rows)
    ledger.summary(rows, found.classes)
    work = Resizing(Path("out.zarr"), read_once(ROOT / "params.yaml"))
    assert all(len(bytes.fromhex(row.sha256)) == 32 for row in work.rows)
    return "accepted"


def tables_by_field(good: list[bytes]) -> Strategy:
    lines = [line.split(",") for line in good[0].decode().splitlines()]
    value = st.text(max_size=9) | st.integers().map(str) | st.sampled_from([*lines[1], '"'])

    def edited(place: tuple[int, int], text: str, end: str) -> bytes:
        rows = copy.deepcopy(lines)
        rows[place[0]][place[1]] = text
        return end.join(map(",".join, rows)).encode("utf-8", "surrogatepass")

    fields = [(row, column) for row, line in enumerate(lines) for column in range(len(line))]
    return st.builds(edited, st.sampled_from(fields), value, st.sampled_from(["\n", "\r\n", "\r"]))


STORE = Path("resized.zarr")
VALUES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)


def stores() -> list[bytes]:
    """Return the files of an array, each as name, NUL, content: one at a time is changed."""
    shape = VALUES.shape
    arrays.create(STORE, shape=shape, dtype=np.uint8, fingerprint="f", shard_rows=3)
    for start in (0, 3):
        arrays.write_shard(STORE, range(start, start + 3), VALUES[start : start + 3])
    digests = b"".join(map(arrays.digest, VALUES))
    arrays.write_digests(STORE, np.frombuffer(digests, np.uint8).reshape(-1, 32))
    return [name.encode() + b"\0" + content for name, content in contents(STORE).items()]


def read_store(content: bytes) -> str:
    known = contents(STORE)
    start, _, written = content.partition(b"\0")
    name = os.fsdecode(start) if os.fsdecode(start) in known else "zarr.json"
    (STORE / name).write_bytes(written)
    try:
        opened = arrays.StoredArray(STORE, "f")
        opened.digests  # noqa: B018
        read = opened.read(0, len(opened))
        for batch in opened.batches(4):
            assert len(batch) <= 4
    finally:
        (STORE / name).write_bytes(known[name])
    if name != "zarr.json":  # shards and digests have checksums
        assert np.array_equal(read, VALUES)
    return "accepted"


def by_key_of_json(good: list[bytes]) -> Strategy:
    file = next((one for one in good if one.startswith(b"zarr.json")), good[0])
    start = file.index(b"{")
    return changed(json.loads(file[start:])).map(
        lambda told: file[:start] + json.dumps(told).encode()
    )


def heads() -> list[bytes]:
    rng, path = np.random.default_rng(0), Path("head.npz")
    good = []
    for shapes in ([(5, 2)], [(5, 1)], [(5, 3), (3, 2)]):
        kernels = tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)
        head.Head(kernels, tuple(np.zeros(k.shape[1], np.float32) for k in kernels)).save(path)
        good.append(path.read_bytes())
    return good


def read_head(content: bytes) -> str:
    path = Path("head.npz")
    path.write_bytes(content)
    sealed_files.read_arrays(path, "good for")
    found = head.load(path)
    found.require(5, 2)
    with np.errstate(all="ignore"):
        assert found.logits(np.zeros((3, 5), np.float32)).shape == (3, 2)
    return "accepted"


def choices() -> list[bytes]:
    for folder in (paths.HEAD, paths.MODEL):
        logs = np.full((4, 2), -0.69, np.float32)
        path = paths.predictions(folder)
        arrays.write(path, [logs], shape=logs.shape, dtype=np.float32, fingerprint="f")
    content = {"chosen": "head", "temperature": 1.5, "clip": 0.01, "classes": ["a", "b"]}
    tables.write_json(paths.EVALUATION, content)
    return [paths.EVALUATION.read_bytes()]


def read_choice(content: bytes) -> str:
    paths.EVALUATION.write_bytes(content)
    selected, log_probability = selected_model.read("f")
    assert log_probability.shape == (4, 2)
    assert 0 <= selected.clip < 0.5
    assert len(selected_model.classes()) >= 2
    return "accepted"


@functools.cache
def small_model() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    keras = importlib.import_module("keras")
    layers = [keras.layers.Dense(3), keras.layers.BatchNormalization()]
    return keras.Sequential([keras.Input((4,)), *layers])


def weights() -> list[bytes]:
    """Return a file of Keras 3; HDF5 never ends on some of the older format (SECURITY.md)."""
    path = Path("w.weights.h5")
    small_model().save_weights(path)
    return [path.read_bytes()]


def read_weights(content: bytes) -> str:
    hdf5 = importlib.import_module("pipeline.backbones.weights_file")
    path = Path("w.weights.h5")
    path.write_bytes(content)
    hdf5.load(small_model(), path, "weights", "correct it")
    return "accepted"


JPEG = [bytes([0xFF, marker]) for marker in (0xC0, 0xC2, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB)]
IMAGE = [*JPEG, *b"IHDR IDAT tRNS PLTE acTL VP8X II*\0".split()]
YAML = [b"&a ", b"*a", b"<<: ", b"!!int ", b"!!python/name:os.system ", b"[", b"]", b"{"]
YAML += [b"\t", b"---\n", b"? ", b": ", b"- ", b"\n  ", b"1e999", b".nan", b"|", b">"]
CSV = [b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"cat.1.jpg,dog,x\n", b"-1", b"\xef"]
JSON = [b"null", b"-1", b"99999999999", b"{", b"[", b'"', b"float64", b"gzip", b"NaN", b"1e999"]
ZIP = [b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"../", b"/", b"\\", b"\0"]
NPZ = [b"PK\1\2", b"<f8", b"|O", b"(9999999999,)", b"()", b"True", b"'descr'"]
HDF5 = [*b"SNOD TREE HEAP OHDR weight_names vars\0".split(), b"\x89HDF\r\n\x1a\n"]

KINDS = {
    "image": Kind(
        *(40, images, read_image, IMAGE),
        others=lambda good: damaged([one for one in good if one.startswith(b"\x89PNG")], IMAGE).map(
            with_valid_chunks
        ),
    ),
    "zip": Kind(20, zips, read_zip, ZIP, zips_by_names),
    "params": Kind(
        *(10, parameters, read_params, YAML),
        others=lambda good: changed(yaml.safe_load(good[0])).map(
            lambda params: yaml.safe_dump(params).encode()
        ),
    ),
    "fixes": Kind(5, fixes, read_fixes, CSV, tables_by_field),
    "ledger": Kind(5, ledgers, read_ledger, CSV, tables_by_field),
    "store": Kind(9, stores, read_store, JSON, by_key_of_json),
    "head": Kind(4, heads, read_head, NPZ),
    "weights": Kind(4, weights, read_weights, HDF5),
    "choice": Kind(3, choices, read_choice, JSON, by_key_of_json),
}
