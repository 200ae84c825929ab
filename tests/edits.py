"""Edits of the project's files, made for real, by what they change.

`HARMLESS` ones change no output byte: after each, `dvc repro` runs `code`, the named stage that has
to look at the data to know, and, where `params.yaml` itself changed, `report`. `MATTERING` ones
may: each names the stages that have to run again because of it, apart from those that follow from
their outputs.
"""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import yaml
from project import Project

Edit = Callable[[Path], None]  # given the project's folder


class Case(NamedTuple):
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
    return rewrite(name, "{}\n# TensorFlow, numpy, a comment\n".format)


def transform(name: str, transformer: Callable[[], ast.NodeTransformer]) -> Edit:
    """Rewrite the syntax tree, and with it all layout and every comment."""
    return rewrite(name, lambda text: ast.unparse(transformer().visit(ast.parse(text))) + "\n")


def bump(distribution: str, lock: str = "requirements.lock") -> Edit:
    """Lock a version that nobody has released."""
    return substitute(lock, rf"^({re.escape(distribution)}==[^ \\;]+)", r"\1.post9")


def more_code(name: str) -> Edit:
    """Add a statement to a module."""
    return rewrite(name, "{}\nMORE = 1\n".format)


def text(pattern: str, replacement: str) -> Edit:
    """Change the text of params.yaml."""
    return substitute("params.yaml", pattern, replacement)


def sorted_keys(before: str) -> str:
    return yaml.safe_dump(yaml.safe_load(before), sort_keys=True)


def params(key: str, value: object) -> Edit:
    """Set a key of params.yaml, named with dots."""
    return lambda folder: Project(folder).change({key: value})


