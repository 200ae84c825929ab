"""Give the code thousands of damaged inputs: each must end in a word, fast, in little memory.

    python tests/fuzzing.py [--inputs 100000] [--kinds image zip] [--seed 0] [--workers 2]
    python tests/fuzzing.py --replay fuzzed/image-123

Inputs are made from good ones and from `bad_inputs.py` by mutation, and half of them, where a plan
of such inputs is given, by hypothesis. The same seed gives the same inputs. They are tried in
processes of their own, so that a crash of a C library is noticed, too; one that raises anything but
a sentence or a reason, takes more than `SECONDS` of processor time, or more than `MEMORY` bytes in
all, is kept in `fuzzed/` with what it raised.
"""

import argparse
import contextlib
import faulthandler
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
from fuzz_kinds import KINDS, Kind
from hypothesis import HealthCheck, Phase
from tqdm import tqdm

from pipeline.runtime.entrypoint import peak_memory

SECONDS, WAITING = 5, 120  # of processor time an input, and of any time
MEMORY = 2**30
AT_ONCE = 2500  # inputs that a process tries before the next one starts
KEPT = 3  # inputs with the same fault
FUZZED = Path("fuzzed")
PROJECT = Path(__file__).parents[1]
PATHS = os.pathsep.join(map(str, (PROJECT, PROJECT / "tests")))


class Trial:
    """A process' own trials of one kind, in an empty working folder."""

    def __init__(self, name: str, first: int) -> None:
        self.kind, self.number, self.from_on = KINDS[name], first - 1, first
        self.words: Counter[str] = Counter()
        self.faults: list[dict[str, Any]] = []
        self.slowest = 0.0

    def __call__(self, content: bytes) -> None:
        """Try one; what is before the first one that is asked for is only counted."""
        self.number += 1
        if self.number < self.from_on:
            return
        Path("input").write_bytes(content)
        Path("number").write_text(str(self.number), encoding="utf-8")
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        signal.alarm(WAITING)
        started = time.process_time()
        try:
            with contextlib.redirect_stdout(None):
                self.words[self.kind.attempt(content)] += 1
        except Exception as error:
            signal.setitimer(signal.ITIMER_PROF, 0)
            self.words["fault"] += 1
            self.faults.append(_fault(self.number, content, error))
        self.slowest = max(self.slowest, time.process_time() - started)

    def told(self) -> str:
        """What came of it, as JSON."""
        peak = peak_memory()
        found = {"words": self.words, "faults": self.faults, "slowest": self.slowest, "peak": peak}
        return json.dumps(found)


