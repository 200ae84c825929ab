"""Classify images: files, folders and zips.

    pipeline predict photos/cat.jpg more.zip
    pipeline predict FOLDER --csv > predictions.csv
    pipeline predict FOLDER --heatmap maps

Uses the parameters, ledger, metrics and weights of this folder's run; prints a table, CSV or JSON.
An image of the data set gets the probabilities that the pipeline gave it, up to float32 rounding.
Files that are no image are named on stderr, the others are predicted, and the status is 1.
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
from tqdm import tqdm

from pipeline import config, paths
from pipeline.backbones import keras_setup
from pipeline.commands import formatters
from pipeline.commands.formatters import Prediction, printable
from pipeline.commands.out_folder import require_replaceable
from pipeline.evaluation import calibration, selected_model
from pipeline.evaluation.probabilities import mean_log_probability
from pipeline.images import decode, resize, sources
from pipeline.runtime import atomic_files
from pipeline.runtime.entrypoint import quiet_if_nobody_reads
from pipeline.runtime.errors import UserError
from pipeline.runtime.parallel import in_order
from pipeline.schema import Params
from pipeline.storage import arrays, ledger
from pipeline.training import network

OPENVINO_BATCH = 8  # images per batch at which OpenVINO is fastest
FEW = 64  # up to so many images, a quick start counts more than speed
HEATMAP_NAME = 50  # characters at most, of up to four bytes; file systems allow 255 bytes

Images = NDArray[np.uint8]  # (n, size, size, 3), RGB, as `resize` makes them
Function = Callable[[NDArray[Any]], NDArray[np.float32]]
File = tuple[str, Callable[[], bytes]]
Pixels = tuple[str, Images | str]  # a file's name; its pixels, or why it is no image
WriteHeatmaps = Callable[[Sequence[str], Images, NDArray[np.int64]], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="FILE|FOLDER|ZIP")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="instead of a table")
    form.add_argument("--json", action="store_true", help="instead of a table")
    parser.add_argument("--heatmap", metavar="FOLDER", type=Path, help="write Grad-CAM overlays")
    parser.add_argument(
        "--engine",
        choices=("openvino", "keras"),
        help="default: openvino if installed and without --heatmap, which needs keras",
    )


def run(arguments: argparse.Namespace) -> None:
    """Predict; exit with status 1 if a file is no image."""
    started = time.perf_counter()
    params, engine = config.read(), _engine(arguments)
    if arguments.heatmap:
        require_replaceable("predict --heatmap", arguments.heatmap)
    with contextlib.ExitStack() as stack:
        files = _files(map(Path, arguments.inputs), params.data.zip_encoding, stack)
        predictor = Predictor(params, len(files), engine)
        write_heatmaps = None
        if arguments.heatmap:
            folder = stack.enter_context(atomic_files.replacing(arguments.heatmap))
            write_heatmaps = _heatmap_writer(predictor, folder)
        unreadable: list[str] = []
        pixels = in_order(functools.partial(_read, params), files)
        every = _predictions(pixels, predictor, write_heatmaps, unreadable)
        quiet = sys.stdout.isatty() or not sys.stderr.isatty()  # predictions show how far it is
        predictions = tqdm(every, "predict", len(files), unit="img", disable=quiet)
        if isinstance(sys.stdout, io.TextIOWrapper):  # for names that a terminal cannot show
            sys.stdout.reconfigure(errors="backslashreplace")
        with quiet_if_nobody_reads():
            if arguments.json:
                formatters.write_json(predictions, predictor.classes)
            elif arguments.csv:
                formatters.write_csv(predictions, predictor.classes)
            else:
                names = [name for name, _ in files]
                formatters.write_table(predictions, predictor.classes, names)
    counts = f"{len(files):,} image{'s' * (len(files) != 1)}, {len(unreadable):,} unreadable"
    print(f"predict: {counts}, {time.perf_counter() - started:.1f} s", file=sys.stderr)
    if unreadable:
        sys.exit(1)


def _engine(arguments: argparse.Namespace) -> str:
    """Return the engine to use: OpenVINO if it is installed, except for heatmaps."""
    installed = importlib.util.find_spec("openvino") is not None
    if arguments.engine == "openvino" and arguments.heatmap:
        raise UserError(
            "predict --engine: expected keras, as --heatmap needs gradients, got 'openvino'; "
            "leave one of them out"
        )
    if arguments.engine == "openvino" and not installed:
        raise UserError(
            "predict --engine: expected an installed package, got 'openvino'; run `pip install "
            "'pipeline[openvino]'`, or give `--engine keras`"
        )
    default = "openvino" if installed and not arguments.heatmap else "keras"
    return arguments.engine or default


def _files(
    inputs: Iterable[Path], zip_encoding: str | None, stack: contextlib.ExitStack
) -> list[File]:
    """List all files by name, each with a function that reads it; zips stay open in `stack`."""
    files: list[File] = []
    for path in inputs:
        if os.path.isdir(path) or (os.path.isfile(path) and path.suffix.lower() == ".zip"):
            source = stack.enter_context(sources.open_source(path, zip_encoding, lenient=True))
            for note in source.notes:
                print(f"predict: {note}", file=sys.stderr)
            files += [
                (f"{path}/{name}", functools.partial(source.read, name)) for name in source.names
            ]
        else:
            files.append((str(path), functools.partial(sources.read_file, path)))
    return files


def _read(params: Params, file: File) -> Pixels:
    """Return a file's name and pixels (size, size, 3), or the reason why it is no image."""
    wanted, (name, read) = params.resize, file
    try:
        return name, resize.decode_and_resize(read(), wanted.size, wanted.fit, wanted.interpolation)
    except decode.Unreadable as reason:
        return name, str(reason)


