"""The street of a synthetic scene as geometry: camera, ground zones and walls.

A street is a few planes: the ground, which is cut into zones (road, pavements, lawn, canal), and
vertical walls (rows of houses, hedges).  The camera looks either *along* the street, so that it
narrows towards the horizon, or *across* it at the other side.  Both are the same code with the two
ground coordinates exchanged:

* the lateral coordinate runs across the street and selects the zone,
* the longitudinal one runs along the street and places houses, lane marks and paving joints.

Lengths are integer millimetres; all arithmetic is on integers (see `textures`).

Shape shorthand: V points.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from panoptic_common.scenes.textures import Colour, Draws, vary

FAR = 1 << 40  # a distance beyond everything, mm
_HAZE_DISTANCE = 150_000  # where the haze would be complete if it grew linearly, mm


@dataclass(frozen=True)
class View:
    """A pinhole camera at (0, camera_height, 0) that looks horizontally along +Z.

    Attributes:
        height, width: image size in pixels.
        focal: focal length in pixels.
        horizon: row of the horizon.
        camera_height: in mm.
        haziness: 256 = normal air.
    """

    height: int
    width: int
    focal: int
    horizon: int
    camera_height: int
    haziness: int = 256

    def project(self, points: np.ndarray) -> np.ndarray:
        """Map (V, 3) int64 points (X right, Y up, Z forward; mm) to (V, 2) Q8 pixels."""
        depth = np.maximum(points[:, 2], 500)
        x = (self.width << 7) + points[:, 0] * (self.focal << 8) // depth
        y = (self.horizon << 8) + (self.camera_height - points[:, 1]) * (self.focal << 8) // depth
        return np.stack([x, y], axis=1)

    def half_width_at(self, depth: int) -> int:
        """Return half the width that the image shows at a distance, mm."""
        return depth * self.width // (2 * self.focal)

    def haze_at(self, depth: int | np.ndarray) -> np.ndarray:
        """Return the share of haze in 1/256 at a distance in mm (an int or an int64 array)."""
        return np.minimum(depth * self.haziness // _HAZE_DISTANCE, 208)


@dataclass(frozen=True)
class Zone:
    """A strip of ground between two lateral coordinates (mm)."""

    low: int
    high: int
    category: str
    colour: Colour
    grain: int


@dataclass
class Street:
    """Geometry that the things of the scene are placed on.

    Attributes:
        view: the camera.
        along: True if the camera looks along the street, False if across.
        zones: strips of ground in ascending lateral order.
        walls: (lateral coordinate, "house" | "hedge" | "none") of the left and right wall (along)
            or of the far wall (across).
        sun: -1 or 1, the side the light comes from.
        shade_edge: lateral (along) coordinate beyond which, on the sun's side, houses throw shade.
        colours: material colours drawn for this scene.
    """

    view: View
    along: bool
    zones: list[Zone]
    walls: list[tuple[int, str]]
    sun: int
    shade_edge: int
    colours: dict[str, Colour] = field(default_factory=dict)

    def strips(self, category: str) -> list[Zone]:
        """Return the zones of a category."""
        return [zone for zone in self.zones if zone.category == category]

    def reach(self) -> tuple[int, int]:
        """Return the lateral coordinates between which the ground is in front of the walls."""
        limits = [side if kind != "none" else FAR for side, kind in self.walls]
        if not self.along:
            return -FAR, limits[0]
        left, right = limits
        return (-FAR if left == FAR else left), right

    def light_at(self, x: int) -> int:
        """Return the brightness at world coordinate X: less in the shade of the houses."""
        return 176 if self.along and x * self.sun > self.shade_edge else 256


def plan_street(draws: Draws, view: View, confusion: int) -> Street:
    """Draw the layout of a street.

    Args:
        draws: random source.
        view: the camera.
        confusion: 0..100, how far material colours move towards one common grey.

    Returns:
        The street; nothing is painted yet.
    """
    colours = {
        "road": vary(draws, draws.choice([(92, 92, 98), (108, 106, 104), (80, 82, 90)]), 10),
        "sidewalk": vary(
            draws, draws.choice([(160, 154, 148), (172, 156, 138), (146, 148, 152)]), 10
        ),
        "terrain": vary(draws, draws.choice([(104, 138, 66), (132, 140, 72), (150, 128, 88)]), 12),
        "water": vary(draws, draws.choice([(86, 122, 146), (76, 112, 116), (110, 136, 160)]), 10),
        "vegetation": vary(draws, draws.choice([(66, 104, 50), (86, 112, 48), (58, 88, 62)]), 12),
    }
    greyness = confusion * draws.integer(0, 80) // 100
    colours = {name: _towards_grey(colour, greyness) for name, colour in colours.items()}
    along = draws.chance(55)
    sun = draws.choice([-1, 1])
    if along:
        zones, walls = _zones_along(draws, colours)
    else:
        zones, walls = _zones_across(draws, colours)
    # Houses on the sun's side shade part of the street.
    shade_edge = draws.integer(-1000, 6000) if draws.chance(50) else FAR
    return Street(view, along, zones, walls, sun, shade_edge, colours)


def _towards_grey(colour: Colour, percent: int) -> Colour:
    red, green, blue = (c + (118 - c) * percent // 100 for c in colour)
    return red, green, blue


_GRAIN = {"road": 14, "sidewalk": 12, "terrain": 46, "water": 10}


def _zone(low: int, high: int, category: str, colours: dict[str, Colour]) -> Zone:
    return Zone(low, high, category, colours[category], _GRAIN[category])


def _zones_along(
    draws: Draws, colours: dict[str, Colour]
) -> tuple[list[Zone], list[tuple[int, str]]]:
    """Lay the road in the middle, on each side a pavement, then houses, a lawn or a canal."""
    centre, half_road = draws.integer(-2200, 2200), draws.integer(3600, 5200)
    zones = [_zone(centre - half_road, centre + half_road, "road", colours)]
    walls = []
    for side in (-1, 1):
        kerb = centre + side * half_road
        pavement = kerb + side * draws.integer(2600, 4200)
        beyond = draws.choice(["houses", "houses", "lawn", "lawn", "canal"])
        setback = 0 if beyond == "houses" else draws.integer(6000, 22000)
        wall = pavement + side * setback
        edges = sorted((kerb, pavement)), sorted((pavement, side * FAR))
        outer = {"houses": "terrain", "lawn": "terrain", "canal": "water"}[beyond]
        zones.append(_zone(edges[0][0], edges[0][1], "sidewalk", colours))
        zones.append(_zone(edges[1][0], edges[1][1], outer, colours))
        kind = "house" if beyond == "houses" else draws.choice(["house", "hedge", "none"])
        walls.append((wall, kind))
    return sorted(zones, key=lambda zone: zone.low), walls


def _zones_across(
    draws: Draws, colours: dict[str, Colour]
) -> tuple[list[Zone], list[tuple[int, str]]]:
    """Lay from near to far: pavement or lawn, road, pavement, then houses, a lawn or a canal."""
    kerb = draws.integer(3600, 6600)
    far_kerb = kerb + draws.integer(4200, 6400)
    pavement = far_kerb + draws.integer(3200, 5200)
    near = draws.choice(["sidewalk", "sidewalk", "terrain"])
    beyond = draws.choice(["houses", "houses", "lawn", "canal"])
    outer = {"houses": "terrain", "lawn": "terrain", "canal": "water"}[beyond]
    wall = pavement + (0 if beyond == "houses" else draws.integer(8000, 20000))
    kind = "house" if beyond == "houses" else draws.choice(["house", "hedge", "none"])
    spans = [(-FAR, kerb, near), (kerb, far_kerb, "road"), (far_kerb, pavement, "sidewalk")]
    spans.append((pavement, FAR, outer))
    return [_zone(low, high, name, colours) for low, high, name in spans], [(wall, kind)]
