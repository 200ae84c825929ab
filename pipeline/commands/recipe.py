"""Write `params.yaml` from a recipe: all parameters, each with a comment.

    pipeline recipe --list
    pipeline recipe mobilenetv2
    pipeline recipe mobilenetv2 --print

`recipes/base.yaml` has complete parameters, `recipes/NAME.yaml` only what differs from them. A
`params.yaml` with changes that no recipe has is not overwritten without --force.
"""

import argparse
import itertools
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from pipeline import config, paths
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError, did_you_mean
from pipeline.schema import Backbone, FineTune, Params, Section

BASE = "base"
REPLACED = ("backbones", "train_head", "fine_tune")  # sections that replace the base's
WIDTH = 100  # characters in a line of `params.yaml`
HEAD = (
    "Every key is checked before a stage runs. Change one and run `make repro`: only stages that",
    "depend on it run again. docs/parameters.md describes all keys.",
)


def names() -> list[str]:
    """Return the names of all recipes, sorted."""
    return sorted(path.stem for path in paths.RECIPES.glob("*.yaml") if path.stem != BASE)


def read(name: str) -> dict[str, Any]:
    """Return the parameters of a recipe as plain data: the base, changed key by key.

    Sections in `REPLACED` are replaced, as their keys depend on each other. Nothing is checked.
    """
    base: dict[str, Any] = config.load(paths.RECIPES / f"{BASE}.yaml")
    changes: dict[str, Any] = config.load(_path(name)) or {}
    for section, values in changes.items():
        merges = isinstance(base.get(section), dict) and section not in REPLACED
        base[section] = base[section] | values if merges else values
    return base


def render(name: str) -> str:
    """Return the text of the `params.yaml` of a recipe."""
    params = config.check(read(name), _path(name))
    head = [f"Recipe {name}, written by `pipeline recipe {name}`.", *header(name), "", *HEAD]
    lines = [f"# {line}".rstrip() for line in head]
    for section, field in Params.model_fields.items():
        entries = list(_entries(section, getattr(params, section), field.description or "", params))
        lines += ["", *_aligned(entries)]
    return "\n".join(lines) + "\n"


def _path(name: str) -> Path:
    if name not in names():
        hint = did_you_mean(name, names(), "`pipeline recipe --list` shows them")
        raise UserError(f"recipe: expected the name of a recipe, got {name!r}; {hint}")
    return paths.RECIPES / f"{name}.yaml"


def header(name: str) -> list[str]:
    """Return the comment lines at the top of a recipe, without `# `."""
    lines = _path(name).read_text(encoding="utf-8").splitlines()
    return [line[1:].strip() for line in itertools.takewhile(lambda line: line[:1] == "#", lines)]


def _entries(
    key: str, value: Any, comment: str, params: Params, indent: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield lines of YAML, each with its comment."""
    if not isinstance(value, dict | Section):
        yield f"{indent}{key}: {_value(value)}", comment
        return
    yield f"{indent}{key}:", comment
    for name, entry in value.items() if isinstance(value, dict) else value:
        description = ""
        if isinstance(value, Section):
            description = type(value).model_fields[name].description or ""
            if entry is None and not _null_matters(name, value, params):
                continue
        yield from _entries(name, entry, description, params, f"{indent}  ")


def _null_matters(key: str, section: Section, params: Params) -> bool:
    """Tell whether null is a choice that a reader may want to change, so worth a line."""
    if isinstance(section, Backbone):
        has_layers = key == "layer" and not section.pooling.endswith("predictions")
        return has_layers or (key == "unfreeze_from" and params.fine_tune is not None)
    trains = isinstance(section, FineTune) and not section.cache_frozen
    return key != "augment" or trains


def _aligned(entries: list[tuple[str, str]]) -> Iterator[str]:
    """Put comments into one column, but for lines that are too long for it."""
    room = WIDTH - max(len(f"  # {comment}") for _, comment in entries)
    column = max((len(text) for text, _ in entries if len(text) <= room), default=0)
    for text, comment in entries:
        line = f"{text:{column}}  # {comment}" if comment else text
        if len(line) > WIDTH:
            yield f"{text[: -len(text.lstrip())]}# {comment}"
        yield line if len(line) <= WIDTH else text


def _value(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):  # YAML takes 1e-05 for text
        return f"{Decimal(repr(value)):f}".removesuffix(".0")
    # As a member of a list, so that no line of its own ends the document.
    return yaml.safe_dump([value], default_flow_style=True, width=2**31, allow_unicode=True)[1:-2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="", help="a recipe, such as mobilenetv2")
    parser.add_argument("--list", action="store_true", help="list all recipes")
    parser.add_argument("--print", action="store_true", help="write to standard output instead")
    parser.add_argument(
        "--force", action="store_true", help="overwrite params.yaml even if it has own changes"
    )


def run(arguments: argparse.Namespace) -> None:
    """Write `params.yaml`, or print it or the list of recipes."""
    if arguments.list:
        for name in names():
            print(f"{name:30}{' '.join(header(name)).partition('. ')[0].rstrip('.')}")
        return
    text = render(arguments.name)
    if arguments.print:
        print(text, end="")
        return
    if not arguments.force and paths.PARAMS.exists() and not _is_a_recipe():
        raise UserError(
            f"{paths.PARAMS}: expected the values of a recipe, got changes of your own, which "
            "would be lost; keep a copy, then add --force"
        )
    atomic_files.write_text(paths.PARAMS, text)
    print(f"recipe: {paths.PARAMS} is now recipe {arguments.name}; `make repro` runs it")


def _is_a_recipe() -> bool:
    try:
        present = config.read()
    except UserError:
        return False
    return present in [config.check(read(name)) for name in names()]
