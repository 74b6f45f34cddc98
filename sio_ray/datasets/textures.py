"""Outlier exposure: procedural textures, which share no source with any OOD set."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from sio_ray.datasets.canvas import FloatArray, blend, shrink, supersampling, to_bytes
from sio_ray.datasets.source import SourceSet

#: Smallest difference between the two colours of a texture, in the channel where they differ most.
_MIN_CONTRAST = 0.4
#: Standard deviation, before colouring, below which a texture is redrawn.
_MIN_STD = 0.12


class _Sheet:
    """The sample points of one picture, and the random numbers that decide what is drawn on them.

    Attributes:
        x: (H, W) float64, -1..1 over the shorter side.
        y: (H, W) float64, -1..1 over the shorter side.
        max_cycles: highest frequency, in cycles over two units, that the final pixels still show.
        rng: decides everything.
    """

    def __init__(self, height_px: int, width_px: int, rng: np.random.Generator) -> None:
        factor = supersampling(height_px, width_px)
        shorter = min(height_px, width_px) * factor
        rows, columns = np.arange(height_px * factor), np.arange(width_px * factor)
        x = (2 * columns + 1 - len(columns)) / shorter
        y = (2 * rows + 1 - len(rows)) / shorter
        self.x, self.y = np.meshgrid(x, y)
        self.max_cycles = float(np.clip(min(height_px, width_px) / 2.6, 2.0, 9.0))
        self.rng = rng

    def cycles(self, coarser: float = 1.0) -> float:
        """Periods over the shorter side: from 1.5 to as many as its pixels show, over `coarser`."""
        return float(np.exp(self.rng.uniform(np.log(1.5), np.log(max(1.6, self.max_cycles / coarser)))))

    def angular_frequency(self, coarser: float = 1.0) -> float:
        """Radians per unit of so many periods."""
        return float(np.pi * self.cycles(coarser))

    def rotated(self) -> tuple[FloatArray, FloatArray]:
        """Coordinates turned and shifted at random, and often gently bent."""
        angle, bend = self.rng.uniform(0, 2 * np.pi), self.rng.choice([0.0, 0.0, 0.1, 0.25])
        u = self.x * np.cos(angle) + self.y * np.sin(angle) + self.rng.uniform(-1, 1)
        v = self.y * np.cos(angle) - self.x * np.sin(angle) + self.rng.uniform(-1, 1)
        return u + bend * np.sin(self.rng.uniform(1, 4) * v), v

    def polar(self, nearest: float, farthest: float) -> tuple[FloatArray, FloatArray]:
        """Radius and angle around a random point that is so many units from the middle."""
        distance, direction = self.rng.uniform(nearest, farthest), self.rng.uniform(0, 2 * np.pi)
        dx, dy = self.x - distance * np.cos(direction), self.y - distance * np.sin(direction)
        return np.hypot(dx, dy), np.arctan2(dy, dx)

    def edge(self, wave: FloatArray) -> FloatArray:
        """A wave in [-1, 1] as it is, or squared off, to [0, 1]."""
        steepness = self.rng.choice([1.0, 1.0, 2.5, 12.0])
        return np.asarray(0.5 + 0.5 * np.clip(steepness * wave, -1, 1))

    def drawing(self) -> tuple[Image.Image, ImageDraw.ImageDraw]:
        """An empty grey picture of this size, and a pen."""
        picture = Image.new("L", (self.x.shape[1], self.x.shape[0]))
        return picture, ImageDraw.Draw(picture)

    def point(self, reach: float = 1.0) -> tuple[float, float]:
        """A random place in samples; `reach` above 1 goes beyond the border."""
        height, width = self.x.shape
        return (
            float((0.5 + reach * self.rng.uniform(-0.5, 0.5)) * width),
            float((0.5 + reach * self.rng.uniform(-0.5, 0.5)) * height),
        )


def draw_textures(count: int, height_px: int, width_px: int, channels: int, rng: np.random.Generator) -> SourceSet:
    """Draw textures, the kinds in turn, each in two colours of its own or, for drawings, the levels between them.

    Args:
        count: pictures to draw.
        height_px: height of each picture.
        width_px: width of each picture.
        channels: 1 (grey) or 3 (RGB).
        rng: decides every parameter.
    """
    names = [list(KINDS)[row % len(KINDS)] for row in range(count)]
    factor = supersampling(height_px, width_px)
    sheet = _Sheet(height_px, width_px, rng)
    images = np.empty((count, channels, height_px, width_px), dtype=np.uint8)
    for row, name in enumerate(names):
        values = shrink(KINDS[name](sheet), factor)
        while values.std() < _MIN_STD:
            # An empty corner of a sparse pattern; the next one comes from the same generator.
            values = shrink(KINDS[name](sheet), factor)
        images[row] = to_bytes(blend(values, *_two_colours(channels, rng)))
    return SourceSet.of_ood(images, [f"textures/{name}/{row:06d}" for row, name in enumerate(names)])


def _two_colours(channels: int, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    while True:
        first, second = rng.random(channels), rng.random(channels)
        if np.abs(first - second).max() >= _MIN_CONTRAST:
            return first, second


def _grating(sheet: _Sheet) -> FloatArray:
    u, _ = sheet.rotated()
    return sheet.edge(np.sin(sheet.angular_frequency() * u))


def _plaid(sheet: _Sheet) -> FloatArray:
    u, v = sheet.rotated()
    first, second = np.sin(sheet.angular_frequency() * u), np.sin(sheet.angular_frequency() * v)
    return np.asarray(0.5 * sheet.edge(first) + 0.5 * sheet.edge(second))


def _checkerboard(sheet: _Sheet) -> FloatArray:
    u, v = sheet.rotated()
    frequency = sheet.angular_frequency(coarser=1.5)
    return np.asarray((np.sin(frequency * u) * np.sin(frequency * v) > 0).astype(np.float64))


def _rings(sheet: _Sheet) -> FloatArray:
    # Away from the middle, for one ring around it is the digit 0.
    radius, _ = sheet.polar(0.6, 1.6)
    return sheet.edge(np.sin(sheet.angular_frequency() * radius + sheet.rng.uniform(0, 2 * np.pi)))


def _spiral(sheet: _Sheet) -> FloatArray:
    # Away from the middle, for one turn around it may be the digit 6 or 9.
    radius, angle = sheet.polar(0.4, 1.0)
    arms = sheet.rng.choice([-3, -2, -1, 1, 2, 3])
    return sheet.edge(np.sin(sheet.angular_frequency() * radius + arms * angle))


def _rays(sheet: _Sheet) -> FloatArray:
    _, angle = sheet.polar(0.0, 0.9)
    return sheet.edge(np.sin(sheet.rng.integers(3, 9) * angle + sheet.rng.uniform(0, 2 * np.pi)))


def _metaballs(sheet: _Sheet) -> FloatArray:
    field = np.zeros_like(sheet.x)
    for _ in range(sheet.rng.integers(4, 12)):
        dx, dy = sheet.x - sheet.rng.uniform(-1.1, 1.1), sheet.y - sheet.rng.uniform(-1.1, 1.1)
        field += sheet.rng.choice([-0.7, 1, 1]) * np.exp(-(dx**2 + dy**2) / (2 * sheet.rng.uniform(0.12, 0.4) ** 2))
    return sheet.edge(np.clip(2 * field - 1, -1, 1))


def _dots(sheet: _Sheet) -> FloatArray:
    u, v = sheet.rotated()
    period = 2 / sheet.cycles(coarser=1.2)
    shift = 0.5 * (np.floor(v / period) % 2) if sheet.rng.random() < 0.5 else 0.0
    du, dv = (u / period + shift) % 1 - 0.5, (v / period) % 1 - 0.5
    return np.asarray((np.hypot(du, dv) < sheet.rng.uniform(0.25, 0.42)).astype(np.float64))


def _bricks(sheet: _Sheet) -> FloatArray:
    u, v = sheet.rotated()
    period = 2 / sheet.cycles(coarser=1.4)
    row = np.floor(v / period)
    joint = sheet.rng.uniform(0.15, 0.35)
    in_joint = (v / period % 1 < joint) | ((u / (1.8 * period) + 0.5 * (row % 2)) % 1 < joint / 1.8)
    return np.asarray(np.where(in_joint, 1.0, 0.4 * np.sin(37.0 * row + sheet.rng.uniform(0, 6)) ** 2))


def _cells(sheet: _Sheet) -> FloatArray:
    """Each point takes the level of the nearest of some random seeds."""
    num_seeds = int(sheet.rng.integers(5, 6 + int(2 * sheet.max_cycles)))
    seeds = sheet.rng.uniform(-1.1, 1.1, (num_seeds, 2))
    nearest = np.full(sheet.x.shape, np.inf)
    values = np.zeros_like(sheet.x)
    for (seed_x, seed_y), level in zip(seeds, sheet.rng.random(num_seeds), strict=True):
        distance = (sheet.x - seed_x) ** 2 + (sheet.y - seed_y) ** 2
        values[distance < nearest] = level
        np.minimum(nearest, distance, out=nearest)
    return values


def _polygons(sheet: _Sheet) -> FloatArray:
    picture, pen = sheet.drawing()
    for _ in range(sheet.rng.integers(3, 8)):
        corners = [sheet.point(1.4) for _ in range(sheet.rng.integers(3, 6))]
        pen.polygon(corners, fill=int(sheet.rng.integers(60, 256)))
    return np.asarray(picture, dtype=np.float64) / 255


def _lines(sheet: _Sheet) -> FloatArray:
    """Lines from beyond one border to beyond another: a stroke that ended inside might be part of a digit."""
    picture, pen = sheet.drawing()
    height, width = sheet.x.shape
    thinnest = 0.7 * supersampling(height, width)
    for _ in range(sheet.rng.integers(3, 8)):
        start, middle, end = sheet.point(), sheet.point(), sheet.point()
        ends = [(-0.2 * width, start[1]), (1.2 * width, end[1])]
        if sheet.rng.random() < 0.5:
            ends = [(start[0], -0.2 * height), (end[0], 1.2 * height)]
        path = [ends[0], middle, ends[1]] if sheet.rng.random() < 0.5 else ends
        thickness = round(float(sheet.rng.uniform(thinnest, max(thinnest + 1, 0.14 * min(height, width)))))
        pen.line(path, fill=int(sheet.rng.integers(110, 256)), width=max(1, thickness), joint="curve")
    return np.asarray(picture, dtype=np.float64) / 255


KINDS: dict[str, Callable[[_Sheet], FloatArray]] = {
    "grating": _grating,
    "plaid": _plaid,
    "checkerboard": _checkerboard,
    "rings": _rings,
    "spiral": _spiral,
    "rays": _rays,
    "metaballs": _metaballs,
    "dots": _dots,
    "bricks": _bricks,
    "cells": _cells,
    "polygons": _polygons,
    "lines": _lines,
}
