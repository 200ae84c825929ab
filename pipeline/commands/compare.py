"""This run against that of another commit: what differs, and is it more than chance?

Writes a folder with one page, `index.html`, the same as Markdown, `comparison.md`, and the plots of
both sides, `plots/*.svg`; prints the Markdown.
    python -m pipeline.commands.compare REVISION [OTHER] [--out FOLDER]

REVISION is a branch, a tag or a commit, OTHER what it is compared with: the working tree, if left
out. Parameters, figures and curves are in git. Predictions come from DVC's cache or its remote;
without them the figures' committed intervals stand in for a comparison image by image.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.commands import git_runs
from pipeline.commands.git_runs import Value
from pipeline.evaluation import selected_model
from pipeline.evaluation.comparison import LOWER_IS_BETTER, NO_DIFFERENCE, compare_runs
from pipeline.images.labels import natural_key
from pipeline.reporting import comparison, html, overlays
from pipeline.reporting.comparison import Change, Comparison, Plot, Verdict
from pipeline.runtime import atomic_files
from pipeline.runtime.entrypoint import quiet_if_nobody_reads, script
from pipeline.runtime.errors import UserError
from pipeline.storage import curves

OUT = Path("comparison")
PAGE, TEXT, PLOTS = "index.html", "comparison.md", "plots"
METRICS, INTERVALS = str(paths.EVALUATION), str(paths.INTERVALS)
OUTPUTS = (str(paths.LEDGER), *(str(paths.predictions(at)) for at in (paths.HEAD, paths.MODEL)))
SUBSETS = ("valid", "test")
MODELS = {"fine_tune": "fine-tuned", "head": "head"}
BY_EPOCH = ("loss", "accuracy")
# Each plot's kind and csv, by its name.
SOURCES = {
    f"{model}_{kind}": (
        kind,
        f"metrics/{model}_history.csv"
        if kind in BY_EPOCH
        else f"metrics/curves/{model}_{kind}.csv",
    )
    for model in MODELS
    for kind in (*BY_EPOCH, "roc", "precision_recall", "reliability", "confusion")
} | {"final_thresholds": ("thresholds", "metrics/curves/final_thresholds.csv")}
FILES = (METRICS, INTERVALS, *(path for _, path in SOURCES.values()))


@script
def main() -> None:
    """Gather both sides, then write the folder whole and print the Markdown."""
    asked = _asked()
    logging.getLogger("dvc").setLevel(logging.ERROR)  # of what it warns of, a sentence tells
    params, metrics = git_runs.values(asked.revision, asked.other)
    with tempfile.TemporaryDirectory() as folder:
        old, new = Path(folder, "old"), Path(folder, "new") if asked.other else Path()
        for revision, side in ((asked.revision, old), (asked.other, new)):
            if revision:
                git_runs.fetch(revision, FILES, side)
        verdicts, reason = _paired(asked, old, new)
        bounds = (curves.intervals(old / INTERVALS), curves.intervals(new / INTERVALS))
        verdicts = verdicts or _unpaired(metrics, bounds)
        drawings, same, undrawn = _drawn(asked, old, new)
    found = Comparison(
        asked.revision,
        asked.other,
        verdicts,
        reason,
        [Change(one.key, one.old, one.new) for one in _differing(params)],
        _figures(metrics, bounds),
        drawings,
        same,
        undrawn,
    )
    text = comparison.markdown(found)
    _write(asked.out, comparison.page(found), text, drawings)
    with quiet_if_nobody_reads():
        print(text, end="")
    print(f"compare: {asked.out / PAGE}", file=sys.stderr)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.commands.compare", description="Compare two runs of this project."
    )
    parser.add_argument("revision", help="branch, tag or commit")
    parser.add_argument("other", nargs="?", help="another one, in place of the working tree")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=OUT, help="comparison")
    return parser.parse_args()


def _paired(asked: argparse.Namespace, old: Path, new: Path) -> tuple[list[Verdict], str]:
    """How the final models compare image by image, or why they cannot be compared so."""
    sides = []
    for revision, folder in ((asked.revision, old), (asked.other, new)):
        name = f"of {revision}" if revision else "of this run"
        try:
            if revision:
                git_runs.fetch_outputs(revision, OUTPUTS, folder)
            sides.append(selected_model.read_run(folder))
        except git_runs.AbsentError:
            return [], (
                f"Not paired by image: predictions {name} are neither in DVC's cache nor in a "
                "remote; push them from where they were computed, or check that commit out and "
                "run dvc repro once."
            )
        except UserError as fault:
            told = str(fault).replace(f"{folder}/", "").partition(";")[0]
            remedy = "a later commit may do" if revision else "dvc pull or dvc repro brings them"
            return [], (
                f"Not paired by image: predictions {name} cannot be read here ({told}); {remedy}."
            )
    if sides[0].classes != sides[1].classes:
        return [], "Not paired by image: the two sides have other classes."
    verdicts = [
        Verdict(
            subset,
            metric,
            images,
            one["old"],
            one["new"],
            None,
            (one["difference"], *one["interval"]),
            one["shown"],
        )
        for subset in SUBSETS
        for images, metrics in [compare_runs(sides[0], sides[1], subset)]
        for metric, one in metrics.items()
    ]
    if not verdicts:
        return [], "Not paired by image: no image is held out by both sides under one label."
    return verdicts, ""


def _unpaired(metrics: Iterable[Value], bounds: curves.Both) -> list[Verdict]:
    """The final models' figures of either subset, with both sides' committed intervals."""
    known = {one.key: one for one in metrics if one.path == METRICS}
    found = []
    for subset in SUBSETS:
        for figure in html.CAPTIONS["METRICS"]:
            key = f"final.{subset}.{figure}"
            chance = _chance(key, bounds)
            images = known.get(f"final.{subset}.images")
            if not (chance and images and key in known) or None in known[key] + images:
                continue
            old, new = known[key].old, known[key].new
            better = (new < old) == (figure in LOWER_IS_BETTER)
            apart = "better" if better else "worse"
            shown = apart if chance == comparison.APART else NO_DIFFERENCE
            pair = (bounds[0][key], bounds[1][key])
            found.append(Verdict(subset, figure, images.new, old, new, pair, None, shown))
    return found


def _chance(key: str, bounds: curves.Both) -> str:
    """Whether both sides' intervals of a figure overlap; empty where a side has none."""
    if not all(key in side for side in bounds):
        return ""
    (low, high), (other_low, other_high) = (side[key] for side in bounds)
    overlap = low <= other_high and other_low <= high
    return comparison.OVERLAP if overlap else comparison.APART


