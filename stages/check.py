"""Check `params.yaml`, and that the files it names are there; `make repro` calls it before DVC.

    python -m stages.check

DVC itself tells of a missing input only after it has removed the outputs of the stage.
"""

import sys

from stages import preflight
from stages.errors import UserError
from stages.scripts import arguments, script


@script
def main() -> None:
    """End with status 0, or with a sentence for each fault and status 1."""
    arguments(__doc__, count=0)
    if found := preflight.faults():
        raise UserError("\n".join(found))


if __name__ == "__main__":
    sys.exit(main())
