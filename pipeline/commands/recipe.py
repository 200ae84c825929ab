"""Write `params.yaml` from a recipe: all parameters, each with a comment.

    pipeline recipe --list
    pipeline recipe mobilenetv2
    pipeline recipe mobilenetv2 --print

`recipes/base.yaml` has complete parameters, `recipes/NAME.yaml` only what differs from them. A
`params.yaml` with changes that no recipe has is not overwritten without --force.
"""

import argparse
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
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


def require_free(option: str, name: str, mark: str) -> None:
    """Refuse a name that no recipe can have, or a recipe's that does not begin with `mark`."""
    if not re.fullmatch("[a-z0-9][a-z0-9-]*", name) or name == BASE:
        raise UserError(
            f"{option}: expected a name of small letters, digits and hyphens, other than {BASE!r}, "
            f"got {name!r}; change it"
        )
    if name in names() and not " ".join(header(name)).startswith(mark):
        raise UserError(
            f"{option}: expected a new name, got {name!r}, which is a recipe already; change it"
        )


def write(name: str, content: Mapping[str, Any], about: Sequence[str]) -> None:
    """Write parameters, without optional keys that are null, as a recipe below some comment lines.

    It has what differs from the base.
    """
    base: dict[str, Any] = config.load(paths.RECIPES / f"{BASE}.yaml")
    changes: dict[str, Any] = {}
    for section, values in ({"fine_tune": None} | dict(content)).items():
        of_base = base.get(section)
        if values == of_base:
            continue
        changes[section] = values
        if isinstance(values, dict) and isinstance(of_base, dict) and section not in REPLACED:
            both = dict.fromkeys(of_base) | values  # null is what the base has and these have not
            changes[section] = {key: one for key, one in both.items() if one != of_base.get(key)}
    text = "".join(f"# {line}\n" for line in about) + "\n"
    text += yaml.dump(changes, Dumper=_Dumper, sort_keys=False, width=WIDTH, allow_unicode=True)
    atomic_files.write_text(paths.RECIPES / f"{name}.yaml", text)


class _Dumper(yaml.SafeDumper):
    """YAML with every list on one line."""

    def represent_list(self, data: Any) -> yaml.SequenceNode:
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)


_Dumper.add_representer(list, _Dumper.represent_list)


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
