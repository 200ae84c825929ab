"""Check `params.yaml`, and that the files it names are there; `make repro` calls it before DVC.

    python -m stages.check

DVC itself tells of a missing input only after it has removed the outputs of the stage.
"""

import os
import sys

from stages import cpu, environment
from stages import params as parameters
from stages.errors import UserError
from stages.scripts import arguments, script
from stages.threads import processors


@script
def main() -> None:
    """End with status 0, or with a sentence for each fault and status 1."""
    arguments(__doc__, count=0)
    environment.check()
    params = parameters.read()
    named = {"data.train": params.data.train, "data.test": params.data.test}
    for name in params.extract.backbones:
        if (path := params.fetch_weights[name].path) is not None:
            named[f"fetch_weights.{name}.path"] = path
    faults = [
        f"{parameters.PATH}: {key}: expected a file or folder, got nothing at {path!r}; "
        "put it there or correct the path"
        for key, path in named.items()
        if not os.path.exists(path)  # unlike Path.exists, not at a loss for any name
    ]
    threads, available = params.compute.threads, processors()
    if threads is not None and threads > available:
        faults.append(
            f"{parameters.PATH}: compute.threads: expected at most the {available} processors of "
            f"this machine, got {threads}; lower it (results then differ in their last digits)"
        )
    try:
        cpu.require(params.compute.instruction_set)
    except UserError as error:
        faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))


if __name__ == "__main__":
    sys.exit(main())
