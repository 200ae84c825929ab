"""Every command, parameter, path, link and number in the documentation is true.

A block of code without a language holds shell commands, one a line. In a block with lines that
begin with `$ `, only these are commands and the rest is the output of a run; a block that begins
with `error: ` is output too.
"""

import contextlib
import functools
import io
import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.cli.parser import get_main_parser
from project import ROOT

from pipeline import config, paths
from pipeline.commands import cli
from pipeline.runtime import environment
from pipeline.schema import Params

ALL_PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# bad_input.md is generated, and its words are inputs; the changelog names what is gone.
PAGES = [page for page in ALL_PAGES if page.name not in ("bad_input.md", "CHANGELOG.md")]
TEXTS = {page: page.read_text(encoding="utf-8") for page in ALL_PAGES}
DVC_YAML: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
FOREIGN = {
    "source",
    "git",
    "ssh",
    "dask",
    "docker",
    "srun",
    "kubectl",
    "ruff",
    "mypy",
    "lint-imports",
}
VARIABLES = {*environment.KNOWN, "REAL_DATA", "HTTPS_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE"}
PLACEHOLDERS = {"NAME", "VIEW"}
FOLDERS = r"(?:pipeline|stages|data|metrics|docs|tests|recipes|benchmarks|\.ci|\.dvc|\.github)"
# Written by some runs only, or below another folder than this one.
ELSEWHERE = {
    *(".dvc/tmp/rwlock", ".dvc/config.local", paths.WEIGHT_DIGESTS.as_posix()),
    *("data/train.zip", "data/test.zip", "recipes/sweep.yaml"),
}


def pages(among: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(
        "page", among, ids=lambda page: page.relative_to(ROOT).as_posix()
    )


def blocks(page: Path) -> Iterator[str]:
    """Yield the blocks of code without a language."""
    for language, block in re.findall(r"^ *```(\w*)\n(.*?)^ *```", TEXTS[page], re.M | re.S):
        if not language:
            yield "\n".join(line.strip() for line in block.splitlines())


def spans(page: Path) -> list[str]:
    """Return the inline code outside of blocks."""
    text = re.sub(r"^ *```.*?^ *```", "", TEXTS[page], flags=re.M | re.S)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command in blocks and inline code."""
    texts = [span for span in spans(page) if re.match(r"(make|pipeline|dvc|python) [^*]", span)]
    for block in blocks(page):
        lines = block.splitlines()
        shown = [line[2:] for line in lines if line.startswith("$ ")]
        texts += shown or ([] if block.startswith("error: ") else lines)
    for text in texts:
        lexer = shlex.shlex(text, posix=True, punctuation_chars="&|;")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in ("&&", "&", ";", "|"):
                if words:
                    yield words
                words = []
            else:
                words.append(word)


def check(words: list[str]) -> None:
    """Fail unless a command, its options and what they name exist."""
    while re.match(r"[A-Z_]+=", words[0]):
        variable, *words = words
        assert variable.partition("=")[0] in VARIABLES, variable
    program, *arguments = words
    if program == "make":
        for argument in arguments:
            name, assigned, _ = argument.partition("=")
            known = rf"\$\$?[({{]?{name}\b" if assigned else rf"^{re.escape(name)}:"
            assert re.search(known, MAKEFILE, re.M), f"the Makefile has no {name}"
    elif program == "pipeline":
        for argument in arguments[1:]:
            there = not argument.startswith("--") or argument in help_of(arguments[0])
            assert there, f"pipeline {arguments[0]} has no {argument}"
    elif program == "dvc":
        parsed = get_main_parser().parse_args(arguments)
        for target in parsed.targets if arguments[0] == "repro" else []:
            assert target.partition("@")[0] in DVC_YAML, f"dvc.yaml has no stage {target}"
    elif program == "python":
        assert arguments[0] == "-m", arguments
        module = f"{arguments[1].replace('.', '/')}.py"
        folders = [word for word in arguments if word.startswith("tests")]
        for name in folders if arguments[1] == "pytest" else [module]:
            assert (ROOT / name).exists(), name
    elif program == "cp":
        assert (ROOT / arguments[0]).is_file(), arguments[0]
    else:
        assert program in {*FOREIGN, ".venv/bin/uv"}, f"nothing checks {program!r}"


@functools.cache
def help_of(command: str) -> str:
    """Return what `pipeline COMMAND --help` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit):
        cli.main([command, "--help"])
    return printed.getvalue()


@pages(PAGES)
def test_every_command_exists(page: Path) -> None:
    for words in commands(page):
        check(words)


