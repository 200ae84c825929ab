"""The photos and weights that benchmarks work on.

The environment variable REAL_DATA names a folder with `data/train.zip`, `data/test.zip`,
`data/originals.zip` and `weights/`; without it, the drawn sample is used.
"""

import hashlib
import io
import itertools
import os
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from benchmarks.measure import ROOT
from pipeline.images import decode

Member = tuple[str, bytes]  # a name in a zip, and its content


@dataclass(frozen=True)
class Photos:
    """Three zips of photos named as Kaggle's are, and weights files by backbone.

    Attributes:
        words: what they are, for a table.
        train: labelled, `train/cat.1.jpg`.
        test: unlabelled, `test/1.jpg`.
        originals: labelled, each in its own size.
        weights: trained, without classifier; ONNX files and presets by the names of their files.
    """

    words: str
    train: Path
    test: Path
    originals: Path
    weights: dict[str, Path] = field(default_factory=dict)


def drawn() -> Photos:
    """The embedded sample."""
    folder = ROOT / "data" / "sample"
    train = folder / "train.zip"
    return Photos("images drawn by this project", train, folder / "test.zip", train)


def find() -> Photos:
    """Real photos where REAL_DATA names them, else the drawn sample."""
    if not os.environ.get("REAL_DATA"):
        return drawn()
    folder = Path(os.environ["REAL_DATA"]).absolute()
    files = {
        "MobileNet": folder / "weights" / "mobilenet_imagenet_no_top.weights.h5",
        "MobileNetV2": folder / "weights" / "mobilenet_v2_imagenet_no_top.weights.h5",
    }
    named = ("efficientnet_lite2.onnx", "efficientnet_lite2_preset")
    files |= {name: folder / "weights" / name for name in named}
    return Photos(
        "real photos",
        train=folder / "data" / "train.zip",
        test=folder / "data" / "test.zip",
        originals=folder / "data" / "originals.zip",
        weights={name: path for name, path in files.items() if path.exists()},
    )


def labelled(archive: Path, count: int) -> Iterator[Member]:
    """`count` readable photos, the classes in turn, as (label, content); all are different."""
    with zipfile.ZipFile(archive) as opened:
        of_class: dict[str, list[str]] = defaultdict(list)
        for name in opened.namelist():
            if not name.endswith("/"):
                of_class[Path(name).name.partition(".")[0]].append(name)
        turns = [
            (label, name)
            for names in zip(*(sorted(of_class[label]) for label in sorted(of_class)), strict=False)
            for label, name in zip(sorted(of_class), names, strict=True)
        ]
        yield from itertools.islice(_endless(opened, turns), count)


def unlabelled(archive: Path, count: int) -> Iterator[Member]:
    """`count` readable photos as ("", content); all are different."""
    with zipfile.ZipFile(archive) as opened:
        names = sorted(name for name in opened.namelist() if not name.endswith("/"))
        yield from itertools.islice(_endless(opened, [("", name) for name in names]), count)


def numbered(folder: str, photos: Iterable[Member], numbers: Iterable[int]) -> Iterator[Member]:
    """Photos under Kaggle's names: `train/cat.1.jpg`, or `test/1.jpg` where there is no label."""
    for (label, content), number in zip(photos, numbers, strict=False):
        yield f"{folder}/{label}{'.' if label else ''}{number}.jpg", content


def write_zip(path: Path, members: Iterable[Member]) -> None:
    """Write members as they come, one in memory at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, content)


def readable(content: bytes) -> bool:
    """Whether `split` would accept it."""
    try:
        decode.decode(content)
    except decode.Unreadable:
        return False
    return True


def copy(content: bytes, number: int) -> bytes:
    """The same picture as a JPEG with other pixels: a square in its corner tells the number.

    Another file with the same pixels would be the same image to the row cache.
    """
    rest, blue = divmod(number, 16)
    green, red = rest % 16, rest // 16 % 16
    with Image.open(io.BytesIO(content)) as opened:
        picture = opened.convert("RGB")
    side = max(1, min(picture.size) // 8)
    picture.paste((red * 17, green * 17, blue * 17), (0, 0, side, side))
    written = io.BytesIO()
    picture.save(written, "JPEG", quality=90)
    return written.getvalue()


def _endless(archive: zipfile.ZipFile, members: list[tuple[str, str]]) -> Iterator[Member]:
    """Over and over, as `copy` makes them."""
    usable, seen = [], set()
    for label, name in members:
        content = archive.read(name)
        digest = hashlib.sha256(content).digest()
        if digest in seen or not readable(content):
            continue
        seen.add(digest)
        usable.append((label, name))
        yield label, content
    for number in itertools.count(1):
        for label, name in usable:
            yield label, copy(archive.read(name), number)
