"""`RESULTS.md`: one section a benchmark, each between markers, so that one can be renewed alone."""

import re
from pathlib import Path

from pipeline.runtime import atomic_files

HEAD = """\
# Results

Written by `make bench`; each benchmark replaces its own section. Every contender runs in a process
of its own. Numbers are medians of the rounds, with their range; ratios are medians of the ratios
within each round. MiB is the peak memory of one process. "Ours" is this pipeline.
"""
_SECTION = re.compile(
    r"<!-- benchmark (?P<number>\d+) -->\n(?P<body>.*?)<!-- end of benchmark (?P=number) -->\n",
    re.S,
)


def write(path: Path, number: int, body: str) -> None:
    """Put a section into the file at `path`, in place of the one with its number."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    atomic_files.write_text(path, replaced(text, number, body))


def replaced(text: str, number: int, body: str) -> str:
    """The file's text with a section exchanged or added, sections in the order of their numbers."""
    sections = {int(found["number"]): found["body"] for found in _SECTION.finditer(text)}
    sections[number] = body.rstrip("\n") + "\n"
    return HEAD + "".join(
        f"\n<!-- benchmark {key} -->\n{sections[key]}<!-- end of benchmark {key} -->\n"
        for key in sorted(sections)
    )
