"""Fingerprint of code: which modules and package versions can change what a stage writes.

`of(stage)` maps every project module that the stage imports, directly or not, to a hash of its
syntax tree, and every distribution that computes or encodes an output to its locked version.
`NEUTRAL` files change no output byte and are left out. The hash ignores comments, docstrings,
layout, the order of imports, annotations of functions and variables, and the words of log lines and
of raised exceptions.
"""

import ast
import copy
import functools
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipeline import paths
from pipeline.runtime.errors import UserError
from pipeline.runtime.machine import installed

ROOT = Path(__file__).parents[2]
NEUTRAL = (
    "pipeline/runtime/",
    *(f"pipeline/{name}.py" for name in ("config", "paths", "schema", "schema_values", "stage")),
)
WORDS_ARE_OUTPUT = ("Unreadable",)  # its words stand in the ledger's column `reason`
SPEAKERS = ("print", "progress")  # calls whose texts are only shown

# Import name -> the distributions behind it that decide bytes, but for the backend's.
DECIDING = {
    "PIL": ("pillow",),
    "cykooz_resizer": ("cykooz.resizer",),
    "h5py": ("h5py",),
    "jinja2": ("jinja2", "markupsafe"),
    "keras": ("keras", "h5py"),
    "matplotlib": ("matplotlib", "pillow"),
    "numpy": ("numpy",),
    "scipy": ("scipy",),
    "sklearn": ("scikit-learn", "scipy"),
    "zarr": ("zarr", "numcodecs", "google-crc32c"),
}
# By extract.engine: the module that computes features, which `extract` does not have in its entry.
EXTRACTORS = {
    "keras": "pipeline/backbones/from_params.py",
    "openvino": "pipeline/backbones/openvino.py",
}
LIBRARIES: dict[str, dict[str, tuple[str, ...]]] = {  # by compute.backend and extract.engine
    "backend": {"tensorflow": ("tensorflow",), "jax": ("jax", "jaxlib")},
    "engine": {"keras": (), "openvino": ("openvino",)},
}
# By backend: what else decides bytes where it is installed, the first of which is there for GPUs.
ON_GPU = {
    "tensorflow": ("nvidia-cudnn-cu12", "nvidia-cublas-cu12", "nvidia-cuda-nvcc-cu12"),
    "jax": ("jax-cuda13-plugin", "jax-cuda13-pjrt", "nvidia-cudnn-cu13", "nvidia-cublas"),
}

Entry = dict[str, str]


def of(stage: str) -> Entry:
    """Return the fingerprint of `stages/STAGE.py`."""
    without = EXTRACTORS.values() if stage == "extract" else ()
    # The report names the versions behind all stages.
    return _entry(f"stages/{stage}.py", without, DECIDING if stage == "report" else None)


def extractor(engine: str, backend: str) -> Entry:
    """Return the fingerprint of what computes features, beside the entry of `extract`."""
    used = LIBRARIES["engine"][engine]
    return _entry(EXTRACTORS[engine]) | (_versions(used) if used else _of_backend(backend))


def everything(stages: Iterable[str]) -> dict[str, object]:
    """Return the content of `code.yaml`: an entry a stage, then backends, engines, extractors."""
    pairs = [("keras", "tensorflow"), ("keras", "jax"), ("openvino", "tensorflow")]
    extractors = {f"{engine}-{backend}": extractor(engine, backend) for engine, backend in pairs}
    return {**{stage: of(stage) for stage in stages}, **libraries(), "extractor": extractors}


def libraries() -> dict[str, dict[str, Entry]]:
    """Return the versions behind each choice of `compute.backend` and `extract.engine`."""
    return {
        "backend": {name: _of_backend(name) for name in LIBRARIES["backend"]},
        "engine": {name: _versions(one) for name, one in LIBRARIES["engine"].items()},
    }


def chosen(backend: str, engine: str = "keras") -> Entry:
    """Return the versions behind one backend and one engine."""
    return _of_backend(backend) | _versions(LIBRARIES["engine"][engine])


def _of_backend(name: str) -> Entry:
    on_gpu = {package: installed(package) for package in ON_GPU[name]}
    present = {package: version for package, version in on_gpu.items() if version}
    return _versions(LIBRARIES["backend"][name]) | present


def forget() -> None:
    """Read every source file again at the next call."""
    _parsed.cache_clear()
    locked.cache_clear()


def require_installed(entry: Entry) -> None:
    """Raise a `UserError` if another version of a package of the entry is installed."""
    for name, version in entry.items():
        present = installed(name) if "/" not in name else version
        if present != version:
            raise UserError(
                f"{paths.CODE}: expected {name} {version}, as {paths.RUN_LOCK} says, got "
                f"{present or 'none installed'}; run `touch requirements*.lock && make repro`, or "
                "`dvc repro` with the packages of that file"
            )


