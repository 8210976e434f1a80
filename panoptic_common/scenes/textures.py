"""Exact ingredients of the synthetic scenes: random draws, noise fields, brushes.

Problem: the same seed must give the same image, bit for bit, on every machine and with every
numpy release.  Two habits make that true, and the other scene modules rely on them:

* Random numbers come from the *raw* stream of PCG64, which numpy promises to keep. The
  distributions on top of it (``integers``, ``normal``) carry no such promise, so `Draws` has its
  own.
* Everything else is integer arithmetic.  Sines come from a table of integer literals, polygons
  are filled by our own scan conversion, and no libm or SIMD-ordered float operation is used.

Coordinates are fixed-point with 8 fractional bits ("Q8"). Pixel column x covers Q8 values
[256 x, 256 x + 256) and its centre is 256 x + 128.  Rows grow downwards.

Shape shorthand: H, W image; R, C rows and columns of a window; V polygon vertices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

T = TypeVar("T")
Colour = tuple[int, int, int]

# round(65536 sin(i pi / 32)) for i = 0..16; a full turn has 64 steps.
_QUARTER_SINE = (
    *(0, 6424, 12785, 19024, 25080, 30893, 36410, 41576, 46341),
    *(50660, 54491, 57798, 60547, 62714, 64277, 65220, 65536),
)
TURN = 64


def sine(angle: int) -> int:
    """Return 65536 times the sine of ``angle``, in steps of 1/64 turn."""
    quadrant, step = divmod(angle % TURN, 16)
    value = _QUARTER_SINE[16 - step if quadrant % 2 else step]
    return -value if quadrant >= 2 else value


def cosine(angle: int) -> int:
    """Return 65536 times the cosine of ``angle``, in steps of 1/64 turn."""
    return sine(angle + 16)


# Unit circle as a polygon with 32 vertices, (32, 2), scaled by 65536.
CIRCLE = np.array([(cosine(2 * i), sine(2 * i)) for i in range(32)], dtype=np.int64)


class Draws:
    """Random integers from the raw 64-bit stream of PCG64.

    Args:
        key: non-negative integers that together name the stream.
    """

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(list(key)))

    def integer(self, low: int, high: int) -> int:
        """Draw from ``low..high``, both included (multiply-shift: the bias is below 2^-32)."""
        top_bits = int(self._bits.random_raw()) >> 32
        return low + (top_bits * (high - low + 1) >> 32)

    def chance(self, percent: int) -> bool:
        """Return True in ``percent`` of 100 draws."""
        return self.integer(0, 99) < percent

    def choice(self, options: Sequence[T]) -> T:
        """Draw one of ``options``."""
        return options[self.integer(0, len(options) - 1)]

    def octets(self, *shape: int) -> np.ndarray:
        """Draw an array of uniform bytes, ``shape``, uint8 (little-endian on every machine)."""
        count = int(np.prod(shape, dtype=np.int64))
        raw = np.asarray(self._bits.random_raw((count + 7) // 8), dtype="<u8")
        return raw.view(np.uint8)[:count].reshape(shape)


def vary(draws: Draws, colour: Colour, amount: int) -> Colour:
    """Return a colour near ``colour``: up to ``amount`` brighter or darker, half that in hue."""
    common = draws.integer(-amount, amount)
    red, green, blue = (c + common + draws.integer(-amount // 2, amount // 2) for c in colour)
    return red, green, blue


def value_noise(draws: Draws, height: int, width: int, cell_y: int, cell_x: int) -> np.ndarray:
    """Make smooth noise: random values on a coarse lattice, smoothly interpolated.

    Args:
        draws: source of the lattice values.
        height: of the result, in pixels.
        width: of the result, in pixels.
        cell_y: lattice spacing along y in pixels, at least 1.
        cell_x: lattice spacing along x in pixels, at least 1.

    Returns:
        (H, W) int32 in 0..255, mean near 128.
    """
    lattice = draws.octets(height // cell_y + 2, width // cell_x + 2).astype(np.int32)
    row, weight_y = _smooth_steps(height, cell_y)
    column, weight_x = _smooth_steps(width, cell_x)
    upper, lower = lattice[row], lattice[row + 1]
    rows = upper * 256 + (lower - upper) * weight_y[:, None]  # (H, lattice columns), Q8
    left, right = rows[:, column], rows[:, column + 1]
    return (left * 256 + (right - left) * weight_x) >> 16


def _smooth_steps(length: int, cell: int) -> tuple[np.ndarray, np.ndarray]:
    """Find lattice index and Q8 weight of every pixel; the weight follows 3t^2 - 2t^3."""
    index, rest = np.divmod(np.arange(length, dtype=np.int32), cell)
    t = rest * 256 // cell
    return index, (t * t * (768 - 2 * t)) >> 16


def polygon_mask(
    points: np.ndarray, height: int, width: int
) -> tuple[slice, slice, np.ndarray] | None:
    """Scan-convert a polygon by the even-odd rule; a pixel is inside if its centre is.

    Two polygons that share an edge neither overlap nor leave a gap along it.

    Args:
        points: (V, 2) int64 Q8 (x, y); any winding, may self-intersect, may leave the image.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Returns:
        ``(rows, columns, mask)``: the window inside the image and its (R, C) bool mask, or
        None if no pixel centre is inside the window.
    """
    x, y = points[:, 0], points[:, 1]
    # The first pixel whose centre is at or after the value v is (v + 127) >> 8.
    top, bottom = max(0, int(y.min()) + 127 >> 8), min(height, int(y.max()) + 127 >> 8)
    left, right = max(0, int(x.min()) + 127 >> 8), min(width, int(x.max()) + 127 >> 8)
    if top >= bottom or left >= right:
        return None
    centre = (np.arange(top, bottom, dtype=np.int64) << 8) + 128
    following = np.concatenate((points[1:], points[:1]))
    run, rise = (following - points).T
    # An edge crosses a row of centres if its ends lie on different sides of it.
    above = y <= centre[:, None]
    row, edge = np.nonzero(above != (following[:, 1] <= centre[:, None]))
    crossing = x[edge] + (centre[row] - y[edge]) * run[edge] // rise[edge]
    column = np.minimum(np.maximum((crossing + 127) >> 8, left), right) - left
    # Each crossing toggles inside/outside for all pixels to its right.
    span = right - left + 1
    toggles = np.bincount(row * span + column, minlength=(bottom - top) * span)
    odd = (toggles & 1).astype(bool).reshape(bottom - top, span)[:, :-1]
    mask = np.logical_xor.accumulate(odd, axis=1)
    return slice(top, bottom), slice(left, right), mask


@dataclass(eq=False)
class Canvas:
    """The image while it is being painted, back to front.

    Attributes:
        rgb: (3, H, W) int32, lit colours before haze and noise, 0..255 (brushes may exceed it).
        ids: (H, W) int32 segment ids, 0 = void.
        haze: (H, W) int32, share of the haze colour in 1/256.
        grain: (H, W) int32, strength of the surface texture in 1/128.
    """

    height: int
    width: int
    rgb: np.ndarray = field(init=False)
    ids: np.ndarray = field(init=False)
    haze: np.ndarray = field(init=False)
    grain: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.rgb = np.zeros((3, self.height, self.width), np.int32)
        self.ids = np.zeros((self.height, self.width), np.int32)
        self.haze = np.zeros((self.height, self.width), np.int32)
        self.grain = np.zeros((self.height, self.width), np.int32)


@dataclass
class Brush:
    """Paints polygons of one segment at one distance.

    Attributes:
        canvas: what is painted on.
        segment: id written under every painted pixel.
        haze: see `Canvas`.
        light: brightness, 256 = the colour as given.
        sun: -1 or 1, the side (left or right) from which rounded parts are lit.
        grain: see `Canvas`.
    """

    canvas: Canvas
    segment: int
    haze: int = 0
    light: int = 256
    sun: int = 1
    grain: int = 6

    def polygon(
        self,
        points: np.ndarray | Sequence[tuple[int, int]],
        colour: Colour,
        light: int = 256,
        slope: tuple[int, int] = (0, 0),
        opacity: int = 256,
    ) -> None:
        """Paint a polygon.

        Args:
            points: (V, 2) Q8 vertices.
            colour: (3,) 0..255.
            light: brightness of this part, 256 = unchanged; multiplies the brush's.
            slope: brightness change (right minus left, bottom minus top) over the window.
            opacity: 256 covers, less lets the colours below show through (glass, spokes).
        """
        canvas = self.canvas
        found = polygon_mask(np.asarray(points, dtype=np.int64), canvas.height, canvas.width)
        if found is None:
            return
        rows, columns, mask = found
        level = self.light * light >> 8
        paint = np.array(colour, np.int32)[:, None, None]
        if slope != (0, 0):
            paint = paint * (level + _ramp(mask.shape, slope)) >> 8
        else:
            paint = paint * level >> 8
        below = canvas.rgb[:, rows, columns]
        if opacity < 256:
            paint = (below * (256 - opacity) + paint * opacity) >> 8
        np.copyto(below, paint, where=mask)
        np.copyto(canvas.ids[rows, columns], self.segment, where=mask)
        np.copyto(canvas.haze[rows, columns], self.haze, where=mask)
        np.copyto(canvas.grain[rows, columns], self.grain, where=mask)


def _ramp(shape: tuple[int, ...], slope: tuple[int, int]) -> np.ndarray:
    """Make an (R, C) int32 linear change across a window, zero in its middle."""
    rows, columns = shape
    across = (np.arange(columns, dtype=np.int32) * 2 + 1 - columns) * slope[0] // (2 * columns)
    down = (np.arange(rows, dtype=np.int32) * 2 + 1 - rows) * slope[1] // (2 * rows)
    return down[:, None] + across


def cast_shadows(canvas: Canvas, outlines: list[np.ndarray], on: np.ndarray, strength: int) -> None:
    """Darken the ground once under the union of some polygons.

    Args:
        canvas: what is painted on; labels stay as they are.
        outlines: (V, 2) Q8 vertices each.
        on: (H, W) bool, pixels that receive shadows.
        strength: share of the light taken away, in 1/256.
    """
    shaded = np.zeros((canvas.height, canvas.width), bool)
    for outline in outlines:
        found = polygon_mask(outline, canvas.height, canvas.width)
        if found is not None:
            rows, columns, mask = found
            shaded[rows, columns] |= mask
    np.copyto(canvas.rgb, canvas.rgb * (256 - strength) >> 8, where=shaded & on)


def soften(rgb: np.ndarray) -> np.ndarray:
    """Blur (3, H, W) int32 by the 3x3 binomial kernel, which hides the jagged polygon edges."""
    padded = np.pad(rgb, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:] + 8) >> 4


def develop(
    canvas: Canvas,
    draws: Draws,
    *,
    haze_colour: Colour,
    gains: Colour,
    contrast: int,
    noise: int,
) -> np.ndarray:
    """Turn the painted canvas into a photograph: texture, haze, white balance, blur, noise.

    Args:
        canvas: finished painting.
        draws: source of texture and noise.
        haze_colour: colour of the air.
        gains: white balance and exposure, 256 = unchanged.
        contrast: 256 = unchanged, less pulls everything to middle grey.
        noise: strength of the pixel noise; its standard deviation is about 0.3 noise.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height, width = canvas.ids.shape
    cell = max(2, height // 48)
    texture = value_noise(draws, height, width, cell, cell) - 128
    texture += (draws.octets(height, width).astype(np.int32) - 128) >> 1
    rgb = canvas.rgb * (128 + (texture * canvas.grain >> 7)) >> 7
    rgb += (np.array(haze_colour, np.int32)[:, None, None] - rgb) * canvas.haze >> 8
    rgb = soften(np.clip(rgb, 0, 255))
    rgb = rgb * np.array(gains, np.int32)[:, None, None] >> 8
    rgb = 128 + ((rgb - 128) * contrast >> 8)
    # The sum of two uniform bytes is triangular, standard deviation 104: close enough to normal.
    # Dark pixels get less of it, as in a photograph.
    grains = draws.octets(2, 3, height, width).astype(np.int32)
    sensor = grains[0] + grains[1] - 255
    rgb += sensor * noise * (96 + (np.clip(rgb, 0, 255) >> 1)) >> 16
    return np.ascontiguousarray(np.clip(rgb, 0, 255).astype(np.uint8).transpose(1, 2, 0))
