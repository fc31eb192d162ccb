"""The picture of a battlefield: what part of it to show, and its ground and rock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from amal.viewer.strikes import ALIVE

WIDTH = 560  # pixels of the finished picture
SUPERSAMPLING = 3  # the field is drawn this much larger, then averaged down
MARGIN = 1.6  # cells around everywhere a living unit ever stood
MIN_CELLS = 13.0  # across: small battles are not blown up further
ASPECT = (0.5, 0.86)  # least and greatest height of the field by its width

Colour = tuple[int, int, int]
GROUND_COLOUR: Colour = (58, 68, 70)
GRID_COLOUR: Colour = (74, 85, 87)
ROCK_COLOUR: Colour = (34, 39, 44)
CLIFF_COLOUR: Colour = (17, 20, 23)
RIM_COLOUR: Colour = (84, 94, 100)


@dataclass(frozen=True)
class Camera:
    """Maps the field (cells, y up) to pixels of the supersampled picture (y down)."""

    left: float
    top: float
    scale: float  # pixels per cell
    size: tuple[int, int]

    def __call__(self, points: np.ndarray) -> list[tuple[float, float]]:
        """Points [K, 2] in cells."""
        return [((x - self.left) * self.scale, (self.top - y) * self.scale) for x, y in points.tolist()]


def aim_camera(units: np.ndarray) -> Camera:
    """The part of the field where living units of units [T+1, U, 9] ever stand, with a margin."""
    places = units[units[..., ALIVE] > 0][:, :2]
    low, high = places.min(axis=0) - MARGIN, places.max(axis=0) + MARGIN
    extent, centre = high - low, (low + high) / 2
    width = max(float(extent[0]), float(extent[1]) / ASPECT[1], MIN_CELLS)
    height = max(float(extent[1]), width * ASPECT[0])
    scale = WIDTH * SUPERSAMPLING / width
    size = (WIDTH * SUPERSAMPLING, round(height * scale / SUPERSAMPLING) * SUPERSAMPLING)
    return Camera(float(centre[0]) - width / 2, float(centre[1]) + height / 2, scale, size)


def draw_field(ground: np.ndarray, camera: Camera) -> Image.Image:
    """Open ground [32, 32] and the rock around it, raised: lit at its rim, with a cliff and a shadow below."""
    cell, size = camera.scale, camera.size
    cells = Image.new("L", size, 255)
    draw = ImageDraw.Draw(cells)
    for y, x in np.argwhere(ground):
        draw.rectangle([*camera(np.array([(x, y + 1)]))[0], *camera(np.array([(x + 1, y)]))[0]], fill=0)
    soft = cells.filter(ImageFilter.GaussianBlur(0.22 * cell))  # rounds the corners of the cells
    rock = soft.point([255 * (level > 127) for level in range(256)])
    top = Image.new("L", size, 255)
    top.paste(rock, (0, -round(0.3 * cell)))  # the cliff is part of the rock's own cells: units may stand close
    rim = soft.point([255 * (level > 178) for level in range(256)])
    inner = Image.new("L", size, 255)
    inner.paste(rim, (0, -round(0.3 * cell)))
    shadow = Image.new("L", size, 0)
    shadow.paste(rock, (round(0.1 * cell), round(0.3 * cell)))
    shadow = shadow.filter(ImageFilter.GaussianBlur(0.2 * cell)).point([round(0.45 * level) for level in range(256)])
    field = _grain(GROUND_COLOUR, 1.5, camera)
    _draw_grid(field, camera)
    field.paste((0, 0, 0), mask=shadow)
    field.paste(CLIFF_COLOUR, mask=rock)
    field.paste(RIM_COLOUR, mask=ImageChops.multiply(rock, top))
    field.paste(_grain(ROCK_COLOUR, 3, camera), mask=ImageChops.multiply(rim, inner))
    return field


def _draw_grid(field: Image.Image, camera: Camera) -> None:
    """A small cross at every other corner of the cells, for a sense of scale."""
    draw, arm, thick = ImageDraw.Draw(field), 0.09 * camera.scale, SUPERSAMPLING
    corners = np.stack(np.meshgrid(np.arange(0, 33, 2), np.arange(0, 33, 2)), axis=-1).reshape(-1, 2)
    for x, y in camera(corners):
        draw.line((x - arm, y, x + arm, y), fill=GRID_COLOUR, width=thick)
        draw.line((x, y - arm, x, y + arm), fill=GRID_COLOUR, width=thick)


def _grain(colour: Colour, strength: float, camera: Camera) -> Image.Image:
    """A colour with soft patches of about two cells, the same in every replay."""
    rng = np.random.default_rng(0)
    across, down = (int(length / (2 * camera.scale)) + 2 for length in camera.size)
    patches = Image.fromarray(rng.uniform(-strength, strength, (down, across)).astype(np.float32))
    level = np.asarray(patches.resize(camera.size, Image.Resampling.BICUBIC))
    patch = Image.fromarray((np.round(level) + 128).astype(np.uint8))
    shades = [[min(max(channel + value - 128, 0), 255) for value in range(256)] for channel in colour]
    return Image.merge("RGB", [patch.point(shade) for shade in shades])
