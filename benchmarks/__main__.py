"""Measure the pipeline against others, and write the tables.

    python -m benchmarks [1 2 3 4 5 6 7 8 9 10 11 12 13 14 15] [--rounds N] [--out FILE] [--quick]

Benchmarks: 1 extraction of features, 2 resizing photos, 3 the row cache, 4 many images, 5 zips to a
submission, 6 what views and precision do to accuracy, 7 recipes and what each step brings, 8
fine-tuning from cached activations, 9 recipes on every photo, each held out once, 10 the audit of
labels, 11 bytes on other processors, 12 many classes, 13 copies and neighbors among many images,
14 from zips to the report, 15 a second data set of ten classes.
Real photos are those in the folder that REAL_DATA names; without it, drawn ones.
"""

import argparse
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks import (
    auditing,
    cached_epochs,
    clothing,
    end_to_end,
    extraction,
    machine,
    many_classes,
    many_copies,
    many_images,
    processors,
    quarters,
    recipes,
    resizing,
    results,
    row_cache,
    variants,
    zip_to_report,
)
from benchmarks.measure import ROOT, Failed
from benchmarks.settings import FULL, QUICK, Settings
from pipeline.runtime.entrypoint import command
from pipeline.runtime.errors import UserError

BENCHMARKS = {
    1: extraction,
    2: resizing,
    3: row_cache,
    4: many_images,
    5: end_to_end,
    6: variants,
    7: recipes,
    8: cached_epochs,
    9: quarters,
    10: auditing,
    11: processors,
    12: many_classes,
    13: many_copies,
    14: zip_to_report,
    15: clothing,
}
RESULTS = ROOT / "benchmarks" / "RESULTS.md"


@command
def main() -> None:
    """Run the chosen benchmarks; each writes its section as soon as it is done."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that folders and processes go, too
    parser = _parser()
    options = parser.parse_args()
    if options.quick and not options.out:
        parser.error("--quick measures nothing worth keeping; name another file by --out")
    out = options.out or RESULTS
    settings = _settings(options)
    chosen = options.benchmarks or sorted(BENCHMARKS)
    faults = []
    for number in chosen:
        try:
            section = _section(number, settings)
        except Failed as fault:
            print(fault.printed, file=sys.stderr, flush=True)
            faults.append(f"benchmark {number}: expected every stage to end well, got {fault}")
        else:
            results.write(out, number, section)
            print(f"\n{section}\nbenchmark {number}: written to {out}", flush=True)
    if faults:
        raise UserError("\n".join(f"{fault}; {out} keeps what it held" for fault in faults))


def _section(number: int, settings: Settings) -> str:
    benchmark = BENCHMARKS[number]
    told = machine.describe()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        body = benchmark.measure(
            Path(folder).resolve(),
            settings,
            lambda line: print(f"benchmark {number}: {line}", flush=True),
        )
    return f"## {number}. {benchmark.TITLE}\n\n{told}\n{body}"


def _settings(options: argparse.Namespace) -> Settings:
    settings = QUICK if options.quick else FULL
    given = {
        "rounds": options.rounds,
        "end_to_end_rounds": options.end_to_end_rounds,
        "resizing": options.resizing,
        "row_cache": options.row_cache,
        "many": options.many and tuple(options.many),
        "end_to_end": options.end_to_end,
        "zip_to_report": options.zip_to_report and tuple(options.zip_to_report),
        "extraction": options.extraction and dict(options.extraction),
    }
    return replace(settings, **{key: value for key, value in given.items() if value})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("benchmarks", nargs="*", type=_benchmark, metavar="1..14", help="all, if none is named")
    add("--out", type=Path, help="instead of benchmarks/RESULTS.md")
    add("--quick", action="store_true", help="whether everything runs; needs --out")
    add("--rounds", type=_count, help="of benchmarks 1 to 4, 8 and 12")
    add("--end-to-end-rounds", type=_count, help="of benchmark 5")
    add(
        "--extraction",
        type=_backbone,
        nargs="+",
        metavar="NAME=N",
        help="backbones and images of benchmark 1",
    )
    add("--resizing", type=_count, metavar="N", help="images of benchmark 2")
    add("--row-cache", type=_count, metavar="N", help="images of benchmark 3")
    add("--many", type=_count, nargs="+", metavar="N", help="images of benchmark 4")
    add("--end-to-end", type=_count, metavar="N", help="images of benchmark 5")
    add("--zip-to-report", type=_count, nargs="+", metavar="N", help="images of benchmark 14")
    return parser


def _benchmark(text: str) -> int:
    if text not in map(str, BENCHMARKS):
        known = ", ".join(map(str, BENCHMARKS))
        raise argparse.ArgumentTypeError(f"expected one of {known}, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {count}")
    return count


def _backbone(text: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    if name not in FULL.extraction:
        known = ", ".join(FULL.extraction)
        raise argparse.ArgumentTypeError(f"expected one of {known}, got {name!r}")
    return name, _count(count)


if __name__ == "__main__":
    sys.exit(main())
