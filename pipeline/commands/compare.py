"""Compare this run with that of another commit, or two commits.

    pipeline compare main
    pipeline compare v1.0 my-branch --out comparison

REVISION is a branch, tag or commit; OTHER is the newer side, by default the working tree. Prints
Markdown: differing code, parameters and metrics, and whether the final models differ beyond chance.
Writes a folder with the same as `comparison.md` and `index.html`, and `plots/*.svg` of both runs.
Everything is read from git, except predictions, from DVC's cache or its remote; without them the
committed confidence intervals are compared.
"""

import argparse
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.commands import git_runs
from pipeline.commands.git_runs import Run
from pipeline.evaluation import selected_model
from pipeline.evaluation.comparison import LOWER_IS_BETTER, NO_DIFFERENCE, compare_runs
from pipeline.images.labels import natural_key
from pipeline.reporting import comparison, html, overlays
from pipeline.reporting.comparison import Change, Comparison, Plot, Verdict
from pipeline.reproducibility import code_changes, dvc_project
from pipeline.runtime import atomic_files
from pipeline.runtime.entrypoint import quiet_if_nobody_reads
from pipeline.runtime.errors import UserError
from pipeline.storage import results

PAGE, TEXT, PLOTS = "index.html", "comparison.md", "plots"
SUBSETS = ("valid", "test")
MODELS = {"fine_tune": "fine-tuned", "head": "head"}
HISTORIES = {"fine_tune": paths.FINE_TUNE_HISTORY, "head": paths.HEAD_HISTORY}
# The kind and CSV of each plot, by the plot's name.
SOURCES = {
    f"{model}_{kind}": (
        kind,
        HISTORIES[model] if kind in ("loss", "accuracy") else paths.CURVES / f"{model}_{kind}.csv",
    )
    for model in MODELS
    for kind in ("loss", "accuracy", "roc", "precision_recall", "reliability", "confusion")
} | {"final_thresholds": ("thresholds", paths.CURVES / "final_thresholds.csv")}
PREDICTIONS = (
    paths.LEDGER,
    *(paths.predictions(folder) for folder in selected_model.FOLDERS.values()),
)
Metrics = Mapping[str, Mapping[str, Any]]
Both = Sequence[results.Bounds]  # of the old and the new run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("revision", metavar="REVISION")
    parser.add_argument("other", nargs="?", metavar="OTHER")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("comparison"))


def run(arguments: argparse.Namespace) -> None:
    """Compare both runs, write the folder and print the Markdown."""
    logging.getLogger("dvc").setLevel(logging.ERROR)  # what it warns about is reported below
    files = (paths.INTERVALS, *(path for _, path in SOURCES.values()))
    with git_runs.opened(arguments.revision, arguments.other, files) as (old, new):
        params = _changes(old.params(), new.params())
        metrics = old.metrics(), new.metrics()
        bounds = [results.intervals(run.folder / paths.INTERVALS) for run in (old, new)]
        verdicts, unpaired = _paired(old, new)
        stages, code = code_changes.code_differences(old.code(), new.code())
        plots, unchanged, not_drawn = _plots(old, new)
        result = Comparison(
            old=old.name,
            new=new.revision,
            verdicts=verdicts or _unpaired(metrics, bounds),
            unpaired=unpaired,
            stages=stages,
            code=code,
            params=params,
            metrics=_metrics(metrics, bounds),
            plots=plots,
            unchanged=unchanged,
            not_drawn=not_drawn,
        )
    text = comparison.markdown(result)
    _write(arguments.out, comparison.page(result), text, plots)
    with quiet_if_nobody_reads():
        print(text, end="")
    print(f"compare: {arguments.out / PAGE}", file=sys.stderr)


def _paired(old: Run, new: Run) -> tuple[list[Verdict], str]:
    """Compare the final models image by image, or say why that is impossible."""
    sides = []
    for run in (old, new):
        name = f"of {run.name}"
        if run.revision and dvc_project.fetch(run.revision, PREDICTIONS, run.folder):
            return [], (
                f"Not paired by image: predictions {name} are neither in DVC's cache nor on a "
                "remote; push them from where they were computed, or check that commit out and "
                "run dvc repro once."
            )
        try:
            sides.append(selected_model.read_run(run.folder))
        except UserError as error:
            reason = _reason(error, run)
            remedy = "a later commit may do" if run.revision else "run dvc pull or dvc repro"
            return [], (
                f"Not paired by image: predictions {name} cannot be read ({reason}); {remedy}."
            )
    if sides[0].classes != sides[1].classes:
        return [], "Not paired by image: the classes of the two runs differ."
    verdicts = []
    for subset in SUBSETS:
        images, metrics = compare_runs(sides[0], sides[1], subset)
        for metric, one in metrics.items():
            values, difference = (one["old"], one["new"]), (one["difference"], *one["interval"])
            verdicts.append(
                Verdict(subset, metric, images, *values, None, difference, one["shown"])
            )
    if not verdicts:
        return [], "Not paired by image: no image is held out by both runs under one label."
    return verdicts, ""


