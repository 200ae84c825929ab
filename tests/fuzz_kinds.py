"""What is fuzzed: for each kind of input good ones, ways to change them, and what reads them.

An attempt ends in one word, "accepted", "rejected" (a reason) or "refused" (a sentence). Whatever
else it raises is a fault of the code.
"""

import contextlib
import functools
import importlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bad_images
import bad_params
import bad_tables
import bad_zips
import numpy as np
import yaml
from album import contents
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from mutation import Rng, mutated, with_whole_chunks

from pipeline import config as parameters
from pipeline.evaluation import selected_model
from pipeline.images import decode, label_fixes, labels, near_duplicates, resize, sources
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError
from pipeline.storage import arrays, ledger
from pipeline.storage.row_cache import RowCache
from pipeline.training import head
from stages.resize import Resizing

ROOT = Path(__file__).parents[1]
Strategy = st.SearchStrategy[bytes]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of input.

    Attributes:
        share: of all inputs, in per cent.
        prepare: makes what `read` needs in the working folder, and gives the good inputs.
        read: reads one input by the code that stages use: "accepted" or "rejected", or a
            `UserError`.
        strategy: inputs made to a plan by hypothesis, from the good ones; None: there is none.
        tokens: words that mutation strews in.
        mend: brings checksums in order, so that what they guard is looked at.
    """

    share: float
    prepare: Callable[[], list[bytes]]
    read: Callable[[bytes], str]
    strategy: Callable[[list[bytes]], Strategy] | None = None
    tokens: Sequence[bytes] = ()
    mend: Callable[[bytes], bytes] | None = None

    def attempt(self, content: bytes) -> str:
        """The word."""
        try:
            return self.read(content)
        except UserError as error:
            told = str(error)
        assert len(told) < 100_000
        return "refused"

    def mutated(self, rng: Rng, good: Sequence[bytes]) -> bytes:
        content = mutated(rng, good, self.tokens)
        return self.mend(content) if self.mend and rng.integers(2) else content


def _images() -> list[bytes]:
    jpeg = bad_images.encoded(bad_images.noise(64, 48), "JPEG", quality=60)
    good = [jpeg, bad_images.encoded(bad_images.noise(40, 30), "JPEG", progressive=True)]
    for kind in decode.FORMATS:
        for mode in ("RGB", "L", "P", "LA", "RGBA", "CMYK", "1"):
            with contextlib.suppress(OSError, ValueError):  # a format without that mode
                image = bad_images.noise(20, 14).convert(mode)
                good.append(bad_images.encoded(image, kind))
    for packed in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "zstd"):
        image = bad_images.noise(20, 14)
        good += [bad_images.encoded(image, "TIFF", compression=packed)]
    made = (bad.make(jpeg) for bad in bad_images.INPUTS if bad.name != "many scans")
    return [*good, *(content for content in made if content and len(content) < 20_000)]


def _read_image(content: bytes) -> str:
    """As `split` and `resize` do; what the one accepts the other can read."""
    try:
        _, image = decode.decode_with_info(content)
    except decode.Unreadable:
        return "rejected"
    assert near_duplicates.thumbnail(image).shape == (near_duplicates.SIDE, near_duplicates.SIDE)
    assert resize.decode_and_resize(content, 8, "crop", "bicubic").shape == (8, 8, 3)
    return "accepted"


def _zips() -> list[bytes]:
    members = {f"{label}.{n}.jpg": b"pixels" * 9 for label in ("cat", "dog") for n in (0, 1)}
    made = (bad.make(members) for bad in bad_zips.INPUTS)
    good = [bad_zips.zipped(members.items(), how) for how in (0, zipfile.ZIP_DEFLATED)]
    return [*good * 9, *(content for content in made if content and len(content) < 4_000)]


def _read_zip(content: bytes) -> str:
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
        arranged = labels.infer_layout(opened.names, str(path), None)
        assert len(arranged.entries) == len(opened.names)
    return word


def _zips_by_names(good: list[bytes]) -> Strategy:
    """Names of any letters, in folders that mean something and others."""
    part = st.sampled_from(["train", "test", "cat", "Cat", "cat.1.jpg", "..", ".", "", "a.zip"])
    name = st.lists(part | st.text(max_size=8), min_size=1, max_size=4).map("/".join)
    members = st.lists(st.tuples(name.filter(_storable), st.binary(max_size=9)), max_size=8)
    return members.map(bad_zips.zipped)


def _storable(name: str) -> bool:
    try:
        return len(name.encode()) < 60_000
    except UnicodeEncodeError:
        return False


def _parameters() -> list[bytes]:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    known = {bad.name for bad in bad_params.INPUTS} - bad_params.FAULTS.keys()
    made = (bad.make(text) for bad in bad_params.INPUTS if bad.name in known)
    plain = yaml.safe_dump(yaml.safe_load(text)).encode()
    return [plain] * 20 + [content for content in made if content and len(content) < 9_000]


def _read_params(content: bytes) -> str:
    path = Path("params.yaml")
    path.write_bytes(content)
    parameters.read(path)
    return "accepted"


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3, 70)
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["1e-05", "auto", "balanced", "AVX2", "convnet", "\0", "a" * 5000]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=6,
)


def _changed(content: Any) -> st.SearchStrategy[Any]:
    """A tree of dictionaries and lists with another value, or none, at one or two places."""
    places = list(_places(content))

    def at(drawn: list[tuple[tuple[Any, ...], Any]]) -> Any:
        changed = json.loads(json.dumps(content))
        for place, value in drawn:
            inner = changed
            try:
                for key in place[:-1]:
                    inner = inner[key]
                if value is bad_params.ABSENT:
                    del inner[place[-1]]
                else:
                    inner[place[-1]] = value
            except (KeyError, IndexError, TypeError):  # the first change has taken it away
                continue
        return changed

    value = ANY | st.just(bad_params.ABSENT)
    one = st.tuples(st.sampled_from(places), value)
    return st.lists(one, min_size=1, max_size=2).map(at)


def _places(content: Any) -> Iterator[tuple[Any, ...]]:
    if isinstance(content, dict | list):
        keys: Any = content if isinstance(content, dict) else range(len(content))
        for key in keys:
            yield (key,)
            yield from ((key, *more) for more in _places(content[key]))


def _params_by_key(good: list[bytes]) -> Strategy:
    return _changed(yaml.safe_load(good[0])).map(lambda params: yaml.safe_dump(params).encode())


def _fixes() -> list[bytes]:
    made = (bad.make(None) for bad in bad_tables.FIXES)
    return [content for content in made if content is not None and len(content) < 9_000]


def _read_fixes(content: bytes) -> str:
    path = Path("label_fixes.csv")
    path.write_bytes(content)
    members = [f"{label}.{number}.jpg" for label in ("cat", "dog") for number in range(10)]
    lines = [label_fixes.Fix(*line) for line in ledger.read_label_fixes(path)]
    label_fixes.match(lines, members, ["cat", "dog"], str(path))
    return "accepted"


def _fixes_by_field(good: list[bytes]) -> Strategy:
    known = st.sampled_from(["cat.1.jpg", "dog.2.jpg", "cat", "dog", "exclude", "", '"', "x"])
    field = known | st.text(max_size=9)
    lines = st.lists(st.lists(field, min_size=2, max_size=4).map(",".join), max_size=6)
    ends = st.sampled_from(["\n", "\r\n", "\r"])

    def joined(drawn: tuple[list[str], str]) -> bytes:
        more, end = drawn
        return end.join(["member,label,source", *more]).encode("utf-8", "surrogatepass")

    return st.tuples(lines, ends).map(joined)


def _ledgers() -> list[bytes]:
    rows = [
        ledger.Row(
            *(f"{label}.{n}", "train", f"{label}.{n}.jpg", label, index, subset),
            *(f"{index}{n}" * 32, 64, 48, "RGB", f"train/{label}.{n}", ""),
        )
        for index, label in enumerate(["cat", "dog"])
        for n, subset in enumerate(["train", "valid", "test"])
    ]
    rows.append(
        ledger.Row("9", "test", "9.jpg", "", -1, "unlabelled", "", 0, 0, "", "", "empty file")
    )
    ledger.write_ledger(Path("split.csv"), rows)
    good = Path("split.csv").read_bytes()
    made = (bad.make(good.decode()) for bad in bad_tables.LEDGERS)
    return [good] * 9 + [content for content in made if content and len(content) < 9_000]


def _read_ledger(content: bytes) -> str:
    path = Path("split.csv")
    path.write_bytes(content)
    rows = ledger.read_ledger(path)
    found = ledger.labels(rows)
    ledger.fingerprint(rows)
    ledger.summary(rows, found.classes)
    work = Resizing(path, "out.zarr", _committed())
    assert all(len(bytes.fromhex(row.sha256)) == 32 for row in work.rows)
    return "accepted"


@functools.cache
def _committed() -> parameters.Params:
    return parameters.read(ROOT / "params.yaml")


def _ledgers_by_field(good: list[bytes]) -> Strategy:
    lines = [line.split(",") for line in good[0].decode().splitlines()]
    places = [(i, k) for i, line in enumerate(lines) for k in range(len(line))]
    value = st.text(max_size=9) | st.integers().map(str) | st.sampled_from(sorted({*lines[1]}))

    def edited(drawn: list[tuple[tuple[int, int], str]]) -> bytes:
        rows = [list(line) for line in lines]
        for (i, k), text in drawn:
            rows[i][k] = text
        return "\n".join(map(",".join, rows)).encode("utf-8", "surrogatepass")

    return st.lists(st.tuples(st.sampled_from(places), value), min_size=1, max_size=3).map(edited)


STORE = Path("resized.zarr")
VALUES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)


def _stores() -> list[bytes]:
    """A store's files, each behind its name and a NUL: one at a time is changed."""
    shape = VALUES.shape
    arrays.create(STORE, shape=shape, dtype=np.uint8, fingerprint="f", shard_rows=3)
    for start in (0, 3):
        arrays.write_shard(STORE, range(start, start + 3), VALUES[start : start + 3])
    digests = b"".join(map(arrays.digest, VALUES))
    arrays.write_digests(STORE, np.frombuffer(digests, np.uint8).reshape(-1, 32))
    return _files_of(STORE)


