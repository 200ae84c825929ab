"""Show `extract` on a cluster: a scheduler and two workers on this machine, one of them killed.

Takes what `make repro` has left in `data/`, and compares every byte with the features there.
    python -m stages.cluster_demo NAME
"""

import contextlib
import filecmp
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.runtime import atomic_files
from pipeline.runtime.entrypoint import arguments, script
from pipeline.runtime.environment import ROW_CACHE
from pipeline.runtime.errors import UserError


@script
def main() -> None:
    """Start the cluster, run the stage on it, kill a worker in the middle, compare."""
    (name,) = arguments(__doc__, count=1)
    local = atomic_files.require(Path("data/features", f"{name}.zarr"), f"extract@{name}")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as started:
        told, out = Path(folder, "scheduler.json"), Path(folder, "features.zarr")
        where = ["--scheduler-file", str(told)]
        scheduler = started.enter_context(
            _dask("scheduler", "--host", "127.0.0.1", "--port", "0", *where)
        )
        _wait_for(told.parent, told.name, scheduler)
        workers = [
            started.enter_context(_dask("worker", "--nthreads", "1", "--no-nanny", *where))
            for _ in range(2)
        ]
        address = json.loads(told.read_text(encoding="utf-8"))["address"]
        print(f"cluster_demo: scheduler {address}, workers {[worker.pid for worker in workers]}")
        stage = started.enter_context(
            _process(
                *(sys.executable, "-m", "stages.extract", name, "data/resized.zarr"),
                *(f"data/weights/{name}.weights.h5", str(out), "--cluster", address),
            )
        )
        _wait_for(Path(folder), ".partial-*features.zarr/c", stage)  # the first shard
        workers[0].kill()
        print(f"cluster_demo: the first shard stands; killed worker {workers[0].pid}")
        if stage.wait() != 0:
            raise UserError(
                f"cluster_demo: expected extract to end well, got status {stage.returncode}"
            )
        for path in sorted(path for path in local.rglob("*") if path.is_file()):
            if not filecmp.cmp(path, out / path.relative_to(local), shallow=False):
                raise UserError(f"cluster_demo: expected the bytes of {path}, got others")
    print("cluster_demo: every byte is as this machine computed it alone")


@contextlib.contextmanager
def _process(*command: str, quiet: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """A command that is killed at the latest at the end of the block; it finds no cached row."""
    output = subprocess.DEVNULL if quiet else None
    process = subprocess.Popen(  # noqa: S603  commands of this module alone
        command, env={**os.environ, ROW_CACHE: "0"}, stdout=output, stderr=output
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _dask(*words: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    return _process(sys.executable, "-m", "dask", *words, "--no-dashboard", quiet=True)


def _wait_for(folder: Path, pattern: str, writer: subprocess.Popen[bytes]) -> None:
    while not any(folder.glob(pattern)):
        if writer.poll() is not None:
            raise UserError(
                f"cluster_demo: expected {folder / pattern} to be written, got an end before it"
            )
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
