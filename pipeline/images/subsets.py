"""Assign labeled images to train, valid and test. Pure."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from pipeline.runtime.errors import UserError


def assign(
    classes: Sequence[str],
    labels: Sequence[int],
    groups: Sequence[str],
    predefined: Sequence[str | None],
    *,
    valid: float,
    test: float,
    seed: int,
) -> list[str]:
    """Return the subset of each labeled image: "train", "valid" or "test".

    Stratified by class; images of one group stay together. The order of the hashes of seed and
    group decides, not names or the order of the images, so that an added image moves few others.
    Subsets from the data's own folders are kept; a missing one is drawn from `train`.

    Args:
        classes: names, for errors.
        labels: index into `classes`, one an image.
        groups: key of the images that belong together (their sha256, say), one an image.
        predefined: subset by the data's own folders or None, one an image.
        valid, test: fractions of each class in `train` and unassigned images.

    Raises:
        UserError: a class has too few images for a subset.
    """
    subsets = [subset or "train" for subset in predefined]
    fractions = {"test": test, "valid": valid}
    to_draw = {name: part for name, part in fractions.items() if part and name not in predefined}
    members: dict[str, list[int]] = defaultdict(list)
    for image, group in enumerate(groups):
        if subsets[image] == "train":
            members[group].append(image)
    by_class: dict[int, list[str]] = defaultdict(list)
    for group, images in members.items():
        by_class[min(labels[image] for image in images)].append(group)
    for remaining in by_class.values():
        remaining.sort(key=lambda group: hashlib.sha256(f"{seed}:{group}".encode()).digest())
        total = sum(len(members[group]) for group in remaining)
        for subset, fraction in to_draw.items():
            left = max(1, round(fraction * total))
            while left > 0 and len(remaining) > 1:
                images = members[remaining.pop()]
                left -= len(images)
                for image in images:
                    subsets[image] = subset
    _require_all(classes, labels, subsets, ["train", "valid"] + (["test"] if test else []))
    return subsets


def _require_all(
    classes: Sequence[str], labels: Sequence[int], subsets: Sequence[str], required: Sequence[str]
) -> None:
    present = set(zip(labels, subsets, strict=True))
    for index, name in enumerate(classes):
        for subset in required:
            if (index, subset) not in present:
                raise UserError(
                    f"class {name!r}: expected at least one image in each of "
                    f"{', '.join(required)}, got none in {subset} of {labels.count(index)} "
                    "readable in all; add images of this class, or take more of them"
                )
