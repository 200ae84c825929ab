"""Draws the sample data: cartoon cats and dogs in the layout of Kaggle's Dogs vs. Cats.

Writes train.zip (train/cat.0.jpg ..., train/dog.0.jpg ...) and test.zip (test/1.jpg ...).
A file is a function of its member name and the seed alone, whatever else is drawn. Cats and dogs
share every distribution (pose, coat, surroundings, light, size) but for shapes of their own: ears,
pupils, muzzle, whiskers or tongue, tail.

    python data/sample/draw.py [FOLDER]      data/sample by default: the same bytes each time
"""

import io
import os
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import cos, pi, radians, sin
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter

Kind = Literal["cat", "dog"]

SEED = 2013  # the year of the competition
PLANTED_TRUNCATED = "train/cat.7.jpg"  # its second half is missing
PLANTED_DUPLICATE = ("train/dog.12.jpg", "train/dog.25.jpg")  # the same bytes
PLANTED_WRONG_LABEL = "train/dog.18.jpg"  # shows a cat

JPEG_QUALITY = 70
OVERSAMPLING = 3  # canvas pixels per image pixel and side, for smooth edges

FURS = ("#e29248", "#96989e", "#4a464c", "#f0ece4", "#96684a", "#e8cea4", "#cca468", "#7a8698")
MARKINGS = ("#b26028", "#5c5e68", "#282628", "#a8968a", "#603e2a", "#b88e60", "#8a5c34", "#4a5264")
PATTERNS = ("plain", "stripes", "spots", "patch", "blaze")
POSES = ("portrait", "portrait", "portrait", "sitting", "sitting", "standing", "lying")
IRISES = ("#7ab056", "#deac3e", "#68a4d0", "#966236")
BRIGHTS = ("#ce3a3a", "#3470ba", "#3a9660", "#e6b43c")
WALLS = ("#ecd6ba", "#bcd2d6", "#debebe", "#c4cea8", "#cec4de")
FLOORS = ("#ac7a54", "#92847c", "#c4a078", "#746470")
SKIES = ("#88bee6", "#b0d0e2", "#f4c496", "#78a0c8")
GRASSES = ("#78ac54", "#609258", "#a6b05c", "#cebc82")
INK, WHITE, PINK, TONGUE, TREE = "#261e20", "#fcfaf6", "#ea969c", "#e26470", "#285a3c"

Colour = str | tuple[int, ...]  # "#rrggbb" or (red, green, blue)
Point = tuple[float, float]


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """The colour that lies `share` of the way from a to b."""
    ends = (ImageColor.getrgb(c) if isinstance(c, str) else c for c in (a, b))
    return tuple(round(x + (y - x) * share) for x, y in zip(*ends, strict=True))


def box(x: float, y: float, width: float, height: float) -> list[Point]:
    """A rectangle by its upper left corner and its size."""
    return [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]


def oval(x: float, y: float, across: float, down: float) -> list[Point]:
    """An ellipse by its centre and its two radii."""
    return [(x + across * cos(i * pi / 20), y + down * sin(i * pi / 20)) for i in range(40)]


def both(half: Sequence[Point]) -> list[Point]:
    """A symmetric outline by its right half, from top to bottom."""
    return [*half, *((-x, y) for x, y in reversed(half))]


def smooth(points: Sequence[Point], *, closed: bool = True) -> list[Point]:
    """A Catmull-Rom curve through the points."""
    ends = (points[-1], *points[:2]) if closed else (points[0], points[-1], points[-1])
    knots = np.array([ends[0], *points, *ends[1:]])[:, None]  # (n + 3, 1, 2)
    a, b, c, d = (knots[i : len(knots) - 3 + i] for i in range(4))
    t = np.linspace(0, 1, 6)[:, None]  # (6, 1)
    curve = b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return [(float(x), float(y)) for x, y in curve.reshape(-1, 2)]


@dataclass(frozen=True)
class Coat:
    texture: Image.Image  # fur and pattern over the whole canvas
    markings: Colour
    light: Colour  # muzzle, chest and paws
    edge: Colour


