"""Files of a run: of the working tree, or fetched from a commit.

A revision is a branch, tag or commit, or anything else that DVC resolves, as an experiment.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import config, paths
from pipeline.reproducibility import code_changes, dvc_project
from pipeline.runtime.errors import UserError
from pipeline.storage import tables

METRICS = {
    paths.EVALUATION: "evaluate",
    paths.SPLIT_METRICS: "split",
    paths.AUDIT_METRICS: "audit",
    paths.HEAD_METRICS: "train_head",
    paths.FINE_TUNE_METRICS: "fine_tune",
}


class Run(NamedTuple):
    """A run: its name in texts, its revision (None for the working tree), its files' folder."""

    name: str
    revision: str | None
    folder: Path

    def params(self) -> dict[str, Any]:
        """Return the parameters by their keys with dots; empty if the commit has none."""
        path = self.folder / paths.PARAMS
        if self.revision and not path.exists():
            return {}
        return code_changes.flattened(self.read(lambda: config.load(path)))

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Return the metrics by file and key with dots, without files that the run lacks."""
        metrics = {}
        for path, stage in METRICS.items():
            required = path == paths.EVALUATION and not self.revision
            if required or (self.folder / path).exists():
                content = self.read(lambda: tables.read_json(self.folder / path, stage))  # noqa: B023
                metrics[str(path)] = code_changes.flattened(content)
        return metrics

    def code(self) -> dict[str, Any]:
        """Return the content of `code.yaml`; empty if there is none."""
        path = self.folder / paths.CODE
        return code_changes.parsed(path.read_text(encoding="utf-8") if path.exists() else None)

    def read(self, reader: Any) -> Any:
        """Call `reader`; its errors name files as the commit does, and the commit."""
        try:
            return reader()
        except UserError as error:
            text = str(error).replace(f"{self.folder}/", "")
            raise UserError(f"{text} ({self.name})" if self.revision else text) from None


@contextmanager
def opened(old: str, new: str | None, files: Iterable[Path]) -> Iterator[tuple[Run, Run]]:
    """Yield two runs with the given files that git or DVC has of them; None is the working tree."""
    try:
        with dvc_project.opened() as project:
            for revision in filter(None, (old, new)):
                project.require_revision(revision)
    except UserError as error:
        raise UserError(f"compare: {error}") from None
    files = [*files, paths.PARAMS, paths.CODE, *METRICS]
    with tempfile.TemporaryDirectory() as folder:
        runs = (
            Run(old, old, Path(folder, "old")),
            Run(new, new, Path(folder, "new")) if new else Run("this run", None, Path()),
        )
        for run in runs:
            if run.revision:
                dvc_project.fetch(run.revision, files, run.folder)
        yield runs