class Annotations(ast.NodeTransformer):
    """Other annotations, docstrings and layout."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value.value = "Other words."
        return node

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


class Words(ast.NodeTransformer):
    def __init__(self, function: str) -> None:
        self.function = function

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if ast.unparse(node.func) == self.function:
            for text in ast.walk(node):
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    text.value += " indeed"
        return self.generic_visit(node)


class Constant(ast.NodeTransformer):
    """Change the first number."""

    done = False

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        if self.done or type(node.value) not in (int, float):
            return node
        self.done = True
        return ast.Constant(node.value + 1)  # type: ignore[operator]


class Operator(ast.NodeTransformer):
    """Change the first arithmetic operator."""

    done = False

    def visit_BinOp(self, node: ast.BinOp) -> ast.BinOp:
        self.generic_visit(node)
        if not self.done and isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
            self.done, node.op = True, ast.Mod()
        return node


def words(name: str, function: str) -> Edit:
    """Change the texts in the calls of a function."""
    return transform(name, lambda: Words(function))


VIEWS, EXTRACTORS = "pipeline/images/views.py", "pipeline/backbones/from_params.py"
DECODE, BUILD = "pipeline/images/decode.py", "pipeline/backbones/build.py"
LOOP, ARRAYS = "pipeline/training/loop.py", "pipeline/storage/arrays.py"
RESIZE, DUPLICATES = "pipeline/images/resize.py", "pipeline/images/near_duplicates.py"
BOOTSTRAP, QUALITY = "pipeline/evaluation/bootstrap.py", "pipeline/evaluation/data_quality.py"
PLOTS, STYLE = "pipeline/reporting/plots.py", "pipeline/reporting/templates/report.css"
FILTERS = "pipeline/explanation/network_images.py"
CHANGES = {"rotation": 5, "shift": 0, "shear": 0, "zoom": 0, "flip": True, "seed": 7}

HARMLESS = [
    Case("a comment in a stage", comment("stages/fine_tune.py")),
    Case("a comment in the decoder", comment(DECODE)),
    Case("a comment in the networks", comment(BUILD)),
    Case("a comment in the training loop", comment(LOOP)),
    Case("docstrings and annotations of a stage", transform("stages/split.py", Annotations)),
    Case("docstrings and annotations of the networks", transform(BUILD, Annotations)),
    Case("layout of a stage", transform("stages/evaluate.py", ast.NodeTransformer)),
    Case("order of imports in the networks", transform(BUILD, ImportOrder)),
    Case("order of imports in a stage", transform("stages/train_head.py", ImportOrder)),
    Case("words of errors in the arrays", words(ARRAYS, "UserError")),
    Case("words of log lines", words("stages/submit.py", "print")),
    Case("words of a progress bar", words(FILTERS, "progress")),
    Case("code of the threads", more_code("pipeline/runtime/parallel.py")),
    Case("code that reads parameters", more_code("pipeline/config.py")),
    Case("code of the paths", more_code("pipeline/paths.py")),
    Case("a new version of DVC", bump("dvc")),
    Case("a new version of tqdm", bump("tqdm")),
    *(
        Case(f"a new version of {name}", bump(name, "requirements-test.lock"))
        for name in ("ruff", "selenium")
    ),
    Case("a comment in params.yaml", text(r"\Z", "\n# nothing\n")),
    Case("another order of keys", rewrite("params.yaml", sorted_keys)),
    Case("0.0 for 0", text(r"^  dropout: 0\b.*$", "  dropout: 0.0")),
    Case("an exponent", text(r"learning_rate: 0\.0005\b", "learning_rate: 5e-04")),
    Case("a list of one layer", text("unfreeze_from: conv1", "unfreeze_from: [conv1]")),
    Case("a null left out", text("^ *classes: null.*\n", "")),
    Case("another path to the images", text("data/sample/train.zip", "./data/sample/train.zip")),
    Case("changes of views that there are not", params("extract.augment", CHANGES)),
    Case("what verify accepts", params("verify.absolute", 0.5)),
    Case("patience beyond the epochs", params("fine_tune.patience", 1)),
    Case("the preprocessing there is", params("backbones.convnet.preprocessing", "rescale")),
    Case("the classes as found", params("data.classes", ["cat", "dog"]), ("split",)),
    Case("a limit above all classes", params("split.per_class_limit", 10_000), ("split",)),
    Case("a check that passes as before", params("split.max_rejected", 0.5), ("split",)),
]

EXTRACTOR = ("explain", "extract", "fetch_weights", "fine_tune")
EXTRACTOR_RUNS = ("explain", "extract", "fine_tune")
TENSORFLOW = (*EXTRACTOR, "report", "train_head")
ARRAY_STAGES = ("audit", "evaluate", *EXTRACTOR[:2], "fine_tune", "resize", "submit", "train_head")
PILLOW = ("evaluate", "explain", "report", "resize", "split")
MATTERING = [
    Case("a constant of the decoder", transform(DECODE, Constant), ("resize", "split")),
    Case("an operator of resizing", transform(RESIZE, Operator), ("resize", "split")),
    Case("a constant of near duplicates", transform(DUPLICATES, Constant), ("split",)),
    Case("a constant of the networks", transform(BUILD, Constant), EXTRACTOR),
    Case("views", more_code(VIEWS), ("extract", "fine_tune")),
    Case("extractors by Keras", more_code(EXTRACTORS), EXTRACTOR),
    Case(
        "files of OpenVINO", more_code("pipeline/backbones/openvino_files.py"), ("fetch_weights",)
    ),
    Case("the extraction", more_code("pipeline/backbones/extraction.py"), ("extract",)),
    Case("the training loop", transform(LOOP, Operator), ("explain", "fine_tune", "train_head")),
    Case("augmentation", more_code("pipeline/training/augmentation.py"), ("fine_tune",)),
    Case("the bootstrap", transform(BOOTSTRAP, Constant), ("evaluate", "fine_tune")),
    Case("thresholds", more_code("pipeline/evaluation/scores.py"), ("evaluate",)),
    Case("data quality", transform(QUALITY, Constant), ("audit",)),
    Case("Grad-CAM", more_code("pipeline/explanation/grad_cam.py"), ("explain",)),
    Case("plots", transform(PLOTS, Constant), ("evaluate", "explain")),
    Case("arrays", transform(ARRAYS, Constant), ARRAY_STAGES),
    Case("a statement of a stage", more_code("stages/submit.py"), ("submit",)),
    Case("the page's style", substitute(STYLE, "1px", "2px"), ("report",)),
    Case(
        "why an image is rejected",
        words(DECODE, "Unreadable"),
        ("resize", "split"),
    ),
    Case("numpy", bump("numpy"), (*ARRAY_STAGES, "fetch_weights", "report", "split")),
    Case("Pillow", bump("pillow"), PILLOW),
    Case("TensorFlow", bump("tensorflow"), TENSORFLOW),
    Case("zarr", bump("zarr"), (*ARRAY_STAGES, "report")),
    Case("the resizer", bump("cykooz-resizer"), ("report", "resize", "split")),
    Case("a penalty", params("train_head.inverse_regularization", 0.5), ("train_head",)),
    Case("a clip", params("submit.clip", 0.25), ("submit",)),
    Case("a layer", params("backbones.convnet.layer", "conv3"), EXTRACTOR_RUNS),
]
