"""Fingerprint of code: which modules and package versions can change what a stage writes.

`of(stage)` maps every project module that the stage imports, directly or not, to a hash of its
syntax tree, and every distribution that computes or encodes an output to its locked version.
`pipeline/runtime/`, `config.py` and `paths.py` change no output byte and are left out. The hash
ignores comments, docstrings, layout, the order of imports, annotations of functions and variables,
and the words of log lines and of raised exceptions.
"""

import ast
import functools
import hashlib
import importlib.metadata
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from pipeline import paths
from pipeline.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
NEUTRAL = (
    "pipeline/runtime/",
    "pipeline/config.py",
    "pipeline/schema.py",
    "pipeline/schema_values.py",
    "pipeline/stage.py",
    "pipeline/paths.py",
)
WORDS_ARE_OUTPUT = ("Unreadable",)  # its words stand in the ledger's column `reason`
SPEAKERS = ("print", "progress")  # calls whose texts are only shown

# Import name -> the distributions behind it that decide bytes. `KERAS` stands for the backend's.
KERAS = "keras"
DECIDING = {
    "PIL": ("pillow",),
    "cykooz_resizer": ("cykooz.resizer",),
    "h5py": ("h5py",),
    "jinja2": ("jinja2", "markupsafe"),
    KERAS: (KERAS, "h5py"),
    "matplotlib": ("matplotlib", "pillow"),
    "numpy": ("numpy",),
    "scipy": ("scipy",),
    "sklearn": ("scikit-learn", "scipy"),
    "zarr": ("zarr", "numcodecs", "google-crc32c"),
}
BACKENDS = {"tensorflow": ("tensorflow",), "jax": ("jax", "jaxlib")}
ENGINES = {"keras": (), "openvino": ("openvino",)}
# Imported, and without influence on a byte: they check, show, measure, fetch or distribute.
INDIFFERENT = {
    "distributed", "dvc", "dvc_data", "google_crc32c", "openvino", "packaging", "psutil",
    "pydantic", "pydantic_core", "requests", "tensorflow", "threadpoolctl", "tqdm", "vl_convert",
    "yaml",
}  # fmt: skip

Entry = dict[str, str]


def of(stage: str) -> Entry:
    """Return the fingerprint of `stages/STAGE.py`."""
    modules = sorted(_closure(f"stages/{stage}.py"))
    imports = {name for module in modules for name in _parsed(module).external}
    if stage == "report":  # it names the versions behind all stages
        imports = set(DECIDING)
    distributions = {one for name in imports for one in DECIDING.get(name, ())}
    hashes = {module: _parsed(module).digest for module in modules}
    return hashes | _templates(modules) | _versions(distributions)


def everything(stages: Iterable[str]) -> dict[str, object]:
    """Return the content of `code.yaml`: an entry a stage, then backends and engines."""
    content: dict[str, object] = {stage: of(stage) for stage in stages}
    return {**content, **libraries()}


def libraries() -> dict[str, dict[str, Entry]]:
    """Return the versions behind each choice of `compute.backend` and `extract.engine`."""
    return {
        "backend": {name: _versions(packages) for name, packages in BACKENDS.items()},
        "engine": {name: _versions(packages) for name, packages in ENGINES.items()},
    }


def forget() -> None:
    """Read every source file again at the next call."""
    _parsed.cache_clear()
    locked.cache_clear()


def differing(expected: Entry, actual: Entry) -> list[str]:
    """Return the keys under which two entries differ, sorted."""
    keys = expected.keys() | actual.keys()
    return sorted(key for key in keys if expected.get(key) != actual.get(key))


def require_installed(entry: Entry) -> None:
    """Refuse to run with other packages than those of an entry.

    Raises:
        UserError: names the first of them and how to install them.
    """
    for name, version in entry.items():
        if "/" not in name:
            present = installed(name)
            if present != version:
                raise UserError(
                    f"{paths.CODE}: expected {name} {version}, as {paths.RUN_LOCK} says, got "
                    f"{present or 'none installed'}; run `make clean-venv repro`, or `dvc repro` "
                    "with the packages of that file"
                )


class _Module:
    """A parsed source file: its digest, and what it imports from the project and from outside."""

    def __init__(self, source: str) -> None:
        tree = ast.parse(source)
        self.internal: set[str] = set()
        self.external: set[str] = set()
        for name in _imported(tree):
            top = name.partition(".")[0]
            if top in ("pipeline", "stages"):
                self.internal.add(name)
            else:
                self.external.add(top)
        self.texts = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        self.digest = hashlib.sha256(ast.dump(_Essence().visit(tree)).encode()).hexdigest()[:12]


