"""A Dask cluster for tests: a scheduler and workers in this process, on this machine's loopback."""

import contextlib
import importlib
import importlib.util
from collections.abc import Iterator

import pytest

NEEDED = [
    pytest.mark.skipif(
        importlib.util.find_spec("distributed") is None,
        reason="the package distributed is not installed",
    ),
    pytest.mark.xdist_group("cluster"),
]


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