def _files_of(folder: Path) -> list[bytes]:
    found = contents(folder)
    return [name.encode() + b"\0" + content for name, content in found.items()]


def _read_store(content: bytes) -> str:
    with _one_file_changed(STORE, content):
        opened = arrays.Rows(STORE, "f")
        opened.digests  # noqa: B018
        read = opened.read(0, len(opened))
        for batch in opened.batches(4):
            assert len(batch) <= 4
        if not content.startswith(b"zarr.json"):  # what a shard holds is checked
            assert np.array_equal(read, VALUES)
    return "accepted"


class _one_file_changed:  # noqa: N801  a context manager
    """With one file of a folder, `NAME NUL BYTES`, as other bytes; an unknown name changes none."""

    def __init__(self, folder: Path, content: bytes) -> None:
        name, _, self.changed = content.partition(b"\0")
        known = {path.relative_to(folder).as_posix().encode(): path for path in folder.rglob("*")}
        self.path = known.get(name)
        self.good = self.path.read_bytes() if self.path and self.path.is_file() else b""

    def __enter__(self) -> None:
        if self.path and self.good:
            self.path.write_bytes(self.changed)

    def __exit__(self, *error: object) -> None:
        if self.path and self.good:
            self.path.write_bytes(self.good)


def _stores_by_key(good: list[bytes]) -> Strategy:
    name, _, text = next(file for file in good if file.startswith(b"zarr.json")).partition(b"\0")
    described = _changed(json.loads(text))
    return described.map(lambda told: name + b"\0" + json.dumps(told).encode())