class Module(NamedTuple):
    """A source file: its text, the dotted names that it imports, the hash of its syntax tree."""

    source: str
    imports: set[str]
    digest: str


@functools.cache  # a stage compares its code twice
def parse(source: str) -> Module:
    """Parse the source of a module; of `from a import b`, a and a.b, which may be a module."""
    tree, imports = ast.parse(source), set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    return Module(source, imports, _hash(ast.dump(_Essence().visit(tree))))


@functools.cache
def _parsed(module: str) -> Module:
    return parse((ROOT / module).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _entry(module: str, without: Iterable[str] = (), imports: Iterable[str] | None = None) -> Entry:
    """Return hashes of the modules that a module reaches, and versions of what they import."""
    modules = sorted(_closure(module, without))
    if imports is None:
        imports = {name.partition(".")[0] for one in modules for name in _parsed(one).imports}
    distributions = {one for name in imports for one in DECIDING.get(name, ())}
    hashes = {one: _parsed(one).digest for one in modules}
    return hashes | _templates(modules) | _versions(distributions)


def _closure(module: str, without: Iterable[str] = ()) -> set[str]:
    """Return the module and every project module that it reaches, as paths from the root."""
    reached, passed_over = set[str](), (*NEUTRAL, *without)
    waiting = [module]
    while waiting:
        one = waiting.pop()
        if one in reached or one.startswith(passed_over) or not (ROOT / one).is_file():
            continue
        reached.add(one)
        waiting += [(parent / "__init__.py").as_posix() for parent in Path(one).parents]
        for name in _parsed(one).imports:
            if name.partition(".")[0] in ("pipeline", "stages"):
                base = name.replace(".", "/")
                waiting += [f"{base}.py", f"{base}/__init__.py"]
    return reached


def _templates(modules: Iterable[str]) -> Entry:
    """Return hashes of the files in `templates/` that a module names, or one of them names."""
    hashes = {}
    for module in modules:
        files = sorted((ROOT / module).parent.glob("templates/*"))
        texts = [_parsed(module).source]
        while texts:
            text = texts.pop()
            for file in files:
                name = file.relative_to(ROOT).as_posix()
                if file.name in text and name not in hashes:
                    texts.append(file.read_text(encoding="utf-8"))
                    hashes[name] = _hash(texts[-1])
    return hashes


class _Essence(ast.NodeTransformer):
    """Strip from a syntax tree what changes no result."""

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body:
            node.body = node.body[ast.get_docstring(node) is not None :] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
        return super().visit(node)

    def visit_Module(self, node: ast.Module) -> ast.Module:
        """Put one import per used name first, sorted."""
        self.generic_visit(node)
        used = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
        imports: list[ast.stmt] = []
        others: list[ast.stmt] = []
        for statement in node.body:
            if not isinstance(statement, ast.Import | ast.ImportFrom):
                others.append(statement)
                continue
            for alias in statement.names:
                if (alias.asname or alias.name.partition(".")[0]) in used:  # not by annotations
                    imports.append(single := copy.copy(statement))
                    single.names = [alias]
        node.body = [*sorted(imports, key=ast.dump), *others]
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        """Keep the annotations of fields: dataclasses and pydantic read them."""
        node.body = [
            one if isinstance(one, ast.AnnAssign) else self.visit(one) for one in node.body
        ]
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt:
        """Turn `x: int = 1` into `x = 1`."""
        self.generic_visit(node)
        if node.value is None:
            return ast.Pass()
        return ast.Assign(targets=[node.target], value=node.value, lineno=0)

    def visit_Raise(self, node: ast.Raise) -> ast.Raise:
        if isinstance(node.exc, ast.Call) and not _ends_with(node.exc.func, WORDS_ARE_OUTPUT):
            node.exc = node.exc.func
        self.generic_visit(node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if _ends_with(node.func, ("UserError",)):
            node.args, node.keywords = [], []
        elif _ends_with(node.func, SPEAKERS):
            for text in ast.walk(node):
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    text.value = ""
        self.generic_visit(node)
        return node


def _ends_with(function: ast.expr, names: tuple[str, ...]) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in names


def _versions(distributions: Iterable[str]) -> Entry:
    """Return the locked version of each; one that is not locked has the installed version."""
    versions = {name: _locked_version(name) or installed(name) for name in distributions}
    return {name: version for name, version in sorted(versions.items()) if version}


def _locked_version(distribution: str) -> str | None:
    name = canonicalize_name(distribution)
    return locked().get(name) or locked(ROOT / paths.GPU_LOCKS["jax"]).get(name)


@functools.cache
def locked(path: Path | None = None) -> dict[str, str]:
    """Read the pinned versions that hold for this Python and system; none without a lock file."""
    file = path or ROOT / paths.RUN_LOCK
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    pins = [Requirement(line.rstrip("\\ ")) for line in lines if re.match("[A-Za-z0-9]", line)]
    return {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in pins
        if pin.marker is None or pin.marker.evaluate()
    }
