"""Bad inputs by name: how each is made, and what comes of it, word for word.

`test_bad_inputs.py` puts each into a good project and runs the stage that meets it first. The page
for people is written from here:
    python tests/bad_inputs.py > docs/BAD_INPUT.md
"""

import itertools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bad:
    """One bad input.

    Attributes:
        name: short, unique in its section.
        what: told to people, behind the name.
        make: builds it from the good thing that its section hands over.
        outcome: "refused: SENTENCE", "rejected: REASON of the ledger's row", or "accepted: ...",
            as the section says.
        about: the member or key that the outcome is about; empty: the whole input.
    """

    name: str
    what: str
    make: Callable[..., bytes | None]
    outcome: str
    about: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Bad inputs of one kind; `told` says what they are and how they are tried."""

    title: str
    told: str
    inputs: list[Bad]


def sections() -> dict[str, Section]:
    """All there are, by a short name."""
    import bad_files
    import bad_images
    import bad_params
    import bad_tables
    import bad_trees
    import bad_zips

    return {
        "image": Section("Images", bad_images.TOLD, bad_images.INPUTS),
        "zip": Section("Zips", bad_zips.TOLD, bad_zips.INPUTS),
        "tree": Section("Folders", bad_trees.TOLD, bad_trees.INPUTS),
        "params": Section("params.yaml", bad_params.TOLD, bad_params.INPUTS),
        "fixes": Section("data/label_fixes.csv", bad_tables.TOLD_FIXES, bad_tables.FIXES),
        "ledger": Section("data/split.csv", bad_tables.TOLD_LEDGERS, bad_tables.LEDGERS),
        "file": Section("Files of the store", bad_files.TOLD, bad_files.INPUTS),
    }


def page() -> str:
    """All of it as Markdown."""
    found = sections()
    count = sum(len(section.inputs) for section in found.values())
    lines = [
        "# What bad input comes to",
        "",
        f"{count} inputs, each made by code and tried by a test, which holds the last column word "
        "for word. `make docs` writes this page.",
        "",
        "- **refused**: the stage ends with status 1 and this sentence; nothing is written.",
        "- **rejected**: the file is a row of the ledger with this reason; the others are used. "
        "Above `split.max_rejected` of them the stage refuses.",
        "- **accepted**: it is used, as told.",
        "",
        "In every run that is not refused the ledger adds up: found = accepted + rejected.",
    ]
    for section in found.values():
        lines += ["", f"## {section.title}", "", section.told, "", "| input | what | outcome |"]
        lines += ["|---|---|---|", *(_line(bad) for bad in section.inputs)]
    return "\n".join(lines) + "\n"


def _line(bad: Bad) -> str:
    verdict, _, told = bad.outcome.partition(": ")
    about = f"`{bad.about}` " if bad.about else ""
    return f"| {_cell(bad.name)} | {_cell(bad.what)} | **{verdict}** {_cell(about + told)} |"


def _cell(text: str) -> str:
    """As Markdown shows it, not as it reads it; of a letter that goes on and on, a few."""
    text = re.sub(r"(.)\1{30,}", r"\1\1\1[...]", text)
    parts = re.split("(`[^`]*`)", " ".join(text.split()))  # every other one is code
    escaped = [re.sub(r"[\\*_<>\[\]|]", r"\\\g<0>", part) for part in parts[::2]]
    code = [part.replace("|", r"\|") for part in parts[1::2]]
    return "".join(itertools.chain(*itertools.zip_longest(escaped, code, fillvalue="")))


if __name__ == "__main__":
    sys.stdout.write(page())