@functools.cache
def _parsed(module: str) -> _Module:
    return _Module((ROOT / module).read_text(encoding="utf-8"))


def _closure(module: str) -> set[str]:
    """Return the module and every project module that it reaches, as paths from the root."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        one = waiting.pop()
        if one in reached or one.startswith(NEUTRAL):
            continue
        reached.add(one)
        for parent in Path(one).parents:
            package = (parent / "__init__.py").as_posix()
            if parent != Path() and (ROOT / package).is_file():
                waiting.append(package)
        for name in _parsed(one).internal:
            base = name.replace(".", "/")
            waiting += [
                path for path in (f"{base}.py", f"{base}/__init__.py") if (ROOT / path).is_file()
            ]
    return reached


def _templates(modules: Iterable[str]) -> Entry:
    """Return hashes of the files in `templates/` that a module names, or one of them names."""
    hashes = {}
    for module in modules:
        files = sorted((ROOT / module).parent.glob("templates/*"))
        texts = [*_parsed(module).texts]
        while texts:
            text = texts.pop()
            for file in files:
                name = file.relative_to(ROOT).as_posix()
                if file.name in text and name not in hashes:
                    content = file.read_text(encoding="utf-8")
                    hashes[name] = hashlib.sha256(content.encode()).hexdigest()[:12]
                    texts.append(content)
    return hashes


def _imported(tree: ast.AST) -> Iterator[str]:
    """Yield dotted names; of `from a import b` both a and a.b, as b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


class _Essence(ast.NodeTransformer):
    """Strip from a syntax tree what changes no result."""

    def visit_Module(self, node: ast.Module) -> ast.Module:
        self._strip_docstring(node)
        self.generic_visit(node)
        used = {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
        imports = [one for one in node.body if isinstance(one, ast.Import | ast.ImportFrom)]
        others = [one for one in node.body if not isinstance(one, ast.Import | ast.ImportFrom)]
        node.body = [*self._sorted_imports(imports, used), *others]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self._strip_docstring(node)
        node.returns = None
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                argument.annotation = None
        self.generic_visit(node)
        if node.name.startswith(("print_", "_print_")):
            _Silence().visit(node)
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        """Keep the annotations of fields: dataclasses and pydantic read them."""
        self._strip_docstring(node)
        fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
        node.body = [self.visit(one) if one not in fields else one for one in node.body]
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
            _Silence().generic_visit(node)
        self.generic_visit(node)
        return node

    @staticmethod
    def _strip_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> None:
        if ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]

    @staticmethod
    def _sorted_imports(
        imports: list[ast.Import | ast.ImportFrom], used: set[str]
    ) -> list[ast.stmt]:
        """Return one import an imported name, sorted, without those that only annotations use."""
        single: list[ast.stmt] = []
        for node in imports:
            for alias in node.names:
                if (alias.asname or alias.name.partition(".")[0]) in used:
                    if isinstance(node, ast.Import):
                        single.append(ast.Import(names=[alias]))
                    else:
                        single.append(
                            ast.ImportFrom(module=node.module, names=[alias], level=node.level)
                        )
        return sorted(single, key=ast.dump)


class _Silence(ast.NodeTransformer):
    """Empty every text."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant("") if isinstance(node.value, str) else node


def _ends_with(function: ast.expr, names: tuple[str, ...]) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in names


def _versions(distributions: Iterable[str]) -> Entry:
    """Return the locked version of each; one that is not locked has the installed version."""
    known = locked()
    versions = {name: known.get(_normal(name)) or installed(name) for name in distributions}
    return {name: version for name, version in sorted(versions.items()) if version}


@functools.cache
def locked(path: Path | None = None) -> dict[str, str]:
    """Read the pinned versions that hold for this Python and system."""
    try:
        text = (path or ROOT / paths.RUN_LOCK).read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    versions = {}
    for line in text.splitlines():
        if not re.match(r"[A-Za-z0-9]", line):
            continue
        try:
            requirement = Requirement(line.rstrip("\\ "))
        except InvalidRequirement:
            continue
        if requirement.marker is None or requirement.marker.evaluate():
            versions[_normal(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return versions


def installed(name: str) -> str:
    """Return the installed version of a distribution; empty if there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
