"""`pipeline verify --quick` compares a folder with its `dvc.lock` without running anything."""

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from project import ROOT
from tiny import Tiny

from pipeline.reproducibility import lock_status

SOUND = "verify: inputs, parameters and code are those of dvc.lock\n"
Pipeline = Callable[..., SimpleNamespace]
Harm = Callable[[Tiny], object]


@pytest.fixture
def quick(tiny: Tiny, pipeline: Pipeline) -> Pipeline:
    return lambda: pipeline("verify", "--quick")


def remove(*names: str) -> Harm:
    def harm(tiny: Tiny) -> None:
        for name in names:
            shutil.rmtree(tiny.folder / name)

    return harm


def both(*harms: Harm) -> Harm:
    def harm(tiny: Tiny) -> None:
        for one in harms:
            one(tiny)

    return harm


def edit(name: str, old: str, new: str) -> Harm:
    return lambda tiny: tiny.edit(name, old, new)


def test_what_was_just_run_is_sound_and_so_is_a_fresh_clone(
    quick: Pipeline, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = "outputs: 3 of 3 are here; 2 of the 2 that DVC caches are in its cache, unharmed"
    said = quick()
    assert (said.status, said.out) == (0, f"verify: {counts}\n{SOUND}")
    assert (tiny.folder / "data" / "model").is_dir()  # so DVC's hash of a folder is ours
    monkeypatch.chdir(tiny.clone(tmp_path / "fresh").folder)
    said = quick()
    assert said.status == 0
    assert said.out == (
        "verify: outputs: 1 of 3 are here; 0 of the 2 that DVC caches are in its cache, unharmed; "
        "`dvc repro` adds the others\n"
        f"verify: raw/numbers.txt: not here, so it was not compared with dvc.lock\n{SOUND}"
    )


def flip(file: Callable[[Tiny], str]) -> Harm:
    """Flip a bit of a file as a bad disk would: neither time nor mode changes."""

    def harm(tiny: Tiny) -> None:
        path = tiny.folder / file(tiny)
        stat, content = path.stat(), path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        path.chmod(stat.st_mode)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    return harm


def cached(output: str) -> Callable[[Tiny], str]:
    """Return where the cache has an output, or the list of a folder's files."""

    def path(tiny: Tiny) -> str:
        digest = tiny.read("dvc.lock").rpartition(f"path: {output}\n")[2].split()[3]
        return f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}"

    return path


def give_to_dvc(tiny: Tiny) -> None:
    """Track other images by DVC, as a clone without the images sees them."""
    (tiny.folder / ".gitignore").write_text("/raw/?*\n!/raw/*.dvc\n/data\n")
    tiny.dvc("add", "--quiet", "raw/numbers.txt")
    pointer = tiny.folder / "raw" / "numbers.txt.dvc"
    pointer.write_text(re.sub(r"md5: \w+", f"md5: {'b' * 32}", pointer.read_text()))
    (tiny.folder / "raw" / "numbers.txt").unlink()


def remove_code(tiny: Tiny) -> None:
    tiny.git("rm", "--quiet", "draw.py")
    tiny.commit("removed")


def merge_badly(tiny: Tiny) -> None:
    digest = tiny.read("dvc.lock").partition("data/numbers.csv")[2].split("md5: ")[2][:32]
    tiny.edit("dvc.lock", digest, "a" * 32)  # that of the stage that writes it, not of its reader


def link_elsewhere(tiny: Tiny) -> None:
    out = tiny.folder / "data" / "numbers.csv"
    out.unlink()
    out.symlink_to(tiny.folder / "dvc.yaml")