@dataclass(frozen=True)
class Pen:
    """Draws shapes given in a frame of their own: mirrored, tilted, scaled and moved."""

    image: Image.Image
    origin: Point
    scale: float
    tilt: float = 0.0  # degrees
    mirror: int = 1  # -1: right becomes left

    def place(self, points: Sequence[Point]) -> list[tuple[int, int]]:
        """Whole pixels, so that a drawing does not hang on the last bit of a float."""
        c, s = self.scale * cos(radians(self.tilt)), self.scale * sin(radians(self.tilt))
        turned = ((c * self.mirror * x - s * y, s * self.mirror * x + c * y) for x, y in points)
        return [(round(self.origin[0] + x), round(self.origin[1] + y)) for x, y in turned]

    def halves(self, x: float = 0.0, y: float = 0.0) -> tuple["Pen", "Pen"]:
        """Two pens that mirror each other about (x, y)."""
        moved = replace(self, origin=self.place([(x, y)])[0])
        return moved, replace(moved, mirror=-self.mirror)

    def fill(self, points: Sequence[Point], colour: Colour) -> None:
        ImageDraw.Draw(self.image).polygon(self.place(points), fill=colour)

    def line(self, points: Sequence[Point], colour: Colour, width: float = 0.06) -> None:
        pixels = max(1, round(width * self.scale))
        ImageDraw.Draw(self.image).line(self.place(points), colour, pixels, joint="curve")

    def fur(self, points: Sequence[Point], coat: Coat, *, dark: bool = False) -> None:
        """A furry part of the animal, with its outline."""
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).polygon(self.place(points), fill=255)
        self.image.paste(coat.markings if dark else coat.texture, (0, 0), mask)
        self.line([*points, *points[:2]], coat.edge)


def draw_surroundings(rng: np.random.Generator, image: Image.Image) -> None:
    """A room or a landscape, with things in it."""
    pen = Pen(image, (0, 0), min(image.size))
    wide, high = image.width / pen.scale, image.height / pen.scale
    outdoors, horizon, things = rng.random() < 0.5, high * rng.uniform(0.5, 0.8), rng.integers(1, 4)
    far = rng.choice(SKIES if outdoors else WALLS)
    near = rng.choice(GRASSES if outdoors else FLOORS)
    glow = rng.uniform(0.2, 0.6)
    for i in range(12):
        pen.fill(box(-1, horizon * i / 12, wide + 2, 1), mix(far, WHITE, glow * i / 12))
    if outdoors:
        for x in rng.uniform(0, wide, 2):
            pen.fill(oval(x, horizon + 0.1, 0.7, 0.3), mix(near, far, 0.45))
    for x, y, size in rng.uniform((0, 0.05, 0.15), (wide, 0.3, 0.3), (things, 3)):
        if outdoors:
            for dx in (-0.5, 0.0, 0.5):
                pen.fill(oval(x + dx * size, y, size / 2, size / 3), mix(far, WHITE, 0.7))
            pen.fill(box(wide - x, horizon - 0.2, 0.04, 0.3), FLOORS[0])
            pen.fill(oval(wide - x, horizon - 0.2, size / 2, size / 1.6), mix(near, TREE, 3 * y))
        else:
            pen.fill(box(x - size, y - 0.02, size + 0.04, size + 0.04), mix(far, INK, 0.4))
            picture = mix(rng.choice(SKIES + BRIGHTS), WHITE, 0.3)
            pen.fill(box(x - size + 0.02, y, size, size), picture)
    pen.fill(box(-1, horizon, wide + 2, high), near)
    for x, y, size in rng.uniform((0, horizon, 0.1), (wide, high, 0.2), (2 * things, 3)):
        size *= 0.2 if outdoors else 1  # flowers or cushions
        pen.fill(oval(x, y + size, size * 1.6, size), mix(rng.choice(BRIGHTS), near, 0.4))


