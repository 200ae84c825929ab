"""What must hold before any stage works: parameters, the files they name, and the processor."""

import os

from pipeline import config as parameters
from pipeline.runtime import environment, machine
from pipeline.runtime.errors import UserError
from pipeline.runtime.machine import processors


def faults() -> list[str]:
    """A sentence for each thing that does not hold.

    Raises:
        UserError: `params.yaml` or a `STAGES_*` variable cannot be read, so no more can be told.
    """
    environment.check()
    params = parameters.read()
    named = {"data.train": params.data.train, "data.test": params.data.test}
    for name in params.extract.backbones:
        if (path := params.fetch_weights[name].path) is not None:
            named[f"fetch_weights.{name}.path"] = path
    found = [
        f"{parameters.PATH}: {key}: expected a file or folder, got nothing at {path!r}; "
        "put it there or correct the path"
        for key, path in named.items()
        if not os.path.exists(path)  # unlike Path.exists, not at a loss for any name
    ]
    threads, available = params.compute.threads, processors()
    if threads is not None and threads > available:
        found.append(
            f"{parameters.PATH}: compute.threads: expected at most the {available} processors of "
            f"this machine, got {threads}; lower it (results then differ in their last digits)"
        )
    try:
        machine.require(params.compute.instruction_set)
    except UserError as error:
        found.append(str(error))
    return found
