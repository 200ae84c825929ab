"""Every command, parameter and path in the documentation exists.

A block of code without a language holds shell commands, one a line. In a block with lines that
begin with `$ `, only these are commands and the rest is the output of a run; a block that begins
with `error: ` is output too. tests/repo/test_readme.py checks the links.
"""

import contextlib
import functools
import io
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from dvc.cli import DvcParserError
from dvc.cli.parser import get_main_parser
from project import ROOT
from pydantic import BaseModel

from pipeline import config, paths
from pipeline.commands import cli
from pipeline.runtime import environment
from pipeline.schema import Params

PAGES = [
    page
    for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/*.md")
    for page in sorted(ROOT.glob(name))
    if page.name != "bad_input.md"  # generated; its words are inputs
]
DVC_YAML: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
FOREIGN = {"source", "git", "ssh", "dask", "srun", "kubectl", "ruff", "mypy", "lint-imports"}
VARIABLES = {*environment.KNOWN, "REAL_DATA", "HTTPS_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE"}
PLACEHOLDERS = {"NAME", "VIEW"}
FOLDERS = r"(?:pipeline|stages|data|metrics|docs|tests|recipes|benchmarks|\.ci|\.dvc|\.github)"
# Written by some runs only, or below another folder than this one.
ELSEWHERE = {
    *(".dvc/tmp/rwlock", ".dvc/config.local", paths.WEIGHT_DIGESTS.as_posix()),
    *("data/train.zip", "data/test.zip"),
}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def blocks(page: Path) -> Iterator[str]:
    """Yield the blocks of code without a language."""
    language: str | None = None
    lines: list[str] = []
    for line in page.read_text(encoding="utf-8").splitlines():
        if fence := re.fullmatch(r" *```(\w*)", line):
            if language is None:
                language, lines = fence[1], []
            else:
                if not language:
                    yield "\n".join(lines)
                language = None
        elif language is not None:
            lines.append(line.strip())


def spans(page: Path) -> list[str]:
    """Return the inline code outside of blocks."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
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
        _check_make(arguments)
    elif program == "pipeline":
        _check_pipeline(arguments)
    elif program == "dvc":
        _check_dvc(arguments)
    elif program == "python":
        _check_python(arguments)
    elif program == "cp":
        assert (ROOT / arguments[0]).is_file(), arguments[0]
    elif program != ".venv/bin/uv":
        assert program in FOREIGN, f"nothing checks {program!r}"


def _check_make(arguments: list[str]) -> None:
    for argument in arguments:
        name, assigned, _ = argument.partition("=")
        if assigned:
            assert re.search(rf"\$\$?[({{]?{name}\b", MAKEFILE), f"the Makefile has no {name}"
        else:
            assert re.search(rf"^{re.escape(name)}:", MAKEFILE, re.M), f"make has no {name}"


def _check_pipeline(arguments: list[str]) -> None:
    text = help_of(arguments[0])
    for argument in arguments[1:]:
        if argument.startswith("--"):
            assert argument in text, f"pipeline {arguments[0]} has no {argument}"


@functools.cache
def help_of(command: str) -> str:
    """Return what `pipeline COMMAND --help` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit):
        cli.main([command, "--help"])
    return printed.getvalue()


def _check_dvc(arguments: list[str]) -> None:
    parsed = get_main_parser().parse_args(arguments)
    if arguments[0] == "repro":
        for target in parsed.targets:
            assert target.partition("@")[0] in DVC_YAML, f"dvc.yaml has no stage {target}"


def _check_python(arguments: list[str]) -> None:
    assert arguments[0] == "-m", arguments
    module, targets = arguments[1], arguments[2:]
    if module == "pytest":
        for folder in (one for one in targets if one.startswith("tests")):
            assert (ROOT / folder).exists(), folder
    else:
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


@pages
def test_every_command_exists(page: Path) -> None:
    for words in commands(page):
        check(words)


@pytest.mark.parametrize(
    "command",
    [
        "make reproduce",
        "make compare REVISION=main",
        "dvc repro names",
        "dvc repro --never",
        "pipeline compare main --folder x",
        "python -m stages.names",
        "python -m pytest tests/nowhere",
        "cp recipes/nothing.csv data",
        "STAGES_CLUSTERS=x dvc repro",
        "nonsense",
    ],
)
def test_a_command_that_does_not_exist_is_noticed(command: str) -> None:
    with pytest.raises((AssertionError, DvcParserError)):
        check(shlex.split(command))


def outputs() -> list[str]:
    """Return the outputs of all stages, with `NAME` for a backbone."""
    found: list[str] = []
    for stage in DVC_YAML.values():
        definition = stage.get("do", stage)
        for kind in ("outs", "metrics", "plots"):
            for out in definition.get(kind, []):
                found += [out] if isinstance(out, str) else list(out)
    return [out.replace("${key}", "NAME") for out in found]


def exists(path: str) -> bool:
    """Whether a path is in the project, written by a stage, or ignored by git."""
    path = path.rstrip("/")
    if path in ELSEWHERE or any(ROOT.glob(path)):
        return True
    if any(f"{path}/".startswith(f"{out}/") or out.startswith(f"{path}/") for out in outputs()):
        return True
    ignored = ["git", "check-ignore", "--no-index", path, f"{path}/file"]
    return subprocess.run(ignored, cwd=ROOT, check=False, capture_output=True).returncode == 0


@pages
def test_every_path_exists_or_is_written(page: Path) -> None:
    for span in spans(page):
        if re.fullmatch(rf"{FOLDERS}(/[\w.*-]+)+/?", span) and "..." not in span:
            known = PLACEHOLDERS & set(re.split(r"\W+", span)) and "data" not in span
            assert known or exists(span), f"{page.name} names {span}"


def section(annotation: Any) -> list[type[BaseModel]]:
    """Return the models in an annotation such as `FineTune | None` or `dict[str, Backbone]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in section(part)]


def is_parameter(name: str) -> bool:
    models: list[type[BaseModel]] = [Params]
    for key in name.split("."):
        if key in PLACEHOLDERS:
            continue
        fields = [model.model_fields[key] for model in models if key in model.model_fields]
        if not fields:
            return False
        models = [one for field in fields for one in section(field.annotation)]
    return True


@pages
def test_every_parameter_exists(page: Path) -> None:
    for span in spans(page):
        name = span.partition(":")[0]
        first = name.partition(".")[0]
        is_file = name.endswith((".csv", ".json", ".zarr"))
        if re.fullmatch(r"[a-z_]+(\.[A-Za-z_]+)+", name) and first in Params.model_fields:
            assert is_file or is_parameter(name), f"{page.name} names {name}"


def test_a_parameter_that_does_not_exist_is_noticed() -> None:
    names = ("train_head.hidden", "train_head.max_iterations", "backbones.NAME.pooling")
    assert all(map(is_parameter, names))
    assert not any(map(is_parameter, ("extract.pooling", "train_head.dense.hidden")))


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
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `{re.escape(key)}`[^|]*\|([^|]*)\|", readme, re.M)
    assert row is not None
    shown = ["git", "show", "HEAD:params.yaml"]  # the one in the folder may be of another recipe
    params = yaml.safe_load(subprocess.run(shown, cwd=ROOT, check=True, capture_output=True).stdout)
    before = config.settings(config.check(params))
    *names, last = key.replace("NAME", next(iter(params["backbones"]))).split(".")
    functools.reduce(lambda part, name: part[name], names, params)[last] = value
    after = config.settings(config.check(params))
    changed = {stage for stage in before if before[stage] != after[stage]}
    assert set(re.findall(r"`(\w+)`", row[1])) == changed


def test_the_readme_has_at_most_250_lines() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 250


def test_the_variables_that_the_documentation_names_are_all_that_exist() -> None:
    text = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(STAGES_\w+)`", text, re.M) == list(environment.KNOWN)


def test_no_page_names_the_machine_it_was_written_on() -> None:
    for page in PAGES:
        assert os.fspath(ROOT) not in page.read_text(encoding="utf-8"), page.name
