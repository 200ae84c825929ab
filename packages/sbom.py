"""`make sbom`: the packages of requirements.lock as a CycloneDX list, the same bytes every time.

    python -m packages.sbom requirements.lock docs/sbom.cdx.json

cyclonedx-py names the index that it supposes and the line of the lock; here a package is known by
its package URL instead, which says the same wherever it is installed from.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def main(lock: str, out: str) -> None:
    """Write the list."""
    told = subprocess.run(  # noqa: S603  its own command
        [
            *(sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements"),
            *("--pyproject", "pyproject.toml", "--short-PURLs", "--output-reproducible"),
            *("--spec-version", "1.6", "--output-format", "JSON", lock),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    Path(out).write_text(tidy(json.loads(told)), encoding="utf-8", newline="\n")


def tidy(bom: dict[str, Any]) -> str:
    """The list without an index, lines of the lock, or the tool's own addresses."""
    for component in bom["components"]:
        # the comment ends where the hashes begin: "requirements line 9: name==1 ; marker --hash"
        marker = component.pop("description").partition(" --hash")[0].partition(" ; ")[2].strip()
        component["bom-ref"] = component["purl"]
        if marker:
            component["description"] = marker
        for reference in component["externalReferences"]:
            reference |= {"url": component["purl"], "comment": "any of these files"}
    bom["components"].sort(key=lambda component: str(component["purl"]))
    del bom["dependencies"]  # a lock file does not tell who needs whom
    del bom["metadata"]["tools"], bom["metadata"]["properties"]
    return json.dumps(bom, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    main(*sys.argv[1:])
