"""Stage `names`: refuse names of networks that are no plain words, before they become paths.

    python -m stages.names data/names.txt

DVC removes the old outputs of a stage before it starts the stage. Those of `fetch_weights` and
`extract` are named after networks, so a recipe's `../../x` would be removed first and refused
later. Both wait for this stage, whose outputs have names of their own.
"""

import sys
from pathlib import Path

from pipeline import config as parameters
from pipeline.runtime import atomic_files
from pipeline.runtime.entrypoint import arguments, stage


@stage
def main() -> None:
    """Check the parameters; what is written is always the same, so that nothing else reruns."""
    (out,) = arguments(__doc__, count=1)
    params = parameters.read()
    atomic_files.write_text(Path(out), "plain words\n")
    print(f"names: {', '.join(params.extract.backbones)}")


if __name__ == "__main__":
    sys.exit(main())