def _fault(number: int, content: bytes, error: Exception) -> dict[str, Any]:
    """With the place in this project's code that is told apart from others."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if str(PROJECT) in frame.filename]
    place = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else "elsewhere"
    told = "".join(traceback.format_exception(error))[-4000:]
    key = f"{type(error).__name__} at {place}"
    return {"number": number, "content": content.hex(), "key": key, "told": told}


def work(name: str, seed: int, first: int, count: int, begin: int) -> None:
    """Try the inputs `first` to `first + count` of a kind, from `begin` on, and print what came."""
    good = KINDS[name].prepare()
    _limit()
    trial = Trial(name, first)
    trial.from_on = begin
    planned = count // 2 if KINDS[name].strategy else 0
    for number in range(first, first + count - planned):
        rng = np.random.default_rng([seed, *name.encode(), number])
        trial(KINDS[name].mutated(rng, good))
    if planned:
        _plan(KINDS[name], good, planned, hash_of(seed, first), trial)
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.alarm(0)
    print(trial.told())


def hash_of(seed: int, first: int) -> int:
    return seed * 1_000_003 + first


def _plan(
    kind: Kind, good: list[bytes], count: int, seed: int, use: Callable[[bytes], None]
) -> None:
    """Inputs drawn by hypothesis; it may give fewer where it knows no more."""
    assert kind.strategy is not None

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(kind.strategy(good))
    def every(content: bytes) -> None:
        use(content)

    every()


def _limit() -> None:
    """Let the kernel end what takes too much time, and refuse it too much memory."""
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, chain=True)  # tells where, then ends the process
    status = Path("/proc/self/status")
    if status.exists():  # Linux; elsewhere addresses cannot be told from memory
        sizes = dict(line.split(":") for line in status.read_text(encoding="utf-8").splitlines())
        reserved, held = (int(sizes[key].split()[0]) * 1024 for key in ("VmSize", "VmRSS"))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY + reserved - held,) * 2)


def tried(name: str, seed: int, first: int, count: int, script: str = __file__) -> dict[str, Any]:
    """What came of inputs that another process tries by `script`, and of those that ended it."""
    total: dict[str, Any] = {"words": Counter(), "faults": [], "slowest": 0.0, "peak": 0}
    begin = first
    while True:
        words = ["--work", name, seed, first, count, begin]
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            ended = subprocess.run(
                [sys.executable, script, *map(str, words)],
                cwd=folder,
                env=os.environ | {"PYTHONPATH": PATHS, "OPENBLAS_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                check=False,
            )
            if ended.returncode == 0:
                return _joined(total, json.loads(ended.stdout.splitlines()[-1]))
            at = Path(folder, "number")
            if not at.exists():
                raise RuntimeError(f"{name}: no input was tried\n{ended.stderr}")
            number = int(at.read_text(encoding="utf-8"))
            content = Path(folder, "input").read_bytes()
        key = f"process ended with {ended.returncode}"
        fault = {"number": number, "content": content.hex(), "key": key, "told": ended.stderr}
        # Those before it in this process were well, but their words are lost with it.
        words_lost = Counter({"fault": 1, "untold": number - begin})
        _joined(total, {"words": words_lost, "faults": [fault], "slowest": 0.0, "peak": 0})
        begin = number + 1


def _joined(total: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    total["words"].update(more["words"])
    total["faults"] += more["faults"]
    for key in ("slowest", "peak"):
        total[key] = max(total[key], more[key])
    return total


def run(kinds: list[str], inputs: int, seed: int, workers: int) -> int:
    """Try about so many inputs in all; the number of faults."""
    faults = 0
    shares = sum(KINDS[name].share for name in kinds)
    for name in kinds:
        started = time.perf_counter()
        count = max(1, round(inputs * KINDS[name].share / shares))
        total: dict[str, Any] = {"words": Counter(), "faults": [], "slowest": 0.0, "peak": 0}
        quiet = not sys.stderr.isatty()
        with tqdm(total=count, desc=name, unit="input", disable=quiet) as bar:
            for found in _spread(name, seed, count, workers):
                _joined(total, found)
                bar.update(sum(found["words"].values()))
        seconds, words = time.perf_counter() - started, total["words"]
        told = ", ".join(f"{number:,} {word}" for word, number in sorted(words.items()))
        print(
            f"{name}: {sum(words.values()):,} inputs in {seconds:.0f} s: {told}; the slowest took "
            f"{total['slowest']:.2f} s, at most {total['peak'] / 2**20:,.0f} MiB",
            flush=True,
        )
        keep(name, total["faults"])
        faults += words["fault"]
    return faults


def _spread(name: str, seed: int, count: int, workers: int) -> Iterator[dict[str, Any]]:
    starts = range(0, count, AT_ONCE)
    attempt = functools.partial(tried, name, seed)
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(attempt, starts, (min(AT_ONCE, count - at) for at in starts))


def keep(name: str, faults: list[dict[str, Any]]) -> None:
    """Write the first inputs of each fault, and tell how to try them again."""
    seen: Counter[str] = Counter(fault["key"] for fault in faults)
    kept: Counter[str] = Counter()
    for fault in faults:
        kept[fault["key"]] += 1
        if kept[fault["key"]] <= KEPT:
            FUZZED.mkdir(exist_ok=True)
            path = FUZZED / f"{name}-{fault['number']}"
            path.write_bytes(bytes.fromhex(fault["content"]))
            path.with_suffix(".txt").write_text(fault["told"], encoding="utf-8")
            if kept[fault["key"]] == 1:
                print(f"  {seen[fault['key']]} x {fault['key']}: replay by --replay {path}")


def replay(path: Path) -> None:
    """Try one kept input in this process, and show what it raises."""
    content, name = path.read_bytes(), path.name.partition("-")[0]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, contextlib.chdir(folder):
        KINDS[name].prepare()
        _limit()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        print(f"{name}: {len(content):,} bytes: {KINDS[name].attempt(content)}")


def main() -> None:
    """As the command line asks; status 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--work", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        name, *numbers = asked.work
        work(name, *map(int, numbers))
    elif asked.replay:
        replay(asked.replay)
    else:
        sys.exit(min(1, run(asked.kinds, asked.inputs, asked.seed, asked.workers)))


if __name__ == "__main__":
    main()
