"""Benchmark 7: the recipes that can be run with the weights at hand, and what each step brings.

Every recipe runs whole by `dvc repro`, in a project of its own without any cache, on the same
photos; all of our own hold out the same `test`, of the split on whose `train` and `valid` the
settings of fine-tuning were chosen. Differences are paired, image by image, with bootstrap
intervals of 95 % (`pipeline/evaluation/bootstrap.py`).
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from benchmarks import photos, printed
from benchmarks.measure import python, run
from benchmarks.project import Project, at_hand, run_stage
from benchmarks.settings import Settings
from benchmarks.tables import table
from pipeline.commands import recipe
from pipeline.evaluation import bootstrap
from pipeline.evaluation.probabilities import log_softmax, mean_log_probability
from pipeline.storage import arrays, ledger
from pipeline.training import head
from pipeline.training.logistic import fit as fit_logistic

TITLE = "Recipes, and what each step brings"

OURS = ("mobilenetv2", "mobilenetv2-fine-tune", "ensemble", "ensemble-fine-tune", "gabor")
SCRATCH = ("convnet", "convnet-augmented")
BASE = "mobilenetv2"
SEED = 1  # of the split of our own; settings were chosen on its `train` and `valid`
VIEWS = 4  # of the most that a step takes
AUGMENT = {"rotation": 15, "shift": 0.1, "shear": 0.1, "zoom": 0.1, "flip": True, "seed": 0}


class Scores(NamedTuple):
    """Of every `test` image the loss in nats, and 1 where it was classified well, else 0."""

    loss: NDArray[np.float64]
    right: NDArray[np.float64]


def measure(folder: Path, settings: Settings, say: Callable[[str], object]) -> str:
    """The section's tables."""
    taken = photos.find()
    scored: dict[str, Scores] = {}
    rows = []
    for name in (*OURS, *SCRATCH):
        project = _prepared(folder / name, taken, name, settings.variants)
        started = time.perf_counter()
        ended = run(python("dvc", "repro"), project.folder)
        seconds = time.perf_counter() - started
        mib = max(mib for _, mib in printed.usage(ended.printed).values())
        scored[name] = figures = _final(project.folder)
        base = None if name in (BASE, *SCRATCH) else scored[BASE].loss
        rows.append(
            [
                f"`{name}`",
                f"{len(figures.loss):,}",
                shown(figures.right, "{:.2%}"),
                shown(figures.loss, "{:.4f}"),
                "" if base is None else shown(figures.loss - base, "{:+.4f}"),
                f"{seconds:,.0f}",
                f"{mib:,.0f}",
            ]
        )
        say(", ".join(rows[-1]))
        if name != BASE:
            shutil.rmtree(project.folder)
    header = [
        *("recipe", "`test` images", "accuracy", "log loss"),
        *(f"log loss, + to `{BASE}`", "s, from nothing", "MiB"),
    ]
    steps = _steps(folder / BASE, settings, scored)
    return (
        f"{settings.variants:,} labelled {taken.words}, `split.seed: {SEED}` for our own; "
        "intervals of 95 %.\n\n"
        + table(header, rows)
        + "\nWhat each step brings, as paired differences on the same `test` images:\n\n"
        + table(["step", "compared with", "log loss", "log loss, +"], steps)
    )


def _prepared(folder: Path, taken: photos.Photos, name: str, count: int) -> Project:
    project = Project.copy_of_this(folder)
    train = folder.parent / "train.zip"
    if not train.exists():
        named = photos.numbered("train", photos.labelled(taken.train, count), range(count))
        photos.write_zip(train, named)
    follow(project, name, taken, train)
    if name in OURS:
        project.change({"split.seed": SEED})
    project.commit("the benchmark's")
    return project


def follow(project: Project, name: str, taken: photos.Photos, train: Path) -> dict[str, Any]:
    """Write a recipe's params into a project, for photos in a zip and the weights at hand."""
    params = recipe.read(name)
    params["data"] = {"train": str(train), "test": str(train)}
    for backbone, section in params["backbones"].items():
        section |= at_hand(taken, backbone, section)
    text = yaml.safe_dump(params, sort_keys=False)
    (project.folder / "params.yaml").write_text(text, encoding="utf-8")
    return params


