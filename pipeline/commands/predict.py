"""Classify images: files, folders and zips.

    pipeline predict photos/cat.jpg more.zip
    pipeline predict FOLDER --csv > predictions.csv
    pipeline predict FOLDER --heatmap maps

Uses the parameters, metrics and weights of this folder's run; prints a table, CSV or JSON.
An image of the data set gets the probabilities that the pipeline gave it, up to float32 rounding;
with train_head.folds, one of train or valid gets those of all heads.
Files that are no image are named on stderr, the others are predicted, and the status is 1.
"""

import argparse
import contextlib
import functools
import hashlib
import io
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline import config, paths
from pipeline.backbones import keras_setup, openvino
from pipeline.commands import formatters
from pipeline.commands.formatters import Prediction, printable
from pipeline.commands.out_folder import require_replaceable
from pipeline.evaluation import calibration, selected_model
from pipeline.evaluation.probabilities import mean_log_probability
from pipeline.images import decode, resize, sources, views
from pipeline.runtime import atomic_files
from pipeline.runtime.entrypoint import quiet_if_nobody_reads
from pipeline.runtime.errors import UserError
from pipeline.runtime.parallel import in_order
from pipeline.schema import Params
from pipeline.storage import arrays, sealed_files
from pipeline.training import head, network

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
        help="default: openvino, and keras with --heatmap, which needs gradients",
    )


def run(arguments: argparse.Namespace) -> None:
    """Predict; exit with status 1 if a file is no image."""
    params, engine = config.read(), _engine(arguments)
    if arguments.heatmap:
        require_replaceable("predict --heatmap", arguments.heatmap)
    with contextlib.ExitStack() as stack:
        files = _files(map(Path, arguments.inputs), params.data.zip_encoding, stack)
        predictor = Predictor(params, len(files), engine)
        write_heatmaps = None
        if arguments.heatmap:
            folder = stack.enter_context(atomic_files.replacing(arguments.heatmap))
            write_heatmaps = _heatmap_writer(params, predictor, folder)
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
    print(f"predict: {counts}, {_waited():.1f} s", file=sys.stderr)
    if unreadable:
        sys.exit(1)


def _waited() -> float:
    """Return the seconds since this process started, imports included."""
    created: float = psutil.Process().create_time()
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return time.time() - created
    # Linux gives the time of boot, which psutil adds, in whole seconds.
    since_boot: float = created - psutil.boot_time()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - since_boot


def _engine(arguments: argparse.Namespace) -> str:
    """Return the engine to use: OpenVINO except for heatmaps."""
    if arguments.engine == "openvino" and arguments.heatmap:
        raise UserError(
            "predict --engine: expected keras, as --heatmap needs gradients, got 'openvino'; "
            "leave one of them out"
        )
    return arguments.engine or ("keras" if arguments.heatmap else "openvino")


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
    """The final model: `classes` in the order of the probabilities, and a function to logits.

    The networks compute in float32, by OpenVINO or by the backend that `compute.backend` names.
    """

    network: network.Network  # of Keras, if that is the engine

    def __init__(self, params: Params, total: int, engine: str) -> None:
        """Start for `total` images; `engine` is "openvino" or "keras"."""
        self._params = params
        self.classes = selected_model.classes()
        self._selected = selected_model.selection()
        weights = network.weights(params)  # is checked before Keras starts, which takes seconds
        if engine == "openvino":
            self.batch_size = max(1, openvino.AT_ONCE // params.predict.views)
            self._logits = self._by_openvino(weights)
        else:
            network.require_keras(params, "predict --engine keras")
            self.batch_size = min(params.extract.batch_size, total * params.predict.views)
            self._logits = self._by_keras()

    def probability(self, images: Images) -> NDArray[np.float64]:
        """Return calibrated probabilities (n, n_classes)."""
        count = self._params.predict.views
        digests = [arrays.digest(image) for image in images]
        seen = [views.view(self._params.extract, images, digests, view) for view in range(count)]
        logits = np.split(self._logits(np.concatenate(seen)), count)
        log_probability = mean_log_probability(logits)
        calibrated = calibration.scaled(log_probability, float(self._selected.temperature))
        return np.exp(calibrated).astype(np.float64)

    def _by_openvino(self, weights: dict[str, Path]) -> Function:
        """Return a function to logits, without Keras if it can be."""
        compute = self._params.compute
        classifier = head.load(sealed_files.require_sealed(paths.head_file(), "train_head"))
        frozen = self._selected.name == "head" and self._params.extract.engine == "openvino"
        folders = (
            [paths.network(name) for name in weights] if frozen else [self._converted(weights)]
        )
        networks = [openvino.Network(folder) for folder in folders]
        if frozen:
            classifier.require(sum(one.features for one in networks), len(self.classes))
        for one in networks:
            one.compile("float32", compute.threads, compute.instruction_set)
        if not frozen:
            return networks[0]
        return lambda images: classifier.logits(
            np.concatenate([one(images) for one in networks], axis=1)
        )

    def _converted(self, weights: dict[str, Path]) -> Path:
        """Return the folder of the whole network; convert it unless the last run has done so."""
        params, selected = self._params, self._selected.name
        files = [*weights.values(), paths.head_file()]
        if selected == "fine_tune" and params.fine_tune is not None:
            files.append(sealed_files.require_sealed(paths.model_weights(), "fine_tune"))
        settings = {
            "networks": config.settings(params)["explain"]["backbones"],
            "size": params.resize.size,
            "classes": len(self.classes),
            "files": [atomic_files.sha256(path) for path in files],
            "code": atomic_files.sha256(atomic_files.require(paths.CODE, "code")),
        }
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        folder = paths.PREDICTOR / key[:24]
        if not folder.exists():
            self._start_keras("tensorflow")
            from pipeline.backbones import weights as keras_weights

            model = network.load(params, params.resize.size, len(self.classes), selected).model
            for old in paths.PREDICTOR.glob("[!.]*"):
                shutil.rmtree(old)
            try:
                with atomic_files.replacing(folder) as partial:
                    keras_weights.convert(model, partial)
            except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
                raise UserError(
                    "predict --engine: expected a network that OpenVINO can run, got "
                    f"{' '.join(str(error).split())[:120]!r}; give `--engine keras`"
                ) from error
        return folder

    def _by_keras(self) -> Function:
        """Return a function to logits, with batch norms folded up to where features are pooled."""
        self._start_keras(self._params.compute.backend)
        size, classes = self._params.resize.size, len(self.classes)
        self.network = network.load(self._params, size, classes, self._selected.name)
        from pipeline.training import network_split

        parts = list(self.network.extractors.values())
        frozen, rest = network_split.split(parts, [None] * len(parts), self.network.classifier)
        count = self.batch_size
        features_of, logits_of = (keras_setup.starter(one, count) for one in (frozen, rest))

        def in_batches(images: NDArray[Any]) -> NDArray[np.float32]:
            batches = (images[start : start + count] for start in range(0, len(images), count))
            features = keras_setup.in_flight(features_of, batches)
            return np.concatenate([logits_of(batch)() for batch in features])

        return in_batches

    def _start_keras(self, backend: str) -> None:
        keras_setup.start(**self._params.compute.model_dump() | {"backend": backend})


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


def _heatmap_writer(params: Params, predictor: Predictor, folder: Path) -> WriteHeatmaps:
    """Return a function that overlays the evidence for each image's most likely class."""
    if flat := network.without_maps(params, predictor.network):
        raise UserError(
            "predict --heatmap: expected backbones with feature maps, got none of "
            f"{', '.join(flat)}; leave --heatmap out"
        )
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
