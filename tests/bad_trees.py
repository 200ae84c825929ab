"""Folders with what folders may hold beside good images: links, pipes, odd names, odd places."""

import os
import shutil
import socket
from pathlib import Path

from bad_inputs import Bad

TOLD = (
    "In place of the folder of labelled images, `train`, which holds `cats` and `dogs` with ten "
    "images each. What is accepted is told by how many of the files found are used."
)
LINK_OUT = (
    "refused: train: expected files inside the folder, got the link {!r} that leads out of it; "
    "replace it with the files themselves"
)
OUTSIDE = "rejected: no label: it lies outside the folders of the classes"


def copied(folder: Path, *names: str) -> None:
    """A good picture, once more, under other names."""
    for target in (folder / name for name in names):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / "cats/0.jpg", target)


def linked(folder: Path, name: str, target: str) -> None:
    (folder / name).symlink_to(target)


def listening(folder: Path) -> None:
    """A socket stays after the process that made it; its path may not be long."""
    here = Path.cwd()
    os.chdir(folder / "cats")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("10.jpg")
    os.chdir(here)


def forbidden(folder: Path) -> None:
    copied(folder, "cats/10.jpg")
    (folder / "cats/10.jpg").chmod(0)


def flat(folder: Path) -> None:
    """All images beside each other, under names that tell nothing."""
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
        path.rename(folder / f"{number}.jpg")
    for name in ("cats", "dogs"):
        (folder / name).rmdir()


def subsets(folder: Path, *others: str) -> None:
    """The classes in a folder `train`, and other subsets with some of the cats alone."""
    for name in ("cats", "dogs"):
        (folder / "train").mkdir(exist_ok=True)
        (folder / name).rename(folder / "train" / name)
    for number, other in enumerate(others):
        (folder / other).mkdir(parents=True)
        (folder / f"train/cats/{number}.jpg").rename(folder / other / f"{number}.jpg")


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def replaced(folder: Path, content: bytes) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(content)


def few(folder: Path) -> None:
    for number in range(2, 10):
        (folder / f"cats/{number}.jpg").unlink()


def damaged(folder: Path, *classes: str) -> None:
    for path in (path for name in classes for path in (folder / name).iterdir()):
        path.write_bytes(b"")


