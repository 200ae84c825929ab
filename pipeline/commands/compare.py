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
import contextlib
import logging
import sys
import tempfile
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import config, paths
from pipeline.commands.out_folder import require_replaceable
from pipeline.evaluation import selected_model
from pipeline.evaluation.comparison import (
    LOWER_IS_BETTER,
    NO_DIFFERENCE,
    OUT_OF_FOLD,
    compare_runs,
)
from pipeline.reporting import comparison, html, overlays
from pipeline.reporting.comparison import Change, Comparison, Plot, Verdict
from pipeline.reproducibility import code_changes, dvc_project
from pipeline.runtime import atomic_files
from pipeline.runtime.entrypoint import quiet_if_nobody_reads
from pipeline.runtime.errors import UserError
from pipeline.storage import results, tables
from pipeline.storage.texts import natural_key

PAGE, TEXT, PLOTS = "index.html", "comparison.md", "plots"
METRICS = {
    paths.EVALUATION: "evaluate",
    paths.SPLIT_METRICS: "split",
    paths.AUDIT_METRICS: "audit",
    paths.HEAD_METRICS: "train_head",
    paths.FINE_TUNE_METRICS: "fine_tune",
}
SUBSETS = (OUT_OF_FOLD, "valid", "test")
HISTORIES = {"fine_tune": paths.FINE_TUNE_HISTORY, "head": paths.HEAD_HISTORY}
SOURCES = {  # the CSV of each plot, by model and kind
    (model, kind): (
        HISTORIES[model] if kind in ("loss", "accuracy") else paths.CURVES / f"{model}_{kind}.csv"
    )
    for model in HISTORIES
    for kind in ("loss", "accuracy", "roc", "precision_recall", "reliability", "confusion")
} | {("final", "thresholds"): paths.CURVES / "final_thresholds.csv"}
PREDICTIONS = (
    paths.LEDGER,
    *(paths.predictions(folder) for folder in selected_model.FOLDERS.values()),
)
Flat = Mapping[str, Any]  # by keys with dots
Both = Sequence[results.Bounds]  # of the old and the new run


class Run(NamedTuple):
    """A run: its name in texts, its revision (None for the working tree), its files' folder."""

    name: str
    revision: str | None
    folder: Path
    absent: dict[Path, str]  # why files are not in the folder; empty if the run has none

    def metrics(self, unknown: Container[Path]) -> dict[str, Flat]:
        """Return the metrics by file, without files that a run lacks."""
        return {
            str(path): code_changes.flattened(tables.read_json(self.folder / path, stage))
            for path, stage in METRICS.items()
            if path not in unknown
        }

    def named(self, text: str) -> str:
        """Name files in a text as git does, such as `main:params.yaml`."""
        return text.replace(f"{self.folder}/", f"{self.revision}:") if self.revision else text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("revision", metavar="REVISION")
    parser.add_argument("other", nargs="?", metavar="OTHER")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("comparison"))


def run(arguments: argparse.Namespace) -> None:
    """Compare both runs, write the folder and print the Markdown."""
    logging.getLogger("dvc").setLevel(logging.ERROR)  # what it warns about is reported below
    require_replaceable("compare --out", arguments.out, (PAGE, TEXT, PLOTS))
    files = (paths.INTERVALS, *SOURCES.values())
    with _opened(arguments.revision, arguments.other, files) as runs:
        old, new = runs
        unknown = _unknown(runs)
        params = [code_changes.flattened(config.load(run.folder / paths.PARAMS)) for run in runs]
        metrics = [run.metrics(unknown) for run in runs]
        bounds = [results.intervals(run.folder / paths.INTERVALS) for run in runs]
        changes = {
            path: _changes(*(side.get(path, {}) for side in metrics), bounds=bounds)
            for path in map(str, METRICS)
        }
        try:
            verdicts, unpaired = _paired(old, new), ""
        except UserError as error:
            unpaired = f"Not paired by image: {old.named(new.named(str(error)))}."
            finals = (side.get(str(paths.EVALUATION), {}) for side in metrics)
            verdicts = _unpaired(*finals, bounds=bounds)
        codes = [code_changes.read(run.folder / paths.CODE) for run in runs]
        code = code_changes.code_differences(*(codes if paths.CODE not in unknown else ({}, {})))
        plots, unchanged, not_drawn = _plots(runs)
    result = Comparison(
        old.name,
        new.revision,
        verdicts,
        unpaired,
        params=_changes(*params, bounds=({}, {})),
        metrics={path: lines for path, lines in changes.items() if lines},
        plots=plots,
        unchanged=unchanged,
        not_drawn=not_drawn,
        stages=code[0],
        code=code[1],
        unknown=[*filter(None, unknown.values())],
    )
    text = comparison.markdown(result)
    contents = {PAGE: comparison.page(result), TEXT: text}
    contents |= {f"{PLOTS}/{one.name}.svg": one.svg for one in plots}
    with atomic_files.replacing(arguments.out) as partial:
        (partial / PLOTS).mkdir(parents=True)
        for name, content in contents.items():
            (partial / name).write_text(content, encoding="utf-8", newline="\n")
    with quiet_if_nobody_reads():
        print(text, end="")
    print(f"compare: {arguments.out / PAGE}", file=sys.stderr)