def grow_coat(rng: np.random.Generator, pen: Pen) -> Coat:
    """Fur in one of several colours and patterns, laid out in the pen's frame."""
    colour = int(rng.integers(len(FURS)))
    fur, markings, pattern = FURS[colour], MARKINGS[colour], rng.choice(PATTERNS)
    light = mix(fur, WHITE, rng.uniform(0.35, 0.9))
    paint = replace(pen, image=Image.new("RGB", pen.image.size, fur))
    if pattern == "stripes":
        for half in paint.halves():
            for x, y in ((0.0, -0.5), (0.3, -0.55)):
                half.line([(x, -1.2), (x * 0.7, y)], markings, 0.12)
            for y in (-0.05, 0.25):
                half.line([(1.2, y), (0.72, y + 0.08)], markings, 0.1)
        for x in range(-8, 9):
            paint.line([(x * 0.45, 1.0), (x * 0.45 + 0.15, 1.75)], markings, 0.14)
    elif pattern == "spots":
        for x, y, size in rng.uniform((-3, -1, 0.1), (3, 3, 0.26), (26, 3)):
            paint.fill(oval(x, y, size, size * 0.8), markings)
    elif pattern == "patch":
        paint.fill(oval(rng.choice((-0.45, 0.45)), -0.2, 0.5, 0.55), markings)
        paint.fill(oval(rng.uniform(-2, 2), 1.6, 0.8, 0.6), markings)
    elif pattern == "blaze":
        paint.fill(smooth(both([(0.1, -1), (0.2, -0.3), (0.75, 0.6), (0.4, 1.4)])), light)
    return Coat(paint.image, markings, light, mix(markings, INK, 0.45))


def draw_body(kind: Kind, pose: str, rng: np.random.Generator, pen: Pen, coat: Coat) -> None:
    """Everything below the head, whose centre is the pen's origin."""
    x, y = (0.7, 2.4) if pose == "sitting" else (3.1, 1.0)
    bend, step = rng.uniform((-0.3, -0.08), (0.5, 0.08))
    path, width = [(0, 0), (0.4, -0.25), (0.7, bend - 0.9), (0.75, bend - 1.1)], 0.36
    if kind == "cat":
        path, width = [(0, 0), (0.7, 0), (1, -0.5), (0.9, -1.1), (1.1 + bend, -1.6)], 0.26
    tail = smooth([(x + dx, y + dy) for dx, dy in path], closed=False)
    for colour, thickness in ((coat.edge, width + 0.1), (coat.markings, width)):
        pen.line(tail, colour, thickness)
        pen.fill(oval(*tail[-1], thickness / 2, thickness / 2), colour)
    if pose == "portrait":
        pen.fur(smooth(both([(0.5, 0.4), (1.2, 1.9), (1.3, 4.5)])), coat)
        pen.fill(oval(0, 1.7, 0.5, 0.75), coat.light)
    elif pose == "sitting":
        pen.fur(smooth(both([(0.5, 0.4), (0.85, 1.6), (0.95, 2.5), (0.3, 2.7)])), coat)
        pen.fill(oval(0, 1.25, 0.4, 0.5), coat.light)
        for half in pen.halves():
            half.fur(oval(0.85, 2.35, 0.36, 0.42), coat)
            half.fur(box(0.1, 1.6, 0.33, 1.0), coat)
            half.fur(oval(0.28 + step, 2.66, 0.27, 0.16), coat)
            half.fill(oval(0.28 + step, 2.67, 0.2, 0.1), coat.light)
    else:
        ground = 2.6 if pose == "standing" else 1.75
        for x in (0.35, 2.5, 0.8, 2.95):
            pen.fur(box(x - 0.2, 1.3, 0.4, ground - 1.3), coat)
            pen.fur(oval(x - 0.06 + step, ground, 0.32, 0.17), coat)
        back, belly = [(-0.3, 0.5), (0.6, 0.35), (2, 0.55), (3.1, 0.7)], [(3.25, 1.3), (2.4, 1.75)]
        pen.fur(smooth([*back, *belly, (0.8, 1.8), (-0.1, 1.4)]), coat)


