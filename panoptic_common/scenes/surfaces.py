"""Paints the empty street of a synthetic scene: sky, backdrop, ground and facades.

The viewing ray of every pixel is intersected with the planes of a `Street`. Where it meets the
ground or a wall, the position there selects zone, paving joint, house and window.  Lengths are
integer millimetres; all arithmetic is on integers (see `textures`).

Shape shorthand: H, W image; G rows below the horizon; w columns of one wall.
"""

from __future__ import annotations

import numpy as np

from panoptic_common.scenes.street import FAR, Street, View
from panoptic_common.scenes.textures import Canvas, Colour, Draws, value_noise, vary

_HOUSE_COLOURS: tuple[Colour, ...] = (
    *((186, 120, 92), (204, 178, 140), (150, 86, 70), (170, 168, 162), (214, 202, 180)),
    *((128, 122, 120), (196, 152, 96), (142, 158, 172), (176, 140, 132), (110, 96, 88)),
)
_SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((84, 142, 214), (196, 218, 238)),
    ((120, 160, 204), (222, 226, 228)),
    ((158, 170, 184), (212, 214, 214)),
    ((108, 122, 172), (244, 206, 168)),
    ((70, 116, 180), (170, 200, 226)),
)


def paint_street(canvas: Canvas, street: Street, draws: Draws, segments: dict[str, int]) -> Colour:
    """Paint sky, backdrop, ground and walls over the whole canvas.

    Args:
        canvas: filled completely.
        street: from `plan_street`.
        draws: random source.
        segments: segment id of every stuff category.

    Returns:
        The colour of the air: far things fade to the sky above the horizon.
    """
    air = _paint_sky(canvas, street.view, draws, segments["sky"])
    _paint_ground(canvas, street, draws, segments)
    _paint_backdrop(canvas, street, draws, segments)
    _paint_walls(canvas, street, draws, segments)
    return air


