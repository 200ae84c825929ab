"""`pipeline verify --quick` compares a folder with its `dvc.lock` without running anything."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from project import ROOT
from tiny import Tiny

from pipeline.commands import cli
from pipeline.reproducibility import lock_status

SOUND = "verify: inputs, parameters and code are those of dvc.lock\n"
Harm = Callable[[Tiny], object]


def quick(capfd: pytest.CaptureFixture[str]) -> tuple[int, str, list[str]]:
    """Return the status, what is printed, and the errors."""
    capfd.readouterr()
    status = cli.main(["verify", "--quick"])
    printed = capfd.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    return status, printed.out, errors


def write(path: Path, text: str) -> None:
    path.chmod(0o644)
    path.write_text(text, encoding="utf-8")


def edit(name: str, old: str, new: str) -> Harm:
    def harm(tiny: Tiny) -> None:
        text = tiny.read(name)
        assert old in text
        write(tiny.folder / name, text.replace(old, new, 1))

    return harm


def test_what_was_just_run_is_sound(tiny: Tiny, capfd: pytest.CaptureFixture[str]) -> None:
    counts = "outputs: 3 of 3 are here; 2 of the 2 that DVC caches are in its cache, unharmed"
    assert quick(capfd) == (0, f"verify: {counts}\n{SOUND}", [])
    assert (tiny.folder / "data" / "model").is_dir()  # so DVC's hash of a folder is ours


def test_a_fresh_clone_is_sound_and_absent_files_are_counted(
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tiny.clone(tmp_path / "fresh").folder)
    assert quick(capfd) == (
        0,
        "verify: outputs: 1 of 3 are here; 0 of the 2 that DVC caches are in its cache, unharmed; "
        "`dvc pull` or `dvc repro` adds the others\n"
        f"verify: raw/numbers.txt: not here, so it was not compared with dvc.lock\n{SOUND}",
        [],
    )


def flip(path: Path) -> None:
    """Flip a bit as a bad disk would: neither time nor mode changes."""
    stat = path.stat()
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    path.chmod(stat.st_mode)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def flip_in_cache(tiny: Tiny) -> None:
    content = (tiny.folder / "data" / "numbers.csv").read_bytes()
    files = (tiny.folder / ".dvc" / "cache" / "files").rglob("*")
    flip(next(path for path in files if path.is_file() and path.read_bytes() == content))


def cut_list_in_cache(tiny: Tiny) -> None:
    """Cut the cached list of a folder's files."""
    (listed,) = (tiny.folder / ".dvc" / "cache" / "files").rglob("*.dir")
    write(listed, listed.read_text()[:-5])


def give_to_dvc(tiny: Tiny) -> None:
    """Track other images by DVC, as a clone without the images sees them."""
    write(tiny.folder / ".gitignore", "/raw/?*\n!/raw/*.dvc\n/data\n")
    tiny.dvc("add", "--quiet", "raw/numbers.txt")
    edit("raw/numbers.txt.dvc", "md5: ", "md5: 0")(tiny)
    text = tiny.read("raw/numbers.txt.dvc")
    write(tiny.folder / "raw" / "numbers.txt.dvc", text[:-1])
    (tiny.folder / "raw" / "numbers.txt").unlink()


def remove_code(tiny: Tiny) -> None:
    tiny.git("rm", "--quiet", "draw.py")
    tiny.commit("removed")


def merge_badly(tiny: Tiny) -> None:
    text = tiny.read("dvc.lock")
    digest = text.partition("data/numbers.csv")[2].split("md5: ")[2][:32]
    assert text.count(digest) == 2  # written by one stage, read by the other
    edit("dvc.lock", digest, "a" * 32)(tiny)


MERGED = "with another hash than its stage recorded, as after a merge; run `dvc repro`, or undo th"


def remove(path: str) -> Harm:
    return lambda tiny: (tiny.folder / path).unlink()


