"""What is fuzzed: for each kind of input good examples, ways to damage them, and the reader.

An attempt ends as "accepted", "rejected" (with a reason) or "refused" (with a sentence). Anything
else that it raises is a fault of the code.
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
from hypothesis.extra import numpy as numpy_st
from mutation import mutated, with_valid_chunks
from project import ROOT

from pipeline import config, paths
from pipeline.evaluation import selected_model
from pipeline.images import decode, label_fixes, labels, near_duplicates, resize, sources
from pipeline.images.resizing import Resizing
from pipeline.runtime.errors import UserError
from pipeline.schema import Params
from pipeline.storage import arrays, ledger, sealed_files, tables
from pipeline.storage.row_cache import RowCache
from pipeline.training import head

Strategy = st.SearchStrategy[bytes]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of input.

    Attributes:
        percent: of all inputs.
        prepare: creates what `read` needs in the working folder; returns the good inputs.
        read: reads an input by the code that stages use; returns "accepted" or "rejected", or
            raises `UserError`.
        strategy: inputs of a given structure, made from the good ones; None: only damaged bytes.
        tokens: words that damage inserts.
        repair: corrects checksums, so that what they protect is read.
    """

    percent: float
    prepare: Callable[[], list[bytes]]
    read: Callable[[bytes], str]
    strategy: Callable[[list[bytes]], Strategy] | None = None
    tokens: Sequence[bytes] = ()
    repair: Callable[[bytes], bytes] | None = None

    def attempt(self, content: bytes) -> str:
        """Read an input; return how that ended."""
        try:
            return self.read(content)
        except UserError as error:
            sentence = str(error)
        assert len(sentence) < 100_000
        return "refused"

    def inputs(self, good: list[bytes]) -> Strategy:
        """Return the strategy of all inputs."""
        damaged = mutated(good, self.tokens)
        strategies = [damaged]
        if self.repair:
            strategies.append(damaged.map(self.repair))
        if self.strategy:
            strategies.append(self.strategy(good))
        return st.one_of(strategies)


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
    made = (bad.make(jpeg) for bad in bad_images.INPUTS if bad.name != bad_images.MANY_SCANS)
    return [*good, *(content for content in made if content and len(content) < 20_000)]


def _read_image(content: bytes) -> str:
    """Read as `split` and `resize` do: what `split` accepts, `resize` can read."""
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
    """Draw names of any letters, in folders with and without a meaning."""
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
    by_text = [bad for bad in bad_params.INPUTS if bad.name not in bad_params.FAULTS]
    made = (bad.make(text) for bad in by_text)
    plain = yaml.safe_dump(yaml.safe_load(text)).encode()
    return [plain] * 20 + [content for content in made if content and len(content) < 9_000]


def _read_params(content: bytes) -> str:
    path = Path("params.yaml")
    path.write_bytes(content)
    config.read(path)
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
    """Draw a tree of dictionaries and lists with one or two changed or missing values."""
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
            except (KeyError, IndexError, TypeError):  # removed by the first change
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
    good = b"member,label,source\ncat.1.jpg,dog,x\ndog.2.jpg,exclude,y\n"
    made = (bad.make(None) or b"" for bad in bad_tables.FIXES)
    return [good, *(content for content in made if len(content) < 9_000)]


def _read_fixes(content: bytes) -> str:
    path = Path("label_fixes.csv")
    path.write_bytes(content)
    members = [f"{label}.{number}.jpg" for label in ("cat", "dog") for number in range(10)]
    lines = label_fixes.parse(tables.read_rows(path, label_fixes.COLUMNS, label_fixes.CORRECT))
    label_fixes.match(lines, members, ["cat", "dog"], str(path))
    return "accepted"


def _ledgers() -> list[bytes]:
    rows = [
        ledger.LedgerRow(
            *(f"{label}.{n}", "train", f"{label}.{n}.jpg", label, index, subset),
            *(f"{index}{n}" * 32, 64, 48, "RGB", f"train/{label}.{n}", ""),
        )
        for index, label in enumerate(["cat", "dog"])
        for n, subset in enumerate(["train", "valid", "test"])
    ]
    rows.append(
        ledger.LedgerRow("9", "test", "9.jpg", "", -1, "unlabelled", "", 0, 0, "", "", "empty file")
    )
    ledger.write_ledger(Path("split.csv"), rows)
    good = Path("split.csv").read_bytes()
    made = (bad.make(good.decode()) for bad in bad_tables.LEDGERS)
    return [good] * 9 + [content for content in made if content and len(content) < 9_000]


def _read_ledger(content: bytes) -> str:
    path = paths.LEDGER
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    rows = ledger.read_ledger(path)
    found = ledger.labels(rows)
    ledger.fingerprint(rows)
    ledger.summary(rows, found.classes)
    work = Resizing(Path("out.zarr"), _committed())
    assert all(len(bytes.fromhex(row.sha256)) == 32 for row in work.rows)
    return "accepted"


@functools.cache
def _committed() -> Params:
    return config.read(ROOT / "params.yaml")


def _tables_by_field(good: list[bytes]) -> Strategy:
    """Change one to three fields of the first good csv, and the line ends."""
    lines = [line.split(",") for line in good[0].decode().splitlines()]
    places = [(i, k) for i, line in enumerate(lines) for k in range(len(line))]
    value = st.text(max_size=9) | st.integers().map(str) | st.sampled_from(sorted({*lines[1], '"'}))

    def edited(changes: list[tuple[tuple[int, int], str]], end: str) -> bytes:
        rows = [list(line) for line in lines]
        for (i, k), text in changes:
            rows[i][k] = text
        return end.join(map(",".join, rows)).encode("utf-8", "surrogatepass")

    changes = st.lists(st.tuples(st.sampled_from(places), value), min_size=1, max_size=3)
    return st.builds(edited, changes, st.sampled_from(["\n", "\r\n", "\r"]))


