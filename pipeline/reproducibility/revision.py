"""Print the hash of a revision whose files are all here, for `.ci/compare`.

python -m pipeline.reproducibility.revision main
"""

import sys

from pipeline.reproducibility import dvc_project
from pipeline.runtime.entrypoint import command


@command
def main(revision: str) -> None:
    """Print it, or why there is none."""
    with dvc_project.opened() as project:
        print(project.require_revision(revision))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
