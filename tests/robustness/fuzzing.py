"""Read thousands of damaged inputs: each must end in a word, fast, in little memory.

    python tests/robustness/fuzzing.py [--inputs 100000] [--kinds image zip] [--seed 0]

Hypothesis draws inputs from `fuzz_kinds.py` and reduces one that fails to a small one; the same
seed draws the same inputs. Each kind runs in processes of their own, so that a crash of a C library
is noticed, too. An input that raises anything but a reason or a sentence, takes more than `SECONDS`
of processor time or more than `MEMORY` bytes is left in `fuzzed/KIND`, and is tried again by
`--replay fuzzed/KIND`.
"""

import argparse
import contextlib
import faulthandler
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
from fuzz_kinds import KINDS
from torture import PYTHONPATH

from pipeline.runtime.entrypoint import peak_memory

SECONDS = 5  # of processor time per input
MEMORY = 2**30
PER_PROCESS = 2500
FUZZED = Path("fuzzed")


def search(name: str, inputs: int, seed: int, *, limited: bool = False) -> dict[str, Any]:
    """Try about `inputs` inputs of a kind in the working folder; raise what one of them raises.

    The last input tried is in the file `input`: after a failure, the reduced one.
    """
    kind = KINDS[name]
    good = kind.prepare()  # may load Keras, which needs more memory
    if limited:
        limit()
    outcomes: Counter[str] = Counter()
    seconds = [0.0]

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(kind.inputs(good))
    def attempt(content: bytes) -> None:
        Path("input").write_bytes(content)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        started = time.process_time()
        try:
            with contextlib.redirect_stdout(None):
                outcomes[kind.attempt(content)] += 1
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        seconds.append(time.process_time() - started)

    attempt()
    return {"outcomes": outcomes, "slowest": max(seconds), "peak": peak_memory()}


def limit() -> None:
    """Let the kernel end a process that takes too long, and refuse it too much memory."""
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, chain=True)  # prints a traceback, then ends the process
    status = Path("/proc/self/status")
    if status.exists():  # Linux; elsewhere address space and memory cannot be told apart
        sizes = dict(line.split(":") for line in status.read_text(encoding="utf-8").splitlines())
        reserved, used = (int(sizes[key].split()[0]) * 1024 for key in ("VmSize", "VmRSS"))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY + reserved - used,) * 2)


def search_apart(name: str, inputs: int, seed: int) -> dict[str, Any]:
    """Run `search` in another process; return its results, or the `fault` and its `input`."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        Path(folder, "input").touch()
        ended = subprocess.run(
            [sys.executable, __file__, "--search", name, str(inputs), str(seed)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": PYTHONPATH, "OPENBLAS_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if ended.returncode == 0:
            result: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
            return result
        fault = f"status {ended.returncode}\n{ended.stderr[:2000]}...{ended.stderr[-4000:]}"
        return {"fault": fault, "input": Path(folder, "input").read_bytes()}


def run(name: str, inputs: int, seed: int) -> bool:
    """Search a kind in several processes and print the counts; return whether all ended well."""
    started = time.perf_counter()

    def search_part(start: int) -> dict[str, Any]:
        return search_apart(name, min(PER_PROCESS, inputs - start), seed * 1_000_003 + start)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(search_part, range(0, inputs, PER_PROCESS)))
    faults = [result for result in results if "fault" in result]
    for result in faults:
        FUZZED.mkdir(exist_ok=True)
        (FUZZED / name).write_bytes(result["input"])
        print(f"{result['fault']}\n{name}: try again by --replay {FUZZED / name}")
    good = [result for result in results if "fault" not in result]
    outcomes = sum((Counter(result["outcomes"]) for result in good), Counter[str]())
    counts = ", ".join(f"{number:,} {word}" for word, number in sorted(outcomes.items()))
    slowest = max((result["slowest"] for result in good), default=0)
    peak = max((result["peak"] for result in good), default=0)
    print(
        f"{name}: {outcomes.total():,} inputs in {time.perf_counter() - started:.0f} s: "
        f"{counts}; the slowest took {slowest:.2f} s, at most {peak / 2**20:,.0f} MiB",
        flush=True,
    )
    return not faults


def replay(path: Path) -> None:
    """Try one input in this process."""
    content = path.read_bytes()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, contextlib.chdir(folder):
        KINDS[path.name].prepare()
        limit()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        print(f"{path.name}: {len(content):,} bytes: {KINDS[path.name].attempt(content)}")


def main() -> None:
    """Parse the command line; exit with status 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--search", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.search:
        name, inputs, seed = options.search
        print(json.dumps(search(name, int(inputs), int(seed), limited=True)))
    elif options.replay:
        replay(options.replay.absolute())
    else:
        percent = sum(KINDS[name].percent for name in options.kinds)
        share = options.inputs / percent
        sizes = {name: max(1, round(share * KINDS[name].percent)) for name in options.kinds}
        ended = [run(name, size, options.seed) for name, size in sizes.items()]
        sys.exit(not all(ended))


if __name__ == "__main__":
    main()