def _paint_sky(canvas: Canvas, view: View, draws: Draws, segment: int) -> Colour:
    zenith, air = draws.choice(_SKIES)
    top, bottom = np.array(zenith, np.int32), np.array(air, np.int32)
    rows = max(view.horizon + 1, 1)
    weight = np.arange(canvas.height, dtype=np.int32).clip(0, rows) * 256 // rows
    canvas.rgb[:] = (top[:, None] + ((bottom - top)[:, None] * weight >> 8))[:, :, None]
    cell = max(4, canvas.height // 10)
    clouds = value_noise(draws, canvas.height, canvas.width, max(2, cell // 3), cell)
    clouds += value_noise(draws, canvas.height, canvas.width, cell, 3 * cell)
    cover = np.clip(clouds - draws.integer(200, 380), 0, 110)
    canvas.rgb += (244 - canvas.rgb) * cover >> 7
    canvas.ids[:] = segment
    return air


def _paint_ground(canvas: Canvas, street: Street, draws: Draws, segments: dict[str, int]) -> None:
    view = street.view
    first = view.horizon
    # Twice the offset of the pixel centre from the principal point: exact in integers.
    down = 2 * np.arange(first, view.height, dtype=np.int64)[:, None] + 1 - 2 * view.horizon
    right = 2 * np.arange(view.width, dtype=np.int64) + 1 - view.width
    depth = 2 * view.camera_height * view.focal // down  # (G, 1)
    across = right * view.camera_height // down  # (G, W)
    lateral, longitudinal = (across, depth) if street.along else (depth, across)
    zone = np.zeros(across.shape, np.int64)
    for edge in street.zones[1:]:
        zone += lateral >= edge.low
    palette = np.array([z.colour for z in street.zones], np.int32).T
    rgb = palette[:, zone]
    ids = np.array([segments[z.category] for z in street.zones], np.int32)[zone]
    grain = np.array([z.grain for z in street.zones], np.int32)[zone]
    factor = _marks(street, draws, zone, lateral, longitudinal, depth)
    if street.along and street.shade_edge < FAR:
        factor = np.where(across * street.sun > street.shade_edge, factor * 176 >> 8, factor)
    rows = view.height - first
    wear = value_noise(draws, rows, view.width, max(2, rows // 12), max(4, view.width // 10))
    factor = factor * (232 + (wear * 48 >> 8)) >> 8
    water = np.array([z.category == "water" for z in street.zones])[zone]
    if water.any():
        ripple = value_noise(draws, rows, view.width, max(1, rows // 60), max(4, view.width // 24))
        glint = np.clip(ripple - 150, 0, 255)
        factor = np.where(water, 226 + (ripple >> 2) + glint, factor)
    canvas.rgb[:, first:] = rgb * factor >> 8
    canvas.ids[first:] = ids
    canvas.grain[first:] = grain
    canvas.haze[first:] = view.haze_at(depth)


def _marks(
    street: Street,
    draws: Draws,
    zone: np.ndarray,
    lateral: np.ndarray,
    longitudinal: np.ndarray,
    depth: np.ndarray,
) -> np.ndarray:
    """Shade lane marks, kerbs and paving joints: (G, W) brightness, 256 = plain ground."""
    factor = np.full(zone.shape, 256, np.int64)
    near = depth < 24_000  # farther away the pattern would only alias
    for index, strip in enumerate(street.zones):
        inside = zone == index
        if strip.category == "road":
            centre, width = (strip.low + strip.high) // 2, strip.high - strip.low
            dash = (longitudinal + draws.integer(0, 5999)) % 6000 < 3200
            stripe = inside & (abs(lateral - centre) < 90) & dash & (depth < 60_000)
            for offset in (-width // 2 + 350, width // 2 - 350):
                stripe |= inside & (abs(lateral - centre - offset) < 60) & near
            if draws.chance(40):  # zebra crossing
                start = draws.integer(5000, 14_000) if street.along else draws.integer(-7000, 4000)
                zebra = (longitudinal >= start) & (longitudinal < start + 3200)
                bars = (lateral - strip.low) % 1000 < 520
                stripe |= inside & zebra & bars & (abs(lateral - centre) < width // 2 - 300)
            factor[stripe] = 510
        elif strip.category == "sidewalk":
            size = draws.choice([600, 900, 1200])
            joints = (longitudinal % size < 50) | (lateral % size < 50)
            factor[inside & joints & near] = 212
            kerb = (lateral < strip.low + 180) | (lateral > strip.high - 180)
            factor[inside & kerb] = 300
    return factor


def _paint_backdrop(canvas: Canvas, street: Street, draws: Draws, segments: dict[str, int]) -> None:
    """Paint far trees or a skyline, as one height per column at a fixed distance."""
    view = street.view
    depth = draws.integer(60_000, 110_000)
    if draws.chance(55):
        category, colour, grain = "vegetation", street.colours["vegetation"], 60
        cell = max(3, view.width // 40)
        profile = value_noise(draws, 1, view.width, 1, cell)[0] * 14
        profile = profile + value_noise(draws, 1, view.width, 1, 4 * cell)[0] * 30 + 1500
    else:
        category, colour, grain = "building", draws.choice(_HOUSE_COLOURS), 8
        blocks = draws.octets(24).astype(np.int64) * 70 + 4000
        profile = blocks[np.arange(view.width) * 24 // view.width]
    top = view.horizon - (profile - view.camera_height) * view.focal // depth
    row = np.arange(view.height)[:, None]
    mask = (row >= top) & (row <= view.horizon + 1)
    np.copyto(canvas.rgb, np.array(colour, np.int32)[:, None, None], where=mask)
    np.copyto(canvas.ids, segments[category], where=mask)
    np.copyto(canvas.haze, int(view.haze_at(depth)), where=mask)
    np.copyto(canvas.grain, grain, where=mask)


def _wall_columns(street: Street) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find distance, position along the wall and wall (-1 = none) per column, each (W,)."""
    view = street.view
    right = 2 * np.arange(view.width, dtype=np.int64) + 1 - view.width
    if street.along:
        left_wall, right_wall = street.walls[0][0], street.walls[1][0]
        lateral = np.where(right < 0, left_wall, right_wall)
        depth = 2 * lateral * view.focal // np.where(right == 0, 1, right)
        index = (right >= 0).astype(np.int64)
        index[(depth <= 0) | (depth > 70_000)] = -1  # the street ends there
        return depth, depth, index
    depth = np.full(view.width, street.walls[0][0], np.int64)
    return depth, right * depth // (2 * view.focal), np.zeros(view.width, np.int64)


def _paint_walls(canvas: Canvas, street: Street, draws: Draws, segments: dict[str, int]) -> None:
    view = street.view
    depth, position, index = _wall_columns(street)
    down = 2 * np.arange(view.height, dtype=np.int64)[:, None] + 1 - 2 * view.horizon
    for number, (_, kind) in enumerate(street.walls):
        columns = np.flatnonzero(index == number)
        if kind == "none" or len(columns) == 0:
            continue
        span = slice(int(columns[0]), int(columns[-1]) + 1)
        z, along = depth[span], position[span]
        altitude = view.camera_height - down * z // (2 * view.focal)
        paint = _house_row if kind == "house" else _hedge
        rgb, mask, grain = paint(street, draws, along, altitude, z)
        if street.along:
            facing = (1 if number == 0 else -1) == street.sun
            rgb = rgb * (256 if facing else 172) >> 8
        category = "building" if kind == "house" else "vegetation"
        np.copyto(canvas.rgb[:, :, span], rgb, where=mask)
        np.copyto(canvas.ids[:, span], segments[category], where=mask)
        np.copyto(canvas.haze[:, span], view.haze_at(z)[None], where=mask)
        np.copyto(canvas.grain[:, span], grain, where=mask)


def _house_row(
    street: Street, draws: Draws, along: np.ndarray, altitude: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Paint a row of houses on a wall.

    Args:
        street: for the camera.
        draws: random source.
        along: (w,) position along the wall of every column, mm.
        altitude: (H, w) height above the ground where each ray meets the wall, mm.
        z: (w,) distance of the wall, mm.

    Returns:
        Colours (3, H, w), mask (H, w) of the pixels covered, and the grain.
    """
    widths = np.array([draws.integer(7000, 16_000) for _ in range(24)], np.int64)
    ends = np.cumsum(widths) - draws.integer(30_000, 60_000)
    house = np.searchsorted(ends, along).clip(0, 23)
    storey = np.array([draws.integer(2900, 3600) for _ in range(24)], np.int64)[house]
    floors = np.array([draws.integer(2, 6) for _ in range(24)], np.int64)[house]
    height = storey * floors + 500
    gap = np.array([draws.chance(14) for _ in range(24)])[house]
    wall = np.array([vary(draws, draws.choice(_HOUSE_COLOURS), 10) for _ in range(24)], np.int64)
    rgb = np.broadcast_to(wall[house].T[:, None, :], (3, *altitude.shape)).copy()
    mask = (altitude >= 0) & (altitude < height) & ~gap
    period = np.array([draws.integer(1700, 2600) for _ in range(24)], np.int64)[house]
    local, level = along % period, altitude % storey
    legible = period * street.view.focal // z > 4  # narrower windows would only alias
    pane = (local > period // 4) & (local < period * 3 // 4) & legible
    upper = altitude >= storey
    window = pane & upper & (level > 900) & (level < 2300) & (altitude < height - 600)
    sill = pane & upper & (level > 700) & (level <= 900) & (altitude < height - 600)
    shop = np.array([draws.chance(50) for _ in range(24)])[house]
    door = (along % (2 * period) > period * 5 // 4) & (along % (2 * period) < period * 7 // 4)
    ground = ~upper & legible
    shine = (along // period * 37 + (altitude // storey) * 53) % 5 * 14
    glass = np.array([58, 70, 86])[:, None, None]
    display = ground & shop & (altitude > 500) & (altitude < 2400)
    above_display = ground & shop & (altitude >= 2400) & (altitude < 2850)
    awning = draws.choice([(160, 50, 44), (44, 96, 70), (52, 70, 120), (200, 160, 70)])
    low_window = ground & ~shop & pane & (altitude > 1000) & (altitude < 2300)
    np.copyto(rgb, np.minimum(rgb + 36, 250), where=sill)
    np.copyto(rgb, glass + shine, where=window)
    _tint(rgb, display, (74, 84, 92))
    _tint(rgb, low_window, (58, 70, 86))
    _tint(rgb, above_display, awning)
    _tint(rgb, ground & door & (altitude < 2150), (84, 60, 46))
    np.copyto(rgb, rgb * 190 >> 8, where=altitude > height - 350)
    return rgb, mask, 10


def _tint(rgb: np.ndarray, mask: np.ndarray, colour: Colour) -> None:
    np.copyto(rgb, np.array(colour, rgb.dtype)[:, None, None], where=mask)


def _hedge(
    street: Street, draws: Draws, along: np.ndarray, altitude: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Work as `_house_row`, for a hedge with an uneven top."""
    height, width = altitude.shape
    top = draws.integer(1400, 3200)
    bumps = value_noise(draws, 1, width, 1, max(2, height // 30))[0]
    mask = (altitude >= 0) & (altitude < top + (bumps - 128) * 3)
    leaves = value_noise(draws, height, width, max(2, height // 48), max(2, height // 48))
    colour = np.array(street.colours["vegetation"], np.int64)[:, None, None]
    rgb = colour * (200 + (leaves * 100 >> 8)) >> 8
    return rgb * (altitude.clip(0, top) * 96 // top + 170) >> 8, mask, 50
