"""Match corrections of wrong labels to files. Pure: names in, indices out.

A fix names a file as the inputs do, or by the end of its path (`cat.1.jpg` for `train/cat.1.jpg`),
and gives it another class or excludes it from the data.
"""

import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.runtime.errors import UserError

EXCLUDE = "exclude"
COLUMNS = ("member", "label", "source")
CORRECT = "correct it"


@dataclass(frozen=True, slots=True)
class Fix:
    """A correction of one file's label."""

    member: str  # path inside the zip or folder, or the end of it
    label: str  # a class, or `EXCLUDE`
    source: str  # who reported it


def parse(lines: Iterable[tuple[str, Sequence[str]]]) -> list[Fix]:
    """Return the fix of each line, given as (where it stands, member, label and source)."""
    fixes = []
    for where, fields in lines:
        control = any(unicodedata.category(one) == "Cc" for one in "".join(fields))
        if not fields[0] or not fields[1] or control:
            raise UserError(
                f"{where}: expected member, label and source, got {','.join(fields)!r}; {CORRECT}"
            )
        fixes.append(Fix(*fields))
    return fixes


def match(
    fixes: Iterable[Fix], members: Sequence[str], classes: Sequence[str], where: str
) -> tuple[dict[int, Fix], list[Fix]]:
    """Return the fix of each member by its index in `members`, and the fixes that match none."""
    by_name: dict[str, list[int]] = defaultdict(list)
    for index, member in enumerate(members):
        by_name[posixpath.basename(member)].append(index)
    matched: dict[int, Fix] = {}
    unmatched = []
    for fix in fixes:
        if fix.label not in (EXCLUDE, *classes):
            raise UserError(
                f"{where}: {fix.member}: expected as label {EXCLUDE!r} or one of "
                f"{', '.join(classes)}, got {fix.label!r}; correct that line"
            )
        same_name = by_name[posixpath.basename(fix.member)]
        indices = [i for i in same_name if f"/{members[i]}".endswith(f"/{fix.member}")]
        if len(indices) > 1:
            raise UserError(
                f"{where}: {fix.member}: expected one file of that name, got "
                f"{members[indices[0]]} and {members[indices[1]]}; give more of its path"
            )
        if not indices:
            unmatched.append(fix)
        elif indices[0] in matched:
            raise UserError(
                f"{where}: {members[indices[0]]}: expected one line about it, got two; remove one"
            )
        else:
            matched[indices[0]] = fix
    return matched, unmatched
