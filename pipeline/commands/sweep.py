"""Search for better parameters of the head, by cross-validation on cached features.

    pipeline sweep
    pipeline sweep --trials 30 --keys learning_rate input_dropout
    pipeline recipe sweep --force && make repro

Optuna proposes values for keys of train_head in params.yaml. A trial is scored by the log loss of
cross-validation inside train; no image of valid or test is read. The present values are trial 0.
Writes a folder with a table and a picture of all trials, and the best one as a recipe; Ctrl-C ends
the search, and keeps what was tried.
"""

import argparse
import contextlib
import importlib
import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import threadpoolctl
import yaml
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline import config, paths
from pipeline.commands import recipe
from pipeline.commands.out_folder import require_replaceable
from pipeline.evaluation import bootstrap
from pipeline.evaluation.probabilities import losses
from pipeline.reporting import plots
from pipeline.runtime import atomic_files, environment
from pipeline.runtime.errors import UserError, did_you_mean
from pipeline.runtime.machine import processors
from pipeline.schema import Params
from pipeline.storage import array_views, ledger, tables
from pipeline.training import head_training
from pipeline.training.history import DivergedError, Epoch

NAME = "sweep"  # of the recipe, by default
MARK = "Found by `pipeline sweep`"  # at the head of recipes that may be replaced
TABLE, PICTURE = "trials.csv", "trials.png"
TRIALS, FOLDS = 100, 3
SHOWN = 10  # best trials that are printed
DIGITS = 3  # significant ones of a proposed number
UNPRUNED = 5  # trials that run to their end, before others are compared with them
MOST_EPOCHS = 10_000  # steps of Optuna in a fold
DECIMALS = 6  # of log losses in the table


class Range(NamedTuple):
    """Numbers from `low` to `high`, uniform or on a logarithmic scale."""

    low: float
    high: float
    log: bool = False


SPACES: dict[str, dict[str, Range | tuple[Any, ...]]] = {  # by kind of head and key: or choices
    "logistic": {"inverse_regularization": Range(1e-6, 1, log=True)},
    "dense": {
        "hidden": ("[]", "[64]", "[128]", "[256]", "[512]", "[1024]", "[256, 64]", "[512, 128]"),
        "batch_norm": (False, True),
        "input_dropout": Range(0, 0.8),
        "dropout": Range(0, 0.7),
        "learning_rate": Range(1e-4, 1e-2, log=True),
        "batch_size": (32, 64, 128, 256),
        "label_smoothing": Range(0, 0.2),
        "weight_decay": Range(1e-5, 0.3, log=True),
    },
}


class Trial(NamedTuple):
    """Values that were tried, and what came of them."""

    values: dict[str, Any]  # by key
    state: str  # "complete", "pruned" before all folds had run, or "diverged"
    log_loss: float  # of the folds, or of the best epoch if it ended in the first; NaN if none


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, default=TRIALS, help=f"default {TRIALS}")
    parser.add_argument("--folds", type=int, default=FOLDS, help=f"of train, default {FOLDS}")
    parser.add_argument("--keys", nargs="+", metavar="KEY", help="search these alone")
    parser.add_argument("--seed", type=int, default=0, help="of the proposals, default 0")
    parser.add_argument("--recipe", default=NAME, help=f"name of the recipe, default {NAME}")
    parser.add_argument("--out", default=Path("sweep"), type=Path, metavar="FOLDER")