class Predictor:
    """The final model: `classes` in the order of the probabilities, and the `network`'s models.

    The networks compute in float32, by OpenVINO or by the backend that `compute.backend` names.
    Keras' own OpenVINO backend starts in half the time of TensorFlow, but runs at a third of the
    speed of a network that OpenVINO converts from TensorFlow: so it serves few images.
    """

    def __init__(self, params: Params, total: int, engine: str) -> None:
        """Start Keras for `total` images; `engine` is "openvino" or "keras"."""
        self._params, self._engine = params, engine
        rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
        self.classes = ledger.labels(rows).classes
        selected = selected_model.selection()
        self._temperature = float(selected.temperature)
        network.weights(params)  # before Keras starts, which takes seconds
        largest = OPENVINO_BATCH if engine == "openvino" else params.extract.batch_size
        self.batch_size = min(largest, total * params.predict.views)
        settings = params.compute.model_dump()
        if engine == "openvino":
            settings["backend"] = "openvino" if total <= FEW else "tensorflow"
        keras_setup.start(**settings)
        size = params.resize.size
        self.network = network.load(params, size, len(self.classes), selected.name)
        self._logits = self._logits_function()

    def probability(self, images: Images) -> NDArray[np.float64]:
        """Return calibrated probabilities (n, n_classes)."""
        from pipeline.backbones import from_params

        count = self._params.predict.views
        digests = [arrays.digest(image) for image in images]
        seen = [from_params.view(self._params, images, digests, view) for view in range(count)]
        logits = np.split(self._logits(np.concatenate(seen)), count)
        log_probability = mean_log_probability(logits)
        return np.exp(calibration.scaled(log_probability, self._temperature)).astype(np.float64)

    def _logits_function(self) -> Function:
        if self._engine == "openvino":  # which folds batch norms by itself
            return self._function(self.network.model)
        from pipeline.training import network_split

        parts = list(self.network.extractors.values())
        frozen, rest = network_split.split(parts, [None] * len(parts), self.network.classifier)
        first, last = self._function(frozen), self._function(rest)
        return lambda images: last(first(images))

    def _function(self, model: Any) -> Function:
        """Return a Keras model as a function of any number of images."""
        from pipeline.backbones import openvino

        size = self.batch_size
        run: Function = model.predict_on_batch
        if self._engine == "openvino":
            threads = self._params.compute.threads
            try:
                run = openvino.compile_model(model, size, "float32", threads)
            except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
                raise UserError(
                    "predict --engine: expected a network that OpenVINO can run, got "
                    f"{' '.join(str(error).split())[:120]!r}; give `--engine keras`"
                ) from error

        def in_batches(images: NDArray[Any]) -> NDArray[np.float32]:
            batches = (images[start : start + size] for start in range(0, len(images), size))
            return np.concatenate([keras_setup.run_padded(run, batch, size) for batch in batches])

        return in_batches


def _predictions(
    pixels: Iterator[Pixels],
    predictor: Predictor,
    write_heatmaps: WriteHeatmaps | None,
    unreadable: list[str],
) -> Iterator[Prediction]:
    """Yield a prediction per file, in order; name unreadable files on stderr, and collect them."""
    while batch := list(itertools.islice(pixels, predictor.batch_size)):
        names = [name for name, one in batch if not isinstance(one, str)]
        images = [one for _, one in batch if not isinstance(one, str)]
        probability = np.empty((0, len(predictor.classes)))
        if images:
            probability = predictor.probability(np.stack(images))
            if write_heatmaps:
                write_heatmaps(names, np.stack(images), probability.argmax(axis=1))
        rows = iter(probability)
        for name, one in batch:
            if isinstance(one, str):
                unreadable.append(name)
                sentence = f"{printable(name)}: expected an image, got {one}"
                print(f"predict: {sentence}; the others are predicted", file=sys.stderr)
                yield Prediction(name, np.empty(0), one)
            else:
                yield Prediction(name, next(rows))


def _heatmap_writer(predictor: Predictor, folder: Path) -> WriteHeatmaps:
    """Return a function that overlays the evidence for each image's most likely class."""
    from pipeline.explanation import grad_cam
    from pipeline.reporting.heatmaps import overlay, write_image

    folder.mkdir()
    parts = list(predictor.network.extractors.values())
    heatmaps = grad_cam.heatmaps(parts, predictor.network.classifier)

    def write(names: Sequence[str], images: Images, best: NDArray[np.int64]) -> None:
        maps = heatmaps(images, best)
        for i, name in enumerate(names):
            write_image(heatmap_path(folder, name), overlay(images[i], *(part[i] for part in maps)))

    return write


def heatmap_path(folder: Path, name: str) -> Path:
    """Return a path inside `folder` for the heatmap of the file `name`.

    Letters, digits, '.', '_' and '-' of the name's last part are kept. A hash of the full name
    distinguishes files of the same name in several folders.
    """
    stem = Path(name).stem[:HEATMAP_NAME]
    kept = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in stem)
    path = folder / f"{kept.lstrip('.') or 'image'}.png"
    digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return path.with_stem(f"{path.stem}-{digest}") if path.exists() else path
