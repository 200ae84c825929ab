"""Stage `code`: what may make each other stage run again.

Reads the source files, the locked packages and `params.yaml`. Writes
- `code.yaml`: for each stage a hash of every module that it uses, and the versions of the packages
  that compute or encode its outputs;
- `settings.yaml`: for each stage the parameters that play a part in its outputs, in one spelling;
- `data/inputs/train` and `data/inputs/test`: links to `data.train` and `data.test`.
The other stages depend on these, so that a comment, an unused parameter or another path to the same
images reruns this stage only. Weights, networks and features of backbones that `params.yaml` no
longer names are removed, as later stages would take them for inputs; DVC's cache keeps them.
"""

import json
import os
import shutil
import sys
from pathlib import Path

import yaml

from pipeline import config, paths
from pipeline.runtime import atomic_files, fingerprint
from pipeline.runtime.errors import UserError
from pipeline.stage import stage


@stage
def main() -> None:
    """Check the parameters, write both files and the links, remove what belongs to no backbone."""
    params = config.read()
    if missing := config.missing_files(params):  # DVC notices only after it has removed outputs
        raise UserError("\n".join(missing))
    settings = config.settings(params)
    _write(paths.CODE, fingerprint.everything([*settings, "report"]))
    _write(paths.SETTINGS, settings)
    _link(paths.TRAIN_INPUT, params.data.train)
    _link(paths.TEST_INPUT, params.data.test)
    wanted = {
        path(name)
        for name in params.backbones
        for path in (paths.weights, paths.network, paths.features)
    }
    for path in sorted(
        one
        for folder in (paths.WEIGHTS, paths.NETWORKS, paths.FEATURES)
        for one in folder.glob("[!.]*")
    ):
        if path not in wanted:
            print(f"code: removed {path}, as params.yaml names no such backbone")
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _write(path: Path, content: dict[str, object]) -> None:
    text = "# Written by stage `code`; see docs/reproducibility.md.\n"
    text += yaml.safe_dump(json.loads(json.dumps(content)))  # copies, for which YAML has no anchors
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        atomic_files.write_text(path, text)


def _link(link: Path, target: str) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    inside = Path(os.path.abspath(target)).is_relative_to(Path.cwd())
    text = os.path.relpath(target, link.parent) if inside else os.path.abspath(target)
    if not link.is_symlink() or os.readlink(link) != text:
        partial = link.with_name(f".partial-{link.name}")
        partial.unlink(missing_ok=True)
        partial.symlink_to(text)
        partial.replace(link)


if __name__ == "__main__":
    sys.exit(main())
