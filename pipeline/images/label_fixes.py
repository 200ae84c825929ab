"""Correct wrong labels by a list of files, each with another class or excluded from the data.

A fix names a file as the inputs do, or by the end of its path (`cat.1.jpg` for `train/cat.1.jpg`).
Names are compared in Unicode form NFC.
"""

import posixpath
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from pipeline.runtime.errors import UserError
from pipeline.storage import tables
from pipeline.storage.ledger import Ledger

EXCLUDE = "exclude"
COLUMNS = ("member", "label", "source")  # path or its end; a class or `EXCLUDE`; who reported it


def read(path: Path) -> list[list[str]]:
    """Return member, label and source of each fix; the file has to exist."""
    if not path.exists():
        raise UserError(
            f"{path}: expected label fixes, got no such file; write one with the single line "
            "member,label,source if there are none"
        )
    fixes = []
    for where, fields in tables.read_rows(path, COLUMNS, "correct it"):
        line = ",".join(fields)
        if not fields[0] or not fields[1] or re.search(r"[\0-\x1f\x7f-\x9f]", line):
            raise tables.unexpected(where, "member, label and source", line, "correct it")
        fixes.append([unicodedata.normalize("NFC", field) for field in fields])
    return fixes


def apply(
    fixes: Sequence[Sequence[str]], rows: Ledger, classes: Sequence[str], path: Path
) -> tuple[dict[str, int], list[str]]:
    """Relabel or reject training and validation images; only mark test images.

    Return how many were fixed in which way, and the members that match no accepted row.
    """
    by_name: dict[str, list[int]] = {posixpath.basename(fix[0]): [] for fix in fixes}
    for place, row in enumerate(rows if fixes else []):
        if row.accepted and row.label and (name := posixpath.basename(row.member)) in by_name:
            by_name[name].append(place)
    unmatched = []
    counts = {"excluded": 0, "relabelled": 0, "in_test": 0}
    for member, label, source in fixes:
        if label not in (EXCLUDE, *classes):
            raise UserError(
                f"{path}: {member}: expected as label {EXCLUDE!r} or one of {', '.join(classes)}, "
                f"got {label!r}; correct that line"
            )
        same_name = by_name[posixpath.basename(member)]
        places = [at for at in same_name if f"/{rows[at].member}".endswith(f"/{member}")]
        if not places:
            unmatched.append(member)
            continue
        row = rows[places[0]]
        if len(places) > 1:
            raise UserError(
                f"{path}: {member}: expected one file of that name, got {row.member} and "
                f"{rows[places[1]].member}; give more of its path"
            )
        if row.fix:
            raise UserError(
                f"{path}: {row.member}: expected one line about it, got two; remove one"
            )
        changes: dict[str, str | int] = {}
        if row.subset == "test":
            counts["in_test"] += 1
        elif label == EXCLUDE:
            reason = f"excluded by {path.name}: {source or 'no source given'}"
            changes = {"subset": "", "group": "", "reason": reason}
            counts["excluded"] += 1
        else:
            changes = {"label": label, "index": classes.index(label)}
            counts["relabelled"] += 1
        for name, value in {**changes, "fix": label}.items():
            rows.replace(name, places[0], value)
    return counts | {"unmatched": len(unmatched)}, unmatched