def _differing(values: Iterable[Value]) -> list[Value]:
    return sorted((one for one in values if one.differs), key=lambda one: natural_key(one.key))


def _figures(metrics: Iterable[Value], bounds: curves.Both) -> Mapping[str, list[Change]]:
    """The figures that differ, by file, what `evaluate` tells first."""
    found: dict[str, list[Change]] = {METRICS: []}
    for one in _differing(metrics):
        chance = _chance(one.key, bounds) if one.path == METRICS else ""
        found.setdefault(one.path, []).append(Change(one.key, one.old, one.new, chance))
    return {path: lines for path, lines in found.items() if lines}


def _drawn(
    asked: argparse.Namespace, old: Path, new: Path
) -> tuple[list[Plot], list[str], list[str]]:
    """Drawings of the curves that differ, titles of those that do not, why others are not drawn."""
    drawings, same, undrawn = [], [], []
    for name, (kind_name, path) in SOURCES.items():
        kind_title, about = html.CAPTIONS["OVERLAYS"][kind_name]
        names = overlays.COLUMNS[kind_name]
        model = MODELS.get(name.removesuffix(f"_{kind_name}"), "")
        title = f"{kind_title}, {model}" if model else kind_title
        sides: dict[str, Any] = {}
        for side, folder in ((asked.revision, old), (asked.other or "this run", new)):
            try:
                sides[side] = curves.columns(folder / path, names, kind_name != "confusion")
            except UserError as fault:
                told = str(fault).replace(f"{folder}/", "").partition(";")[0]
                undrawn.append(f"{title}, {side}, is not drawn ({told}).")
        drawable = {side: columns for side, columns in sides.items() if columns}
        if len(drawable) == 2 and len({str(columns) for columns in drawable.values()}) == 1:
            same.append(title)
        elif drawable:
            drawn = overlays.svg(kind_name, drawable)
            drawings.append(Plot(name, title, about, drawn))
    return drawings, same, undrawn


def _write(out: Path, page: str, text: str, drawings: Iterable[Plot]) -> None:
    """Write the folder whole, in place of an earlier comparison only."""
    strange = {path.name for path in out.iterdir()} - {PAGE, TEXT, PLOTS} if out.is_dir() else set()
    if strange or (out.exists() and not out.is_dir()):
        raise UserError(
            f"compare: expected a new folder or an earlier comparison to write to, got {out}"
            f"{f' with {sorted(strange)[0]} in it' if strange else ', a file'}; name another folder"
        )
    with atomic_files.replacing(out) as partial:
        (partial / PLOTS).mkdir(parents=True)
        (partial / PAGE).write_text(page, encoding="utf-8", newline="\n")
        (partial / TEXT).write_text(text, encoding="utf-8", newline="\n")
        for one in drawings:
            path = partial / PLOTS / f"{one.name}.svg"
            path.write_text(one.svg, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    sys.exit(main())