def _final(folder: Path) -> Scores:
    """Of the model that `evaluate` has chosen."""
    content = json.loads((folder / "metrics" / "evaluate.json").read_text(encoding="utf-8"))
    model = {"head": "head", "fine_tune": "model"}[content["chosen"]]
    labels = ledger.labels(ledger.read_ledger(folder / "data" / "split.csv"))
    stored = arrays.StoredArray(folder / "data" / model / "predictions.zarr")
    test = labels.rows("test")
    return scores(stored.take(test), labels.label[test])


def scores(log_probability: NDArray[np.float32], label: NDArray[np.int64]) -> Scores:
    """Of log-probabilities (n, n_classes) and labels (n,)."""
    return Scores(
        -log_probability[np.arange(len(label)), label].astype(np.float64),
        (log_probability.argmax(axis=1) == label).astype(np.float64),
    )


def shown(values: NDArray[np.float64], form: str) -> str:
    """The mean of one value an image, and its interval."""
    mean, low, high = (form.format(value) for value in bootstrap.mean_interval(values))
    return f"{mean} ({low}..{high})"


def _steps(folder: Path, settings: Settings, scored: Mapping[str, Scores]) -> list[list[str]]:
    """From one view of one frozen backbone, step by step."""
    project = Project(folder)
    project.change({"extract.views": VIEWS, "extract.augment": AUGMENT})
    run_stage(project, "extract", "MobileNetV2")
    one, flips, tta = "one view", "a flipped view to train on", "flips averaged for a prediction"
    made = {
        one: logistic(folder, 1, 1),
        flips: logistic(folder, 2, 1),
        tta: logistic(folder, 2, 2),
        "four views, all averaged": logistic(folder, VIEWS, VIEWS),
        "calibration by a temperature": logistic(folder, 2, 2, calibrated=True),
        "fine-tuning": scored["mobilenetv2-fine-tune"],
        "a second backbone": scored["ensemble"],
        "both": scored["ensemble-fine-tune"],
    }
    against = {flips: one, tta: flips}
    return [
        [
            name,
            (reference := "" if name == one else against.get(name, tta)),
            f"{figures.loss.mean():.4f}",
            shown(figures.loss - made[reference].loss, "{:+.4f}") if reference else "",
        ]
        for name, figures in made.items()
    ]


def logistic(folder: Path, views: int, predicted: int, calibrated: bool = False) -> Scores:
    """A head on the first views, its strength by cross-validation on `train`."""
    rows = ledger.read_ledger(folder / "data" / "split.csv")
    labels = ledger.labels(rows)
    features = arrays.StoredArray(
        folder / "data/features/MobileNetV2.zarr", ledger.fingerprint(rows)
    )
    of = {
        name: (features.take(labels.rows(name))[:, :views], labels.label[labels.rows(name)])
        for name in ("train", "valid", "test")
    }
    fitted = fit_logistic(
        of["train"][0].astype(np.float32),  # a copy: it is overwritten
        of["train"][1],
        len(labels.classes),
        inverse_regularization=None,
        max_iterations=500,
    ).head

    def log_probability(name: str) -> NDArray[np.float32]:
        features = of[name][0]
        return mean_log_probability([fitted.logits(features[:, i]) for i in range(predicted)])

    temperature = _temperature(log_probability("valid"), of["valid"][1]) if calibrated else 1.0
    return scores(log_softmax(log_probability("test") / temperature), of["test"][1])


def _temperature(log_probability: NDArray[np.float32], label: NDArray[np.int64]) -> float:
    """That with the lowest loss on `valid`: C. Guo et al., "On Calibration" (2017), section 4.2."""
    found = minimize_scalar(
        lambda log: head.loss_and_accuracy(log_probability / np.exp(log), label)[0],
        bounds=(-3, 3),
        method="bounded",
    )
    return float(np.exp(found.x))
