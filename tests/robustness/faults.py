"""Run a stage again and again in this folder, each time with one fault in its way.

    python faults.py NAME [ARGUMENT...] < runs.json

NAME is a stage or a command. `runs.json` is a list of runs, each an object:
    {"fault": null}                     without a fault
    {"fault": "KILL", "site": 12}       SIGKILL before the 12th change to the file system
    {"fault": "EIO", "site": 12}        that call fails with this errno; ENOSPC goes on failing for
                                        everything that needs room on the disk
    {"fault": "EFBIG", "site": 4096}    no file may grow beyond 4096 bytes, also for C libraries
    {"faults": ["EIO", ...], "sites": n, "each": true}   at n sites of the last run without a fault,
                                        evenly spread (0: all), all errnos or one in turn
"environment" adds variables. Sites are, below this folder: opening a file for writing, write,
fsync, copy, rename, removal, new folder. Prints a JSON list with the result of each run.
"""

import builtins
import errno
import importlib
import io
import itertools
import json
import os
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torture import digest, hash_files, strays

from pipeline import config, paths
from pipeline.backbones import keras_setup

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
TAKE_ROOM = ("open", "write", "fsync", "os.mkdir", "sendfile")
COMMANDS = ("predict", "export")
USE_KERAS = ("fetch_weights", "extract", "fine_tune", "explain", *COMMANDS)
NEW = ("maps", "data/export")  # outputs of commands, removed before each run

HERE = str(Path.cwd())
OPEN = io.open