ROWS, WANTED = Path("rows"), [bytes([n]) * 32 for n in range(6)]


def _caches() -> list[bytes]:
    RowCache(ROWS, "kind", WANTED, 2**20).put(WANTED, VALUES)
    return _files_of(ROWS)


def _read_cache(content: bytes) -> str:
    """No damage may raise, and no row be given that is not the one that was kept."""
    with _one_file_changed(ROWS, content):
        out = np.zeros_like(VALUES)
        found = RowCache(ROWS, "kind", WANTED, 2**20).get(WANTED, out)
        assert np.array_equal(out[found], VALUES[found])
    return "accepted" if found.all() else "rejected"


def _heads() -> list[bytes]:
    rng, path = np.random.default_rng(0), Path("head.npz")
    good = []
    for shapes in ([(5, 2)], [(5, 1)], [(5, 3), (3, 2)]):
        kernels = tuple(rng.normal(size=shape).astype(np.float32) for shape in shapes)
        head.Head(kernels, tuple(np.zeros(k.shape[1], np.float32) for k in kernels)).save(path)
        good.append(path.read_bytes())
    return good


def _read_head(content: bytes) -> str:
    path = Path("head.npz")
    path.write_bytes(content)
    atomic_files.read_arrays(path, "good for")
    found = head.load(path)
    found.require(5, 2)
    with np.errstate(all="ignore"):
        assert found.logits(np.zeros((3, 5), np.float32)).shape == (3, 2)
    return "accepted"


def _heads_by_array(good: list[bytes]) -> Strategy:
    """Arrays of any shape and type under names of which some fit."""
    shape = arrays_of.array_shapes(min_dims=0, max_dims=3, max_side=6) | st.just((5, 2))
    any_array = arrays_of.arrays(arrays_of.scalar_dtypes() | st.just(np.float32), shape)
    names = st.sampled_from(["kernel_0", "bias_0", "kernel_1", "bias_1", "name", "kernel"])

    def packed(named: dict[str, Any]) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **named)
        return buffer.getvalue()

    return st.dictionaries(names, any_array, max_size=4).map(packed)


