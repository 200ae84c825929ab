"""What the final model says of any images: files, folders and zips.

Reads `params.yaml`, the ledger (for the names of the classes), `metrics/evaluate.json` and the
weights; writes a table, csv or JSON to standard output.
    pipeline predict FILE|FOLDER|ZIP ... [--csv | --json] [--imagenet] [--heatmap FOLDER]

Images are decoded, resized and seen in `predict.views` views as the pipeline does, and the
probabilities calibrated, so an image of the data set gets what the pipeline gave it, up to the
rounding of float32, in which it computes, whatever `extract.precision` and the like say. Each file
that gives no image is named on stderr, the others are predicted, and the status at the end is 1.
Nothing grows with the number of images but a small record each.
"""

import argparse
import contextlib
import functools
import hashlib
import importlib.util
import io
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import config as parameters
from pipeline.commands import formatters, imagenet
from pipeline.commands.formatters import Answer, printable
from pipeline.commands.predictor import Final, Pixels
from pipeline.images import decode, resize, sources
from pipeline.runtime.entrypoint import quiet_if_nobody_reads, script
from pipeline.runtime.errors import UserError
from pipeline.runtime.parallel import in_order
from pipeline.runtime.progress import progress

ZIP = (b"PK\3\4", b"PK\5\6")  # how a zip begins, the second one an empty one
PICTURE_NAME = 50  # letters at most, each up to four bytes of the 255 that a file's name may have


@script
def main() -> None:
    """Predict what is named on the command line; status 1 if a file gave no image."""
    started, asked = time.perf_counter(), _asked()
    params = parameters.read()
    with contextlib.ExitStack() as opened:
        found = _files([Path(name) for name in asked.inputs], opened)
        final = Final(params, len(found), _engine(asked))
        own = _Own(final, asked) if asked.imagenet else None
        folder = _picture_folder(asked.heatmap) if asked.heatmap else None
        maps = _Heatmaps(final) if folder else None
        show = _shown(asked, final.classes, [file.name for file in found])
        unreadable = 0
        with _bar(len(found)) as update, quiet_if_nobody_reads():
            show.begin()
            read = in_order(functools.partial(_read, params), found)
            for answer, picture in _answers(read, final, own, maps):
                if answer.error:
                    unreadable += 1
                    told = f"{printable(answer.name)}: expected an image, got {answer.error}"
                    print(f"predict: {told}; the others are predicted", file=sys.stderr)
                elif folder is not None and picture is not None:
                    _Heatmaps.write(picture_path(folder, answer.name), picture)
                show.show(answer)
                update(1)
            show.end()
    counts = f"{len(found):,} image{'s' * (len(found) != 1)}, {unreadable:,} unreadable"
    print(f"predict: {counts}, {time.perf_counter() - started:.1f} s", file=sys.stderr)
    if unreadable:
        sys.exit(1)


@dataclass(frozen=True, slots=True)
class File:
    """A file that may be an image: its name as shown, and what reads its bytes."""

    name: str
    read: Callable[[], bytes]


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.commands.predict", description="Predict the class of images."
    )
    parser.add_argument("inputs", nargs="+", metavar="FILE|FOLDER|ZIP")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="instead of a table")
    form.add_argument("--json", action="store_true", help="instead of a table")
    parser.add_argument(
        "--imagenet", action="store_true", help="add the backbone's own five likeliest classes"
    )
    parser.add_argument(
        "--imagenet-weights", metavar="FILE", type=Path, help="of the backbone with its classifier"
    )
    parser.add_argument(
        "--imagenet-classes", metavar="FILE", type=Path, help="Keras' imagenet_class_index.json"
    )
    parser.add_argument("--heatmap", metavar="FOLDER", type=Path, help="write Grad-CAM pictures")
    parser.add_argument(
        "--engine",
        choices=("openvino", "keras"),
        help="openvino where it is installed, but for --heatmap, which needs keras",
    )
    asked = parser.parse_args()
    asked.imagenet |= bool(asked.imagenet_weights or asked.imagenet_classes)
    return asked


def _files(inputs: Sequence[Path], opened: contextlib.ExitStack) -> list[File]:
    """What the inputs hold, in natural order within each; archives are checked and stay open."""
    found = []
    for path in inputs:
        if os.path.isdir(path) or _is_zip(path):
            archive = opened.enter_context(sources.open_source(path))
            found += [
                File(f"{path}/{name}", functools.partial(archive.read, name))
                for name in archive.names
            ]
        else:
            found.append(File(str(path), functools.partial(sources.read_file, path)))
    return found


def _is_zip(path: Path) -> bool:
    """By its first bytes; one that is only named so is for `open_source` to refuse."""
    if not os.path.isfile(path):
        return False
    with contextlib.suppress(PermissionError), path.open("rb") as file:
        return file.read(4) in ZIP or path.suffix.lower() == ".zip"
    return False


def _read(params: parameters.Params, file: File) -> tuple[str, Pixels | str]:
    """A file's name and pixels (size, size, 3), as `resize` makes them, or why there are none."""
    wanted = params.resize
    try:
        return file.name, resize.decode_and_resize(
            file.read(), wanted.size, wanted.fit, wanted.interpolation
        )
    except decode.Unreadable as reason:
        return file.name, str(reason)


