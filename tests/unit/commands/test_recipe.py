"""`pipeline recipe` writes the complete, commented params.yaml of a recipe."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import config, paths
from pipeline.commands import recipe

ROOT = Path(__file__).parents[3]
Run = Callable[..., SimpleNamespace]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipeline: Run) -> Run:
    """Call the command in an empty folder with the recipes."""
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    monkeypatch.chdir(tmp_path)
    return lambda *words: pipeline("recipe", *words)


@pytest.mark.usefixtures("run")
def test_a_section_changes_keys_of_the_base_and_three_sections_replace_it() -> None:
    base = "split: {valid: 1, test: 2}\nbackbones: {a: 1}\ntrain_head: {b: 2}\nfine_tune: null"
    mine = "split: {test: 3}\nbackbones: {c: 4}\ntrain_head: {d: 5}\nfine_tune: {e: 6}"
    for name, text in (("base", base), ("mine", mine)):
        (paths.RECIPES / f"{name}.yaml").write_text(text, encoding="utf-8")
    expected = {"backbones": {"c": 4}, "train_head": {"d": 5}, "fine_tune": {"e": 6}}
    assert recipe.read("mine") == {"split": {"valid": 1, "test": 3}, **expected}


def test_a_recipe_is_written_with_its_header_and_a_comment_for_each_key(run: Run) -> None:
    run("ensemble-fine-tune")
    text = paths.PARAMS.read_text(encoding="utf-8")
    assert text.startswith("# Recipe ensemble-fine-tune, written by `pipeline recipe")
    assert "\n# Measured on the 2,000 test images of mobilenetv2" in text
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if "  # " not in line] == ["  MobileNet:", "  MobileNetV2:"]
    assert max(map(len, text.splitlines())) <= 100
    assert config.read() == config.check(recipe.read("ensemble-fine-tune"))
    assert run("sample", "--print").out == recipe.render("sample")
    assert paths.PARAMS.read_text(encoding="utf-8") == text


def test_changes_that_no_recipe_has_are_not_overwritten(run: Run) -> None:
    run("sample")
    assert run("gabor").status == 0  # the values of a recipe are nothing to lose
    text = paths.PARAMS.read_text(encoding="utf-8").replace("size: 128", "size: 96")
    for mine in (text, "my: [own"):
        paths.PARAMS.write_text(mine, encoding="utf-8")
        assert re.search(r"got changes of your own.*add --force", run("sample").err)
        assert paths.PARAMS.read_text(encoding="utf-8") == mine
    run("sample", "--force")
    assert config.read() == config.check(recipe.read("sample"))


def test_all_recipes_are_listed_with_their_first_sentence(run: Run) -> None:
    lines = run("--list").out.splitlines()
    assert [line.split()[0] for line in lines] == recipe.names()
    assert lines[0].split(maxsplit=1)[1] == "A convnet trained from scratch on 2,000 images"


def test_a_name_that_is_no_recipe_is_refused(run: Run) -> None:
    assert "got 'smaple'; did you mean 'sample'" in run("smaple").err
    for words, got in (([], "''"), (["base"], "'base'")):
        assert f"got {got}; `pipeline recipe --list` shows them" in run(*words).err
