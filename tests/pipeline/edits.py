"""Edits of the project's files, made for real, by what they change.

`HARMLESS` ones change no output byte: after each, `dvc repro` runs `code` and, where `params.yaml`
itself changed, `report`. `MATTERING` ones may: each names the stages that have to run again because
of it, apart from those that follow from their outputs.
"""

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

Edit = Callable[[Path], None]  # given the project's folder


@dataclass(frozen=True)
class Case:
    """One edit, and the stages that have to run because of it."""

    name: str
    edit: Edit
    stages: tuple[str, ...] = ()


def rewrite(name: str, change: Callable[[str], str]) -> Edit:
    """Change the text of a file; it must become another one."""

    def edit(root: Path) -> None:
        path = root / name
        before = path.read_text(encoding="utf-8")
        after = change(before)
        assert after != before, f"the edit of {name} changes nothing"
        path.write_text(after, encoding="utf-8")

    return edit


def substitute(name: str, pattern: str, replacement: str) -> Edit:
    """Replace the first match of a regular expression."""
    return rewrite(name, lambda text: re.sub(pattern, replacement, text, count=1, flags=re.M))


def comment(name: str) -> Edit:
    return rewrite(name, lambda text: f"{text}\n# TensorFlow, numpy, a comment\n")


def transform(name: str, transformer: type[ast.NodeTransformer]) -> Edit:
    """Rewrite the syntax tree, and with it all layout and every comment."""
    return rewrite(name, lambda text: ast.unparse(transformer().visit(ast.parse(text))) + "\n")


class Layout(ast.NodeTransformer):
    """Nothing but what writing the tree out again changes."""