@contextlib.contextmanager
def _opened(old: str, new: str | None, files: Iterable[Path]) -> Iterator[tuple[Run, Run]]:
    """Yield two runs with the given files that git or DVC has of them; None is the working tree."""
    with dvc_project.opened() as project:
        for revision in (old, new):
            if revision is not None:
                project.require_revision(revision)
    with tempfile.TemporaryDirectory() as folder:
        runs = (
            Run(old, old, Path(folder, "old"), {}),
            Run(new, new, Path(folder, "new"), {}) if new else Run("this run", None, Path(), {}),
        )
        files = [*files, paths.PARAMS, paths.CODE, *METRICS]
        for run in runs:
            if run.revision:
                run.absent.update(dvc_project.fetch(run.revision, files, run.folder))
            if run.revision and paths.PARAMS in run.absent:
                raise UserError(
                    f"revision: expected a commit with {paths.PARAMS}, got {run.name!r}, whose is "
                    f"{run.absent[paths.PARAMS] or 'absent'}; choose another one"
                )
        try:
            yield runs
        except UserError as error:
            raise UserError(runs[0].named(runs[1].named(str(error)))) from None


def _unknown(runs: Iterable[Run]) -> dict[Path, str]:
    """Return the files that a run lacks and so are not compared, each with the reason."""
    unknown: dict[Path, str] = {}
    for path in (*METRICS, paths.INTERVALS, paths.CODE):
        lacking = [run for run in runs if not (run.folder / path).exists()]
        if path == paths.EVALUATION and not all(run.revision for run in lacking):
            continue  # an error where it is read
        because = [f"{run.name} has none" for run in lacking if len(lacking) == 1]
        for run in lacking:
            if reason := run.absent.get(path):
                because = [f"that of {run.name} is {reason}"]
        if lacking:
            unknown[path] = f"{path} is not compared: {because[0]}." if because else ""
    return unknown


def _paired(old: Run, new: Run) -> list[Verdict]:
    """Compare the final models image by image; raise `UserError` where that is impossible."""
    sides = []
    for run in (old, new):
        absent = run.revision and dvc_project.fetch(run.revision, PREDICTIONS, run.folder)
        if absent:
            reason = next(filter(None, absent.values()), "not outputs of that commit")
            raise UserError(f"predictions of {run.name} are {reason}")
        sides.append(selected_model.read_run(run.folder))
    if sides[0].classes != sides[1].classes:
        raise UserError("the classes of the two runs differ")
    verdicts = []
    for subset in SUBSETS:
        images, metrics = compare_runs(sides[0], sides[1], subset)
        for metric, one in metrics.items():
            values = one["old"], one["new"]
            difference = (one["difference"], *(one["interval"] or (None, None)))
            verdicts.append(
                Verdict(_words(subset), metric, images, *values, None, difference, one["shown"])
            )
    if not verdicts:
        raise UserError("no image is held out by both runs under one label")
    return verdicts


def _unpaired(old: Flat, new: Flat, *, bounds: Both) -> list[Verdict]:
    """Compare the final models' metrics by the committed intervals of both runs."""
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
            verdicts.append(Verdict(_words(subset), metric, images, a, b, pair, None, outcome))
    return verdicts


def _words(subset: str) -> str:
    return subset.replace("_", "-")


def _intervals(key: str, bounds: Both) -> str:
    """Return whether both runs' intervals of a metric overlap; empty where a run lacks the key."""
    if not all(key in side for side in bounds):
        return ""
    old, new = (side[key] for side in bounds)
    if old is None or new is None:
        return comparison.UNAVAILABLE
    return comparison.OVERLAP if old[0] <= new[1] and new[0] <= old[1] else comparison.APART


def _changes(old: Flat, new: Flat, *, bounds: Both) -> list[Change]:
    return [
        Change(key, old.get(key), new.get(key), _intervals(key, bounds))
        for key in sorted(old.keys() | new.keys(), key=natural_key)
        if old.get(key) != new.get(key)
    ]


def _plots(runs: Iterable[Run]) -> tuple[list[Plot], list[str], list[str]]:
    """Return plots that differ, titles of those that do not, and why others are not drawn."""
    plots, unchanged, not_drawn = [], [], []
    for (model, kind), path in SOURCES.items():
        title, about = html.CAPTIONS["OVERLAYS"][kind]
        title += {"fine_tune": ", fine-tuned", "head": ", head", "final": ""}[model]
        drawable: dict[str, Any] = {}
        for run in runs:
            try:
                if run.absent.get(path):
                    raise UserError(f"that of {run.name} is {run.absent[path]}")
                columns = results.columns(
                    run.folder / path, overlays.COLUMNS[kind], kind != "confusion"
                )
            except UserError as error:
                not_drawn.append(f"{title}, is not drawn ({run.named(str(error))}).")
            else:
                drawable |= {run.name: columns} if columns else {}
        if len(drawable) == 2 and len({str(columns) for columns in drawable.values()}) == 1:
            unchanged.append(title)
        elif drawable:
            svg = overlays.svg(kind, drawable)
            only = "" if len(drawable) == 2 else next(iter(drawable))
            plots.append(Plot(f"{model}_{kind}", title, about, svg, only))
    return plots, unchanged, not_drawn
