"""Bad inputs: how each is made, and the outcome that a user sees.

`test_bad_inputs.py` puts each into a good project and runs the stage that reads it first. The page
for users is generated from the same tables:
    python tests/robustness/inputs/bad_inputs.py > docs/bad_input.md
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

Make = Callable[..., bytes | None]


class Bad(NamedTuple):
    """One bad input.

    Attributes:
        name: unique in its section.
        make: builds it from the good input that its section passes; or its bytes.
        outcome: "refused: SENTENCE", "rejected: REASON" or "accepted: RESULT"; ` ... ` in it stands
            for any text, and a sentence may be a part of the printed one.
        about: the kind of file, of outputs of stages.
    """

    name: str
    make: Make | bytes
    outcome: str
    about: str = ""

    def made(self, good: object) -> bytes:
        """Return the bad input; b"" if `make` only changes files."""
        return self.make if isinstance(self.make, bytes) else self.make(good) or b""

    def explains(self, outcome: str) -> bool:
        """Return whether an actual outcome is the expected one."""
        if self.outcome.partition(":")[0] != outcome.partition(":")[0]:
            return False
        pattern = ".*".join(map(re.escape, self.outcome.partition(": ")[2].split(" ... ")))
        match = re.search if self.outcome.startswith("refused") else re.fullmatch
        return match(pattern, outcome.partition(": ")[2], re.DOTALL) is not None


def table(outcomes: Mapping[str, Mapping[str, Make | bytes]], about: str = "") -> list[Bad]:
    """List the inputs of a mapping from outcome to name to the input."""
    return [
        Bad(name, make, outcome, about)
        for outcome, inputs in outcomes.items()
        for name, make in inputs.items()
    ]


class Section(NamedTuple):
    """Bad inputs of one kind; `intro` says where they are put."""

    title: str
    intro: str
    inputs: list[Bad]


def sections() -> dict[str, Section]:
    """Return all sections by a short name."""
    import bad_files
    import bad_images
    import bad_params
    import bad_tables
    import bad_trees
    import bad_zips

    return {
        "image": Section("Images", bad_images.INTRO, bad_images.INPUTS),
        "zip": Section("Zips", bad_zips.INTRO, bad_zips.INPUTS),
        "tree": Section("Folders", bad_trees.INTRO, bad_trees.INPUTS),
        "params": Section("params.yaml", bad_params.INTRO, bad_params.INPUTS),
        "fixes": Section("data/label_fixes.csv", bad_tables.FIXES_INTRO, bad_tables.FIXES),
        "ledger": Section("data/split.csv", bad_tables.LEDGERS_INTRO, bad_tables.LEDGERS),
        "file": Section("Outputs of stages", bad_files.INTRO, bad_files.INPUTS),
    }


HEAD = """# Bad inputs

{count} inputs, each made and tried by `tests/robustness/test_bad_inputs.py`; `make docs` writes \
this page. `...` stands for details.

- **refused** (exit status 1): the stage prints this sentence and writes nothing.
- **rejected** (exit status 0): the file gets a row with this reason in `data/split.csv` and is \
not used. With more such files than `split.max_rejected` allows, `split` exits with status 1.
- **accepted** (exit status 0): the file is used.
"""


def page() -> str:
    """Return all sections as Markdown."""
    found = sections()
    lines = [HEAD.format(count=sum(len(section.inputs) for section in found.values()))]
    for section in found.values():
        lines += [f"## {section.title}", "", section.intro, ""]
        lines += ["| input | outcome | exit status |", "|---|---|---|"]
        names: dict[str, list[str]] = {}
        for bad in section.inputs:
            names.setdefault(bad.outcome, []).append(_cell(bad.name))
        for outcome, inputs in names.items():
            status = int(outcome.startswith("refused"))
            lines.append(f"| {'<br>'.join(inputs)} | {_cell(outcome)} | {status} |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Escape what Markdown would interpret outside of code; shorten runs of one letter."""
    text = re.sub(r"(.)\1{30,}", r"\1\1\1[...]", " ".join(text.split()))
    parts = re.split("(`[^`]*`)", text)  # every other one is code
    parts[::2] = [re.sub(r"[\\*_<>\[\]]", r"\\\g<0>", part) for part in parts[::2]]
    return "".join(parts).replace("|", r"\|")


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[depth]) for depth in (3, 2)]
    sys.stdout.write(page())