FIGURES = Path("evaluate.json")


def _figures() -> list[bytes]:
    for folder in ("head", "model"):
        logs = np.full((4, 2), -0.69, np.float32)
        path = Path(folder, "predictions.zarr")
        arrays.write(path, [logs], shape=logs.shape, dtype=np.float32, fingerprint="f")
    atomic_files.write_json(
        FIGURES, {"chosen": "head", "temperature": 1.5, "clip": 0.01, "more": [1]}
    )
    return [FIGURES.read_bytes()]


def _read_figures(content: bytes) -> str:
    FIGURES.write_bytes(content)
    found = selected_model.read(FIGURES, Path("head"), Path("model"), "f")
    assert found.log_probability.shape == (4, 2)
    assert 0 <= found.clip < 0.5
    return "accepted"


def _figures_by_key(good: list[bytes]) -> Strategy:
    return _changed(json.loads(good[0])).map(lambda told: json.dumps(told).encode())


WEIGHTS_FORMATS = ("w.weights.h5", "w.h5")


@functools.cache
def _small_model() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    keras = importlib.import_module("keras")
    layers = [keras.layers.Dense(3), keras.layers.BatchNormalization()]
    return keras.Sequential([keras.Input((4,)), *layers])


def _weights() -> list[bytes]:
    """A file in each of the two formats that are read."""
    new, old = map(Path, WEIGHTS_FORMATS)
    _small_model().save_weights(new)
    importlib.import_module("legacy_weights").save(old, _small_model())
    return [path.name.encode() + b"\0" + path.read_bytes() for path in (new, old)]


def _read_weights(content: bytes) -> str:
    hdf5 = importlib.import_module("pipeline.backbones.weights_file")
    name, _, written = content.partition(b"\0")
    path = Path(WEIGHTS_FORMATS[name == b"w.h5"])
    path.write_bytes(written)
    try:
        hdf5.load(_small_model(), path)
    except hdf5.WeightsFileError:
        return "rejected"
    return "accepted"


WORDS_OF_JPEG = [bytes([0xFF, marker]) for marker in (0xC0, 0xC2, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB)]
WORDS_OF_YAML = [b"&a ", b"*a", b"<<: ", b"!!int ", b"!!python/name:os.system ", b"[", b"]", b"{"]
WORDS_OF_YAML += [b"\t", b"---\n", b"? ", b": ", b"- ", b"\n  ", b"1e999", b".nan", b"|", b">"]
WORDS_OF_CSV = [b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"cat.1.jpg,dog,x\n", b"-1", b"\xef"]

KINDS = {
    "image": Kind(
        *(40, _images, _read_image),
        tokens=[*WORDS_OF_JPEG, b"IHDR", b"IDAT", b"tRNS", b"PLTE", b"acTL", b"VP8X", b"II*\0"],
        mend=with_whole_chunks,
    ),
    "zip": Kind(
        *(20, _zips, _read_zip, _zips_by_names),
        tokens=[b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"../", b"/", b"\\", b"\0"],
    ),
    "params": Kind(10, _parameters, _read_params, _params_by_key, WORDS_OF_YAML),
    "fixes": Kind(5, _fixes, _read_fixes, _fixes_by_field, WORDS_OF_CSV),
    "ledger": Kind(5, _ledgers, _read_ledger, _ledgers_by_field, WORDS_OF_CSV),
    "store": Kind(
        *(9, _stores, _read_store, _stores_by_key),
        tokens=[b"null", b"-1", b"99999999999", b"{", b"[", b'"', b"float64", b"gzip", b"NaN"],
    ),
    "cache": Kind(4, _caches, _read_cache),
    "head": Kind(
        *(4, _heads, _read_head, _heads_by_array),
        tokens=[b"PK\1\2", b"<f8", b"|O", b"(9999999999,)", b"()", b"True", b"'descr'"],
    ),
    "weights": Kind(
        *(4, _weights, _read_weights),
        tokens=[
            b"SNOD",
            b"TREE",
            b"HEAP",
            b"OHDR",
            b"\x89HDF\r\n\x1a\n",
            b"weight_names",
            b"vars\0",
        ],
    ),
    "figures": Kind(
        *(3, _figures, _read_figures, _figures_by_key),
        tokens=[b"NaN", b"Infinity", b"null", b"-1", b"1e999", b"[", b"{", b'"model"'],
    ),
}