INPUTS = [
    Bad(
        "missing",
        "nothing at that path",
        lambda folder: shutil.rmtree(folder),
        (
            "refused: train: expected a zip file or a folder of images, got nothing at that "
            "path; put the images there or correct the path"
        ),
    ),
    Bad(
        "empty",
        "a folder of nothing",
        emptied,
        "refused: train: expected images, got nothing inside; give an archive of images",
    ),
    Bad(
        "a file",
        "a text in place of the folder",
        lambda folder: replaced(folder, b"cats"),
        (
            "refused: train: expected a zip file, got a file without a readable zip "
            "directory; download it again"
        ),
    ),
    Bad(
        "link out",
        "a link to a file outside",
        lambda folder: linked(folder, "cats/10.jpg", "/etc/passwd"),
        LINK_OUT.format("cats/10.jpg"),
    ),
    Bad(
        "link to a folder outside",
        "a link to the folder above",
        lambda folder: linked(folder, "cats/more", "../.."),
        LINK_OUT.format("cats/more"),
    ),
    Bad(
        "link to a device",
        "a link to zeros without end",
        lambda folder: linked(folder, "cats/10.jpg", "/dev/zero"),
        LINK_OUT.format("cats/10.jpg"),
    ),
    Bad(
        "link to itself",
        "a link that leads to itself",
        lambda folder: linked(folder, "cats/10.jpg", "10.jpg"),
        "rejected: a link that leads to itself",
        "cats/10.jpg",
    ),
    Bad(
        "link to none",
        "a link to a file that is not there",
        lambda folder: linked(folder, "cats/10.jpg", "11.jpg"),
        "rejected: no file there any more, or a link to none",
        "cats/10.jpg",
    ),
    Bad(
        "link in a circle",
        "a link to the folder that it lies in, not followed",
        lambda folder: linked(folder, "cats/up", ".."),
        "accepted: 20 of 20 files",
    ),
    Bad(
        "link inside",
        "a link to another image: a copy",
        lambda folder: linked(folder, "cats/10.jpg", "0.jpg"),
        "accepted: 21 of 21 files",
    ),
    Bad(
        "pipe",
        "a named pipe, which is not read: that would never end",
        lambda folder: os.mkfifo(folder / "cats/10.jpg"),
        "rejected: not a regular file",
        "cats/10.jpg",
    ),
    Bad("socket", "a socket", listening, "rejected: not a regular file", "cats/10.jpg"),
    Bad(
        "no permission",
        "an image that may not be read",
        forbidden,
        "rejected: no permission to read it",
        "cats/10.jpg",
    ),
    Bad(
        "empty class",
        "a class' folder with nothing inside: no class",
        lambda folder: (folder / "birds").mkdir(),
        "accepted: 20 of 20 files",
    ),
    Bad(
        "one class",
        "one class alone",
        lambda folder: shutil.rmtree(folder / "dogs"),
        (
            "refused: train: expected labels in file names ('cat.0.jpg') or one folder per "
            "class ('cats/1.jpg'), got 'cats/0.jpg'; rename or rearrange the images"
        ),
    ),
    Bad(
        "class of damaged images",
        "a class without a readable image",
        lambda folder: damaged(folder, "cats"),
        (
            "refused: split: expected at least one readable image of class 'cats', got none; "
            "mend its files, or take them away"
        ),
    ),
    Bad(
        "two images",
        "a class of two images, for three subsets",
        few,
        (
            "refused: class 'cats': expected at least one image in each of train, valid, "
            "test, got none in valid of 2 readable in all; add images of this class, or take "
            "more of them"
        ),
    ),
    Bad(
        "too many rejected",
        "more unreadable files than `split.max_rejected`",
        lambda folder: damaged(folder, "cats", "dogs"),
        (
            "refused: split: expected at most 50.0% of the files to be rejected "
            "(split.max_rejected), got 20 of 22: cats/0.jpg (empty file), cats/1.jpg (empty "
            "file), cats/2.jpg (empty file), cats/3.jpg (empty file), cats/4.jpg (empty "
            "file), cats/5.jpg (empty file), cats/6.jpg (empty file), cats/7.jpg (empty "
            "file), cats/8.jpg (empty file), cats/9.jpg (empty file); mend or remove them, "
            "or raise the limit"
        ),
    ),
    Bad(
        "no labels",
        "images beside each other, under numbers",
        flat,
        (
            "refused: train: expected labels in file names ('cat.0.jpg') or one folder per "
            "class ('cats/1.jpg'), got '0.jpg'; rename or rearrange the images"
        ),
    ),
    Bad(
        "image beside the classes",
        "an image outside of the classes' folders",
        lambda folder: copied(folder, "10.jpg"),
        OUTSIDE,
        "10.jpg",
    ),
    Bad(
        "text beside the classes",
        "a text outside of the classes' folders",
        lambda folder: (folder / "readme.txt").write_text("hello"),
        OUTSIDE,
        "readme.txt",
    ),
    Bad(
        "folders in a class",
        "an image three folders below its class",
        lambda folder: copied(folder, "cats/a/b/c/10.jpg"),
        "accepted: 21 of 21 files",
    ),
    Bad(
        "deep folders",
        "an image 200 folders below its class",
        lambda folder: copied(folder, f"cats/{'a/' * 200}10.jpg"),
        "accepted: 21 of 21 files",
    ),
    Bad(
        "hidden",
        "a hidden file and a hidden folder",
        lambda folder: copied(folder, ".10.jpg", "cats/.a/10.jpg"),
        "accepted: 20 of 20 files, 2 of 'hidden' passed over",
    ),
    Bad(
        "a zip inside",
        "a zip in a class' folder",
        lambda folder: copied(folder, "cats/more.zip"),
        (
            "refused: train: expected images, got another zip inside, 'cats/more.zip'; give "
            "the inner zip itself"
        ),
    ),
    Bad(
        "classes but for case",
        "classes whose names differ in case alone",
        lambda folder: copied(folder, "Cats/10.jpg"),
        (
            "refused: train: expected classes that differ in more than case, got 'Cats' and "
            "'cats'; rename one"
        ),
    ),
    Bad(
        "files but for case",
        "images of a class whose names differ in case alone",
        lambda folder: copied(folder, "cats/0.JPG"),
        (
            "refused: train: expected one member of each name, got 'cats/0.jpg' and "
            "'cats/0.JPG', which are the same file on some machines; rename or remove one"
        ),
    ),
    Bad(
        "backslash",
        "an image whose name is another one's path on Windows",
        lambda folder: copied(folder, "cats\\0.jpg"),
        (
            "refused: train: expected one member of each name, got 'cats/0.jpg' and "
            "'cats/0.jpg', which are the same file on some machines; rename or remove one"
        ),
    ),
    Bad(
        "class named train",
        "a third class named train",
        lambda folder: copied(folder, "train/0.jpg"),
        (
            "refused: train: expected either subset folders ('train', 'valid', 'test') or "
            "class folders, got 'train' among 'cats', 'dogs', 'train'; move it elsewhere"
        ),
    ),
    Bad(
        "classes beside subsets",
        "class folders beside a folder `test` of classes",
        lambda folder: copied(folder, "test/cats/0.jpg"),
        (
            "refused: train: expected either subset folders ('train', 'valid', 'test') or "
            "class folders, got 'cats' among 'cats', 'dogs', 'test'; move it elsewhere"
        ),
    ),
    Bad(
        "subset of one class",
        "a folder `valid` with cats alone",
        lambda folder: subsets(folder, "valid/cats"),
        (
            "refused: class 'dogs': expected at least one image in each of train, valid, "
            "test, got none in valid of 10 readable in all; add images of this class, or "
            "take more of them"
        ),
    ),
    Bad(
        "subset of an unknown class",
        "a folder `valid` with a class that `train` has not",
        lambda folder: subsets(folder, "valid/birds"),
        (
            "refused: train: expected in 'valid' only classes of the training images, "
            "'cats', 'dogs', got 'birds'; rename or remove it"
        ),
    ),
    Bad(
        "subset without classes",
        "a folder `valid` with images and no classes",
        lambda folder: subsets(folder, "valid"),
        (
            "refused: train: expected labels in file names ('cat.0.jpg') or one folder per "
            "class ('cats/1.jpg'), got 'valid/0.jpg'; rename or rearrange the images"
        ),
    ),
    Bad(
        "one subset twice",
        "folders `valid` and `validation`",
        lambda folder: subsets(folder, "valid/cats", "validation/cats"),
        (
            "refused: class 'dogs': expected at least one image in each of train, valid, "
            "test, got none in valid of 10 readable in all; add images of this class, or "
            "take more of them"
        ),
    ),
    Bad(
        "long name",
        "an image with a name of 255 bytes, the longest that there is",
        lambda folder: copied(folder, f"cats/{'a' * 251}.jpg"),
        "accepted: 21 of 21 files",
    ),
    Bad(
        "name of bytes",
        "an image whose name is no UTF-8",
        lambda folder: shutil.copyfile(
            folder / "cats/0.jpg", os.fsencode(folder) + b"/cats/\xff.jpg"
        ),
        (
            "refused: train: expected names of readable characters, got 'cats/\\udcff.jpg'; "
            "rename that member"
        ),
    ),
    Bad(
        "line break",
        "an image with a line break in its name",
        lambda folder: copied(folder, "cats/1\n0.jpg"),
        (
            "refused: train: expected names of readable characters, got 'cats/1\\n0.jpg'; "
            "rename that member"
        ),
    ),
    Bad(
        "name like a formula",
        "a class whose name a spreadsheet would compute",
        lambda folder: (folder / "cats").rename(folder / '=1+1,"cats"'),
        "accepted: 20 of 20 files",
    ),
    Bad(
        "folder named like an image",
        "a folder in a class whose name ends in .jpg",
        lambda folder: copied(folder, "cats/10.jpg/0.jpg"),
        "accepted: 21 of 21 files",
    ),
]
