"""Nothing in stages/, packages/ and benchmarks/ runs what a file or a parameter says.

ruff forbids the names (pyproject.toml); here the source is walked for what a name does not show:
words given to a call, and methods of whatever object.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

MODULES = {
    *("pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"),
    *("code", "codeop", "pty", "urllib.request", "xmlrpc"),
}
FUNCTIONS = {
    *("eval", "exec", "compile", "__import__", "input", "breakpoint"),
    *("os.system", "os.popen", "os.execvp", "os.execlp", "os.spawnlp", "tempfile.mktemp"),
    *("subprocess.getoutput", "subprocess.getstatusoutput"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"),
    *("torch.load", "keras.utils.get_file", "ssl._create_unverified_context"),
}
METHODS = {  # of whatever object
    *("load_model", "load_weights", "model_from_json", "from_config", "read_pickle"),
    *("enable_unsafe_deserialization", "extractall", "urlretrieve"),
}
WORDS = {  # a call may be given no other value for these than the safe one
    "shell": False,
    "allow_pickle": False,
    "safe_mode": True,
    "verify": True,
    "autoescape": True,
}
ALLOWED = {
    ("pipeline/config.py", "calls yaml.load"),  # by a SafeLoader that refuses a key given twice
    (
        "pipeline/runtime/parallel.py",
        "imports pickle",
    ),  # Dask sends pickles to its workers; see SECURITY.md
    (
        "pipeline/backbones/weights_file.py",
        "calls .load_weights",
    ),  # once the file has been looked at
    (
        "pipeline/backbones/batch_norm_folding.py",
        "calls .from_config",
    ),  # of a layer that this process built
    ("pipeline/explanation/activations.py", "calls .from_config"),
    # Markdown is no HTML; `comparison` escapes what it puts into it by itself.
    ("pipeline/reporting/html.py", "calls with autoescape=escaped"),
    ("benchmarks/tutorial.py", "calls .load_weights"),  # as tutorials do, on files of our own
    ("benchmarks/tutorial.py", "calls .extractall"),
    ("benchmarks/contenders/keras_loop.py", "calls .load_weights"),
    ("benchmarks/contenders/openvino_export.py", "calls .load_weights"),
}


def dangers(source: str) -> set[str]:
    """What a module does that data could turn against its reader."""
    found: set[str] = set()
    names: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {(one.asname or one.name).split(".")[0]: one.name for one in node.names}
            imported = [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            names |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
            imported = [str(node.module), *(f"{node.module}.{one.name}" for one in node.names)]
        else:
            continue
        found |= {f"imports {name}" for name in imported if name in MODULES}
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        first, _, rest = called.partition(".")
        whole = f"{names.get(first, first)}.{rest}".rstrip(".")
        if whole in FUNCTIONS:
            found.add(f"calls {whole}")
        last = whole.rpartition(".")[2]
        if last in METHODS:
            found.add(f"calls .{last}")
        for word in node.keywords:
            safe = WORDS.get(word.arg or "")
            if safe is not None and getattr(word.value, "value", None) is not safe:
                found.add(f"calls with {word.arg}={ast.unparse(word.value)}")
    return found


FILES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("stages", "packages", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)


def test_no_module_runs_what_data_says() -> None:
    assert len(FILES) > 100
    found = {(name, danger) for name in FILES for danger in dangers((ROOT / name).read_text())}
    assert found - ALLOWED == set()
    assert ALLOWED - found == set()  # none is allowed in vain


BAD = {
    "import pickle": "imports pickle",
    "from joblib import load": "imports joblib",
    "import cloudpickle as x": "imports cloudpickle",
    "from urllib import request": "imports urllib.request",
    "eval(text)": "calls eval",
    "exec(text)": "calls exec",
    "import os as o\no.system(text)": "calls os.system",
    "from os import popen as p\np(text)": "calls os.popen",
    "import tempfile\ntempfile.mktemp()": "calls tempfile.mktemp",
    "import subprocess\nsubprocess.run(text, shell=True)": "calls with shell=True",
    "run(text, shell=wanted)": "calls with shell=wanted",
    "import yaml\nyaml.load(text, Loader=yaml.Loader)": "calls yaml.load",
    "import numpy as np\nnp.load(path, allow_pickle=True)": "calls with allow_pickle=True",
    "import keras\nkeras.models.load_model(path)": "calls .load_model",
    "from keras.saving import load_model as f\nf(path)": "calls .load_model",
    "network.load_weights(path)": "calls .load_weights",
    "import torch\ntorch.load(path)": "calls torch.load",
    "archive.extractall(path)": "calls .extractall",
    "requests.get(url, verify=False)": "calls with verify=False",
    "keras.saving.load(path, safe_mode=False)": "calls with safe_mode=False",
}


@pytest.mark.parametrize("source", BAD)
def test_each_of_these_would_be_found(source: str) -> None:
    assert BAD[source] in dangers(source)


def test_what_is_safe_is_not_found() -> None:
    assert dangers("import yaml\nyaml.safe_load(text)\nnp.load(path, allow_pickle=False)") == set()
    assert dangers("import subprocess\nsubprocess.run([name, text], shell=False)") == set()


def test_ruff_refuses_the_names_too(tmp_path: Path) -> None:
    names = (
        *("import pickle", "import cloudpickle", "from joblib import load", "import shelve"),
        *("from keras.models import load_model", "from tempfile import mktemp"),
    )
    (tmp_path / "bad.py").write_text("\n".join(names) + "\n")
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "ruff", "check", "--config", ROOT / "pyproject.toml"),
            *("--no-cache", "--select", "TID251", "--output-format", "concise", "bad.py"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    for number, _ in enumerate(names, start=1):
        assert f"bad.py:{number}:" in ended.stdout
