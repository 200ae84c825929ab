"""Stage `code`: what may make each other stage run again, apart from its data.

Reads the source files, the locked packages and `params.yaml`. Writes `code.yaml`, a hash of every
module that a stage uses and the versions of the packages that compute its output, and
`settings.yaml`, the parameters that play a part in it, each value in one spelling. The other stages
depend on these, so that a comment or an unused parameter reruns this stage only.

It also removes weights and features of backbones that `params.yaml` no longer names, which later
stages would take for inputs; DVC's cache keeps them.
"""

import shutil
import sys
from pathlib import Path

import yaml

from pipeline import config, paths
from pipeline.runtime import atomic_files, fingerprint
from pipeline.stage import stage


@stage
def main() -> None:
    """Check the parameters, write both files, remove what belongs to no backbone."""
    params = config.read()
    settings = config.settings(params)
    _write(paths.CODE, fingerprint.everything([*settings, "report"]))
    _write(paths.SETTINGS, settings)
    wanted = {path(name) for name in params.backbones for path in (paths.weights, paths.features)}
    for folder in (paths.WEIGHTS, paths.FEATURES):
        for path in folder.glob("[!.]*"):
            if path not in wanted:
                print(f"code: removed {path}, as params.yaml names no such backbone")
                shutil.rmtree(path) if path.is_dir() else path.unlink()


class _WithoutAnchors(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


def _write(path: Path, content: dict[str, object]) -> None:
    text = yaml.dump(content, Dumper=_WithoutAnchors)
    text = f"# Written by stage `code`; see docs/reproducibility.md.\n{text}"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        atomic_files.write_text(path, text)


if __name__ == "__main__":
    sys.exit(main())
