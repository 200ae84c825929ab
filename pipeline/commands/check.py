"""Check `params.yaml`, and that the files it names are there; `make repro` calls it before DVC.

    python -m pipeline.commands.check

DVC itself tells of a missing input only after it has removed the outputs of the stage.
"""

import sys

from pipeline.commands import preflight
from pipeline.runtime.entrypoint import arguments, script
from pipeline.runtime.errors import UserError


@script
def main() -> None:
    """End with status 0, or with a sentence for each fault and status 1."""
    arguments(__doc__, count=0)
    if found := preflight.faults():
        raise UserError("\n".join(found))


if __name__ == "__main__":
    sys.exit(main())
