"""Classify images: files, folders and zips.

    pipeline predict photos/cat.jpg more.zip
    pipeline predict FOLDER --csv > predictions.csv
    pipeline predict FOLDER --imagenet --heatmap maps

Reads params.yaml, the ledger, metrics/evaluate.json and the weights of this folder's run; prints a
table, CSV or JSON. An image of the data set gets the probabilities that the pipeline gave it, up
to float32 rounding. Files that are no image are named on stderr, the others are predicted, and the
status is 1. Memory does not grow with the number of images, apart from their names.
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
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import config
from pipeline.commands import formatters
from pipeline.commands.formatters import Prediction, printable
from pipeline.commands.predictor import ImageNet, Images, Predictor
from pipeline.images import decode, resize, sources
from pipeline.runtime.entrypoint import quiet_if_nobody_reads
from pipeline.runtime.errors import UserError
from pipeline.runtime.parallel import in_order
from pipeline.runtime.progress import progress
from pipeline.schema import Params

ZIP = (b"PK\3\4", b"PK\5\6")  # first bytes of a zip, and of an empty one
File = tuple[str, Callable[[], bytes]]
Pixels = tuple[str, Images | str]  # a file's name; its pixels, or why it is no image
HEATMAP_NAME = 50  # characters at most, of up to four bytes; file systems allow 255 bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="FILE|FOLDER|ZIP")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="instead of a table")
    form.add_argument("--json", action="store_true", help="instead of a table")
    parser.add_argument(
        "--imagenet", action="store_true", help="add the backbone's five most likely classes"
    )
    parser.add_argument(
        "--imagenet-weights", metavar="FILE", type=Path, help="weights with the classifier"
    )
    parser.add_argument(
        "--imagenet-classes", metavar="FILE", type=Path, help="Keras' imagenet_class_index.json"
    )
    parser.add_argument("--heatmap", metavar="FOLDER", type=Path, help="write Grad-CAM overlays")
    parser.add_argument(
        "--engine",
        choices=("openvino", "keras"),
        help="default: openvino if installed and without --heatmap, which needs keras",
    )


def run(arguments: argparse.Namespace) -> None:
    """Predict; exit with status 1 if a file is no image."""
    started = time.perf_counter()
    arguments.imagenet |= bool(arguments.imagenet_weights or arguments.imagenet_classes)
    params = config.read()
    with contextlib.ExitStack() as stack:
        files = _files([Path(name) for name in arguments.inputs], stack)
        predictor = Predictor(params, len(files), _engine(arguments))
        imagenet = None
        if arguments.imagenet:
            imagenet = ImageNet(predictor, arguments.imagenet_weights, arguments.imagenet_classes)
        heatmaps = _Heatmaps(predictor, arguments.heatmap) if arguments.heatmap else None
        pixels = in_order(functools.partial(_read, params), files)
        unreadable: list[str] = []
        with _bar(len(files)) as update, quiet_if_nobody_reads():
            predictions = _predictions(pixels, predictor, imagenet, heatmaps)
            reported = _report_errors(predictions, unreadable, update)
            if isinstance(sys.stdout, io.TextIOWrapper):  # for names that a terminal cannot show
                sys.stdout.reconfigure(errors="backslashreplace")
            if arguments.json:
                formatters.write_json(reported, predictor.classes)
            elif arguments.csv:
                formatters.write_csv(reported, predictor.classes, arguments.imagenet)
            else:
                names = [name for name, _ in files]
                formatters.write_table(reported, predictor.classes, names)
    counts = f"{len(files):,} image{'s' * (len(files) != 1)}, {len(unreadable):,} unreadable"
    print(f"predict: {counts}, {time.perf_counter() - started:.1f} s", file=sys.stderr)
    if unreadable:
        sys.exit(1)


def _files(inputs: Sequence[Path], stack: contextlib.ExitStack) -> list[File]:
    """List the names of all files, natural order within an input, each with a function that reads.

    Zips stay open in `stack`.
    """
    files: list[File] = []
    for path in inputs:
        if os.path.isdir(path) or _is_zip(path):
            source = stack.enter_context(sources.open_source(path))
            files += [
                (f"{path}/{name}", functools.partial(source.read, name)) for name in source.names
            ]
        else:
            files.append((str(path), functools.partial(sources.read_file, path)))
    return files


def _is_zip(path: Path) -> bool:
    """Look at the first bytes and at the name; `open_source` refuses one that is only named so."""
    if not os.path.isfile(path):
        return False
    with contextlib.suppress(PermissionError), path.open("rb") as file:
        return file.read(4) in ZIP or path.suffix.lower() == ".zip"
    return False


def _read(params: Params, file: File) -> Pixels:
    """Return a file's name and pixels (size, size, 3), or the reason why it is no image."""
    wanted, (name, read) = params.resize, file
    try:
        return name, resize.decode_and_resize(read(), wanted.size, wanted.fit, wanted.interpolation)
    except decode.Unreadable as reason:
        return name, str(reason)


