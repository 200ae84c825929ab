"""A Dask cluster for tests: a scheduler and workers in this process, on this machine's loopback."""

import contextlib
import importlib
from collections.abc import Iterator


@contextlib.contextmanager
def local_cluster(workers: int = 1) -> Iterator[str]:
    """The address of a scheduler; each worker has two threads."""
    distributed = importlib.import_module("distributed")
    with distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=2,
        processes=False,
        protocol="tcp://",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    ) as started:
        yield started.scheduler_address