def draw_ears(kind: Kind, rng: np.random.Generator, pen: Pen, coat: Coat) -> None:
    """Upright and pointed on a cat; hanging, folded or upright and round on a dog."""
    dark, shape = bool(rng.random() < 0.5), rng.random()
    out, long = rng.uniform((-0.1, 0), (0.15, 0.3))
    for half in pen.halves():
        if kind == "cat":
            tip = -1.25 - long if shape < 0.85 else -0.95
            half.fur([(0.22, -0.75), (0.74 + out, tip), (0.98, -0.3)], coat, dark=dark)
            half.fill([(0.4, -0.77), (0.71 + out, tip + 0.25), (0.85, -0.5)], PINK)
        elif shape < 0.55:
            ear = [(0.5, -0.8), (0.95, -0.85), (1.25 + out, -0.1), (1.2 + out, 0.5 + long)]
            half.fur(smooth([*ear, (0.95, 0.45 + long), (0.82, -0.2)]), coat, dark=dark)
        elif shape < 0.75:
            ear = [(0.3, -0.8), (0.62, -1.25), (1.05 + out, -1.1), (1.2 + out, -0.5 + long)]
            half.fur(smooth([*ear, (0.95, -0.45), (0.85, -0.6)]), coat, dark=dark)
        else:
            ear = [(0.25, -0.75), (0.5, -1.2 - long), (0.9 + out, -1.25 - long), (0.98, -0.4)]
            half.fur(smooth(ear), coat, dark=dark)
            half.fill(oval(0.66 + out / 2, -0.85 - long / 2, 0.13, 0.25), PINK)


def draw_face(kind: Kind, rng: np.random.Generator, pen: Pen, coat: Coat) -> None:
    """Eyes, nose and mouth, shifted to the side the animal looks to."""
    turn, size, drop = rng.uniform((-0.28, 0.17, 0), (0.28, 0.23, 0.15))
    iris, asleep, tongue = rng.choice(IRISES), rng.random() < 0.1, rng.random() < 0.5
    pupil = rng.uniform(0.35, 0.6) if kind == "cat" else rng.uniform(0.5, 0.75)
    for half in pen.halves(turn * 0.7):
        if asleep:
            lid = [(0.42 - size, -0.1), (0.42, 0.02), (0.42 + size, -0.1)]
            half.line(smooth(lid, closed=False), coat.edge, 0.09)
        else:
            half.fill(oval(0.42, -0.12, size + 0.05, size + 0.07), coat.edge)
            half.fill(oval(0.42, -0.12, size, size + 0.02), iris)
            half.fill(oval(0.42, -0.12, size * pupil, size * 0.85), INK)
            half.fill(oval(0.4, -0.2, 0.06, 0.06), WHITE)
    if kind == "cat":
        for half in pen.halves(turn):
            half.fill(oval(0.19, 0.46, 0.24, 0.19), coat.light)
            for rise in (-0.16, 0.0, 0.16):
                whisker = [(0.3, 0.45 + rise * 0.4), (1.3, 0.4 + rise * 2)]
                half.line(whisker, mix(coat.edge, WHITE, 0.75), 0.035)
            half.line(smooth([(0, 0.42), (0.1, 0.53), (0.26, 0.5)], closed=False), INK, 0.05)
            half.fill([(0, 0.26), (0.13, 0.26), (0, 0.42)], PINK if tongue else INK)
        return
    muzzle, mirrored = pen.halves(turn * 1.3, drop / 2)
    if tongue:
        muzzle.fill(oval(0, 0.95, 0.17, 0.27), TONGUE)
    muzzle.fill(oval(0, 0.52, 0.5, 0.4 + drop / 2), coat.edge)
    muzzle.fill(oval(0, 0.52, 0.45, 0.35 + drop / 2), coat.light)
    for half in (muzzle, mirrored):
        mouth = smooth([(0, 0.45), (0, 0.64), (0.2, 0.72), (0.32, 0.62)], closed=False)
        half.line(mouth, INK, 0.05)
    muzzle.fill(oval(0, 0.32, 0.25, 0.17), INK)
    muzzle.fill(oval(-0.07, 0.26, 0.07, 0.04), mix(INK, WHITE, 0.6))