STORE = Path("resized.zarr")
VALUES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)


def _stores() -> list[bytes]:
    """Return the files of an array, each as name, NUL, content: one at a time is changed."""
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
        opened = arrays.StoredArray(STORE, "f")
        opened.digests  # noqa: B018
        read = opened.read(0, len(opened))
        for batch in opened.batches(4):
            assert len(batch) <= 4
        if not content.startswith(b"zarr.json"):  # shards and digests have checksums
            assert np.array_equal(read, VALUES)
    return "accepted"


@contextlib.contextmanager
def _one_file_changed(folder: Path, content: bytes) -> Iterator[None]:
    """Replace one file of a folder by `NAME NUL BYTES` for a while; ignore an unknown name."""
    name, _, changed = content.partition(b"\0")
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix().encode() == name:
            good = path.read_bytes()
            path.write_bytes(changed)
            try:
                yield
            finally:
                path.write_bytes(good)
            return
    yield


def _stores_by_key(good: list[bytes]) -> Strategy:
    name, _, text = next(file for file in good if file.startswith(b"zarr.json")).partition(b"\0")
    described = _changed(json.loads(text))
    return described.map(lambda told: name + b"\0" + json.dumps(told).encode())


ROWS, WANTED = Path("rows"), [bytes([n]) * 32 for n in range(6)]


def _caches() -> list[bytes]:
    RowCache(ROWS, "kind", WANTED, 2**20).put(WANTED, VALUES)
    return _files_of(ROWS)


def _read_cache(content: bytes) -> str:
    """Read cached rows: damage never raises, and no row differs from the stored one."""
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
    sealed_files.read_arrays(path, "good for")
    found = head.load(path)
    found.require(5, 2)
    with np.errstate(all="ignore"):
        assert found.logits(np.zeros((3, 5), np.float32)).shape == (3, 2)
    return "accepted"


def _heads_by_array(good: list[bytes]) -> Strategy:
    """Draw arrays of any shape and type; some names are those of a head."""
    shape = numpy_st.array_shapes(min_dims=0, max_dims=3, max_side=6) | st.just((5, 2))
    any_array = numpy_st.arrays(numpy_st.scalar_dtypes() | st.just(np.float32), shape)
    names = st.sampled_from(["kernel_0", "bias_0", "kernel_1", "bias_1", "name", "kernel"])

    def packed(named: dict[str, Any]) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **named)
        return buffer.getvalue()

    return st.dictionaries(names, any_array, max_size=4).map(packed)


def _choices() -> list[bytes]:
    for folder in (paths.HEAD, paths.MODEL):
        logs = np.full((4, 2), -0.69, np.float32)
        path = paths.predictions(folder)
        arrays.write(path, [logs], shape=logs.shape, dtype=np.float32, fingerprint="f")
    content = {"chosen": "head", "temperature": 1.5, "clip": 0.01, "more": [1]}
    tables.write_json(paths.EVALUATION, content)
    return [paths.EVALUATION.read_bytes()]


def _read_choice(content: bytes) -> str:
    paths.EVALUATION.write_bytes(content)
    selected, log_probability = selected_model.read("f")
    assert log_probability.shape == (4, 2)
    assert 0 <= selected.clip < 0.5
    return "accepted"


def _choices_by_key(good: list[bytes]) -> Strategy:
    return _changed(json.loads(good[0])).map(lambda content: json.dumps(content).encode())


@functools.cache
def _small_model() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    keras = importlib.import_module("keras")
    layers = [keras.layers.Dense(3), keras.layers.BatchNormalization()]
    return keras.Sequential([keras.Input((4,)), *layers])


def _weights() -> list[bytes]:
    """Return a file of Keras 3; HDF5 never ends on some of the older format (SECURITY.md)."""
    path = Path("w.weights.h5")
    _small_model().save_weights(path)
    return [path.read_bytes()]


def _read_weights(content: bytes) -> str:
    hdf5 = importlib.import_module("pipeline.backbones.weights_file")
    path = Path("w.weights.h5")
    path.write_bytes(content)
    try:
        hdf5.load(_small_model(), path, "weights", "correct it")
    except UserError:
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
        repair=with_valid_chunks,
    ),
    "zip": Kind(
        *(20, _zips, _read_zip, _zips_by_names),
        tokens=[b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"../", b"/", b"\\", b"\0"],
    ),
    "params": Kind(10, _parameters, _read_params, _params_by_key, WORDS_OF_YAML),
    "fixes": Kind(5, _fixes, _read_fixes, _tables_by_field, WORDS_OF_CSV),
    "ledger": Kind(5, _ledgers, _read_ledger, _tables_by_field, WORDS_OF_CSV),
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
        tokens=[*(b"SNOD TREE HEAP OHDR vars\0".split()), b"\x89HDF\r\n\x1a\n"],
    ),
    "choice": Kind(
        *(3, _choices, _read_choice, _choices_by_key),
        tokens=[b"NaN", b"Infinity", b"null", b"-1", b"1e999", b"[", b"{", b'"model"'],
    ),
}
