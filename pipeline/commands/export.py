"""One model file for others: photos of any size in, calibrated probabilities out.

Reads what `predict` reads, and the data of `valid` for a check; writes a folder with the model,
`classes.json` and `MODEL_CARD.md`, whole or not at all.
    pipeline export [--format saved_model|openvino] [--out FOLDER] [--tolerance NUMBER]

The file is read again and compared, on images in their original sizes, with what the pipeline said
of them. Keras' TensorFlow backend writes it, whatever `compute.backend` is. OpenVINO's two files
have the same bytes on every run, a SavedModel's have not, though it computes the same.
"""

import argparse
import hashlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import config as parameters
from pipeline.backbones import keras_setup
from pipeline.commands import model_card
from pipeline.evaluation import selected_model
from pipeline.evaluation.probabilities import Floats
from pipeline.images import decode, sources
from pipeline.runtime import atomic_files, machine
from pipeline.runtime.entrypoint import script
from pipeline.runtime.errors import UserError
from pipeline.storage import ledger, sealed_files, tables
from pipeline.training import network

CARD, CLASSES = "MODEL_CARD.md", "classes.json"
WRITTEN = ("model", "model.xml", "model.bin")  # beside them, by one format or the other
OUT = Path("data/export")
IMAGES = 64  # of the check, spread over valid
TOLERANCE = 0.05  # in probability
VIEWS = 2  # the image and its mirror image; further ones are drawn by a hash of the image
PACKAGES = ("keras", "tensorflow", "openvino", "numpy", "pillow")
LEDGER, SPLIT = Path("data/split.csv"), Path("metrics/split.json")
FIGURES, INTERVALS = Path("metrics/evaluate.json"), Path("metrics/intervals.json")
HEAD, MODEL = Path("data/head"), Path("data/model")

Function = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@script
def main() -> None:
    """Build, write, check, describe."""
    asked = _asked()
    params = parameters.read()
    rows = ledger.read_ledger(atomic_files.require(LEDGER, "split"))
    evaluated, intervals, split = (
        tables.read_json(path, stage)
        for path, stage in ((FIGURES, "evaluate"), (INTERVALS, "evaluate"), (SPLIT, "split"))
    )
    classes, name = ledger.labels(rows).classes, selected_model.selection().name
    weights = {
        backbone: sealed_files.require_sealed(
            Path("data/weights", f"{backbone}.weights.h5"), f"fetch_weights@{backbone}"
        )
        for backbone in params.train_head.backbones
    }
    _require_free(asked.out)
    keras_setup.start(**params.compute.model_dump() | {"backend": "tensorflow", "devices": 1})
    from pipeline.training import serving_model

    wanted = params.resize
    loaded = network.load(params, wanted.size, weights, HEAD, MODEL, len(classes), name)
    views = min(params.predict.views, VIEWS)
    served = serving_model.model(
        loaded.whole, wanted.fit, wanted.interpolation, views, evaluated["temperature"]
    )
    with atomic_files.replacing(asked.out) as partial:
        partial.mkdir()
        serving_model.write(served, partial, asked.format)
        written = serving_model.read(partial, asked.format)
        _, log_probability = selected_model.read(ledger.fingerprint(rows))
        expected = _expected(rows, log_probability)
        check = _compare(written, params, rows, expected, asked.tolerance)
        tables.write_json(partial / CLASSES, {"classes": list(classes)})
        facts = model_card.Facts(
            form=asked.format,
            file=serving_model.FORMATS[asked.format],
            classes=classes,
            backbones=list(weights),
            evaluated=evaluated,
            intervals=intervals,
            split=split,
            resize=(wanted.size, wanted.fit, wanted.interpolation),
            views=(views, params.predict.views),
            check=check,
            versions=machine.versions(PACKAGES),
            hashes=_hashes(partial, [*weights.values(), *_trained(name), LEDGER, parameters.PATH]),
            commit=_commit(),
        )
        atomic_files.write_text(partial / CARD, model_card.text(facts))
        for lock in partial.glob(".*.lock"):
            lock.unlink()
    print(f"export: {asked.format} in {asked.out}, described in {asked.out / CARD}")
    print(f"export: checked on {check.sentence()}")


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.commands.export",
        description="Write the final model as one file for others.",
    )
    parser.add_argument("--format", default="saved_model", help="saved_model (default) or openvino")
    parser.add_argument("--out", default=OUT, type=Path, metavar="FOLDER")
    parser.add_argument(
        "--tolerance",
        default=TOLERANCE,
        type=float,
        help=f"largest difference in probability to the pipeline's own ({TOLERANCE:g})",
    )
    asked = parser.parse_args()
    if asked.format not in ("saved_model", "openvino"):
        raise UserError(
            f"export --format: expected saved_model or openvino, got {asked.format!r}; choose one"
        )
    if asked.format == "openvino" and importlib.util.find_spec("openvino") is None:
        raise UserError(
            "export --format: expected a package that is installed, got 'openvino'; "
            "run `pip install 'stages[openvino]'`, or choose saved_model"
        )
    return asked