def run(arguments: argparse.Namespace) -> None:
    """Run the trials; write table, picture and recipe, and print the best."""
    optuna, params = _optuna(), config.read()
    for option, least in (("trials", 1), ("folds", 2), ("seed", 0)):
        if (got := getattr(arguments, option)) < least:
            raise UserError(f"sweep --{option}: expected {least} or more, got {got}; change it")
    keys = _keys(params.train_head.kind, arguments.keys)
    require_replaceable("sweep --out", arguments.out, (TABLE, PICTURE))
    recipe.require_free("sweep --recipe", arguments.recipe, MARK)
    threadpoolctl.threadpool_limits(params.compute.threads or processors(), user_api="blas")
    search = Search(params, arguments.folds, keys, optuna.TrialPruned)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=arguments.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED, n_warmup_steps=1),
    )
    interrupted = False
    with tqdm(total=arguments.trials + 1, desc="sweep", unit="trial", disable=None) as bar:
        search.present()
        try:
            for _ in range(arguments.trials):
                bar.update()
                bar.set_postfix_str(f"log loss {search.tried[search.best].log_loss:.4f}")
                study.optimize(search, n_trials=1)
            bar.update()
        except KeyboardInterrupt:
            interrupted = True
    with atomic_files.replacing(arguments.out) as partial:
        partial.mkdir()
        _write(partial, search)
    _print_best(search)
    pruned, diverged = (
        sum(one.state == state for one in search.tried) for state in ("pruned", "diverged")
    )
    print(
        f"sweep: {len(search.tried):,} trials, {pruned:,} pruned, {diverged:,} diverged; "
        f"{arguments.out / TABLE}, {arguments.out / PICTURE}"
    )
    if search.best:
        _write_recipe(arguments.recipe, search, arguments.folds)
    else:
        print("sweep: no trial has a lower log loss than the present values; no recipe is written")
    if interrupted:
        print("sweep: interrupted; these are the trials until then", file=sys.stderr)
        sys.exit(130)


def _write(folder: Path, search: "Search") -> None:
    """Write the table and the picture of all trials."""
    lines = [
        [number, one.state, f"{one.log_loss:.{DECIMALS}f}", *one.values.values()]
        for number, one in enumerate(search.tried)
    ]
    tables.write_csv(folder / TABLE, ("trial", "state", "log_loss", *search.space), lines)
    log_loss = [one.log_loss for one in search.tried]
    complete = [one.state == "complete" for one in search.tried]
    columns = {key: [one.values[key] for one in search.tried] for key in search.space}
    log = {key for key, one in search.space.items() if isinstance(one, Range) and one.log}
    choices = {key: one for key, one in search.space.items() if not isinstance(one, Range)}
    plots.trials(folder / PICTURE, log_loss, complete, columns, choices, log, search.best)


def _write_recipe(name: str, search: "Search", folds: int) -> None:
    """Write the best trial as a recipe, and say by how much it is better."""
    gain = "the values before it diverged"
    if search.tried[0].state == "complete":
        gain = "{:.4f} lower than the values before it ({:.4f} to {:.4f})".format(*search.gain())
    found = f"log loss {search.tried[search.best].log_loss:.4f} in {folds} folds of train, {gain}"
    about = [
        f"{MARK}, the best of {len(search.tried):,} trials of a {search.kind} head:",
        f"{found}.",
        "It was chosen among these trials on the same images: expect a smaller gain.",
        f"Command: make recipe NAME={name} && make repro",
    ]
    recipe.write(name, search.content(), about)
    print(f"sweep: trial {search.best}: {found}; chosen on the same images, so expect less")
    print(f"sweep: `pipeline recipe {name} --force && make repro` runs it")


