"""Run a stage again and again in this folder, each time with one fault of the disk in its way.

    python faulting.py STAGE TIMES ERRNOS ARGUMENT...

First it runs once to count the sites: every file below this folder that it opens for writing, each
write, fsync, copy, rename, removal and new folder. Then it runs for each of TIMES sites (spread
evenly; 0 for all of them) and each of ERRNOS: the call fails that is the site's. ENOSPC goes on
failing from there on, for whatever takes room. ERRNOS are names, comma-separated; `each:` before
them takes one of them for each site, in turn. Prints of each run, as JSON: the site, the errno, the
status, what it said on stderr, and the outputs that are not as they were.

EFBIG alone fails nothing by itself, but lets no file grow beyond a size, of each of the files that
are there in turn: the kernel refuses, also what C libraries write.
"""

import builtins
import errno
import importlib
import io
import json
import os
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from torture import every_file, strays

from pipeline import config
from pipeline.backbones import keras_setup

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
TAKE_ROOM = ("open", "write", "fsync", "os.mkdir", "sendfile")
NEW = ("maps", "data/export")  # what commands write, to be made anew each time

HERE = str(Path.cwd())
OPEN = io.open


class Sites:
    """Counts the sites that a run passes, and fails at one of them."""

    def __init__(self, at: int, number: int) -> None:
        self.at, self.number, self.passed = at, number, list[tuple[str, str]]()

    def visit(self, what: str, path: Any) -> None:
        name = os.path.abspath(os.fsdecode(path))
        if not name.startswith(f"{HERE}{os.sep}"):
            return
        self.passed.append((what, os.path.relpath(name, HERE)))
        count = len(self.passed)
        goes_on = self.number == errno.ENOSPC and count > self.at and what in TAKE_ROOM
        if count == self.at or (self.at and goes_on):
            raise OSError(self.number, os.strerror(self.number), os.path.relpath(name, HERE))

    def install(self) -> None:
        def audit(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open" and arguments[2] & WRITING and not isinstance(arguments[0], int):
                self.visit("open", arguments[0])
            elif event in CHANGES:
                self.visit(event, arguments[0])

        fsync, sendfile = os.fsync, os.sendfile

        def syncing(handle: int) -> None:
            self.visit("fsync", os.readlink(f"/proc/self/fd/{handle}"))
            fsync(handle)

        def sending(out: int, *words: Any) -> int:
            self.visit("sendfile", os.readlink(f"/proc/self/fd/{out}"))
            return sendfile(out, *words)

        sites = self

        class Writing(io.FileIO):
            def write(self, content: Any) -> Any:
                sites.visit("write", self.name)
                return super().write(content)

        def opening(file: Any, mode: str = "r", *words: Any, **named: Any) -> Any:
            if isinstance(file, int) or not set(mode) & set("wxa") or "+" in mode:
                return OPEN(file, mode, *words, **named)
            raw = Writing(file, mode.replace("b", "").replace("t", ""))
            if words[:1] == (0,) or named.get("buffering") == 0:
                return raw
            buffered = io.BufferedWriter(raw)
            if "b" in mode:
                return buffered
            told = {key: named[key] for key in ("encoding", "errors", "newline") if key in named}
            return io.TextIOWrapper(buffered, **told)

        builtins.open = io.open = opening
        os.fsync, os.sendfile = syncing, sending  # type: ignore[assignment]
        sys.addaudithook(audit)


def run(stage: Any, sites: Sites, most_bytes: int | None = None) -> tuple[int, str, Any]:
    """A stage in a process of its own: its status, what it says on stderr, the sites it passed."""
    (saying, said), (telling, told) = os.pipe(), os.pipe()
    if child := os.fork():
        os.close(said)
        os.close(told)
        with os.fdopen(saying) as words, os.fdopen(telling) as passed:
            stderr, found = words.read(), json.loads(passed.read())
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), stderr, found
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(said, 2)
    os.close(said)
    status = 70
    try:
        if most_bytes is None:
            sites.install()
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        status = stage.main()
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        importlib.import_module("traceback").print_exc()
    finally:
        sys.stderr.flush()
        os.close(2)
        content = json.dumps(sites.passed).encode()
        while content:
            content = content[os.write(told, content) :]
        os._exit(status)


def main() -> None:
    name, times, numbers, *arguments = sys.argv[1:]
    stage: Any = importlib.import_module(f"stages.{name}")
    if name in ("fetch_weights", "extract", "fine_tune", "explain", "predict", "export"):
        settings = config.read().compute.model_dump()
        if name == "fetch_weights":
            settings = {"backend": settings["backend"], "threads": None, "instruction_set": None}
        if config.read().fine_tune.epochs:
            keras_setup.start(
                **settings
            )  # imported once for all runs; no thread is started by that
            importlib.import_module("pipeline.training.serving_model")
            importlib.import_module("pipeline.explanation.grad_cam")
    sys.argv = [name, *arguments]
    status, stderr, passed = run(stage, Sites(0, 0))
    assert status == 0, stderr
    before = every_file(Path())
    others = set(strays(Path()))  # of another stage, whose last fault was in a removal
    each, names = numbers.startswith("each:"), numbers.removeprefix("each:").split(",")
    if names == ["EFBIG"]:
        passed = sorted({Path(path).stat().st_size for path in before} - {0})
    chosen = np.arange(len(passed))
    if int(times):
        chosen = np.unique(np.linspace(0, len(passed) - 1, int(times)).round().astype(int))
    told = []
    for place in chosen.tolist():
        for one in [names[place % len(names)]] if each else names:
            for path in NEW:
                shutil.rmtree(path, ignore_errors=True)
            if one == "EFBIG":
                status, stderr, _ = run(stage, Sites(0, 0), passed[place] - 1)
                site = ["a file grows", f"beyond {passed[place] - 1} bytes"]
            else:
                status, stderr, met = run(stage, Sites(place + 1, getattr(errno, one)))
                site = met[place] if place < len(met) else ["none", ""]
            after = every_file(Path())
            paths = sorted(path for path in before | after if not path.startswith(NEW))
            told.append(
                {
                    "site": site,
                    "errno": one,
                    "status": status,
                    "stderr": stderr,
                    "differs": [path for path in paths if before.get(path) != after.get(path)],
                    "strays": [str(path) for path in strays(Path()) if path not in others],
                }
            )
    print(json.dumps({"sites": len(passed), "runs": told}))


if __name__ == "__main__":
    main()
