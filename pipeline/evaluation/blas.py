"""The threads of numpy's matrix products."""

from threadpoolctl import threadpool_limits

from pipeline.runtime.machine import processors


def limit_threads(threads: int | None) -> None:
    """Set the number of threads, which no longer follows the environment; None for all."""
    threadpool_limits(threads or processors(), user_api="blas")
