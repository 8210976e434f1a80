"""Where the things of a synthetic scene stand: groups, rows, occluders, crowds.

Things come in groups, as in a street: rows of parked cars, walking groups, a cyclist, somebody
with a dog.  A group is accepted if what it hides, and what hides it, stays below a limit that grows
with the difficulty. Occluders are then put in front of vehicles on purpose, so that some segments
fall into several pieces.

All lengths are millimetres.
"""

from __future__ import annotations

import numpy as np

from panoptic_common.scenes import vehicles
from panoptic_common.scenes.items import KINDS, Footprint, Item
from panoptic_common.scenes.street import FAR, Street, View, Zone
from panoptic_common.scenes.textures import Draws, cosine, sine


class Planner:
    """Collects items until the scene is full.

    Args:
        draws: random source.
        street: where things stand.
        difficulty: 0..100.
    """

    def __init__(self, draws: Draws, street: Street, difficulty: int) -> None:
        self.draws = draws
        self.street = street
        self.difficulty = difficulty
        self.items: list[Item] = []
        self.hide_limit = 25 + difficulty * 35 // 100  # largest hidden share of one thing, percent

    def plan(self) -> list[Item]:
        """Return all items, far to near."""
        draws, hard = self.draws, self.difficulty
        target = draws.integer(3 + hard * 5 // 100, 6 + hard * 9 // 100)
        if draws.chance(50 + hard * 20 // 100):
            self._tiny()  # first, while the view is free
        for _ in range(draws.integer(0, 2) + hard // 40):
            self._single("tree")
        groups = [self._parked, self._vehicle, self._walkers, self._cyclist, self._dog_walker]
        groups += [self._sign, self._sign, self._vehicle, self._bicycles, self._dog_walker]
        for _ in range(4 * target):
            if self._things() >= target:
                break
            draws.choice(groups)()
        for item in list(self.items):
            if item.kind in vehicles.LENGTHS and draws.chance(12 + hard * 40 // 100):
                self._occluder(item)
        if draws.chance(20 + hard * 30 // 100):
            self._crowd()
        if draws.chance(30):
            self._single("clutter")
        return sorted(self.items, key=lambda item: -item.z)

    def _things(self) -> int:
        return sum(i.kind not in ("tree", "clutter") and i.crowd < 0 for i in self.items)

    # ------------------------------------------------------------------ groups

    def _parked(self) -> None:
        """Park a row of cars at the kerb; they overlap only if seen along the street."""
        draws, street = self.draws, self.street
        road = street.strips("road")[0]
        side = draws.choice([-1, 1])
        edge = road.high if side > 0 else road.low
        lateral = edge - side * 1150
        view = street.view
        count = draws.integer(2, 3)
        if street.along:
            start = self._scaled(draws.integer(6200, 9000))
            heading = draws.choice([16, 48])
            for k in range(count):
                self._add("car", lateral, start + k * draws.integer(4700, 5600), heading)
            return
        if side < 0 and lateral < self._scaled(4500):
            lateral = road.high - 1150
        heading = draws.choice([0, 32])
        half = view.half_width_at(lateral)
        x = draws.integer(-half, half // 3)
        for _ in range(count):
            self._add("car", x, lateral, heading)
            x += draws.integer(4500, 5400)

    def _vehicle(self) -> None:
        kind = self.draws.choice(["car", "bus", "bus", "truck", "truck"])
        draws, street = self.draws, self.street
        spot = self._spot(kind)
        if spot is None:
            return
        x, z = spot
        base = 16 if street.along else 0
        heading = (base + draws.choice([0, 32])) % 64
        if draws.chance(35):  # turning, or crossing the street
            heading = (heading + draws.integer(-7, 7)) % 64
        if street.along and draws.chance(20):
            heading = draws.choice([0, 32])
        self._add(kind, x, z, heading)

    def _walkers(self) -> None:
        spot = self._spot("person")
        if spot is None:
            return
        x, z = spot
        for _ in range(self.draws.choice([1, 1, 2, 2, 3])):
            self._add("person", x, z, self.draws.integer(0, 1), touching=True)
            x += self.draws.integer(480, 820)
            z += self.draws.integer(-250, 250)

    def _cyclist(self) -> None:
        spot = self._spot("bicycle")
        if spot is None:
            return
        mirror = self.draws.integer(0, 1)
        if self._add("bicycle", *spot, mirror) and self.draws.chance(75):
            x, z = spot
            seat = x + (220 if mirror else -220)
            self._add("person", seat, z - 40, mirror, touching=True, riding=True)

    def _bicycles(self) -> None:
        spot = self._spot("bicycle")
        if spot is None:
            return
        x, z = spot
        for _ in range(self.draws.integer(1, 2)):
            self._add("bicycle", x, z, self.draws.integer(0, 1), touching=True)
            x, z = x + self.draws.integer(900, 1700), z + self.draws.integer(60, 400)

    def _dog_walker(self) -> None:
        spot = self._spot("dog")
        if spot is None:
            return
        x, z = spot
        if self._add("dog", x, z, self.draws.integer(0, 1)) and self.draws.chance(50):
            self._add("person", x - 900, z + 150, 0, touching=True)

    def _sign(self) -> None:
        self._single("traffic sign")

    def _single(self, kind: str) -> None:
        spot = self._spot(kind)
        if spot is not None:
            self._add(kind, *spot, 0)

    def _occluder(self, vehicle: Item) -> None:
        """Put something narrow in front of a vehicle, which often cuts it into two pieces."""
        kind = self.draws.choice(["person", "traffic sign", "tree", "person"])
        z = vehicle.z * self.draws.integer(55, 75) // 100
        left, _, right, _ = vehicle.footprint
        column = (left + right) // 2 + self.draws.integer(left - right, right - left) // 5
        view = self.street.view
        x = (2 * column - view.width) * z // (2 * view.focal)
        if z > self._scaled(KINDS[kind].near):
            self._add(kind, x, z, self.draws.integer(0, 1), touching=True)

    def _crowd(self) -> None:
        """Place a far group of people that share one segment with iscrowd = 1."""
        draws, view = self.draws, self.street.view
        z = min(self._scaled(draws.integer(9000, 13_000)), self._farthest() - 900)
        half = view.half_width_at(z) * 4 // 5
        x = draws.integer(-half, half)
        number = sum(item.crowd >= 0 for item in self.items)
        for _ in range(draws.integer(6, 11)):
            height = KINDS["person"].height * draws.integer(85, 105) // 100
            spot = x, z + draws.integer(-500, 500)
            box = self._footprint("person", *spot, 0, height)
            self.items.append(Item("person", *spot, 0, box, height, crowd=number))
            x += draws.integer(260, 480)

    def _tiny(self) -> None:
        """Place one thing only some ten pixels high, if there is a free view into the distance."""
        draws, street = self.draws, self.street
        view = street.view
        last = street.zones[-1]
        if not street.along and last.category != "terrain":
            return
        road = street.strips("road")[0]
        for _ in range(8):
            kind = draws.choice(["person", "car"])
            pixels = max(6, view.height * draws.integer(45, 75) // 1000)
            z = KINDS[kind].height * view.focal // pixels
            if z > self._farthest() - 2000:
                return  # it would stand behind the houses
            half = view.half_width_at(z) * 4 // 5
            low, high = max(road.low, -half), min(road.high, half)
            if not street.along:
                low, high = -half, half
            if self._add(kind, draws.integer(low, high), z, 16 if street.along else 0):
                return

    # --------------------------------------------------------------- placement

    def _scaled(self, distance: int) -> int:
        """Adapt a distance, given for a focal length of 1.4 image heights, to this camera."""
        view = self.street.view
        return distance * view.focal * 10 // (14 * view.height)

    def _farthest(self) -> int:
        """Return the distance of the wall that closes the view, mm."""
        return FAR if self.street.along else self.street.reach()[1]

    def _spot(self, kind: str) -> tuple[int, int] | None:
        """Draw a place on a zone where the kind may stand; None if this street has none."""
        draws, street, spec = self.draws, self.street, KINDS[kind]
        near, far = self._scaled(spec.near), self._scaled(spec.far)
        if draws.chance(5 + self.difficulty // 10):  # now and then far away
            near, far = far, far * 2
        zones: list[Zone] = []
        for name in spec.zones:
            zones += street.strips(name)
        if not zones:
            return None
        zone = draws.choice(zones)
        margin = 300 if kind not in vehicles.LENGTHS else 1300
        first, last = street.reach()
        low, high = max(zone.low, first) + margin, min(zone.high, last) - margin
        if street.along:
            z = draws.integer(near, far)
            half = street.view.half_width_at(z) * 11 // 10
            low, high = max(low, -half), min(high, half)
            return (draws.integer(low, high), z) if low < high else None
        low, high = max(low, near), min(high, far + 3000)
        if low >= high:
            return None
        z = draws.integer(low, high)
        half = street.view.half_width_at(z) * 21 // 20
        return draws.integer(-half, half), z

    def _footprint(self, kind: str, x: int, z: int, heading: int, height: int) -> Footprint:
        view: View = self.street.view
        half = KINDS[kind].half_width * height // 1000
        depth = 0
        if kind in vehicles.LENGTHS:
            length, width = vehicles.LENGTHS[kind], vehicles.WIDTHS[kind]
            c, s = abs(cosine(heading)), abs(sine(heading))
            half = (length * c + width * s) >> 17
            depth = (length * s + width * c) >> 17
        front = max(700, z - depth)
        corners = np.array([[x - half, 0, front], [x + half, height, front]], np.int64)
        (left, bottom), (right, top) = (view.project(corners) >> 8).tolist()
        return left, top, right, bottom

    def _add(
        self,
        kind: str,
        x: int,
        z: int,
        heading: int,
        touching: bool = False,
        riding: bool = False,
    ) -> bool:
        """Add an item unless it would hide, or be hidden, too much; say whether it was added."""
        spec = KINDS[kind]
        height = spec.height
        if kind not in vehicles.LENGTHS:
            height = height * self.draws.integer(88, 112) // 100
        box = self._footprint(kind, x, z, heading, height)
        view = self.street.view
        visible = _overlap(box, (0, 0, view.width, view.height))
        front = z - vehicles.LENGTHS.get(kind, 0) // 2
        if visible * 100 < 40 * _area(box) or front < 1500:
            return False
        limit = self.hide_limit + (25 if touching else 0)
        for other in self.items:
            if other.crowd >= 0:
                continue
            hidden = _overlap(box, other.footprint) * 100
            behind = box if z > other.z else other.footprint
            if hidden > limit * _area(behind):
                return False
        self.items.append(Item(kind, x, z, heading, box, height, riding))
        return True


def _area(box: Footprint) -> int:
    return max(1, (box[2] - box[0]) * (box[3] - box[1]))


def _overlap(a: Footprint, b: Footprint) -> int:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0, width) * max(0, height)
