"""`pipeline sweep` searches the head's parameters inside train, and writes a recipe."""

import csv
import importlib
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from album import DENSE, LEDGER
from PIL import Image
from project import ROOT

from pipeline import config
from pipeline.commands import recipe, sweep
from pipeline.evaluation.probabilities import log_loss
from pipeline.runtime.errors import UserError
from pipeline.storage import array_views, ledger
from pipeline.training import head_training, history

OUT = Path("sweep")
RECIPE = Path("recipes/sweep.yaml")
Run = Callable[..., SimpleNamespace]


@pytest.fixture
def run(project: Path, pipeline: Run) -> Run:
    shutil.copytree(ROOT / "recipes", "recipes")
    return lambda *words: pipeline("sweep", *words)


def use(head: dict[str, Any]) -> None:
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    text = yaml.safe_dump(params | {"train_head": head})
    Path("params.yaml").write_text(text, encoding="utf-8")


def trials() -> list[dict[str, str]]:
    with (OUT / sweep.TABLE).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def held_out(head: Any, folds: int) -> float:
    """The log loss of cross-validation inside train, by the library alone."""
    params = config.read()
    rows = ledger.read_ledger(LEDGER)
    labels, train = ledger.labels(rows), ledger.labels(rows).rows("train")
    features = array_views.open_features(params.backbones, ledger.fingerprint(rows))
    labels.subset[labels.subset != "train"] = "unlabelled"
    head = head.model_copy(update={"folds": folds})
    params = params.model_copy(update={"train_head": head})
    group = rows.accepted().texts("group")
    found = head_training.train(params, features, labels, group).out_of_fold
    assert found is not None
    assert np.isnan(found).any(axis=1).sum() == len(found) - len(train)
    return log_loss(found[train], labels.label[train])


def test_the_best_values_are_scored_inside_train_and_become_a_recipe_of_the_whole_run(
    run: Run,
) -> None:
    use({"kind": "logistic", "inverse_regularization": 1e-6, "max_iterations": 500})
    said = run("--trials", 6, "--folds", 2)
    assert said.status == 0, said.err
    lines = trials()
    assert [line["state"] for line in lines] == ["complete"] * 7
    assert float(lines[0]["inverse_regularization"]) == 1e-6
    loss = [float(line["log_loss"]) for line in lines]
    best = int(np.argmin(loss))
    assert best > 0
    found = config.check(recipe.read("sweep"))
    before = config.read()
    assert found == before.model_copy(update={"train_head": found.train_head})
    assert found.train_head.kind == "logistic"
    assert found.train_head.inverse_regularization == float(lines[best]["inverse_regularization"])
    for number, head in ((0, before.train_head), (best, found.train_head)):
        assert loss[number] == pytest.approx(held_out(head, 2), abs=1e-6)
    about = " ".join(recipe.header("sweep"))
    assert about.startswith(f"{sweep.MARK}, the best of 7 trials of a logistic head:")
    assert f"log loss {loss[best]:.4f} in 2 folds of train" in about
    with Image.open(OUT / sweep.PICTURE) as picture:
        assert picture.size[0] > 500
    written = {path: path.read_bytes() for path in (*OUT.iterdir(), RECIPE)}
    assert run("--trials", 6, "--folds", 2).status == 0
    assert {path: path.read_bytes() for path in (*OUT.iterdir(), RECIPE)} == written


def test_proposals_for_a_dense_head_stay_inside_the_keys_that_are_asked_for(run: Run) -> None:
    use({**DENSE, "epochs": 1, "learning_rate": 0.01})
    said = run("--trials", 2, "--folds", 2, "--keys", "input_dropout", "hidden", "--seed", 3)
    assert said.status == 0, said.err
    lines = trials()
    assert list(lines[0]) == ["trial", "state", "log_loss", "hidden", "input_dropout"]
    assert (lines[0]["hidden"], lines[0]["input_dropout"]) == ("[16]", "0.5")
    assert all(line["hidden"] in sweep.SPACES["dense"]["hidden"] for line in lines[1:])
    assert "2 (present)" not in said.out
    assert "0 (present)" in said.out
    if RECIPE.exists():
        head = config.check(recipe.read("sweep")).train_head
        assert head.model_dump(exclude={"hidden", "input_dropout"}) == (
            config.read().train_head.model_dump(exclude={"hidden", "input_dropout"})
        )


def end_trial(number: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have trial `number`, counted from 1 for the present values, end by an error."""
    by_fold, calls = head_training.by_fold, itertools.count(1)

    def ends(*words: Any, **others: Any) -> Any:
        if next(calls) == number:
            raise error
        return by_fold(*words, **others)

    monkeypatch.setattr(head_training, "by_fold", ends)


def test_a_trial_that_diverges_is_counted_and_the_search_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    use({"kind": "logistic", "inverse_regularization": 1e-3, "max_iterations": 500})
    end_trial(2, history.DivergedError("no finite loss"), monkeypatch)
    said = run("--trials", 3, "--folds", 2)
    assert said.status == 0, said.err
    assert [line["state"] for line in trials()] == ["complete", "diverged", "complete", "complete"]
    assert "4 trials, 0 pruned, 1 diverged" in said.out


def test_an_interrupted_search_keeps_what_was_tried(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    use({"kind": "logistic", "inverse_regularization": 1e-6, "max_iterations": 500})
    end_trial(4, KeyboardInterrupt(), monkeypatch)
    said = run("--trials", 9, "--folds", 2)
    assert said.status == 130
    assert "sweep: interrupted; these are the trials until then" in said.err
    assert [line["state"] for line in trials()] == ["complete"] * 3
    assert config.check(recipe.read("sweep")).train_head.kind == "logistic"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--trials", "0"), "sweep --trials: expected 1 or more, got 0; change it"),
        (("--folds", "1"), "sweep --folds: expected 2 or more, got 1; change it"),
        (("--folds", "99"), "sweep --folds: expected at most "),
        (
            ("--keys", "learning_rat"),
            "sweep --keys: expected inverse_regularization, got 'learning_rat'; ",
        ),
        (
            ("--recipe", "ensemble"),
            "sweep --recipe: expected a new name, got 'ensemble', which is a r",
        ),
        (
            ("--recipe", "../x"),
            "sweep --recipe: expected a name of small letters, digits and hyphens,",
        ),
        (("--out", "data"), "sweep --out: expected a new folder or an earlier result, got 'dat"),
    ],
)
def test_arguments_that_cannot_be_are_one_sentence(
    words: tuple[str, ...], expected: str, run: Run
) -> None:
    said = run("--trials", "1", *words)
    assert said.status == 1
    assert said.err.startswith(f"error: {expected}")
    assert not OUT.exists()
    assert not RECIPE.exists()


def test_without_optuna_a_sentence_names_the_extra(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = importlib.import_module

    def missing(name: str, *words: Any) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return load(name, *words)

    monkeypatch.setattr(importlib, "import_module", missing)
    said = run()
    assert said.status == 1
    assert said.err.strip().removeprefix("error: ") == (
        "sweep: expected Optuna, which proposes the values, got no such package; "
        "`pip install 'pipeline[sweep]'`"
    )


def test_every_recipe_is_its_difference_from_the_base(run: Run) -> None:
    for name in recipe.names():
        params = config.check(recipe.read(name))
        recipe.write("copy", params.model_dump(exclude_none=True), ["a copy"])
        assert config.check(recipe.read("copy")) == params, name
        with pytest.raises(UserError, match="expected a new name"):
            recipe.require_free("sweep --recipe", "copy", sweep.MARK)
