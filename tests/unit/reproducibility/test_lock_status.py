"""`verify --quick` tells without running anything whether a folder is what its `dvc.lock` says."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import Tiny

from pipeline.commands import verify
from pipeline.reproducibility import lock_status

SOUND = "verify: params, inputs and code are those of dvc.lock\n"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is called."""
    monkeypatch.setattr(sys, "argv", ["verify", "--quick"])


def cached(tiny: Tiny, name: str) -> Path:
    """Where DVC's cache keeps what is in a file."""
    content = (tiny.folder / name).read_bytes()
    return next(
        path
        for path in (tiny.folder / ".dvc" / "cache" / "files").rglob("*")
        if path.is_file() and path.read_bytes() == content
    )


def write(path: Path, text: str) -> None:
    path.chmod(0o644)
    path.write_text(text, encoding="utf-8")


def test_what_was_just_run_is_sound(tiny: Tiny, capfd: pytest.CaptureFixture[str]) -> None:
    assert verify.main() == 0
    assert capfd.readouterr().out == (
        "verify: outputs: 3 of 3 are here; 2 of the 2 that DVC caches are in its cache, unharmed\n"
        + SOUND
    )


def test_a_fresh_clone_without_data_is_sound_and_what_is_absent_is_counted(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tiny.clone(tmp_path / "fresh").folder)
    assert verify.main() == 0
    assert capfd.readouterr().out == (
        "verify: outputs: 1 of 3 are here; 0 of the 2 that DVC caches are in its cache, unharmed; "
        "`dvc pull` or `dvc repro` brings the others\n"
        "verify: raw/numbers.txt: not here, so it was not compared with dvc.lock\n" + SOUND
    )


Harm = Callable[[Tiny], object]


def flip(path: Path) -> None:
    """Change a file as a bad disk would: neither its time nor its mode tells of it."""
    stat = path.stat()
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    path.chmod(stat.st_mode)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def flip_in_cache(tiny: Tiny) -> None:
    flip(cached(tiny, "data/numbers.csv"))


def flip_here(tiny: Tiny) -> None:
    flip(tiny.folder / "data" / "model" / "head.npz")


def harm_list(tiny: Tiny) -> None:
    (listed,) = (tiny.folder / ".dvc" / "cache" / "files").rglob("*.dir")
    write(listed, listed.read_text()[:-5])


def forge_list(tiny: Tiny) -> None:
    (listed,) = (tiny.folder / ".dvc" / "cache" / "files").rglob("*.dir")
    write(listed, listed.read_text().replace("head.npz", "../../x"))


def give_others_to_dvc(tiny: Tiny) -> None:
    """As a clone sees it that has the `.dvc` file, but no photos."""
    write(tiny.folder / ".gitignore", "/raw/?*\n!/raw/*.dvc\n/data\n")
    raw = tiny.folder / "raw" / "numbers.txt"
    tiny.dvc("add", "--quiet", "raw/numbers.txt")
    text = tiny.read("raw/numbers.txt.dvc")
    write(tiny.folder / "raw" / "numbers.txt.dvc", text.replace("md5: ", "md5: 0", 1)[:-1])
    raw.unlink()


def remove_code(tiny: Tiny) -> None:
    tiny.git("rm", "--quiet", "draw.py")
    tiny.commit("removed")


def merge_badly(tiny: Tiny) -> None:
    text = tiny.read("dvc.lock")
    digest = text.partition("data/numbers.csv")[2].partition("md5: ")[2].partition("md5: ")[2][:32]
    assert text.count(digest) == 2  # written by one stage, read by the other
    write(tiny.folder / "dvc.lock", text.replace(digest, "a" * 32, 1))


