"""Run a stage in this folder once per fault, each in a forked process.

    python faults.py NAME [ARGUMENT...] < faults.json

A fault is a pair:
    ["", 0]        none
    ["KILL", n]    SIGKILL at the nth change to the file system
    ["ENOSPC", n]  from the nth change on, the disk has no room for a file or folder
    ["EFBIG", n]   no file may grow beyond n bytes, also for C libraries
A change is a file that is opened for writing, a new folder, a rename or a removal below this
folder. Prints a JSON list of what each run left.
"""

import errno
import importlib
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from torture import hash_files, strays

from pipeline import config
from pipeline.backbones import keras_setup
from pipeline.storage import cached_shards

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
USE_KERAS = ("fetch_weights", "extract", "fine_tune", "explain")
HERE = f"{Path.cwd()}{os.sep}"


def inject(kind: str, number: int) -> list[str]:
    """Hook this process for the rest of its life; return the list of changes, which will grow."""
    changes: list[str] = []

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or isinstance(arguments[0], int):
            return
        if event == "open" and not arguments[2] & WRITING:
            return
        name = os.path.abspath(os.fsdecode(arguments[0]))
        if not name.startswith(HERE):
            return
        changes.append(name)
        if kind == "KILL" and len(changes) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "ENOSPC" and len(changes) >= number and event in ("open", "os.mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    if kind == "EFBIG":
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))
    sys.addaudithook(audit)
    return changes


def run_in_child(stage: Any, kind: str, number: int) -> dict[str, Any]:
    """Run the stage in a forked process; return its status, output, changes and finished files."""
    read, write = os.pipe()
    if not (child := os.fork()):
        os.dup2(write, 1)
        os.dup2(write, 2)
        status = 70
        try:
            changes = inject(kind, number)
            status = stage.main()
            print(f"changes: {len(changes)}")
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        printed = pipe.read()
    _, ended = os.waitpid(child, 0)
    return {
        "status": os.waitstatus_to_exitcode(ended),
        "printed": printed,
        "outputs": hash_files(Path()),
        "strays": [str(path) for path in strays(Path())],
    }


def main() -> None:
    """Start Keras once for all runs, which starts no thread."""
    name = sys.argv[1]
    sys.argv = sys.argv[1:]
    stage = importlib.import_module(f"stages.{name}")
    if name in USE_KERAS:
        settings = config.read().compute.model_dump()
        if name == "fetch_weights":
            settings = {"backend": settings["backend"], "threads": None, "instruction_set": None}
        keras_setup.start(**settings)
        importlib.import_module("pipeline.training.serving_model")
        importlib.import_module("pipeline.explanation.grad_cam")
    cached_shards.SHARD_ROWS = 2
    print(json.dumps([run_in_child(stage, *fault) for fault in json.load(sys.stdin)]))


if __name__ == "__main__":
    main()