class _Heatmaps:
    """Writes overlays of the evidence for each image's most likely class into a new folder."""

    def __init__(self, predictor: Predictor, folder: Path) -> None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(
                f"predict --heatmap: expected a new or an empty folder, got {str(folder)!r}, which "
                "is not empty; name another one"
            )
        from pipeline.explanation import grad_cam

        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        parts = list(predictor.network.extractors.values())
        self._maps = grad_cam.heatmaps(parts, predictor.network.classifier)

    def write(self, names: Sequence[str], images: Images, best: NDArray[np.int64]) -> None:
        from pipeline.reporting.heatmaps import overlay, write_image

        maps = self._maps(images, best)
        for i, (name, image) in enumerate(zip(names, images, strict=True)):
            path = heatmap_path(self._folder, name)
            partial = path.with_name(f".{path.name}.partial")
            try:
                write_image(partial, overlay(image, *(part[i] for part in maps)))
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)


def heatmap_path(folder: Path, name: str) -> Path:
    """Return an unused path inside `folder` for the heatmap of the file `name`.

    Letters, digits, '.', '_' and '-' of the name's last part are kept. A hash of the full name,
    then a number, distinguish files of the same name.
    """
    stem = Path(name).stem[:HEATMAP_NAME]
    kept = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in stem)
    kept = kept.lstrip(".") or "image"
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    stems = itertools.chain(
        (kept, f"{kept}-{digest}"), (f"{kept}-{digest}-{n}" for n in itertools.count(2))
    )
    return next(path for path in (folder / f"{stem}.png" for stem in stems) if not path.exists())


def _predictions(
    pixels: Iterable[Pixels],
    predictor: Predictor,
    imagenet: ImageNet | None,
    heatmaps: _Heatmaps | None,
) -> Iterator[Prediction]:
    """Predict batch by batch; yield one prediction per file, in order."""
    for batch in _batches(pixels, predictor.batch_size):
        named = {i: one for i, (_, one) in enumerate(batch) if not isinstance(one, str)}
        results: dict[int, tuple[NDArray[np.float64], Any]] = {}
        if named:
            images = np.stack(list(named.values()))
            probability = predictor.probability(images)
            top = imagenet.top_classes(images) if imagenet else [()] * len(images)
            if heatmaps:
                names = [batch[i][0] for i in named]
                heatmaps.write(names, images, probability.argmax(axis=1))
            results = dict(zip(named, zip(probability, top, strict=True), strict=True))
        for i, (name, one) in enumerate(batch):
            if isinstance(one, str):
                yield Prediction(name, error=one)
            else:
                yield Prediction(name, results[i][0], imagenet=results[i][1])


def _batches(pixels: Iterable[Pixels], size: int) -> Iterator[list[Pixels]]:
    """Yield lists with up to `size` images, and the unreadable files between them."""
    batch: list[Pixels] = []
    images = 0
    for one in pixels:
        batch.append(one)
        images += not isinstance(one[1], str)
        if images == size or len(batch) == 4 * size:
            yield batch
            batch, images = [], 0
    if batch:
        yield batch


def _engine(arguments: argparse.Namespace) -> str:
    """Return the engine to use: OpenVINO if it is installed, except for heatmaps."""
    if arguments.heatmap:
        if arguments.engine == "openvino":
            raise UserError(
                "predict --engine: expected keras, as --heatmap needs gradients, got 'openvino'; "
                "leave one of them out"
            )
        return "keras"
    installed = importlib.util.find_spec("openvino") is not None
    if arguments.engine == "openvino" and not installed:
        raise UserError(
            "predict --engine: expected an installed package, got 'openvino'; run `pip install "
            "'pipeline[openvino]'`, or give `--engine keras`"
        )
    return arguments.engine or ("openvino" if installed else "keras")


def _report_errors(
    predictions: Iterable[Prediction], unreadable: list[str], update: Callable[[int], object]
) -> Iterator[Prediction]:
    """Yield the predictions; name unreadable files on stderr, and collect them."""
    for one in predictions:
        if one.error:
            unreadable.append(one.name)
            sentence = f"{printable(one.name)}: expected an image, got {one.error}"
            print(f"predict: {sentence}; the others are predicted", file=sys.stderr)
        yield one
        update(1)


@contextlib.contextmanager
def _bar(total: int) -> Iterator[Callable[[int], object]]:
    """Show a progress bar unless the predictions themselves show how far it is."""
    if sys.stderr.isatty() and not sys.stdout.isatty():
        with progress("predict", total) as bar:
            yield bar.update
    else:
        yield lambda count: None