HARMS: dict[str, tuple[Harm, str]] = {
    "a parameter": (
        lambda tiny: tiny.change({"split.seed": 7}),
        "draw: expected inputs, parameters and code as dvc.lock says, got other values in "
        r"params.yaml \(split.seed 0 -> 7\); run `dvc repro`, or undo that",
    ),
    "an absent parameter": (
        lambda tiny: write(tiny.folder / "params.yaml", "{}\n"),
        "got params.yaml split.seed deleted; ",
    ),
    "code": (edit("draw.py", "import", "import  "), "got draw.py modified; "),
    "removed code": (remove_code, "got draw.py deleted; run `dvc repro`, or undo that"),
    "a command": (edit("dvc.yaml", "draw.py\n", "draw.py -q\n"), "got its command changed; "),
    "an input": (edit("raw/numbers.txt", "1", "3"), "got raw/numbers.txt modified; "),
    "a new stage": (
        edit("dvc.yaml", "stages:\n", "stages:\n  third: {cmd: echo, deps: [raw]}\n"),
        "third: expected inputs, parameters and code as .*, got a stage that never ran",
    ),
    "a bad merge": (merge_badly, f"score: .*got data/numbers.csv {MERGED}"),
    "other images in DVC": (give_to_dvc, f"draw: .*got raw/numbers.txt {MERGED}"),
    "another output": (edit("dvc.yaml", "[data/model]", "[data/model, more]"), "got other outputs"),
    "a damaged cached list": (cut_list_in_cache, "expected the bytes of data/model that its name"),
    "a bit in the cache": (flip_in_cache, "expected the bytes of data/numbers.csv that its name"),
    "a bit in an output": (
        lambda tiny: flip(tiny.folder / "data" / "model" / "head.npz"),
        "data/model: expected the bytes that dvc.lock records, .*; `dvc checkout --force d",
    ),
    "a metric": (edit("metrics/score.json", "loss", "los"), "got others; `git checkout metrics/sc"),
    "an absent metric": (
        remove("metrics/score.json"),
        "got nothing; `git checkout metrics/score.js",
    ),
    "an odd lock": (edit("dvc.lock", "md5: ", "md5: 1\n    # "), "dvc: expected a readable proj"),
    "no lock": (remove("dvc.lock"), "dvc.lock: expected the record of the last run, got none; run"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_difference_is_one_sentence_and_gives_status_1(
    harm: str, tiny: Tiny, capfd: pytest.CaptureFixture[str]
) -> None:
    make, sentence = HARMS[harm]
    make(tiny)
    status, out, errors = quick(capfd)
    assert status == 1
    assert any(re.search(sentence, line) for line in errors), errors
    assert SOUND not in out


CODE_STAGE = """
stages:
  code:
    cmd: "{python} -m stages.code"
    deps: [params.yaml]
    outs:
      - code.yaml: {{cache: false, persist: true}}
      - settings.yaml: {{cache: false, persist: true}}
      - data/inputs/train: {{cache: false, persist: true}}
      - data/inputs/test: {{cache: false, persist: true}}
  score:
    cmd: echo
    params: [{{code.yaml: [split]}}, {{settings.yaml: [split]}}]
"""


@pytest.fixture
def coded(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """A project whose first stage writes `code.yaml` and `settings.yaml`."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    tiny.change({"data.train": "raw", "data.test": "raw"})
    write(tiny.folder / "dvc.yaml", CODE_STAGE.format(python=sys.executable))
    tiny.dvc("repro", "--quiet")
    tiny.commit("code")
    return tiny


def test_edits_count_by_what_they_change_in_code_and_settings(
    coded: Tiny, capfd: pytest.CaptureFixture[str]
) -> None:
    assert lock_status.compare().complete
    assert quick(capfd)[0] == 0
    coded.change({"verify.absolute": 1})
    status, out, _ = quick(capfd)
    assert (status, out.splitlines()[1]) == (
        0,
        "verify: params.yaml: edited, but code.yaml and settings.yaml stay as they are",
    )
    coded.change({"split.seed": 7})
    status, _, errors = quick(capfd)
    assert "got edits that change settings.yaml (split.seed 0 -> 7); run `dvc repro`" in errors[0]
    edit("code.yaml", "split:\n  cykooz.resizer: ", "split:\n  cykooz.resizer: 9.")(coded)
    edit("settings.yaml", "seed: 0\n  test", "seed: 1\n  test")(coded)
    (line,) = [one for one in quick(capfd)[2] if one.startswith("error: score: ")]
    code = r"got other values in code.yaml \(split.cykooz.resizer .* -> 9.*\), other values in "
    assert re.search(rf"{code}settings.yaml \(split.seed 0 -> 1\); ", line)
