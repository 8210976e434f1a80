"""Flat figures of the synthetic scenes: people, bicycles, dogs, traffic signs, trees.

A figure is drawn in its own coordinates, in thousandths of its height: x to the right of the foot,
y upwards from the ground.  `Sprite` scales them to the image and can mirror them.  Proportions are
stocky, so that limbs stay wider than a few pixels at the sizes used. (A stride-4 network sees a
limb of 8 pixels as 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np

from panoptic_common.scenes.textures import CIRCLE, Brush, Colour, Draws, vary

Point = tuple[int, int]
Points = Sequence[Point] | np.ndarray


@dataclass
class Sprite:
    """A local coordinate frame on the canvas.

    Attributes:
        brush: what paints.
        x, y: foot point, Q8 pixels.
        size: length of 1000 local units, Q8 pixels.
        mirror: 1, or -1 to swap left and right.
    """

    brush: Brush
    x: int
    y: int
    size: int
    mirror: int = 1

    def place(self, points: Points) -> np.ndarray:
        """Map (V, 2) local points to Q8 pixels."""
        points = np.asarray(points, dtype=np.int64)
        scale = np.array((self.mirror * self.size, -self.size))
        return points * scale // 1000 + (self.x, self.y)

    def polygon(self, points: Points, colour: Colour, light: int = 256, opacity: int = 256) -> None:
        """Paint a polygon given by local points, a little darker away from the sun."""
        shading = (60 * self.brush.sun, -30)
        self.brush.polygon(self.place(points), colour, light, shading, opacity)

    def ellipse(
        self, centre: Point, radii: Point, colour: Colour, light: int = 256, opacity: int = 256
    ) -> None:
        """Paint an ellipse with axes along x and y."""
        points = np.array(centre) + (CIRCLE * np.array(radii) >> 16)
        shading = (90 * self.brush.sun, -50)
        self.brush.polygon(self.place(points), colour, light, shading, opacity)

    def limb(
        self, start: Point, end: Point, half_width: int, colour: Colour, light: int = 256
    ) -> None:
        """Paint a thick line with rounded ends."""
        run, rise = end[0] - start[0], end[1] - start[1]
        length = max(1, isqrt(run * run + rise * rise))
        dx, dy = -rise * half_width // length, run * half_width // length  # sideways
        tx, ty = run * half_width // (2 * length), rise * half_width // (2 * length)  # ahead
        outline = []
        for (x, y), sign in ((end, 1), (start, -1)):
            for side, tip in ((sign, 0), (sign, sign), (-sign, sign), (-sign, 0)):
                width = 2 if tip else 1  # the cap is half as wide
                outline.append(
                    (x + side * dx // width + tip * tx, y + side * dy // width + tip * ty)
                )
        self.polygon(outline, colour, light)


_SKIN: tuple[Colour, ...] = ((232, 190, 160), (206, 158, 124), (150, 104, 76), (100, 70, 54))
_HAIR: tuple[Colour, ...] = ((40, 32, 28), (92, 62, 40), (176, 138, 80), (150, 150, 150))
_CLOTHES: tuple[Colour, ...] = (
    *((190, 52, 52), (52, 84, 160), (226, 178, 56), (60, 130, 84), (228, 226, 220)),
    *((58, 58, 66), (136, 80, 140), (222, 120, 60), (108, 146, 180), (122, 96, 72)),
)
_TROUSERS: tuple[Colour, ...] = (
    *((48, 56, 84), (66, 64, 66), (112, 98, 78), (38, 40, 46), (92, 104, 128)),
)


def person(sprite: Sprite, draws: Draws, riding: bool = False) -> None:
    """Paint a person, walking, standing or (``riding``) sitting on a bicycle."""
    skin, hair = draws.choice(_SKIN), draws.choice(_HAIR)
    top, bottom = vary(draws, draws.choice(_CLOTHES), 16), vary(draws, draws.choice(_TROUSERS), 12)
    shoes: Colour = (44, 38, 36)
    stride = 150 if riding else draws.integer(20, 150)
    swing = draws.integer(-120, 120)
    lift = 120 if riding else 0
    for side, shade in ((-1, 210), (1, 256)):
        foot = (side * stride, 50 + (lift if side > 0 else 0))
        knee = (side * (stride // 2 + 40) + (80 if riding else 10), 270 + lift)
        sprite.limb((side * 55, 500), knee, 98, bottom, shade)
        sprite.limb(knee, foot, 86, bottom, shade)
        sprite.limb((foot[0] - 20, 36), (foot[0] + 70, 34), 38, shoes, shade)
    reach = (260, 560) if riding else (-150 - swing, 470)
    sprite.limb((-135, 770), reach, 64, top, 200)
    if draws.chance(25) and not riding:  # a dress or a long coat
        sprite.polygon([(-130, 810), (130, 810), (215, 300), (-215, 300)], top)
    hips = 480
    torso = [(-185, 790), (-120, 850), (120, 850), (185, 790), (160, hips), (-160, hips)]
    sprite.polygon(torso, top)
    if draws.chance(30):  # a bag
        sprite.polygon([(-205, 760), (-90, 760), (-90, 540), (-205, 540)], draws.choice(_CLOTHES))
    hand = (280, 590) if riding else (150 + swing, 460)
    sprite.limb((140, 770), hand, 64, top, 236)
    sprite.ellipse(hand, (42, 46), skin)
    sprite.limb((0, 830), (0, 880), 46, skin, 220)
    sprite.ellipse((0, 915), (92, 96), skin)
    sprite.polygon([(-96, 920), (-86, 985), (0, 1018), (86, 985), (96, 940), (0, 962)], hair)


def bicycle(sprite: Sprite, draws: Draws) -> None:
    """Paint a bicycle seen from the side; 1000 units are the height of the handlebar."""
    frame = vary(draws, draws.choice(_CLOTHES), 20)
    rubber: Colour = (38, 38, 40)
    for x in (-560, 560):
        # Labels fill the wheel, as in COCO and Cityscapes; between the spokes one looks through.
        sprite.ellipse((x, 340), (350, 340), (150, 150, 150), opacity=120)
        rim = np.concatenate([CIRCLE, CIRCLE[:1], CIRCLE[:1] * 3 // 4, CIRCLE[::-1] * 3 // 4])
        sprite.polygon(np.array((x, 340)) + (rim * 345 >> 16), rubber)
        for k in (3, 8, 14):
            dx, dy = (CIRCLE[k] * 300 >> 16).tolist()
            sprite.limb((x - dx, 340 - dy), (x + dx, 340 + dy), 14, (170, 170, 172))
    sprite.polygon([(-560, 370), (-180, 820), (430, 800), (-60, 300)], (90, 90, 96), opacity=70)
    for start, end in (
        *(((-560, 340), (-180, 790)), ((-560, 340), (-60, 300)), ((-60, 300), (-200, 850))),
        *(((-190, 780), (430, 790)), ((-60, 300), (430, 770)), ((560, 340), (410, 900))),
    ):
        sprite.limb(start, end, 52, frame)
    sprite.limb((-330, 890), (-100, 880), 60, rubber)
    sprite.limb((410, 900), (300, 980), 46, rubber)
    if draws.chance(40):  # a basket
        sprite.polygon([(470, 900), (760, 900), (720, 640), (500, 640)], (150, 118, 78))


def dog(sprite: Sprite, draws: Draws) -> None:
    """Paint a dog seen from the side; 1000 units are the height of its back and head."""
    coat = draws.choice([(148, 104, 62), (74, 60, 52), (206, 188, 156), (120, 118, 116)])
    coat = vary(draws, coat, 18)
    step = draws.integer(40, 160)
    for x, shade in ((-470, 190), (430, 190), (-560, 240), (350, 240)):
        lean = step if shade == 190 else -step
        sprite.limb((x, 460), (x + lean, 60), 108, coat, shade)
    sprite.limb((-520, 620), (-820, 860 + draws.integer(-200, 100)), 60, coat)
    sprite.polygon(
        [(-680, 600), (-600, 760), (300, 780), (560, 700), (560, 420), (0, 300), (-620, 350)], coat
    )
    if draws.chance(40):
        sprite.ellipse((-100, 560), (240, 130), vary(draws, (214, 206, 196), 10))
    sprite.limb((430, 640), (600, 830), 150, coat)
    sprite.ellipse((640, 850), (190, 160), coat)
    sprite.limb((700, 800), (880, 770), 84, coat, 236)
    sprite.ellipse((950, 790), (40, 40), (30, 26, 26))
    sprite.polygon([(520, 940), (470, 700), (600, 800)], coat, 170)
    sprite.limb((410, 620), (600, 540), 34, draws.choice(_CLOTHES))


def traffic_sign(sprite: Sprite, draws: Draws) -> None:
    """Paint a sign on its post; 1000 units are the height of the whole."""
    sprite.limb((0, 0), (0, 700), 36, vary(draws, (136, 138, 142), 14))
    kind = draws.integer(0, 3)
    centre = np.array((0, 800))
    red, white, blue, yellow = (196, 38, 42), (236, 234, 228), (36, 84, 172), (236, 190, 44)
    if kind == 0:  # stop: an octagon
        sprite.polygon(centre + (CIRCLE[2::4] * 232 >> 16), white)
        sprite.polygon(centre + (CIRCLE[2::4] * 208 >> 16), red)
        sprite.polygon([(-120, 770), (120, 770), (120, 830), (-120, 830)], white)
    elif kind == 1:  # warning: a triangle
        sprite.polygon([(-270, 590), (270, 590), (30, 1010), (-30, 1010)], red)
        sprite.polygon([(-165, 655), (165, 655), (0, 935)], yellow)
        sprite.polygon([(-24, 690), (24, 690), (24, 830), (-24, 830)], (40, 36, 36))
    elif kind == 2:  # limit or mandatory: a disc
        rim, face = draws.choice([(red, white), (white, blue)])
        sprite.ellipse((0, 800), (228, 228), rim)
        sprite.ellipse((0, 800), (172, 172), face)
        bar = blue if face == white else white
        sprite.polygon([(-80, 780), (80, 780), (80, 830), (-80, 830)], bar)
    else:  # information: a board
        sprite.polygon([(-250, 610), (250, 610), (250, 980), (-250, 980)], white)
        sprite.polygon([(-228, 630), (228, 630), (228, 960), (-228, 960)], blue)
        sprite.polygon(
            [(-150, 750), (90, 750), (90, 700), (180, 790), (90, 880), (-150, 840)], white
        )


def tree(sprite: Sprite, draws: Draws, leaves: Colour) -> None:
    """Paint a tree: a trunk and a crown of overlapping lobes, lit from the sun's side."""
    brush = sprite.brush
    bark = draws.choice([(98, 76, 58), (112, 96, 80), (84, 70, 60)])
    brush.grain = 20
    sprite.limb((0, 0), (draws.integer(-20, 20), 520), draws.integer(30, 42), bark)
    sprite.limb((0, 330), (draws.integer(60, 140), 560), 24, bark)
    brush.grain = 72
    green = vary(draws, leaves, 14)
    for _ in range(draws.integer(7, 10)):
        x, y = draws.integer(-230, 230), draws.integer(560, 830)
        radius = draws.integer(120, 190)
        lit = 230 + x * brush.sun // 8 + (y - 700) // 4
        sprite.ellipse((x, y), (radius, radius * 9 // 10), green, lit)