def photograph(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The canvas as an image: uneven light, a cast of colour, some blur and some grain."""
    image = image.reduce(OVERSAMPLING)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.BoxBlur(1))
    rows, columns = np.ogrid[: image.height, : image.width]
    light, down, right = rng.integers((200, -50, -50), (270, 51, 51))
    light = light + down * (2 * rows - image.height) // image.height
    light = light + right * (2 * columns - image.width) // image.width
    cast, grain = rng.integers(240, 273, 3), rng.integers(-3, 4, (image.height, image.width, 1))
    pixels = np.asarray(image, np.int64) * light[..., None] * cast // 65536 + grain
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw(kind: Kind, rng: np.random.Generator) -> Image.Image:
    """An RGB image of 90 to 160 pixels a side with one animal in it."""
    width, height = (OVERSAMPLING * int(side) for side in rng.integers(90, 161, 2))
    image = Image.new("RGB", (width, height))
    draw_surroundings(rng, image)
    pose = rng.choice(POSES)
    mirror = int(rng.choice((-1, 1)))
    near, aside, above = rng.uniform((0.84, -1, 0), 1)
    if pose == "portrait":
        radius = min(width, height) * 0.34 * near
        x, y = width * (0.5 + 0.07 * aside), height * (0.47 + 0.08 * above)
    elif pose == "sitting":
        radius = min(width / 3, height / 4.2) * near
        x, y = width * (0.5 + 0.1 * aside), height - radius * (2.8 + 0.2 * above)
    else:
        radius = min(width / 5, height / 4) * near
        x, y = width / 2 - mirror * radius * (1.4 + 0.2 * aside), height - radius * (2 + above)
    body = Pen(image, (x, y), radius, rng.uniform(-4, 4), mirror)
    head = replace(body, tilt=rng.uniform(-14, 14))
    coat = grow_coat(rng, head)
    draw_body(kind, pose, rng, body, coat)
    if rng.random() < 0.4:
        collar = smooth([(-0.6, 0.85), (0, 1.08), (0.6, 0.85)], closed=False)
        body.line(collar, rng.choice(BRIGHTS), 0.2)
    if kind == "cat":
        draw_ears(kind, rng, head, coat)
    head.fur(oval(0, 0, *rng.uniform((0.94, 0.84), (1.1, 0.96))), coat)
    if kind == "dog":
        draw_ears(kind, rng, head, coat)
    draw_face(kind, rng, head, coat)
    return photograph(image, rng)


def encode(member: str, *, seed: int = SEED, faults: bool = True) -> bytes:
    """The JPEG file of a member such as train/cat.0.jpg, train/dog.0.jpg or test/1.jpg."""
    shown = PLANTED_DUPLICATE[0] if faults and member == PLANTED_DUPLICATE[1] else member
    rng = np.random.default_rng([seed, *shown.encode()])
    kind: Kind = rng.choice(("cat", "dog"))
    if shown.startswith("train/"):
        kind = "cat" if "cat" in shown or (faults and shown == PLANTED_WRONG_LABEL) else "dog"
    stream = io.BytesIO()
    draw(kind, rng).save(stream, "JPEG", quality=JPEG_QUALITY)
    jpeg = stream.getvalue()
    return jpeg[: len(jpeg) // 2] if faults and member == PLANTED_TRUNCATED else jpeg


def write_zips(
    folder: Path,
    *,
    labelled: int = 800,
    unlabelled: int = 100,
    seed: int = SEED,
    faults: bool = True,
) -> None:
    """Write train.zip, half cats and half dogs, and test.zip into the folder, each whole or not."""
    train = (f"train/{kind}.{i}.jpg" for kind in ("cat", "dog") for i in range(labelled // 2))
    test = (f"test/{i}.jpg" for i in range(1, unlabelled + 1))
    folder.mkdir(parents=True, exist_ok=True)
    for name, members in (("train.zip", train), ("test.zip", test)):
        partial = folder / f".{name}.partial"
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for member in members:
                info = zipfile.ZipInfo(member, (1980, 1, 1, 0, 0, 0))
                info.create_system, info.external_attr = 3, 0o644 << 16  # Unix, rw-r--r--
                archive.writestr(info, encode(member, seed=seed, faults=faults))
        os.replace(partial, folder / name)


if __name__ == "__main__":
    write_zips(Path(sys.argv[1] if len(sys.argv) > 1 else "data/sample"))