class Sites:
    """Count the sites that a run passes, and fail at one of them."""

    def __init__(self, fault: str | None, site: int) -> None:
        self.fault, self.site, self.passed = fault, site, list[tuple[str, str]]()

    def visit(self, what: str, path: Any) -> None:
        name = os.path.abspath(os.fsdecode(path))
        if not name.startswith(f"{HERE}{os.sep}"):
            return
        relative = os.path.relpath(name, HERE)
        self.passed.append((what, relative))
        count = len(self.passed)
        goes_on = self.fault == "ENOSPC" and count > self.site and what in TAKE_ROOM
        if self.fault is None or not (count == self.site or goes_on):
            return
        if self.fault == "KILL":
            os.kill(os.getpid(), signal.SIGKILL)
        number = getattr(errno, self.fault)
        raise OSError(number, os.strerror(number), relative)

    def install(self) -> None:
        """Hook this process for the rest of its life."""
        sites, fsync, sendfile = self, os.fsync, os.sendfile

        def audit(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open" and arguments[2] & WRITING and not isinstance(arguments[0], int):
                self.visit("open", arguments[0])
            elif event in CHANGES:
                self.visit(event, arguments[0])

        def visit_fsync(handle: int) -> None:
            self.visit("fsync", os.readlink(f"/proc/self/fd/{handle}"))
            fsync(handle)

        def visit_sendfile(out: int, *words: Any) -> int:
            self.visit("sendfile", os.readlink(f"/proc/self/fd/{out}"))
            return sendfile(out, *words)

        class Writing(io.FileIO):
            def write(self, content: Any) -> Any:
                sites.visit("write", self.name)
                return super().write(content)

        def visit_open(file: Any, mode: str = "r", *words: Any, **named: Any) -> Any:
            if isinstance(file, int) or not set(mode) & set("wxa") or "+" in mode:
                return OPEN(file, mode, *words, **named)
            raw = Writing(file, mode.replace("b", "").replace("t", ""))
            if words[:1] == (0,) or named.get("buffering") == 0:
                return raw
            buffered = io.BufferedWriter(raw)
            if "b" in mode:
                return buffered
            kept = {key: named[key] for key in ("encoding", "errors", "newline") if key in named}
            return io.TextIOWrapper(buffered, **kept)

        builtins.open = io.open = visit_open
        os.fsync, os.sendfile = visit_fsync, visit_sendfile  # type: ignore[assignment]
        sys.addaudithook(audit)


def run_in_child(stage: Any, run: dict[str, Any]) -> dict[str, Any]:
    """Run the stage in a forked process; return its status, output and sites."""
    pipes = [os.pipe() for _ in range(3)]
    if child := os.fork():
        for _, write in pipes:
            os.close(write)
        found = {}
        for key, (read, _) in zip(("printed", "stderr", "passed"), pipes, strict=True):
            with os.fdopen(read) as pipe:
                found[key] = pipe.read()
        _, status = os.waitpid(child, 0)
        passed = json.loads(found.pop("passed") or "[]")
        return {"status": os.waitstatus_to_exitcode(status), "passed": passed, **found}
    for number, (_, write) in zip((1, 2), pipes, strict=False):
        os.dup2(write, number)
        os.close(write)
    os.environ |= run.get("environment", {})
    sites = Sites(run["fault"] if run["fault"] != "EFBIG" else None, run.get("site", 0))
    status = 70
    try:
        if run["fault"] == "EFBIG":
            resource.setrlimit(resource.RLIMIT_FSIZE, (run["site"], run["site"]))
        else:
            sites.install()
        status = stage.main()
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.close(1)
        os.close(2)
        content = json.dumps(sites.passed).encode()
        while content:
            content = content[os.write(pipes[2][1], content) :]
        os._exit(status)


def expanded(run: dict[str, Any], passed: list[Any]) -> Iterator[dict[str, Any]]:
    """Yield the runs that a run with `sites` stands for."""
    if "faults" not in run:
        yield run
        return
    names = run["faults"]
    places = list(range(1, len(passed) + 1))
    if names == ["EFBIG"]:
        places = sorted({path.stat().st_size - 1 for path in map(Path, hash_files(Path()))} - {-1})
    if run["sites"]:
        chosen = np.unique(np.linspace(0, len(places) - 1, run["sites"]).round().astype(int))
        places = [places[place] for place in chosen]
    in_turn = itertools.cycle(names)
    for place in places:
        for name in [next(in_turn)] if run.get("each") else names:
            yield {**run, "fault": name, "site": place}


def load(name: str) -> Any:
    """Import a stage or command; start Keras once for all runs, which starts no thread."""
    where = "pipeline.commands.cli" if name in COMMANDS else f"stages.{name}"
    stage: Any = importlib.import_module(where)
    params = config.read()
    if name in USE_KERAS:
        settings = params.compute.model_dump()
        if name == "fetch_weights":
            settings = {"backend": settings["backend"], "threads": None, "instruction_set": None}
        keras_setup.start(**settings)
        if params.fine_tune is not None:
            importlib.import_module("pipeline.training.serving_model")
            importlib.import_module("pipeline.explanation.grad_cam")
    if rows := os.environ.get("SHARD_ROWS"):
        for module in list(sys.modules.values()):
            if hasattr(module, "SHARD_ROWS"):
                vars(module)["SHARD_ROWS"] = int(rows)
    return stage


def main() -> None:
    """Run all of stdin's runs; print the result of each."""
    name, *arguments = sys.argv[1:]
    stage = load(name)
    sys.argv = ["pipeline"] * (name in COMMANDS) + [name, *arguments]
    results: list[dict[str, Any]] = []
    passed: list[Any] = []
    before: dict[str, str] = {}
    others = set(strays(Path()))
    for asked in json.load(sys.stdin):
        for run in expanded(asked, passed):
            for path in NEW:
                shutil.rmtree(path, ignore_errors=True)
            result = run_in_child(stage, run)
            met, after = result.pop("passed"), hash_files(Path())
            if run["fault"] is None:
                passed, before = met, after
            everything = sorted(before | after)
            differs = [path for path in everything if before.get(path) != after.get(path)]
            result |= {
                "fault": run["fault"],
                "site": met[run["site"] - 1] if run["fault"] and run["site"] <= len(met) else None,
                "sites": len(met),
                "differs": [path for path in differs if not path.startswith(NEW)],
                "strays": [str(path) for path in strays(Path()) if path not in others],
                "output": digest(paths.FEATURES if name == "extract" else paths.RESIZED),
            }
            results.append(result)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
