"""Which project files a script imports, directly or through others, read from the source."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent


def project_files(script: Path) -> set[str]:
    """Paths, relative to the root, of `script` and of every project module that it reaches."""
    found: set[str] = set()
    waiting = [script]
    while waiting:
        path = waiting.pop()
        name = path.relative_to(ROOT).as_posix()
        if name in found:
            continue
        found.add(name)
        waiting += [ROOT / module for module in _modules(path)]
    return found


def params_read(script: Path) -> set[str]:
    """Dotted chains read from a name `params` in a script, such as "extract.pooling".

    A subscript stands as `*`: "fetch_weights.*.include_top".
    """
    chains = set()
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        chain: list[str] = []
        while isinstance(node, ast.Attribute | ast.Subscript):
            chain = [node.attr if isinstance(node, ast.Attribute) else "*", *chain]
            node = node.value
        if isinstance(node, ast.Name) and node.id == "params" and chain:
            chains.add(".".join(chain))
    return chains


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