def _optuna() -> Any:
    """Import Optuna, of an extra."""
    try:
        optuna = importlib.import_module("optuna")
    except ImportError:
        raise UserError(
            "sweep: expected Optuna, which proposes the values, got no such package; "
            "`pip install 'pipeline[sweep]'`"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _keys(kind: str, wanted: list[str] | None) -> list[str]:
    """Return the keys to search, in the order of `SPACES`."""
    known = list(SPACES[kind])
    for key in wanted or ():
        if key not in known:
            hint = did_you_mean(key, known, f"a {kind} head has no other keys to search")
            raise UserError(f"sweep --keys: expected {' or '.join(known)}, got {key!r}; {hint}")
    return [key for key in known if not wanted or key in wanted]


class Search:
    """Tries values on the features of train; called by Optuna with a trial of its own."""

    def __init__(
        self, params: Params, folds: int, keys: list[str], pruned: type[Exception]
    ) -> None:
        self.kind = params.train_head.kind
        self.space = {key: SPACES[self.kind][key] for key in keys}
        self.tried: list[Trial] = []
        self.best = 0  # number of the complete trial with the lowest log loss
        self._losses: dict[int, NDArray[np.float64]] = {}  # of each image, by trial: 0 and the best
        self._folds, self._pruned = folds, pruned
        rows = ledger.read_ledger(atomic_files.require(paths.LEDGER, "split"))
        labels, self._group = ledger.labels(rows), rows.accepted().texts("group")
        self._train = labels.rows("train")
        subset = np.where(labels.subset == "train", "train", "unlabelled")
        self._labels = replace(labels, subset=subset)
        features = array_views.open_features(params.backbones, ledger.fingerprint(rows))
        budget = environment.memory_bytes()
        self._features = array_views.in_memory_if_small(features, self._train, budget)
        self._params = params

    def present(self) -> None:
        """Try the values of params.yaml."""
        head = self._params.train_head
        values = {key: getattr(head, key) for key in self.space}
        self._try(values | {key: str(values[key]) for key in ("hidden",) if key in values})

    def __call__(self, trial: Any) -> float:
        """Try what Optuna proposes; return the log loss."""
        values: dict[str, Any] = {}
        for key, one in self.space.items():
            if isinstance(one, Range):
                drawn = trial.suggest_float(key, one.low, one.high, log=one.log)
                values[key] = float(f"{drawn:.{DIGITS}g}")
            else:
                values[key] = trial.suggest_categorical(key, one)

        def go_on(log_loss: float, step: int) -> None:
            trial.report(log_loss, step)
            if trial.should_prune():
                raise self._pruned

        if self._try(values, go_on).state != "complete":
            raise self._pruned
        return self.tried[-1].log_loss

    def _try(
        self, values: dict[str, Any], go_on: Callable[[float, int], object] = lambda *_: None
    ) -> Trial:
        """Cross-validate, unless `go_on` ends it after an epoch or fold.

        It takes the mean log loss so far, of the present fold that of its best epoch, and a number
        that is the same for the same fold and epoch.
        """
        params = self._params.model_copy(update={"train_head": self._head(values, self._folds)})
        found, state, whole = np.full(len(self._group), np.nan), "complete", list[float]()

        def on_epoch(epoch: Epoch) -> None:
            best[0] = min(best[0], epoch.val_loss)
            go_on(float(np.mean([*whole, best[0]])), MOST_EPOCHS * len(whole) + epoch.epoch)

        data, best = (self._features, self._labels, self._group), [np.inf]  # of a fold
        try:
            with (  # each fold would show its own progress
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                for _, rows, predicted in head_training.by_fold(
                    params, *data, where="sweep --folds", on_epoch=on_epoch
                ):
                    found[rows] = losses(predicted, self._labels.label[rows])
                    whole.append(float(found[rows].mean()))
                    best[0] = np.inf
                    go_on(float(np.mean(whole)), MOST_EPOCHS * len(whole))
        except DivergedError:
            state = "diverged"
        except self._pruned:
            state = "pruned"
        seen = found[~np.isnan(found)]
        log_loss = float(seen.mean()) if len(seen) else best[0] if best[0] < np.inf else np.nan
        one = Trial(values, state, log_loss)
        self.tried.append(one)
        number = len(self.tried) - 1
        lowest = self.tried[self.best].log_loss  # NaN if the present values diverged
        if number == 0 or (state == "complete" and not lowest <= one.log_loss):
            if self.best:
                del self._losses[self.best]
            self.best, self._losses[number] = number, found[self._train]
        return one

    def _head(self, values: dict[str, Any], folds: int | None) -> Any:
        """Return the section `train_head` with some values."""
        head = self._params.train_head
        if "hidden" in values:
            values = values | {"hidden": yaml.safe_load(values["hidden"])}
        return type(head).model_validate({**head.model_dump(), **values, "folds": folds})

    def gain(self) -> bootstrap.Interval:
        """Return by how much the best trial's log loss is lower than that of the present values."""
        return bootstrap.mean_interval(self._losses[0] - self._losses[self.best])

    def content(self) -> dict[str, Any]:
        """Return params.yaml with the values of the best trial, as plain data."""
        head = self._head(self.tried[self.best].values, self._params.train_head.folds)
        return self._params.model_copy(update={"train_head": head}).model_dump(exclude_none=True)


def _print_best(search: Search) -> None:
    """Print the trials with the lowest log loss as a table."""
    complete = [at for at, one in enumerate(search.tried) if one.state == "complete"]
    complete.sort(key=lambda at: search.tried[at].log_loss)
    table = [["trial", "log loss", *search.space]]
    for number in complete[:SHOWN]:
        one = search.tried[number]
        words = [f"{number}{' (present)' if not number else ''}", f"{one.log_loss:.4f}"]
        table.append([*words, *map(str, one.values.values())])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        print(
            "  ".join(f"{word:{width}}" for word, width in zip(line, widths, strict=True)).rstrip()
        )
