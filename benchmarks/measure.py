"""Commands run in processes of their own, measured, in interleaved rounds."""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Failed(Exception):  # noqa: N818  it is a finding about a contender, not an error of the run
    """A command that ended with another status than 0; the message is the last that it said.

    Attributes:
        printed: all that it said.
    """

    def __init__(self, status: int, printed: str) -> None:
        said = [line.strip() for line in printed.splitlines() if line.strip()]
        super().__init__(said[-1] if said else f"status {status}")
        self.printed = printed


@dataclass(frozen=True)
class Run:
    """One process from its start to its end."""

    seconds: float
    peak_bytes: int  # the most that it, or any process that it waited for, held at one time
    printed: str  # stdout and stderr


@dataclass(frozen=True)
class Contender:
    """A command to measure.

    Attributes:
        name: as it stands in the table.
        words: the command.
        folder: that it runs in.
        environment: what is set for it beside this process's own.
        needs: packages, by the names that they are imported under.
        before: done before each run, unmeasured.
    """

    name: str
    words: Sequence[str]
    folder: Path = ROOT
    environment: Mapping[str, str] = field(default_factory=dict)
    needs: Sequence[str] = ()
    before: Callable[[], object] = lambda: None


@dataclass
class Outcome:
    """A contender's runs, one a round; or why it has none."""

    runs: list[Run] = field(default_factory=list)
    fault: str = ""

    @property
    def seconds(self) -> list[float]:
        return [run.seconds for run in self.runs]

    @property
    def peak_bytes(self) -> list[float]:
        return [run.peak_bytes for run in self.runs]


def python(module: str, *arguments: object) -> list[str]:
    """The command that runs a module under this interpreter."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def run(words: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end.

    The peak cannot read lower than what this process holds itself, which a new process starts from.

    Raises:
        Failed: it ended with another status than 0.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    in_order = {"PYTHONUNBUFFERED": "1"}  # so that the last line is what was said last
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryFile() as kept:
        started = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603  the commands are this folder's own
            list(words),
            cwd=folder,
            env={**os.environ, **in_order, **quiet, **(environment or {}), "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=kept,
            stderr=subprocess.STDOUT,
        )
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        kept.seek(0)
        printed = kept.read().decode(errors="replace")
    if process.returncode:
        raise Failed(process.returncode, printed)
    unit = 1 if sys.platform == "darwin" else 1024  # KiB but on macOS
    return Run(seconds, usage.ru_maxrss * unit, printed)


def interleave(
    contenders: Sequence[Contender], rounds: int, say: Callable[[str], object]
) -> dict[str, Outcome]:
    """Run every contender once a round; each round begins with the next of them.

    One whose packages are missing, or that fails, says so in its outcome and is not run again.
    """
    outcomes = {one.name: Outcome(fault=_missing(one.needs)) for one in contenders}
    for number in range(rounds):
        first = number % len(contenders)
        for one in [*contenders[first:], *contenders[:first]]:
            outcome = outcomes[one.name]
            if outcome.fault:
                continue
            one.before()
            try:
                outcome.runs.append(run(one.words, one.folder, one.environment))
            except Failed as fault:
                outcome.fault = f"failed: {fault}"
                say(f"{one.name}: {outcome.fault}, of\n{fault.printed}")
            else:
                say(f"round {number + 1}, {one.name}: {outcome.runs[-1].seconds:.1f} s")
    return outcomes


def _missing(packages: Sequence[str]) -> str:
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""