HARMS: dict[str, tuple[Harm, str]] = {
    "another parameter": (
        lambda tiny: tiny.change({"split.seed": 7}),
        "draw: expected what it reads as dvc.lock says, got params.yaml split.seed is modified; "
        "run `dvc repro`, or undo that",
    ),
    "a parameter less": (
        lambda tiny: write(tiny.folder / "params.yaml", "{}\n"),
        "draw: expected what it reads as dvc.lock says, got params.yaml split.seed is deleted; "
        "run `dvc repro`, or undo that",
    ),
    "other code": (
        lambda tiny: write(tiny.folder / "draw.py", "print()\n"),
        "draw: expected what it reads as dvc.lock says, got draw.py modified; run `dvc repro`, or "
        "undo that",
    ),
    "no code": (
        lambda tiny: (tiny.folder / "draw.py").unlink(),
        "draw: expected what it reads as dvc.lock says, got draw.py deleted; run `dvc repro`, or "
        "undo that",
    ),
    "another command": (
        lambda tiny: write(
            tiny.folder / "dvc.yaml", tiny.read("dvc.yaml").replace("draw.py\n", "draw.py -q\n", 1)
        ),
        "draw: expected what it reads as dvc.lock says, got its command changed; run `dvc repro`, "
        "or undo that",
    ),
    "another input": (
        lambda tiny: write(tiny.folder / "raw" / "numbers.txt", "1\n"),
        "draw: expected what it reads as dvc.lock says, got raw/numbers.txt modified; "
        "run `dvc repro`, or undo that",
    ),
    "a stage that never ran": (
        lambda tiny: write(
            tiny.folder / "dvc.yaml", tiny.read("dvc.yaml") + "  third: {cmd: echo, deps: [raw]}\n"
        ),
        "third: expected what it reads as dvc.lock says, got a stage that never ran; "
        "run `dvc repro`, or undo that",
    ),
    "a lock that was merged badly": (
        merge_badly,
        "score: expected what it reads as dvc.lock says, got another data/numbers.csv than was "
        "written or given, as after a merge; run `dvc repro`, or undo that",
    ),
    "code that was removed and committed": (
        remove_code,
        "draw: expected what it reads as dvc.lock says, got draw.py deleted; run `dvc repro`, or "
        "undo that",
    ),
    "other photos, given to DVC": (
        give_others_to_dvc,
        "draw: expected what it reads as dvc.lock says, got another raw/numbers.txt than was "
        "written or given, as after a merge; run `dvc repro`, or undo that",
    ),
    "an output more": (
        lambda tiny: write(
            tiny.folder / "dvc.yaml",
            tiny.read("dvc.yaml").replace("outs: [data/model]", "outs: [data/model, more]"),
        ),
        "other outputs in dvc.yaml; run `dvc repro`, or undo that",
    ),
    "a list in DVC's cache that leads out of the folder": (
        forge_list,
        "expected a list of files, got a damaged one; remove it, then `dvc pull` or `dvc repro`",
    ),
    "a flipped bit in DVC's cache": (
        flip_in_cache,
        "expected the bytes that its name tells, of data/numbers.csv, got other ones; remove it, "
        "then `dvc pull`, or `dvc repro --force` the stage",
    ),
    "a damaged list of files in DVC's cache": (
        harm_list,
        "expected a list of files, got a damaged one; remove it, then `dvc pull` or `dvc repro`",
    ),
    "a flipped bit in an output": (
        flip_here,
        "data/model: expected what dvc.lock says, got other bytes; `dvc checkout --force "
        "data/model` or run `dvc repro`",
    ),
    "another metric": (
        lambda tiny: write(tiny.folder / "metrics" / "score.json", '{"loss": 0}'),
        "metrics/score.json: expected what dvc.lock says, got other bytes; `git checkout "
        "metrics/score.json` or run `dvc repro`",
    ),
    "no metric": (
        lambda tiny: (tiny.folder / "metrics" / "score.json").unlink(),
        "metrics/score.json: expected a file of git's, got none; `git checkout metrics/score.json` "
        "or run `dvc repro`",
    ),
    "a lock that DVC did not write": (
        lambda tiny: write(
            tiny.folder / "dvc.lock", tiny.read("dvc.lock").replace("md5: ", "md5: 1\n    # ", 1)
        ),
        "dvc: expected to be able to read this project, got \"'./dvc.lock' validation failed\"; "
        "see `dvc status`",
    ),
    "a lock that was cut off": (
        lambda tiny: write(tiny.folder / "dvc.lock", tiny.read("dvc.lock")[:-7] + ": ["),
        "dvc.lock: expected what DVC writes, got a damaged file; `git checkout dvc.lock`, then "
        "`dvc repro`",
    ),
    "no lock": (
        lambda tiny: (tiny.folder / "dvc.lock").unlink(),
        "dvc.lock: expected what the last run wrote, got no such file; run `dvc repro` first",
    ),
}


@pytest.mark.parametrize("harm", HARMS)
def test_it_is_told_and_the_status_is_1(
    harm: str, tiny: Tiny, capfd: pytest.CaptureFixture[str]
) -> None:
    make, sentence = HARMS[harm]
    make(tiny)
    assert verify.main() == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert any(line.endswith(sentence) for line in errors), errors
    assert SOUND not in capfd.readouterr().out


def test_the_hash_of_a_folder_is_that_of_dvc(tiny: Tiny) -> None:
    assert lock_status.look().here == 3
    assert (tiny.folder / "data" / "model").is_dir()
