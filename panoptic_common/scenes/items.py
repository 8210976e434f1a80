"""The things of a synthetic scene as plain records: what, where, how big, and how to paint them.

Lengths are millimetres; a footprint is the rectangle (left, top, right, bottom) in pixels that a
thing covers in the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from panoptic_common.scenes import shapes, vehicles
from panoptic_common.scenes.street import Street
from panoptic_common.scenes.textures import Brush, Draws, cosine, sine

Footprint = tuple[int, int, int, int]


@dataclass(frozen=True)
class Kind:
    """How big a flat figure is and where it may stand.

    Attributes:
        height: mm.
        half_width: in thousandths of the height.
        near, far: distances, mm, for a camera whose focal length is 1.4 image heights.
        zones: ground categories it stands on.
    """

    height: int
    half_width: int
    near: int
    far: int
    zones: tuple[str, ...]


KINDS = {
    "person": Kind(1850, 280, 3900, 5400, ("sidewalk", "sidewalk", "road", "terrain")),
    "bicycle": Kind(1200, 900, 3700, 5000, ("road", "sidewalk")),
    "dog": Kind(900, 960, 3600, 4600, ("sidewalk", "terrain", "road")),
    "traffic sign": Kind(2600, 270, 3900, 5600, ("sidewalk", "terrain")),
    "tree": Kind(6200, 330, 5800, 13_000, ("sidewalk", "terrain", "terrain")),
    "car": Kind(1550, 1400, 5400, 10_000, ("road",)),
    "truck": Kind(3000, 1000, 7200, 13_000, ("road",)),
    "bus": Kind(3000, 1300, 7600, 14_000, ("road",)),
    "clutter": Kind(1500, 450, 4600, 8000, ("sidewalk", "terrain")),
}


@dataclass(frozen=True)
class Item:
    """One thing (or tree, or unlabelled object) of the plan.

    Attributes:
        kind: key of `KINDS`.
        x, z: world position, mm.
        heading: direction of travel in 1/64 turn; a flat figure is mirrored unless it is 0.
        footprint: estimate of what it covers.
        height: mm.
        riding: a person on a bicycle.
        crowd: number of the crowd it belongs to, or -1.
    """

    kind: str
    x: int
    z: int
    heading: int
    footprint: Footprint
    height: int
    riding: bool = False
    crowd: int = -1

    def paint(self, brush: Brush, street: Street, draws: Draws) -> None:
        """Paint the item with a brush of its segment."""
        view = street.view
        if self.kind in vehicles.PAINTERS:
            painter = vehicles.PAINTERS[self.kind]
            painter(brush, draws, view, self.x, self.z, self.heading)
            return
        if self.kind == "clutter":
            vehicles.clutter(brush, draws, view, self.x, self.z)
            return
        lift = 430 if self.riding else 0
        foot = view.project(np.array([[self.x, lift, self.z]], np.int64))[0]
        size = self.height * (view.focal << 8) // self.z
        mirror = -1 if self.heading else 1
        sprite = shapes.Sprite(brush, int(foot[0]), int(foot[1]), size, mirror)
        if self.kind == "person":
            shapes.person(sprite, draws, self.riding)
        elif self.kind == "bicycle":
            shapes.bicycle(sprite, draws)
        elif self.kind == "dog":
            shapes.dog(sprite, draws)
        elif self.kind == "traffic sign":
            shapes.traffic_sign(sprite, draws)
        else:
            shapes.tree(sprite, draws, street.colours["vegetation"])

    def shadow(self, street: Street) -> np.ndarray:
        """Return the (V, 2) Q8 outline of the shadow on the ground."""
        if self.kind in vehicles.LENGTHS:
            half_length = vehicles.LENGTHS[self.kind] // 2 + 100
            half_width = vehicles.WIDTHS[self.kind] // 2 + 100
            turn, reach = self.heading, self.height // 2
        else:
            half_length = half_width = KINDS[self.kind].half_width * self.height // 1600
            half_width, turn, reach = half_width // 2, 0, self.height * 2 // 5
        c, s = cosine(turn), sine(turn)
        # The footprint, and the footprint moved away from the sun, joined to one outline.
        points = []
        for f, w in ((-1, -1), (1, -1), (1, 1), (-1, 1)):
            dx = (f * half_length * c + w * half_width * s) >> 16
            dz = (f * half_length * s - w * half_width * c) >> 16
            points.append((self.x + dx, max(600, self.z + dz)))
        away = [(x - street.sun * reach, z + reach // 4) for x, z in points]
        outline = _hull(points + away)
        return street.view.project(np.array([(x, 0, z) for x, z in outline], np.int64))


def _hull(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Find the convex hull by the monotone chain, counter-clockwise."""
    points = sorted(set(points))

    def chain(ordered: list[tuple[int, int]]) -> list[tuple[int, int]]:
        line: list[tuple[int, int]] = []
        for p in ordered:
            while len(line) > 1:
                (ax, ay), (bx, by) = line[-2:]
                if (bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax) > 0:
                    break
                line.pop()
            line.append(p)
        return line[:-1]

    return chain(points) + chain(points[::-1])
