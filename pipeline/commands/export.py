"""Write the final model as one file: images of any size in, calibrated probabilities out.

    pipeline export
    pipeline export --format openvino --out model-for-the-app

Reads what `predict` reads, and the images of valid to check the result. Writes a folder atomically:
the model, classes.json and MODEL_CARD.md. The written file is loaded again and compared, on images
in their original sizes, with the pipeline's own predictions. OpenVINO's two files have the same
bytes on every run; a SavedModel computes the same, but its bytes differ.
"""

import argparse
import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.backbones import keras_setup
from pipeline.evaluation import selected_model
from pipeline.evaluation.probabilities import Floats
from pipeline.images import decode, sources
from pipeline.reporting import comparison, html
from pipeline.reproducibility import git
from pipeline.runtime import atomic_files, machine
from pipeline.runtime.errors import UserError
from pipeline.schema import Params
from pipeline.storage import ledger, tables
from pipeline.training import network

CARD, CLASSES = "MODEL_CARD.md", "classes.json"
MODEL_FILES = ("model", "model.xml", "model.bin")  # of both formats
IMAGES = 64  # compared, spread over valid
TOLERANCE = 0.05  # in probability
VIEWS = 2  # the image and its mirror image; further ones are drawn by a hash of the image
PACKAGES = ("keras", "tensorflow", "openvino", "numpy", "pillow")

Served = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Check:
    """How the exported model compares with the pipeline's own predictions, in probability."""

    images: int  # predicted by both, spread over valid
    largest: float
    mean: float
    changed: int  # images with another class
    tolerance: float

    def sentence(self) -> str:
        """Describe the result."""
        return (
            f"{self.images:,} images of valid, from their original files: the largest difference "
            f"in probability is {self.largest:.6f}, the mean {self.mean:.6f}, and {self.changed} "
            f"got another class (differences up to {self.tolerance:g} are accepted)"
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", default="saved_model", choices=("saved_model", "openvino"))
    parser.add_argument("--out", default=paths.DATA / "export", type=Path, metavar="FOLDER")
    parser.add_argument(
        "--tolerance",
        default=TOLERANCE,
        type=float,
        help=f"largest accepted difference in probability (default {TOLERANCE:g})",
    )


def run(arguments: argparse.Namespace) -> None:
    """Build, write, check and describe the model."""
    if arguments.format == "openvino" and importlib.util.find_spec("openvino") is None:
        raise UserError(
            "export --format: expected an installed package, got 'openvino'; run `pip install "
            "'pipeline[openvino]'`, or choose saved_model"
        )
    params = config.read()
    rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
    evaluated, intervals, split = (
        tables.read_json(path, stage)
        for path, stage in (
            (paths.EVALUATION, "evaluate"),
            (paths.INTERVALS, "evaluate"),
            (paths.SPLIT_METRICS, "split"),
        )
    )
    classes = ledger.labels(rows).classes
    selected = selected_model.selection()
    weights = network.weights(params)
    _require_replaceable(arguments.out)
    keras_setup.start(**params.compute.model_dump() | {"backend": "tensorflow"})
    from pipeline.training import serving_model

    resize = params.resize
    views = min(params.predict.views, VIEWS)
    whole = network.load(params, resize.size, len(classes), selected.name).model
    model = serving_model.model(
        whole, resize.fit, resize.interpolation, views, selected.temperature
    )
    with atomic_files.replacing(arguments.out) as partial:
        partial.mkdir()
        serving_model.write(model, partial, arguments.format)
        served = serving_model.read(partial, arguments.format)
        _, log_probability = selected_model.read(ledger.fingerprint(rows))
        check = _compare(served, params, rows, log_probability, arguments.tolerance)
        tables.write_json(partial / CLASSES, {"classes": list(classes)})
        inputs = [*weights.values(), paths.head_file(), paths.LEDGER, paths.PARAMS]
        if selected.name == "fine_tune" and paths.model_weights().exists():
            inputs.append(paths.model_weights())
        content = {
            "form": arguments.format,
            "file": serving_model.FORMATS[arguments.format],
            "classes": classes,
            "backbones": list(weights),
            "evaluated": evaluated,
            "intervals": intervals,
            "split": split,
            "resize": resize,
            "views": views,
            "pipeline_views": params.predict.views,
            "check": check,
            "versions": machine.versions(PACKAGES),
            "hashes": _hashes(partial, inputs),
            "commit": _commit(),
        }
        card = html.render("model_card.md.jinja", (), content, comparison.FORMATS)
        atomic_files.write_text(partial / CARD, card)
        for lock in partial.glob(".*.lock"):
            lock.unlink()
    print(f"export: {arguments.format} in {arguments.out}, described in {arguments.out / CARD}")
    print(f"export: checked on {check.sentence()}")


def _require_replaceable(out: Path) -> None:
    """Refuse a path that holds anything but an earlier export."""
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    earlier = {CARD, CLASSES} <= names <= {CARD, CLASSES, *MODEL_FILES} or not names
    if out.exists() and not (out.is_dir() and earlier):
        raise UserError(
            f"export --out: expected a new folder or an earlier export, got {str(out)!r}, "
            "which holds something else; name another one"
        )


def _compare(
    served: Served,
    params: Params,
    rows: list[ledger.LedgerRow],
    log_probability: Floats,
    tolerance: float,
) -> Check:
    """Predict valid images from their original files, each in its own size."""
    accepted = zip((row for row in rows if row.accepted), log_probability, strict=True)
    valid = [(row, np.exp(values)) for row, values in accepted if row.subset == "valid"]
    spread = np.unique(np.linspace(0, len(valid) - 1, IMAGES).round().astype(int))
    differences, changed, members = [], 0, []
    with sources.open_source(Path(params.data.train)) as source:
        for row, expected in (valid[i] for i in spread):
            try:
                content = source.read(row.member)
            except (decode.Unreadable, KeyError):
                content = b""
            if hashlib.sha256(content).hexdigest() != row.sha256:
                raise UserError(
                    f"{params.data.train} member {row.member}: expected the bytes that `split` "
                    "read, got others or none; run `dvc repro`"
                )
            probability = served(np.asarray(decode.decode(content))[None])[0]
            differences.append(np.abs(probability - expected))
            changed += int(probability.argmax() != expected.argmax())
            members.append(row.member)
    largest = float(np.max(differences))
    if not largest <= tolerance:
        worst = members[int(np.argmax(np.max(differences, axis=1)))]
        raise UserError(
            f"export: expected the pipeline's own probabilities up to {tolerance:g}, got a "
            f"difference of {largest:.6f} at {worst}; find out why, or give another --tolerance"
        )
    mean = float(np.mean(differences))
    return Check(len(members), largest, mean, changed, tolerance)


def _hashes(folder: Path, inputs: list[Path]) -> dict[str, str]:
    """Return the sha256 of the written files, by their names in the folder, and of the inputs."""
    written = sorted(path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {
        **{path.relative_to(folder).as_posix(): atomic_files.sha256(path) for path in written},
        **{path.as_posix(): atomic_files.sha256(path) for path in inputs},
    }


def _commit() -> str:
    """Describe the commit that is checked out; a project may be used without git."""
    commit = git.run("rev-parse", "HEAD")
    changed = git.run("status", "--porcelain", "--untracked-files=no")
    return f"{commit or 'unknown'}{', with uncommitted changes' if changed else ''}"
