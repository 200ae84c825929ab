"""No module runs code that a file or a parameter contains.

ruff forbids functions and modules by name (pyproject.toml). This test walks the source for methods
of any object and for unsafe arguments.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from project import ROOT

FOLDERS = ("stages", "pipeline", "benchmarks")
METHODS = {  # of any object
    *("load_model", "load_weights", "model_from_json", "from_config", "read_pickle"),
    *("enable_unsafe_deserialization", "extractall", "urlretrieve"),
}
SAFE_ARGUMENTS = {  # the only value that a call may pass
    "shell": False,
    "allow_pickle": False,
    "safe_mode": True,
    "verify": True,
    "autoescape": True,
}
ALLOWED = {
    ("pipeline/backbones/weights_file.py", "calls .load_weights"),  # after checking the file
    # The configuration of a layer that this process built:
    ("pipeline/backbones/batch_norm_folding.py", "calls .from_config"),
    ("pipeline/backbones/intermediate.py", "calls .from_config"),
    # Markdown is not HTML; `comparison` escapes its values.
    ("pipeline/reporting/html.py", "calls with autoescape=template.endswith('.html.jinja')"),
    # Benchmarks repeat what tutorials do, on files that they wrote.
    ("benchmarks/tutorial.py", "calls .load_weights"),
    ("benchmarks/tutorial.py", "calls .extractall"),
    ("benchmarks/contenders/keras_loop.py", "calls .load_weights"),
    ("benchmarks/contenders/openvino_export.py", "calls .load_weights"),
}


def dangers(source: str) -> Iterator[str]:
    """Yield the calls in a module through which data could run as code."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        if name in METHODS:
            yield f"calls .{name}"
        for word in node.keywords:
            safe = SAFE_ARGUMENTS.get(word.arg or "")
            if safe is not None and getattr(word.value, "value", None) is not safe:
                yield f"calls with {word.arg}={ast.unparse(word.value)}"


def test_only_the_allowed_modules_do_something_dangerous() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    found = {
        (path.relative_to(ROOT).as_posix(), danger)
        for path in files
        for danger in dangers(path.read_text(encoding="utf-8"))
    }
    assert found == ALLOWED


def test_ruff_refuses_what_runs_code_by_name(tmp_path: Path) -> None:
    lines = (
        *("import pickle", "import cloudpickle as x", "import dill", "import marshal"),
        *("from joblib import load", "import shelve", "from tempfile import mktemp"),
        *("from os import popen", "os.system(text)", "from urllib import request"),
        *("eval(text)", "exec(text)", "subprocess.run(text, shell=True)", "yaml.load(text)"),
        *("from keras.models import load_model", "requests.get(url, verify=False)"),
        *("from torch import load as read", "ssl._create_unverified_context()"),
    )
    imports = "import os, ssl, subprocess, requests, yaml"
    (tmp_path / "bad.py").write_text("\n".join([imports, *lines]) + "\n")
    command = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml")]
    command += ["--no-cache", "--select", "TID251,S", "--output-format", "concise", "bad.py"]
    ended = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True)
    missed = [line for n, line in enumerate(lines, 2) if f"bad.py:{n}:" not in ended.stdout]
    assert missed == []
