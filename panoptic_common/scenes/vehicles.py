"""Vehicles of the synthetic scenes: side profiles extruded to solids and seen in perspective.

A solid is a profile polygon in the plane (length l, height h), extruded over the width w.  Each
profile edge gives one strip (bonnet, windscreen, roof, ...).  Strips that face away are culled by
the winding of their projection, the others are painted far to near, then the visible side on top.

Lengths are integer millimetres; l runs from rear to front, w from the left (negative) to the right
side, h upwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from panoptic_common.scenes.street import View
from panoptic_common.scenes.textures import CIRCLE, Brush, Colour, Draws, cosine, sine, vary

Profile = tuple[tuple[int, int], ...]

LENGTHS = {"car": 4300, "bus": 8200, "truck": 6400}
WIDTHS = {"car": 1840, "bus": 2500, "truck": 2300}

_GLASS: Colour = (62, 76, 92)
_DARK: Colour = (36, 36, 40)
_TYRE: Colour = (28, 28, 31)
_PAINTS: tuple[Colour, ...] = (
    *((176, 34, 38), (38, 70, 140), (222, 222, 220), (54, 56, 62), (142, 146, 152)),
    *((214, 168, 48), (46, 104, 84), (204, 196, 178), (116, 46, 60), (90, 138, 178)),
)


@dataclass(frozen=True)
class Solid:
    """An extruded profile.

    Attributes:
        profile: (l, h) vertices from the rear bottom over the roof to the front bottom.
        kinds: kind of the strip that starts at each vertex: "rear" and "front" get lamps, "glass"
            a window; any other word is a plain surface.
        half_width: half the extrusion, mm.
        colour: paint.
    """

    profile: Profile
    kinds: tuple[str, ...]
    half_width: int
    colour: Colour


@dataclass(frozen=True)
class Vehicle:
    """Paints in the coordinates (l, w, h) of a vehicle.

    Attributes:
        brush: what paints.
        view: the camera.
        x, z: world position of the vehicle's middle, mm.
        heading: direction of travel in 1/64 turn, 0 = to the right, 16 = away from the camera.
        length: of the vehicle, mm: the middle is at l = length / 2, w = 0.
    """

    brush: Brush
    view: View
    x: int
    z: int
    heading: int
    length: int

    def world(self, points: np.ndarray) -> np.ndarray:
        """Map (V, 3) body points (l, w, h) to (V, 3) world points (X, Y, Z)."""
        forward = points[:, 0] - self.length // 2
        c, s = cosine(self.heading), sine(self.heading)
        x = self.x + (forward * c + points[:, 1] * s >> 16)
        z = self.z + (forward * s - points[:, 1] * c >> 16)
        return np.stack([x, points[:, 2], z], axis=1)

    def polygon(
        self,
        points: Sequence[tuple[int, int, int]] | np.ndarray,
        colour: Colour,
        light: int = 256,
        slope: int = 0,
    ) -> None:
        """Paint a polygon of (V, 3) body points; ``slope`` is its change of light downwards."""
        world = self.world(np.asarray(points, dtype=np.int64))
        self.brush.polygon(self.view.project(world), colour, light, (0, slope))

    def near_side(self, half_width: int) -> int:
        """Return the side (-1 left, 1 right) that the camera sees from outside; 0 if neither."""
        # The outward normal of the right side is (sin, -cos) in (X, Z); the camera is at 0.
        outside = cosine(self.heading) * self.z - sine(self.heading) * self.x
        if abs(outside) <= half_width << 16:
            return 0
        return 1 if outside > 0 else -1

    def panel(self, half_width: int, outline: Profile, colour: Colour, slope: int = 50) -> None:
        """Paint an (l, h) outline on the side that the camera sees, if any."""
        side = self.near_side(half_width)
        if side:
            # Brighter if the normal of the side points to the sun.
            light = 226 + (side * self.brush.sun * sine(self.heading) * 40 >> 16)
            points = [(at, side * half_width, h) for at, h in outline]
            self.polygon(points, colour, light, slope)

    def solid(self, solid: Solid) -> None:
        """Paint the visible strips and the visible side of a solid."""
        profile = np.array(solid.profile, np.int64)
        ends = np.empty((2, len(profile), 3), np.int64)  # left and right copy of the profile
        ends[:, :, 0], ends[:, :, 2] = profile[:, 0], profile[:, 1]
        ends[0, :, 1], ends[1, :, 1] = -solid.half_width, solid.half_width
        world = self.world(ends.reshape(-1, 3)).reshape(ends.shape)
        pixels = self.view.project(world.reshape(-1, 3)).reshape(2, len(profile), 2)
        strips = []
        for i, kind in enumerate(solid.kinds):
            j = (i + 1) % len(profile)
            corners = pixels[[0, 0, 1, 1], [i, j, j, i]]
            if _winding(corners) > 0:
                distance = int(world[:, [i, j], 2].sum())
                strips.append((distance, i, j, kind, corners))
        for _, i, j, kind, corners in sorted(strips, key=lambda strip: -strip[0]):
            light = self._strip_light(kind, int(abs(profile[j, 0] - profile[i, 0])))
            self.brush.polygon(corners, solid.colour, light, (0, -30))
            if kind == "glass":
                self._window(ends[:, [i, j]], light)
            elif kind in ("rear", "front"):
                lower, upper = (i, j) if kind == "rear" else (j, i)
                self._end(kind, profile[lower], profile[upper], solid.half_width, light)
        self.panel(solid.half_width, solid.profile, solid.colour, slope=-50)

    def _strip_light(self, kind: str, run: int) -> int:
        if kind in ("rear", "front"):
            toward = cosine(self.heading) * (1 if kind == "front" else -1)
            return 226 + (toward * self.brush.sun * 40 >> 16)
        return 276 if run > 800 else 250  # what lies flat sees more of the sky

    def _window(self, strip: np.ndarray, light: int) -> None:
        """Put glass on a strip, (2, 2, 3): 120 mm from the sides and a tenth from both edges."""
        rise = (strip[:, 1] - strip[:, 0]) // 10
        inner = np.stack([strip[:, 0] + rise, strip[:, 1] - rise], axis=1)
        inner[0, :, 1] += 120
        inner[1, :, 1] -= 120
        self.polygon(inner[[0, 0, 1, 1], [0, 1, 1, 0]], _GLASS, light, 70)

    def _end(self, kind: str, low: np.ndarray, high: np.ndarray, half: int, light: int) -> None:
        """Draw lamps, number plate and bumper of an upright end; tall ends get a window."""
        height, run = int(high[1] - low[1]), int(high[0] - low[0])

        def patch(w0: int, w1: int, h0: int, h1: int, colour: Colour, bright: int) -> None:
            corners = ((w0, h0), (w0, h1), (w1, h1), (w1, h0))
            quad = [(int(low[0]) + run * h // height, w, int(low[1]) + h) for w, h in corners]
            self.polygon(quad, colour, bright)

        lamp: Colour = (206, 34, 30) if kind == "rear" else (250, 240, 196)
        patch(-half + 60, half - 60, 0, 150, _DARK, light)
        for sign in (-1, 1):
            patch(sign * (half - 380), sign * (half - 60), 320, 490, lamp, 270)
        patch(-260, 260, 190, 310, (232, 230, 220), light)
        if height > 1200:
            patch(-half + 160, half - 160, height * 45 // 100, height * 88 // 100, _GLASS, light)

    def chassis(self, places: Sequence[int], radius: int, half_width: int, height: int) -> None:
        """Paint what shows below the body: a dark space and the tyres.

        To be painted before the body.

        Args:
            places: l of the axles.
            radius: of the wheels.
            half_width: of the body.
            height: where the body begins, or a little more.
        """
        rear, front = 150, self.length - 150
        profile = ((rear, 60), (rear, height), (front, height), (front, 60))
        self.solid(Solid(profile, ("plain",) * 4, half_width - 60, (30, 30, 32)))
        for at in places:
            for w in (-half_width, half_width - 220):
                block = [(at, w, 0), (at, w, radius), (at, w + 220, radius), (at, w + 220, 0)]
                self.polygon(block, _TYRE)

    def wheels(self, places: Sequence[int], radius: int, half_width: int) -> None:
        """Draw wheel discs on the visible side, painted after the body."""
        side = self.near_side(half_width)
        if side == 0:
            return
        for at in places:
            for share, colour in ((1120, _DARK), (1000, _TYRE), (560, (150, 152, 156))):
                disc = (CIRCLE * (radius * share // 1000) >> 16) + (at, radius)
                disc[:, 1] = disc[:, 1].clip(0)
                self.polygon([(a, side * half_width, h) for a, h in disc.tolist()], colour)


def _winding(corners: np.ndarray) -> int:
    """Return twice the signed area of a quadrilateral; positive if the strip faces the camera."""
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = corners.tolist()
    return (cx - ax) * (dy - by) - (dx - bx) * (cy - ay)


@dataclass(frozen=True)
class _CarModel:
    """Profile without its last vertex (the front bottom), strips, side windows, length."""

    profile: Profile
    kinds: tuple[str, ...]
    cabin: Profile  # rear bottom, rear top, front top, front bottom of the side windows
    length: int


_CARS = (
    _CarModel(  # saloon
        ((0, 300), (0, 900), (600, 1010), (1200, 1470), (2650, 1470), (3300, 980), (4280, 850)),
        ("rear", "body", "glass", "body", "glass", "body", "front", "under"),
        ((820, 1020), (1270, 1390), (2590, 1390), (3120, 1000)),
        4330,
    ),
    _CarModel(  # hatchback
        ((0, 300), (0, 950), (320, 1500), (2350, 1530), (3050, 1030), (3850, 880)),
        ("rear", "glass", "body", "glass", "body", "front", "under"),
        ((230, 1020), (450, 1420), (2290, 1450), (2860, 1040)),
        3920,
    ),
    _CarModel(  # van
        ((0, 320), (0, 1080), (160, 1880), (3000, 1880), (3650, 1180), (4350, 1020)),
        ("rear", "glass", "body", "glass", "body", "front", "under"),
        ((200, 1160), (330, 1760), (2930, 1760), (3420, 1190)),
        4420,
    ),
)


def car(brush: Brush, draws: Draws, view: View, x: int, z: int, heading: int) -> None:
    """Paint a saloon, hatchback or van centred at world (x, z)."""
    model = draws.choice(_CARS)
    length, half = model.length, WIDTHS["car"] // 2
    vehicle = Vehicle(brush, view, x, z, heading, length)
    paint = vary(draws, draws.choice(_PAINTS), 14)
    axles = (length * 19 // 100, length * 81 // 100)
    vehicle.chassis(axles, 330, half, 420)
    vehicle.solid(Solid((*model.profile, (length, 300)), model.kinds, half, paint))
    vehicle.wheels(axles, 330, half)
    rear_low, rear_top, front_top, front_low = model.cabin
    pillar = (rear_top[0] * 5 + front_top[0] * 4) // 9
    rear_window = (rear_low, rear_top, (pillar - 50, rear_top[1]), (pillar - 50, rear_low[1]))
    front_window = ((pillar + 50, rear_low[1]), (pillar + 50, front_top[1]), front_top, front_low)
    vehicle.panel(half, rear_window, _GLASS)
    vehicle.panel(half, front_window, _GLASS)
    vehicle.panel(half, _box(200, 560, length - 200, 600), _DARK)


def bus(brush: Brush, draws: Draws, view: View, x: int, z: int, heading: int) -> None:
    """Paint a city bus centred at world (x, z)."""
    length, half = LENGTHS["bus"], WIDTHS["bus"] // 2
    vehicle = Vehicle(brush, view, x, z, heading, length)
    colours = [(216, 168, 36), (186, 44, 40), (50, 98, 160), (70, 132, 82), (224, 222, 214)]
    paint = vary(draws, draws.choice(colours), 12)
    trim = vary(draws, draws.choice([(236, 232, 224), (52, 54, 60), (180, 50, 46)]), 10)
    axles = (length * 20 // 100, length * 76 // 100)
    vehicle.chassis(axles, 460, half, 500)
    back = ((0, 380), (0, 2900), (120, 3000))
    front = ((length - 160, 3000), (length - 40, 2880), (length, 1150), (length, 380))
    kinds = ("rear", "body", "body", "body", "glass", "front", "under")
    vehicle.solid(Solid((*back, *front), kinds, half, paint))
    vehicle.wheels(axles, 460, half)
    vehicle.panel(half, _box(60, 940, length - 60, 1130), trim)
    step = (length - 1500) // 6
    for left in range(300, 300 + 6 * step, step):
        vehicle.panel(half, _box(left, 1350, left + step - 150, 2420), _GLASS)
    vehicle.panel(half, _box(length - 1100, 480, length - 250, 2420), (84, 98, 112))


def truck(brush: Brush, draws: Draws, view: View, x: int, z: int, heading: int) -> None:
    """Paint a lorry with a box body and a separate cab, centred at world (x, z)."""
    length, half = LENGTHS["truck"], WIDTHS["truck"] // 2
    vehicle = Vehicle(brush, view, x, z, heading, length)
    colours = [(222, 220, 214), (176, 178, 182), (206, 132, 52), (64, 104, 150), (120, 98, 76)]
    box_colour = vary(draws, draws.choice(colours), 14)
    cab_colour = vary(draws, draws.choice(_PAINTS), 14)
    stripe = vary(draws, draws.choice(_PAINTS), 10)
    axles = (1100, 5350)
    vehicle.chassis(axles, 470, half, 760)
    box_profile = ((0, 720), (0, 3000), (4250, 3000), (4250, 720))
    box = Solid(box_profile, ("rear", "body", "plain", "under"), half, box_colour)
    roof = ((4420, 420), (4420, 2150), (4700, 2380), (5650, 2380))
    nose = ((6150, 1350), (length - 40, 1200), (length, 420))
    kinds = ("plain", "body", "body", "glass", "body", "front", "under")
    cab = Solid((*roof, *nose), kinds, half - 60, cab_colour)
    # Painter's order: a truck that drives towards the camera shows its cab before its box.
    cab_is_nearer = sine(heading) < 0
    for part in (box, cab) if cab_is_nearer else (cab, box):
        vehicle.solid(part)
        if part is box:
            vehicle.panel(half, _box(300, 1500, 3950, 2150), stripe)
        else:
            window = ((4700, 1400), (4780, 2180), (5560, 2180), (5900, 1400))
            vehicle.panel(half - 60, window, _GLASS)
    vehicle.wheels(axles, 470, half - 20)


def clutter(brush: Brush, draws: Draws, view: View, x: int, z: int) -> None:
    """Paint an object of no class (a container, a switch box, a kiosk): void in the truth."""
    width, height = draws.integer(900, 1800), draws.integer(900, 2000)
    colours = [(72, 98, 70), (150, 150, 146), (92, 80, 74), (170, 120, 60), (60, 76, 104)]
    paint = vary(draws, draws.choice(colours), 14)
    vehicle = Vehicle(brush, view, x, z, draws.choice([0, 0, 2, 62]), width)
    profile = ((0, 0), (0, height), (width, height), (width, 0))
    vehicle.solid(Solid(profile, ("plain",) * 4, width // 3, paint))
    vehicle.panel(width // 3, _box(120, height * 3 // 5, width - 120, height - 150), _DARK)


def _box(l0: int, h0: int, l1: int, h1: int) -> Profile:
    return ((l0, h0), (l0, h1), (l1, h1), (l1, h0))


PAINTERS = {"car": car, "bus": bus, "truck": truck}