def _reason(error: UserError, run: Run) -> str:
    return str(error).replace(f"{run.folder}/", "").partition(";")[0]


def _unpaired(metrics: tuple[Metrics, Metrics], bounds: Both) -> list[Verdict]:
    """Compare the final models' metrics by the committed intervals of both runs."""
    old, new = (one.get(str(paths.EVALUATION)) or {} for one in metrics)
    verdicts = []
    for subset in SUBSETS:
        images = new.get(f"final.{subset}.images")
        for metric in html.CAPTIONS["METRICS"]:
            key = f"final.{subset}.{metric}"
            intervals = _intervals(key, bounds)
            a, b = old.get(key), new.get(key)
            if not intervals or images is None or a is None or b is None:
                continue
            better = "better" if (b < a) == (metric in LOWER_IS_BETTER) else "worse"
            outcome = better if intervals == comparison.APART else NO_DIFFERENCE
            pair = (bounds[0][key], bounds[1][key])
            verdicts.append(Verdict(subset, metric, images, a, b, pair, None, outcome))
    return verdicts


def _intervals(key: str, bounds: Both) -> str:
    """Return whether both runs' intervals of a metric overlap; empty where a run has none."""
    if not all(key in side for side in bounds):
        return ""
    (low, high), (other_low, other_high) = (side[key] for side in bounds)
    overlap = low <= other_high and other_low <= high
    return comparison.OVERLAP if overlap else comparison.APART


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    keys = sorted(old.keys() | new.keys(), key=natural_key)
    return [Change(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def _metrics(metrics: tuple[Metrics, Metrics], bounds: Both) -> dict[str, list[Change]]:
    """Return the metrics that differ, by file, those of `evaluate` first."""
    changes = {}
    for path in map(str, git_runs.METRICS):
        lines = _changes(metrics[0].get(path, {}), metrics[1].get(path, {}))
        if path == str(paths.EVALUATION):
            lines = [replace(one, intervals=_intervals(one.key, bounds)) for one in lines]
        if lines:
            changes[path] = lines
    return changes


def _plots(old: Run, new: Run) -> tuple[list[Plot], list[str], list[str]]:
    """Return plots that differ, titles of those that do not, and why others are not drawn."""
    plots, unchanged, not_drawn = [], [], []
    for name, (kind, path) in SOURCES.items():
        kind_title, about = html.CAPTIONS["OVERLAYS"][kind]
        model = MODELS.get(name.removesuffix(f"_{kind}"), "")
        title = f"{kind_title}, {model}" if model else kind_title
        drawable: dict[str, Any] = {}
        for run in (old, new):
            try:
                columns = results.columns(
                    run.folder / path, overlays.COLUMNS[kind], kind != "confusion"
                )
            except UserError as error:
                not_drawn.append(f"{title}, {run.name}, is not drawn ({_reason(error, run)}).")
            else:
                drawable |= {run.name: columns} if columns else {}
        if len(drawable) == 2 and len({str(columns) for columns in drawable.values()}) == 1:
            unchanged.append(title)
        elif drawable:
            plots.append(Plot(name, title, about, overlays.svg(kind, drawable)))
    return plots, unchanged, not_drawn


def _write(out: Path, page: str, text: str, plots: Iterable[Plot]) -> None:
    """Write the folder atomically; only an earlier comparison is replaced."""
    other = {path.name for path in out.iterdir()} - {PAGE, TEXT, PLOTS} if out.is_dir() else set()
    if other or (out.exists() and not out.is_dir()):
        raise UserError(
            f"compare --out: expected a new folder or an earlier comparison, got {out}"
            f"{f' with {sorted(other)[0]} in it' if other else ', a file'}; name another folder"
        )
    with atomic_files.replacing(out) as partial:
        (partial / PLOTS).mkdir(parents=True)
        contents = {PAGE: page, TEXT: text} | {f"{PLOTS}/{one.name}.svg": one.svg for one in plots}
        for name, content in contents.items():
            (partial / name).write_text(content, encoding="utf-8", newline="\n")
