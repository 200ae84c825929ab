"""Which labelled image trains, which chooses, which is looked at once."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from pipeline.runtime.errors import UserError


def assign(
    classes: Sequence[str],
    labels: Sequence[int],
    groups: Sequence[str],
    given: Sequence[str | None],
    *,
    valid: float,
    test: float,
    seed: int,
) -> list[str]:
    """Give each labelled image its subset: "train", "valid" or "test".

    Stratified by class; images of one group stay together. Which group goes where depends on seed
    and group alone, by the order of their hashes: not on names, nor on the order of the images, and
    an image that is added moves few others. Subsets that the data's own folders give are kept; one
    that they do not give is drawn from `train`.

    Args:
        classes: names, for errors.
        labels: index into `classes`, one an image.
        groups: of images that belong together (their sha256, say), one an image.
        given: subset by the data's own folders or None, one an image.
        valid, test: fractions of what `train` and unassigned images hold, by class.
        seed: another seed, another split.

    Raises:
        UserError: a class has too few images for a subset.
    """
    subsets = [subset or "train" for subset in given]
    fractions = {"test": test, "valid": valid}
    wanted = {subset: part for subset, part in fractions.items() if part and subset not in given}
    members: dict[str, list[int]] = defaultdict(list)
    for image, group in enumerate(groups):
        if subsets[image] == "train":
            members[group].append(image)
    by_class: dict[int, list[str]] = defaultdict(list)
    for group, images in members.items():
        by_class[min(labels[image] for image in images)].append(group)
    for own in by_class.values():
        own.sort(key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest())
        total = sum(len(members[group]) for group in own)
        for subset, fraction in wanted.items():
            left = max(1, round(fraction * total))
            while left > 0 and len(own) > 1:
                images = members[own.pop()]
                left -= len(images)
                for image in images:
                    subsets[image] = subset
    _require_all(classes, labels, subsets, ["train", "valid"] + (["test"] if test else []))
    return subsets


def _require_all(
    classes: Sequence[str], labels: Sequence[int], subsets: Sequence[str], needed: Sequence[str]
) -> None:
    have = set(zip(labels, subsets, strict=True))
    for index, name in enumerate(classes):
        for subset in needed:
            if (index, subset) not in have:
                count = labels.count(index)
                raise UserError(
                    f"class {name!r}: expected at least one image in each of {', '.join(needed)}, "
                    f"got none in {subset} of {count} readable in all; add images of this class, "
                    "or take more of them"
                )