class _Own:
    """The backbone's own likeliest classes."""

    def __init__(self, final: Final, asked: argparse.Namespace) -> None:
        self._function = imagenet.function(final, asked.imagenet_weights)
        self._names = imagenet.classes(asked.imagenet_classes)

    def __call__(self, images: Pixels) -> Sequence[Sequence[formatters.Named]]:
        return imagenet.likeliest(self._function(images), self._names)


class _Heatmaps:
    """Pictures of images with what speaks for their likeliest classes laid over them."""

    def __init__(self, final: Final) -> None:
        from pipeline.explanation import grad_cam

        parts = list(final.network.extractors.values())
        self._maps = grad_cam.heatmaps(parts, final.network.classifier)

    def __call__(self, images: Pixels, said: NDArray[np.int64]) -> list[Pixels]:
        from pipeline.reporting.heatmaps import overlay

        maps = self._maps(images, said)
        return [
            overlay(image, *(of_part[number] for of_part in maps))
            for number, image in enumerate(images)
        ]

    @staticmethod
    def write(path: Path, picture: Pixels) -> None:
        """Write one, whole or not at all."""
        from pipeline.reporting.heatmaps import write_image

        partial = path.with_name(f".{path.name}.partial")
        try:
            write_image(partial, picture)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _answers(
    read: Iterable[tuple[str, Pixels | str]], final: Final, own: _Own | None, maps: _Heatmaps | None
) -> Iterator[tuple[Answer, Pixels | None]]:
    """Predict batch by batch; an answer a file, in order, and its heatmap if they are asked for."""
    for batch in _batches(read, final.batch_size):
        images = [pixels for _, pixels in batch if not isinstance(pixels, str)]
        if images:
            seen = np.stack(images)
            found = final.probability(seen)
            probability = iter(found)
            top = iter(own(seen) if own else [()] * len(images))
            said = found.argmax(axis=1)
            pictures = iter(maps(seen, said) if maps else [None] * len(images))
        for name, pixels in batch:
            if isinstance(pixels, str):
                yield Answer(name, error=pixels), None
            else:
                yield Answer(name, next(probability), imagenet=next(top)), next(pictures)


def _engine(asked: argparse.Namespace) -> str:
    """The one that was asked for; else OpenVINO where it is installed, but not for heatmaps."""
    installed = importlib.util.find_spec("openvino") is not None
    if asked.heatmap:
        if asked.engine == "openvino":
            raise UserError(
                "predict --engine: expected keras, as --heatmap needs gradients, got 'openvino'; "
                "leave one of them out"
            )
        return "keras"
    if asked.engine == "openvino" and not installed:
        raise UserError(
            "predict --engine: expected a package that is installed, got 'openvino'; "
            "run `pip install 'stages[openvino]'`, or give `--engine keras`"
        )
    return asked.engine or ("openvino" if installed else "keras")


def _batches(
    read: Iterable[tuple[str, Pixels | str]], size: int
) -> Iterator[list[tuple[str, Pixels | str]]]:
    """Lists of up to `size` images, with the files that gave none where they stood."""
    batch, images = [], 0
    for name, pixels in read:
        batch.append((name, pixels))
        images += not isinstance(pixels, str)
        if images == size or len(batch) == 4 * size:
            yield batch
            batch, images = [], 0
    if batch:
        yield batch


def _shown(
    asked: argparse.Namespace, classes: Sequence[str], names: Sequence[str]
) -> formatters.Table | formatters.Csv | formatters.Json:
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that a terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    if asked.json:
        return formatters.Json(sys.stdout, classes)
    if asked.csv:
        return formatters.Csv(sys.stdout, classes, asked.imagenet)
    return formatters.Table(sys.stdout, classes, names)


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[int], object]]:
    """A progress bar where the answers themselves do not show how far it is."""
    if sys.stderr.isatty() and not sys.stdout.isatty():
        with progress("predict", total) as bar:
            yield bar.update
    else:
        yield lambda count: None


def _picture_folder(folder: Path) -> Path:
    """A folder for pictures that holds none of others yet."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"predict --heatmap: expected a new or an empty folder, got {str(folder)!r}, which "
            "holds something; name another one"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def picture_path(folder: Path, name: str) -> Path:
    """Where the picture of the file `name` goes: inside `folder`, under a name that is free there.

    Letters, digits, '.', '_' and '-' of its last part are kept. Files of one name are told apart by
    a hash of their whole names, and after that by numbers.
    """
    stem = Path(name).stem[:PICTURE_NAME]
    kept = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in stem)
    kept = kept.lstrip(".") or "image"
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    free = itertools.chain(
        (kept, f"{kept}-{digest}"), (f"{kept}-{digest}-{n}" for n in itertools.count(2))
    )
    return next(path for path in (folder / f"{stem}.png" for stem in free) if not path.exists())


if __name__ == "__main__":
    sys.exit(main())
