"""Stage `report`: show the results of all stages on one page.

Reads the parameters, and metrics, plots and tables of all stages; writes a folder with the page,
`index.html`, and copies of its images. The page names versions and the kind of machine, but no
date, host or path, so that its bytes repeat.
"""

import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from pipeline import config, paths
from pipeline.reporting import html
from pipeline.runtime import atomic_files, machine
from pipeline.runtime.errors import UserError
from pipeline.runtime.machine import processors
from pipeline.schema import Compute
from pipeline.stage import stage
from pipeline.storage import results
from pipeline.storage.texts import natural_key

PACKAGES = ("keras", "numpy", "scikit-learn", "zarr", "pillow", "cykooz.resizer", "matplotlib")


@stage
def main() -> None:
    """Check all inputs, then write the folder."""
    findings = results.read(paths.METRICS, paths.EXPLAIN)
    try:
        count = _write(findings)
    except (jinja2.UndefinedError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{paths.METRICS}: expected complete results of all stages, got {str(error)!r}; "
            "run `dvc repro` again"
        ) from error
    print(f"report: {count} pictures and {paths.REPORT / 'index.html'}")


def _write(findings: dict[str, Any]) -> int:
    """Write the folder; return the number of pictures."""
    params = config.read()
    settings = params.model_dump(exclude_unset=True)
    engine = [params.extract.engine] if params.extract.engine != "keras" else []
    scored = findings["evaluated"]["final"]
    classes = sorted(scored["valid"]["per_class"], key=natural_key)
    drawn = results.pictures(paths.EXPLAIN, findings["explained"])
    with atomic_files.replacing(paths.REPORT) as partial:
        partial.mkdir()
        content = {
            "results": findings,
            "subsets": [name for name in html.CAPTIONS["SUBSETS"] if name in scored],
            "classes": settings["data"].get("classes") or classes,
            "plots": _plots(findings["plots"], partial),
            "pictures": {
                name: _copy(path, "explain", partial, f"explain/{name}")
                for name, path in drawn.items()
            },
            "thumbnails": {
                (one["source"], one["member"]): one["picture"]
                for gallery in findings["explained"]["galleries"]
                for one in gallery["images"]
                if one["picture"] is not None
            },
            "fine_tuned": settings.get("fine_tune") is not None,
            "settings": {name: dict(_flat(part)) for name, part in settings.items() if part},
            "columns": {
                name: [*shown[3:], "subset"] for name, shown in results.AUDIT_COLUMNS.items()
            },
            "numbers": results.NUMBERS,
            "versions": machine.versions([params.compute.backend, *engine, *PACKAGES]),
            "machine": _machine(params.compute),
        }
        (partial / "index.html").write_text(html.page(content), encoding="utf-8", newline="\n")
    return len(drawn) + len(findings["plots"])


def _plots(paths: list[Path], folder: Path) -> dict[str, html.Picture]:
    """Copy the plots, those with a caption first; return them by name."""
    known = list(html.CAPTIONS["PLOTS"])
    paths = sorted(paths, key=lambda at: known.index(at.stem) if at.stem in known else len(known))
    return {path.stem: _copy(path, "evaluate", folder, f"pictures/{path.name}") for path in paths}


def _copy(path: Path, stage: str, folder: Path, name: str) -> html.Picture:
    """Copy an image of a stage to `folder / name`; one that no browser shows is a UserError."""
    try:
        with Image.open(path, formats=("PNG", "JPEG", "WEBP")) as image:
            width, height = image.size
            image.verify()  # compares the checksums that a PNG has
    except (OSError, ValueError, SyntaxError):
        raise UserError(
            f"{path}: expected a picture, got something that cannot be read as PNG, JPEG or WebP; "
            f"run `dvc repro {stage}` again"
        ) from None
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, folder / name)
    return html.Picture(name, width, height)


def _flat(section: Any, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the dotted keys of a section with their values."""
    for key, value in section.items():
        if isinstance(value, Mapping) and value and all(isinstance(name, str) for name in value):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _machine(compute: Compute) -> dict[str, str]:
    """Return the properties of the machine that the last bits of a result depend on."""
    best = [None, *machine.instruction_sets()][-1] or "the best there is"
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "instruction set": compute.instruction_set or best,
        "threads": str(compute.threads or processors()),
        "backend": compute.backend,
    }


if __name__ == "__main__":
    sys.exit(main())
