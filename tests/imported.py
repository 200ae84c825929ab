"""Which project files a script imports, directly or through others, read from the source."""

import ast
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent


def project_files(script: Path) -> set[str]:
    """Paths, relative to the root, of `script` and of every project module that it reaches."""
    found: set[str] = set()
    waiting = [script, ROOT / "stages" / "__init__.py"]  # which is imported with any of them
    while waiting:
        path = waiting.pop()
        name = path.relative_to(ROOT).as_posix()
        if name in found:
            continue
        found.add(name)
        waiting += [ROOT / module for module in _modules(path)]
    return found


def params_read(script: Path) -> set[str]:
    """Dotted chains read from a name or attribute `params` in a script, as "extract.pooling".

    A subscript stands as `*`: "fetch_weights.*.include_top". A section that is dumped stands for
    itself, or if it is dumped with `exclude={...}` for its other keys.
    """
    chains = set()
    waiting: list[tuple[ast.AST, set[str]]] = [
        (ast.parse(script.read_text(encoding="utf-8")), set())
    ]
    while waiting:
        node, excluded = waiting.pop()
        chain = _chain(node)
        if chain:
            inner = (part for part in ast.walk(node) if isinstance(part, ast.Subscript))
            waiting += [(part.slice, set()) for part in inner]
        if chain[-1:] == ["model_dump"]:
            section = ".".join(chain[:-1])
            kept = _keys(chain[:-1]) - excluded
            chains |= {f"{section}.{key}" for key in kept} if excluded else {section}
        elif chain:
            chains.add(".".join(chain))
        else:
            waiting += [(child, _left_out(node, child)) for child in ast.iter_child_nodes(node)]
    return chains


def _chain(node: ast.AST) -> list[str]:
    """The names behind `params` or `self.params` in an expression; none if it begins otherwise."""
    chain: list[str] = []
    while isinstance(node, ast.Attribute | ast.Subscript):
        chain = [node.attr if isinstance(node, ast.Attribute) else "*", *chain]
        node = node.value
    if isinstance(node, ast.Name) and node.id == "self" and chain[:1] == ["params"]:
        return chain[1:]
    return chain if isinstance(node, ast.Name) and node.id == "params" else []


def _left_out(node: ast.AST, function: ast.AST) -> set[str]:
    """The keys of `exclude={...}` where `node` calls `function`."""
    if not isinstance(node, ast.Call) or node.func is not function:
        return set()
    values = [word.value for word in node.keywords if word.arg == "exclude"]
    return {key for value in values for key in ast.literal_eval(value)}


def _keys(section: list[str]) -> set[str]:
    """The keys that a section of the committed parameters holds."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    for name in section:
        content = content[name]
    return set(content)


def _modules(path: Path) -> list[str]:
    modules = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("stages"):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("stages")]
        else:
            continue
        files = [name.replace(".", "/") + ".py" for name in names]
        modules += [file for file in files if (ROOT / file).is_file()]
    return modules
