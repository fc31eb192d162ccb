"""The battlefield: what part of it to show, and a picture of its ground and rock."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from amal.viewer.appearance import GROUND_COLOUR, RIM_COLOUR, ROCK_COLOUR, WIDTH
from amal.viewer.recording import ALIVE

SUPERSAMPLING = 3  # the field is drawn this much larger, then averaged down
MARGIN = 1.6  # cells around everywhere a living unit ever stood
MIN_CELLS = 13.0  # across: small battles are not blown up further
ASPECT = (0.5, 0.86)  # least and greatest height of the field by its width


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
    """Open ground [32, 32] and the rock around it, with round corners, a rim and a shadow."""
    cells = Image.fromarray(np.where(ground, 0, 255).astype(np.uint8))
    to_cells = (1 / camera.scale, 0, camera.left, 0, -1 / camera.scale, camera.top)
    rock = cells.transform(camera.size, Image.Transform.AFFINE, to_cells, fillcolor=255)
    rock = rock.filter(ImageFilter.GaussianBlur(0.22 * camera.scale))
    shadow = rock.filter(ImageFilter.GaussianBlur(0.3 * camera.scale))
    field = Image.new("RGB", camera.size, GROUND_COLOUR)
    field.paste((0, 0, 0), mask=shadow.point([level // 3 for level in range(256)]))
    field.paste(RIM_COLOUR, mask=rock.point([255 * (level > 127) for level in range(256)]))
    field.paste(ROCK_COLOUR, mask=rock.point([255 * (level > 178) for level in range(256)]))
    return field
