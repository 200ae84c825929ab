"""Folders that hold links, pipes, odd names or odd layouts beside good images."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bad_inputs import table

INTRO = "In place of the folder `train`, which holds `cats` and `dogs`, ten images each."


def on(function: Callable[..., None], *words: Any) -> Callable[[Path], None]:
    return lambda folder: function(folder, *words)


def copied(folder: Path, *names: str) -> None:
    """Copy a good image to other names."""
    for target in (folder / name for name in names):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "cats/0.jpg", target)


def linked(folder: Path, name: str, target: str) -> None:
    (folder / name).symlink_to(target)


def forbidden(folder: Path) -> None:
    copied(folder, "cats/10.jpg")
    (folder / "cats/10.jpg").chmod(0)


def flat(folder: Path, name: str = "{}.jpg") -> None:
    """Put all images side by side, named by numbers."""
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
        path.rename(folder / name.format(number))
    for name in ("cats", "dogs"):
        (folder / name).rmdir()


def subsets(folder: Path, *others: str) -> None:
    """Move the classes to a folder `train`, and one cat each to other folders."""
    (folder / "train").mkdir()
    for name in ("cats", "dogs"):
        (folder / name).rename(folder / "train" / name)
    for number, other in enumerate(others):
        (folder / other).mkdir(parents=True)
        (folder / f"train/cats/{number}.jpg").rename(folder / other / f"{number}.jpg")


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def few(folder: Path) -> None:
    for number in range(2, 10):
        (folder / f"cats/{number}.jpg").unlink()


def damaged(folder: Path, *classes: str) -> None:
    for path in (path for name in classes for path in (folder / name).iterdir()):
        path.write_bytes(b"")


ELSEWHERE = "rename or rearrange the images"
FORBIDDEN = "an image without read permission"
INPUTS = table(
    {
        "refused: train: expected a zip file or a folder of images, got nothing at that path; put "
        "the images there or correct the path": {"nothing at that path": on(shutil.rmtree)},
        "refused: train: expected images, got nothing inside; give an archive of images": {
            "an empty folder": emptied
        },
        "refused: train: expected files inside the folder, got the link ... that leads out of it; "
        " ... the files themselves": {
            "a link to a file outside": on(linked, "cats/a.jpg", "/etc/passwd"),
            "a link to the folder above": on(linked, "cats/more", "../.."),
        },
        f"refused: train: expected labels in file names ... , got 'cats/0.jpg'; {ELSEWHERE}": {
            "one class": lambda folder: shutil.rmtree(folder / "dogs")
        },
        f"refused: train: expected labels in file names ... , got '0.jpg'; {ELSEWHERE}": {
            "images side by side, named by numbers": flat
        },
        f"refused: train: expected labels in file names ... , got '2021-05-01 12.0.jpg'; "
        f"{ELSEWHERE}": {"images side by side, named by dates": on(flat, "2021-05-01 12.{}.jpg")},
        f"refused: train: expected labels in file names ... , got 'valid/0.jpg'; {ELSEWHERE}": {
            "a folder `valid` with images and no classes": on(subsets, "valid")
        },
        "refused: split: expected at least one readable image of class 'cats', got none; fix its "
        "files, or remove them": {"a class without a readable image": on(damaged, "cats")},
        "refused: class ... : expected at least one image in each of train, valid, test, got none "
        "in valid of ... readable in all; add images of this class, or take more of them": {
            "two images of a class, for three subsets": few,
            "a folder `valid` with cats only": on(subsets, "valid/cats"),
        },
        "refused: split: expected at most 50.0% of the files to be rejected (split.max_rejected), "
        "got 20 of 22: cats/0.jpg (empty file), ... fix or remove them, or raise the limit": {
            "more unreadable files than `split.max_rejected`": on(damaged, "cats", "dogs")
        },
        "refused: train: expected images, got another zip inside, 'cats/more.zip'; give it by "
        "itself, or unzip it": {"a zip in the folder of a class": on(copied, "cats/more.zip")},
        "refused: train: expected classes that differ in more than case, got 'Cats' and 'cats'; "
        "rename one": {"classes that differ only in case": on(copied, "Cats/10.jpg")},
        "refused: train: expected one member of each name, got ... which are the same file on "
        "some machines; rename or remove one": {
            "images that differ only in case": on(copied, "cats/0.JPG")
        },
        "refused: train: expected either subset folders ('train', 'valid', 'test') or class "
        "folders, got ... move it elsewhere": {
            "a third class named train": on(copied, "train/0.jpg")
        },
        "refused: train: expected one folder per class, or subset folders ('train', 'valid', "
        "'test'), got 'cats' in 'fold1' and in 'fold2'; say which they are: ... data.subsets, such "
        "as `{train: fold1, test: fold2}`": {
            "folds, each with all classes": on(
                copied,
                *(f"fold{fold}/{label}/1.jpg" for fold in (1, 2) for label in ("cats", "dogs")),
            )
        },
        "refused: train: expected in 'valid' only classes ... got 'birds'; rename or remove it": {
            "a folder `valid` with a class that is not in `train`": on(subsets, "valid/birds")
        },
        "refused: train: expected names of readable characters, got ... rename that member": {
            "a name that is not UTF-8": on(copied, os.fsdecode(b"cats/\xff.jpg")),
            "a line break in a name": on(copied, "cats/1\n0.jpg"),
        },
        "rejected: a link that leads to itself": {
            "a link to itself": on(linked, "cats/10.jpg", "10.jpg")
        },
        "rejected: no file there any more, or a link to none": {
            "a link to a missing file": on(linked, "cats/10.jpg", "11.jpg")
        },
        "rejected: not a regular file": {
            "a named pipe, which is not read": lambda folder: os.mkfifo(folder / "cats/10.jpg")
        },
        "rejected: no permission to read it": {FORBIDDEN: forbidden},
        "rejected: no label: it lies outside the folders of the classes": {
            "an image beside the class folders": on(copied, "10.jpg")
        },
        "accepted: 20 of 20 files": {
            "a link to the folder that holds it; it is not followed": on(linked, "cats/up", ".."),
            "an empty class folder, which is no class; a line says so": lambda folder: (
                folder / "birds"
            ).mkdir(),
        },
        "accepted: 20 of 20 files, 1 of '@eaDir', 1 of 'Icon' ignored": {
            "files of a Mac and of a Synology": on(copied, "Icon\r", "cats/@eaDir/0.jpg/SYNO.jpg")
        },
        "accepted: 20 of 20 files, 2 of 'hidden' ignored": {
            "a hidden file and a hidden folder": on(copied, ".10.jpg", "cats/.a/10.jpg")
        },
        "accepted: 21 of 21 files": {
            "a link to another image": on(linked, "cats/10.jpg", "0.jpg"),
            "an image 200 folders below its class": on(copied, f"cats/{'a/' * 200}10.jpg"),
            "a name of 255 bytes, the longest possible": on(copied, f"cats/{'a' * 251}.jpg"),
        },
    }
)