def _require_free(out: Path) -> None:
    """Refuse to take the place of what is no earlier export."""
    held = {path.name for path in out.iterdir()} if out.is_dir() else set()
    earlier = {CARD, CLASSES} <= held <= {CARD, CLASSES, *WRITTEN} or not held
    if out.exists() and not (out.is_dir() and earlier):
        raise UserError(
            f"export --out: expected a new folder or one of an earlier export, got {str(out)!r}, "
            "which holds something else; name another one"
        )


def _expected(rows: list[ledger.Row], log_probability: Floats) -> dict[str, NDArray[np.float64]]:
    """What the pipeline says of each valid image, probabilities (n_classes,) by its member."""
    accepted = [row for row in rows if row.accepted]
    return {
        row.member: np.exp(given).astype(np.float64)
        for row, given in zip(accepted, log_probability, strict=True)
        if row.subset == "valid"
    }


def _compare(
    served: Function,
    params: parameters.Params,
    rows: list[ledger.Row],
    expected: dict[str, NDArray[np.float64]],
    tolerance: float,
) -> model_card.Check:
    """Predict valid images from their original files, each in its own size.

    Raises:
        UserError: a larger difference than the tolerance, or files that have changed.
    """
    hashes = {row.member: row.sha256 for row in rows if row.source == "train"}
    members = list(expected)
    members = [
        members[at]
        for at in np.unique(np.linspace(0, len(members) - 1, IMAGES).round().astype(int))
    ]
    differences, changed = [], 0
    with sources.open_source(Path(params.data.train)) as archive:
        for member in members:
            try:
                content = archive.read(member)
            except (decode.Unreadable, KeyError):
                content = b""
            if hashlib.sha256(content).hexdigest() != hashes[member]:
                raise UserError(
                    f"{params.data.train} member {member}: expected the bytes that `split` judged, "
                    "got others or none; run `dvc repro` to judge what is there now"
                )
            given = served(np.asarray(decode.decode(content))[None])[0]
            differences.append(np.abs(given - expected[member]))
            changed += int(given.argmax() != expected[member].argmax())
    largest = float(np.max(differences))
    check = model_card.Check(len(members), largest, float(np.mean(differences)), changed, tolerance)
    if not largest <= tolerance:
        worst = members[int(np.argmax(np.max(differences, axis=1)))]
        raise UserError(
            f"export: expected the pipeline's own probabilities up to {tolerance:g}, got a "
            f"difference of {largest:.6f} at {worst}; find out why, or give another --tolerance"
        )
    return check


def _trained(name: str) -> list[Path]:
    tuned = MODEL / "model.weights.h5"
    return [HEAD / "head.npz", *([tuned] if name == "fine_tune" and tuned.exists() else [])]


def _hashes(folder: Path, used: list[Path]) -> dict[str, str]:
    """sha256 of the written files, by their names in the folder, and of what they came from."""
    written = sorted(path for path in folder.rglob("*") if path.is_file() and path.name[0] != ".")
    return {
        **{path.relative_to(folder).as_posix(): atomic_files.sha256(path) for path in written},
        **{path.as_posix(): atomic_files.sha256(path) for path in used},
    }


def _commit() -> str:
    """The commit that is checked out, in words; a project may be used without git."""
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "not known"
    return f"{commit.strip()}{', with changes that are not committed' if changed.strip() else ''}"


def _git(*words: str) -> str:
    run: Any = subprocess.run(["git", *words], check=True, capture_output=True, text=True)  # noqa: S603, S607
    return str(run.stdout)


if __name__ == "__main__":
    sys.exit(main())
