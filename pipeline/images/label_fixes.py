"""Labels that are known to be wrong. Pure: names in, indices out.

A fix names a file as the inputs do, or by the end of its path (`cat.1.jpg` for `train/cat.1.jpg`),
and gives it another class, or takes it out of the data.
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
    """What should be done with one file.

    Attributes:
        member: its path inside the zip or folder, or the end of it.
        label: its class, or `EXCLUDE`.
        source: who says so.
    """

    member: str
    label: str
    source: str


def parse(lines: Iterable[tuple[str, Sequence[str]]]) -> list[Fix]:
    """Return the fix of each line, given as (where it stands, member, label and source).

    Raises:
        UserError: a member or label is missing, or control characters, which no file's name has.
    """
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
    """The fix of each member that has one, by its place in `members`; and those that match none.

    Raises:
        UserError: a class that is not one of `classes`, a fix that two members match, or a member
            that two fixes match; the sentence begins with `where`.
    """
    by_name: dict[str, list[int]] = defaultdict(list)
    for place, member in enumerate(members):
        by_name[posixpath.basename(member)].append(place)
    found: dict[int, Fix] = {}
    unmatched = []
    for fix in fixes:
        if fix.label not in (EXCLUDE, *classes):
            raise UserError(
                f"{where}: {fix.member}: expected as label {EXCLUDE!r} or one of "
                f"{', '.join(classes)}, got {fix.label!r}; correct that line"
            )
        places = [
            place
            for place in by_name[posixpath.basename(fix.member)]
            if f"/{members[place]}".endswith(f"/{fix.member}")
        ]
        if len(places) > 1:
            raise UserError(
                f"{where}: {fix.member}: expected one file of that name, got "
                f"{members[places[0]]} and {members[places[1]]}; give more of its path"
            )
        if not places:
            unmatched.append(fix)
        elif places[0] in found:
            raise UserError(
                f"{where}: {members[places[0]]}: expected one line about it, got two; remove one"
            )
        else:
            found[places[0]] = fix
    return found, unmatched
