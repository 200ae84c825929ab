"""Run a stage several times in this folder, each time killed at a moment of its own.

    python killing.py STAGE SHARD_ROWS RUNS ARGUMENT...

RUNS are, comma-separated: the number of a change to the file system, before which SIGKILL comes
(whatever other threads do at that time is cut off); `whole` for a run that ends by itself; `fresh`
for one that does so without a row cache. Prints of each run its status, how many changes it made
(-1 if killed) and a hash of its output, the last argument, as JSON.
"""

import hashlib
import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from pipeline import config
from pipeline.backbones import keras_setup

CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def main() -> None:
    name, shard_rows, runs, *arguments = sys.argv[1:]
    stage: Any = importlib.import_module(f"stages.{name}")
    stage.SHARD_ROWS = int(shard_rows)
    if name == "extract":  # imported once for all runs; no thread is started by that
        keras_setup.start(**config.read().compute.model_dump())
    sys.argv = [name, *arguments]
    told = []
    for moment in runs.split(","):
        reading, writing = os.pipe()
        if not (child := os.fork()):
            os.close(reading)
            run(stage, moment, writing)
        os.close(writing)
        with os.fdopen(reading) as file:
            changes = int(file.read() or -1)
        _, status = os.waitpid(child, 0)
        told.append((os.waitstatus_to_exitcode(status), changes, digest(Path(arguments[-1]))))
    print(json.dumps(told))


def run(stage: Any, moment: str, writing: int) -> None:
    """End this process with the status of the stage; write how many changes it made."""
    changes = 0

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        if event in CHANGES or (event == "open" and arguments[2] & WRITING):
            changes += 1
            if str(changes) == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    if moment == "fresh":
        os.environ["STAGES_ROW_CACHE_GIB"] = "0"
    sys.addaudithook(count)
    status = stage.main()
    sys.stdout.flush()
    os.write(writing, str(changes).encode())
    os._exit(status)


def digest(folder: Path) -> str:
    """A hash over names and bytes of all files; "" where there are none."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    found = hashlib.sha256()
    for path in files:
        found.update(f"{path}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest() if files else ""


if __name__ == "__main__":
    main()