def exists(path: str) -> bool:
    """Whether a path is in the project, or ignored by git as an output."""
    if path in ELSEWHERE or any(ROOT.glob(path.rstrip("/"))):
        return True
    ignored = ["git", "check-ignore", "--no-index", path, f"{path}/file"]
    return subprocess.run(ignored, cwd=ROOT, check=False, capture_output=True).returncode == 0


@pages(PAGES)
def test_every_path_exists_or_is_written(page: Path) -> None:
    for span in spans(page):
        if re.fullmatch(rf"{FOLDERS}(/[\w.*-]+)+/?", span) and "..." not in span:
            known = PLACEHOLDERS & set(re.split(r"\W+", span)) and "data" not in span
            assert known or exists(span), f"{page.name} names {span}"


@pages(PAGES)
def test_every_parameter_exists(page: Path) -> None:
    """By the table in docs/parameters.md, which test_recipes.py compares with the schema."""
    keys = re.findall(r"^\| `([\w.]+)`", TEXTS[ROOT / "docs/parameters.md"], re.M)
    sections = tuple(f"{key}." for key in Params.model_fields)
    for name in (span.partition(":")[0] for span in spans(page)):
        is_file = name.endswith((".csv", ".json", ".zarr"))
        if re.fullmatch(r"[a-z_]+(\.[A-Za-z_]+)+", name) and name.startswith(sections):
            known = any(f"{key}.".startswith(f"{name}.") for key in keys)
            assert known or is_file, f"{page.name} names {name}"


@pages(ALL_PAGES)
def test_a_linked_file_exists_and_has_the_linked_heading(page: Path) -> None:
    for path, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)\s]+))?\)", TEXTS[page]):
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links {path}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in anchors, f"{page.name} links {path}#{anchor}"


def committed(name: str) -> str:
    """Read a file of the last commit; that in the folder may be of another recipe."""
    shown = ["git", "show", f"HEAD:{name}"]
    return subprocess.run(shown, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_the_metrics_of_the_sample_are_the_committed_ones() -> None:
    evaluated = json.loads(committed("metrics/evaluate.json"))
    bounds = json.loads(committed("metrics/intervals.json"))
    assert evaluated["chosen"] == "fine_tune"
    for model in ("head", "fine_tune", "final"):
        metrics, intervals = evaluated[model]["test"], bounds[model]["test"]
        low, high = (f"{100 * bound:.1f}" for bound in intervals["accuracy"])
        row = f"| {metrics['accuracy']:.1%} ({low} to {high}) "
        low, high = (f"{bound:.3f}" for bound in intervals["log_loss"])
        row += f"| {metrics['log_loss']:.3f} ({low} to {high}) |"
        assert any(row in text for text in TEXTS.values()), row


CHANGES: dict[str, Any] = {
    "split.valid": 0.2,
    "resize.size": 48,
    "backbones.NAME.pooling": "avg",
    "backbones.NAME.unfreeze_from": "conv2",
    "extract.batch_size": 8,
    "train_head.learning_rate": 0.01,
    "fine_tune.epochs": 3,
    "predict.views": 1,
    "evaluate.decimals": 5,
    "explain.examples": 3,
    "submit.clip": 0.1,
    "compute.threads": 1,
    "verify.absolute": 0.1,
}


@pytest.mark.parametrize(("key", "value"), CHANGES.items())
def test_the_table_of_reruns_is_true(key: str, value: Any) -> None:
    row = re.search(rf"^\| `{re.escape(key)}`[^|]*\|([^|]*)\|", TEXTS[ROOT / "README.md"], re.M)
    assert row is not None
    params = yaml.safe_load(committed("params.yaml"))
    before = config.settings(config.check(params))
    *names, last = key.replace("NAME", next(iter(params["backbones"]))).split(".")
    functools.reduce(lambda part, name: part[name], names, params)[last] = value
    after = config.settings(config.check(params))
    changed = {stage for stage in before if before[stage] != after[stage]}
    assert set(re.findall(r"`(\w+)`", row[1])) == changed


def test_the_variables_that_the_documentation_names_are_all_that_exist() -> None:
    text = TEXTS[ROOT / "docs/scaling.md"]
    assert re.findall(r"^\| `(STAGES_\w+)`", text, re.M) == list(environment.KNOWN)


def test_no_page_names_the_machine_it_was_written_on() -> None:
    assert [page.name for page in PAGES if os.fspath(ROOT) in TEXTS[page]] == []