class Docstrings(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value.value = "Other words."
        return node


class Annotations(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        node.returns = ast.Name("object", ast.Load())
        for argument in node.args.args:
            argument.annotation = None
        return node


class ImportOrder(ast.NodeTransformer):
    def visit_Module(self, node: ast.Module) -> ast.Module:
        imports = [one for one in node.body if isinstance(one, ast.Import | ast.ImportFrom)]
        first = node.body.index(imports[0])
        others = [one for one in node.body if one not in imports]
        node.body = [*others[:first], *reversed(imports), *others[first:]]
        return node


class _Words(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant(f"{node.value} indeed") if isinstance(node.value, str) else node


class RaisedWords(ast.NodeTransformer):
    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        name = node.exc.func.id if isinstance(node.exc, ast.Call) else ""  # type: ignore[attr-defined]
        return _Words().generic_visit(node) if name == "UserError" else node


class PrintedWords(ast.NodeTransformer):
    def visit_Call(self, node: ast.Call) -> ast.AST:
        shown = isinstance(node.func, ast.Name) and node.func.id in ("print", "progress")
        return _Words().generic_visit(node) if shown else self.generic_visit(node)


def bump(distribution: str, lock: str = "requirements.lock") -> Edit:
    """Lock a version that nobody has released."""
    return substitute(lock, rf"^({re.escape(distribution)}==[^ \\;]+)", r"\1.post9")


def params(change: Callable[[dict], object]) -> Edit:  # type: ignore[type-arg]
    """Change the values of params.yaml."""

    def rewritten(text: str) -> str:
        content = yaml.safe_load(text)
        change(content)
        return yaml.safe_dump(content, sort_keys=False)

    return rewrite("params.yaml", rewritten)


def text(pattern: str, replacement: str) -> Edit:
    """Change the text of params.yaml."""
    return substitute("params.yaml", pattern, replacement)


DECODE, BUILD, LOOP = (
    "pipeline/images/decode.py",
    "pipeline/backbones/build.py",
    "pipeline/training/loop.py",
)
ARRAYS, PLOTS = "pipeline/storage/arrays.py", "pipeline/reporting/plots.py"
AUGMENT = {"rotation": 5, "shift": 0, "shear": 0, "zoom": 0, "flip": True, "seed": 7}

HARMLESS = [
    Case("a comment in a stage", comment("stages/fine_tune.py")),
    Case("a comment in the decoder", comment(DECODE)),
    Case("a comment in the networks", comment(BUILD)),
    Case("a comment in the training loop", comment(LOOP)),
    Case("docstrings of a stage", transform("stages/split.py", Docstrings)),
    Case("docstrings of the networks", transform(BUILD, Docstrings)),
    Case("docstrings of the arrays", transform(ARRAYS, Docstrings)),
    Case("annotations of functions in the decoder", transform(DECODE, Annotations)),
    Case("annotations of functions in the training loop", transform(LOOP, Annotations)),
    Case("layout of a stage", transform("stages/evaluate.py", Layout)),
    Case("layout of the plots", transform(PLOTS, Layout)),
    Case("layout of the views", transform("pipeline/backbones/views.py", Layout)),
    Case("order of imports in the networks", transform(BUILD, ImportOrder)),
    Case("order of imports in a stage", transform("stages/train_head.py", ImportOrder)),
    Case("words of errors in the networks", transform(BUILD, RaisedWords)),
    Case("words of errors in the ledger", transform("pipeline/storage/ledger.py", RaisedWords)),
    Case("words of log lines in a stage", transform("stages/submit.py", PrintedWords)),
    Case("words of progress in a stage", transform("stages/split.py", PrintedWords)),
    Case(
        "code of the entry point", rewrite("pipeline/runtime/entrypoint.py", "{}\nX = 1\n".format)
    ),
    Case("code of the threads", rewrite("pipeline/runtime/parallel.py", "{}\nX = 1\n".format)),
    Case("code of the progress bar", rewrite("pipeline/runtime/progress.py", "{}\nX = 1\n".format)),
    Case("code that checks parameters", rewrite("pipeline/config.py", "{}\nX = 1\n".format)),
    Case("the names of paths", rewrite("pipeline/paths.py", "{}\nX = 1\n".format)),
    *(
        Case(f"a new version of {name}", bump(name, lock))
        for lock, names in {
            "requirements.lock": ("dvc", "tqdm"),
            "requirements-test.lock": ("ruff", "mypy", "pytest", "selenium", "zizmor", "pip-audit"),
        }.items()
        for name in names
    ),
    Case("a comment in params.yaml", text(r"\Z", "\n# nothing\n")),
    Case(
        "another order of keys",
        rewrite("params.yaml", lambda text: yaml.safe_dump(yaml.safe_load(text))),
    ),
    Case("0.0 for 0", text(r"^  dropout: 0\b.*$", "  dropout: 0.0")),
    Case("a list of one layer", text(r"unfreeze_from: conv1", "unfreeze_from: [conv1]")),
    Case("null written out", params(lambda keys: keys["data"].update(classes=None))),
    Case(
        "a null left out",
        params(
            lambda keys: (
                keys["compute"].pop("devices_", None)
                or keys["train_head"].update(class_weights=None)
            )
        ),
    ),
    Case(
        "another path to the same images", text(r"data/sample/train.zip", "./data/sample/train.zip")
    ),
    Case(
        "changes for views that there are not",
        params(lambda keys: keys["extract"].update(augment=AUGMENT)),
    ),
    Case(
        "what verify accepts",
        params(lambda keys: keys["verify"].update(absolute=0.5, relative=0.5)),
    ),
    Case("a path in absolute form", rewrite("params.yaml", lambda text: text))
    if False
    else Case("exponents", text(r"learning_rate: 0.0005\b", "learning_rate: 5e-04")),
]

FROM_PIXELS = ("audit", "explain", "extract", "fine_tune", "resize")
MATTERING = [
    Case(
        "a constant of near duplicates",
        substitute("pipeline/images/near_duplicates.py", r"^([A-Z_]+ = )(\d+)", r"\g<1>1\2"),
        ("split",),
    ),
    Case(
        "a version of Pillow", bump("pillow"), ("evaluate", "explain", "report", "resize", "split")
    ),
    Case(
        "a version of Keras",
        bump("keras"),
        ("audit", "explain", "extract", "fetch_weights", "fine_tune", "report", "train_head"),
    ),
    Case(
        "a version of TensorFlow",
        bump("tensorflow"),
        ("explain", "extract", "fetch_weights", "fine_tune", "report", "train_head"),
    ),
]