MERGED = "with another hash than its stage recorded, as after a merge; run `dvc repro`, or undo th"
HARMS: dict[str, tuple[Harm, str]] = {
    "a parameter": (
        lambda tiny: tiny.change({"split.seed": 7}),
        "draw: expected inputs, parameters and code as dvc.lock says, got other values in "
        r"params.yaml \(split.seed 0 -> 7\); run `dvc repro`, or undo that",
    ),
    "removed code": (remove_code, "got draw.py deleted; run `dvc repro`, or undo that"),
    "an input": (edit("raw/numbers.txt", "1", "3"), "got raw/numbers.txt modified; "),
    "a new stage": (
        edit("dvc.yaml", "stages:\n", "stages:\n  third: {cmd: echo, deps: [raw]}\n"),
        "third: expected inputs, parameters and code as .*, got a stage that never ran",
    ),
    "a bad merge": (merge_badly, f"score: .*got data/numbers.csv {MERGED}"),
    "other images in DVC": (give_to_dvc, f"draw: .*got raw/numbers.txt {MERGED}"),
    "another output": (edit("dvc.yaml", "[data/model]", "[data/model, more]"), "got other outputs"),
    "a cached list": (flip(cached("data/model")), "expected the bytes of data/model that its"),
    "a cached file": (
        flip(cached("data/numbers.csv")),
        "expected the bytes of data/numbers.csv .*; `rm -f` it, then `dvc commit --force draw`$",
    ),
    "a cached file of an absent output": (
        both(flip(cached("data/model")), remove("data/model")),
        "expected the bytes of data/model that .*; `rm -f` it, then `dvc repro score`",
    ),
    "an output that the cache lacks": (
        both(edit("data/numbers.csv", "1", "3"), remove(".dvc/cache")),
        "data/numbers.csv: expected the bytes that dvc.lock records, got others; run `dvc repro`$",
    ),
    "a bit in an output": (
        flip(lambda _: "data/model/head.npz"),
        "data/model: expected the bytes that dvc.lock records, .*; `dvc checkout --force d",
    ),
    "a link in place of an output": (
        link_elsewhere,
        "data/numbers.csv: expected the bytes that .*got others; `dvc checkout --force data/numb",
    ),
    "a metric": (edit("metrics/score.json", "loss", "los"), "got others; `git checkout metrics/sc"),
    "no metric": (
        lambda _: Path("metrics/score.json").unlink(),
        "metrics/score.json: expected the bytes that dvc.lock records, got nothing; `git checkout",
    ),
    "no lock": (lambda _: Path("dvc.lock").unlink(), "dvc.lock: expected the record of the last"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_difference_is_one_sentence_and_gives_status_1(
    harm: str, tiny: Tiny, quick: Pipeline
) -> None:
    make, sentence = HARMS[harm]
    make(tiny)
    said = quick()
    assert said.status == 1
    assert re.search(f"^error: .*{sentence}", said.err, re.M), said.err
    assert SOUND not in said.out


REMEDIES: dict[str, tuple[Harm, str, str]] = {  # with what is said once all of it was done
    "the cache": (
        remove(".dvc/cache"),
        "3 of 3 are here; 0 of the 2 that DVC caches are in its cache, unharmed; `dvc commit "
        "--force` caches them",
        "",
    ),
    "what git has": (
        lambda _: Path("metrics/score.json").unlink(),
        "2 of 3 are here; 2 of the 2 that DVC caches are in its cache, unharmed",
        "",
    ),
    "the cache and an output": (
        remove(".dvc/cache", "data/model"),
        "2 of 3 are here; 0 of the 2 that DVC caches are in its cache, unharmed; `dvc commit "
        "--force draw` caches them; `dvc repro` adds the others",
        "",
    ),
    "one in the cache, another outside": (
        both(remove("data/model"), lambda tiny: Path(cached("data/numbers.csv")(tiny)).unlink()),
        "2 of 3 are here; 1 of the 2 that DVC caches are in its cache, unharmed; `dvc checkout "
        "data/model` restores what only the cache has; then ask again",
        "; `dvc commit --force` caches them",
    ),
    "the cache, after an edit": (
        both(remove(".dvc/cache"), edit("score.py", "* 2", "* 2.0")),
        "3 of 3 are here; 0 of the 2 that DVC caches are in its cache, unharmed; `dvc commit "
        "--force draw` caches them; `dvc repro` adds the others",
        "",
    ),
}


@pytest.mark.parametrize("missing", REMEDIES)
def test_the_cheapest_command_is_named_and_does_it(missing: str, tiny: Tiny) -> None:
    harm, counts, after = REMEDIES[missing]
    harm(tiny)
    state = lock_status.compare()
    assert state.counts() == f"outputs: {counts}"
    edited = tiny.git("diff", "--name-only")
    for command in re.findall("`dvc (.+?)`", state.remedy):
        tiny.dvc(*command.split())
    if missing != "the cache, after an edit":
        assert tiny.git("diff", "--name-only") == edited
    assert lock_status.compare().counts().endswith(f"in its cache, unharmed{after}")


CODE_STAGE = f"""
stages:
  code:
    cmd: '"{sys.executable}" -m stages.code'
    deps: [params.yaml]
    outs: [code.yaml: {{cache: false}}, settings.yaml: {{cache: false}}]
  score:
    cmd: echo
    params: [{{code.yaml: [split]}}, {{settings.yaml: [split]}}]
"""


def test_edits_count_by_what_they_change_in_code_and_settings(
    tiny: Tiny, quick: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    tiny.change({"data.train": "raw", "data.test": "raw"})
    (tiny.folder / "dvc.yaml").write_text(CODE_STAGE, encoding="utf-8")
    tiny.dvc("repro", "--quiet")
    tiny.commit("code")
    assert lock_status.compare().complete
    assert quick().status == 0
    tiny.change({"verify.absolute": 1})
    said = quick()
    edited = "verify: params.yaml: edited, but code.yaml and settings.yaml stay as they are"
    assert (said.status, said.out.splitlines()[1]) == (0, edited)
    tiny.change({"split.seed": 7})
    got = "got edits that change settings.yaml (split.seed 0 -> 7); run `dvc repro`"
    assert got in quick().err
    tiny.edit("code.yaml", "split:\n  cykooz.resizer: ", "split:\n  cykooz.resizer: 9.")
    tiny.edit("settings.yaml", "seed: 0\n  subsets", "seed: 1\n  subsets")
    code = r"got other values in code.yaml \(split.cykooz.resizer .* -> 9.*\), other values in "
    assert re.search(rf"score: .*{code}settings.yaml \(split.seed 0 -> 1\); ", quick().err)
