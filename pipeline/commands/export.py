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
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.backbones import keras_setup
from pipeline.commands.out_folder import require_replaceable
from pipeline.evaluation import calibration, selected_model
from pipeline.evaluation.probabilities import Floats
from pipeline.images import decode, sources
from pipeline.reporting import html
from pipeline.reproducibility import git
from pipeline.runtime import atomic_files, machine
from pipeline.runtime.errors import UserError
from pipeline.schema import Params
from pipeline.storage import array_views, ledger, sealed_files, tables
from pipeline.training import head, head_training, network

CARD, CLASSES = "MODEL_CARD.md", "classes.json"
MODEL_FILES = ("model", "model.xml", "model.bin")  # of both formats
IMAGES = 64  # compared, spread over valid
TOLERANCE = 0.05  # in probability
VIEWS = 2  # the image and its mirror image; further ones are drawn by a hash of the image
PACKAGES = ("keras", "tensorflow", "openvino", "numpy", "pillow")

Served = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


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
    params = config.read()
    network.require_keras(params, "export")
    rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
    classes = ledger.labels(rows).classes
    selected = selected_model.selection()
    weights = network.weights(params)
    require_replaceable("export --out", arguments.out, (CARD, CLASSES), MODEL_FILES)
    keras_setup.start(**params.compute.model_dump() | {"backend": "tensorflow"})
    from pipeline.training import serving_model

    views = min(params.predict.views, VIEWS)
    whole = network.load(params, params.resize.size, len(classes), selected.name).model
    model = serving_model.model(
        whole, params.resize.fit, params.resize.interpolation, views, selected.temperature
    )
    with atomic_files.replacing(arguments.out) as partial:
        partial.mkdir()
        serving_model.write(model, partial, arguments.format)
        served = serving_model.read(partial, arguments.format)
        check = _compare(served, params, rows, _predicted(params, rows), arguments.tolerance)
        text = json.dumps({"classes": classes}, indent=2)
        (partial / CLASSES).write_text(f"{text}\n", encoding="utf-8", newline="\n")
        written = sorted(path for path in partial.rglob("*") if path.is_file())
        inputs = [*weights.values(), paths.head_file(), paths.LEDGER, paths.PARAMS]
        if selected.name == "fine_tune" and paths.model_weights().exists():
            inputs.append(paths.model_weights())
        files = {path.relative_to(partial).as_posix(): path for path in written}
        files |= {path.as_posix(): path for path in inputs}
        commit = git.run("rev-parse", "HEAD") or "unknown"  # a project may be used without git
        changed = git.run("status", "--porcelain", "--untracked-files=no")
        content = {
            "form": arguments.format,
            "file": serving_model.FORMATS[arguments.format],
            "classes": classes,
            "backbones": list(weights),
            "evaluated": tables.read_json(paths.EVALUATION, "evaluate"),
            "intervals": tables.read_json(paths.INTERVALS, "evaluate"),
            "split": tables.read_json(paths.SPLIT_METRICS, "split"),
            "resize": params.resize,
            "views": views,
            "pipeline_views": params.predict.views,
            "check": check,
            "versions": machine.versions(PACKAGES),
            "hashes": {name: atomic_files.sha256(path) for name, path in files.items()},
            "commit": commit + ", with uncommitted changes" * bool(changed),
        }
        card = html.render("model_card.md.jinja", content)
        (partial / CARD).write_text(card, encoding="utf-8", newline="\n")
    print(f"export: {arguments.format} in {arguments.out}, described in {arguments.out / CARD}")
    print(f"export: checked on {check}")


def _predicted(params: Params, rows: Sequence[ledger.LedgerRow]) -> Floats:
    """Return the final model's log-probabilities of valid.

    With folds they are computed from the cached features, as those of the pipeline are of single
    heads.
    """
    fingerprint, valid = ledger.fingerprint(rows), ledger.labels(rows).rows("valid")
    selected, log_probability = selected_model.read(fingerprint)
    if params.train_head.folds is None:
        return log_probability[valid]
    features = array_views.open_features(params.backbones, fingerprint)
    logits = head.load(sealed_files.require_sealed(paths.head_file(), "train_head")).logits
    predicted = head_training.predict(features, params.predict.views, logits, valid)
    return calibration.scaled(np.concatenate([*predicted]), selected.temperature)


def _compare(
    served: Served,
    params: Params,
    rows: Sequence[ledger.LedgerRow],
    log_probability: Floats,
    tolerance: float,
) -> str:
    """Predict valid images from their original files, each in its own size; describe the result."""
    in_valid = (row for row in rows if row.accepted and row.subset == "valid")
    valid = [*zip(in_valid, np.exp(log_probability), strict=True)]
    spread = np.unique(np.linspace(0, len(valid) - 1, IMAGES).round().astype(int))
    differences: dict[str, NDArray[np.float32]] = {}
    changed = 0
    with sources.open_source(Path(params.data.train), params.data.zip_encoding) as source:
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
            probability = served(np.asarray(decode.decode(content).image)[None])[0]
            differences[row.member] = np.abs(probability - expected)
            changed += int(probability.argmax() != expected.argmax())
    worst = max(differences, key=lambda member: float(differences[member].max()))
    largest = float(differences[worst].max())
    if not largest <= tolerance:
        raise UserError(
            f"export: expected the pipeline's own probabilities up to {tolerance:g}, got a "
            f"difference of {largest:.6f} at {worst}; find out why, or give another --tolerance"
        )
    mean = float(np.mean(list(differences.values())))
    return (
        f"{len(differences):,} images of valid, from their original files: the largest difference "
        f"in probability is {largest:.6f}, the mean {mean:.6f}, and {changed} got another class "
        f"(differences up to {tolerance:g} are accepted)"
    )
