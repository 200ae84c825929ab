"""Shapes for the drawn sample: colours, outlines, and a pen with a frame of its own.

Points are (x to the right, y down) in the pen's frame; it places them on whole pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import cos, pi, radians, sin

import numpy as np
from PIL import Image, ImageColor, ImageDraw

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
