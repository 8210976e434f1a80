"""How one synthetic street scene is put together, image and panoptic truth.

A scene is painted back to front by small brushes that write the colour and the segment id of a
pixel at the same time. So the truth is exact by construction.  One seed gives one scene, bit for
bit, on every machine (see `textures`).

What a scene contains: 7 stuff and 7 thing classes in perspective, lit from one side, with cast
shadows, haze and sensor noise. There are rows of parked cars, groups of people, cyclists; things
occluded into several pieces, cut by the border, and a few tiny ones. Far crowds are one segment
with ``iscrowd`` = 1; void where the camera's own bonnet, a blurred patch or an object of no class
is.

Shape shorthand: H, W image size in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from panoptic_common.scenes.items import Item
from panoptic_common.scenes.plan import Planner
from panoptic_common.scenes.street import Street, View, plan_street
from panoptic_common.scenes.surfaces import paint_street
from panoptic_common.scenes.textures import CIRCLE, Brush, Canvas, Draws, cast_shadows, develop

VERSION = 1  # raise it whenever the same seed gives a different scene: stored sets are rebuilt

_TABLE = (
    *(("sky", 0, (70, 130, 180)), ("road", 0, (128, 64, 128)), ("sidewalk", 0, (244, 35, 232))),
    *(("building", 0, (96, 96, 96)), ("vegetation", 0, (107, 142, 35))),
    *(("terrain", 0, (152, 251, 152)), ("water", 0, (20, 90, 140)), ("person", 1, (220, 20, 60))),
    *(("bicycle", 1, (255, 140, 0)), ("car", 1, (40, 60, 230)), ("truck", 1, (0, 150, 160))),
    *(("bus", 1, (0, 220, 220)), ("dog", 1, (160, 82, 45)), ("traffic sign", 1, (250, 220, 0))),
)
CLASSES: list[dict] = [
    {"id": number, "name": name, "isthing": isthing, "color": list(colour)}
    for number, (name, isthing, colour) in enumerate(_TABLE, start=1)
]
"""Class table in the form of COCO ``categories``; dataset ids 1..14 in table order."""

_CATEGORY_ID = {entry["name"]: entry["id"] for entry in CLASSES}
_GROUND = ("road", "sidewalk", "terrain")


@dataclass(frozen=True)
class SceneConfig:
    """What scenes look like.

    Attributes:
        height, width: image size in pixels, each in 32..4096.
        difficulty: 0..1; more things, more occlusion, more noise, less contrast, and material
            colours that are less typical of their class.
        min_pixels: a thing with fewer visible pixels becomes void; so does stuff with fewer than
            four times as many. (A sliver of lawn between two cars teaches nothing.)
    """

    height: int = 192
    width: int = 384
    difficulty: float = 0.25
    min_pixels: int = 12

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            size = getattr(self, name)
            if not isinstance(size, int) or not 32 <= size <= 4096:
                raise ValueError(f"SceneConfig.{name} = {size!r}: must be an integer in 32..4096")
        if not 0 <= self.difficulty <= 1:
            raise ValueError(f"SceneConfig.difficulty = {self.difficulty}: must be in 0..1")
        if self.min_pixels < 1:
            raise ValueError(f"SceneConfig.min_pixels = {self.min_pixels}: must be at least 1")


@dataclass(frozen=True, eq=False)
class Scene:
    """An image and its panoptic truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        id_map: (H, W) int32 segment ids, 0 = void; id = 1000 category_id + running number.
        segments_info: in ascending id, one dict for each segment: ``id``, ``category_id``
            (dataset id), ``isthing``, ``iscrowd``, ``area`` in pixels, ``bbox`` as [x, y, w, h].
    """

    image: np.ndarray
    id_map: np.ndarray
    segments_info: list[dict]


def make_scene(seed: int, config: SceneConfig | None = None) -> Scene:
    """Make one scene.

    Args:
        seed: any non-negative integer; equal seeds and configs give identical scenes.
        config: size and difficulty.

    Returns:
        The scene.
    """
    config = config or SceneConfig()
    if seed < 0:
        raise ValueError(f"make_scene: seed = {seed}: must not be negative")
    difficulty = round(config.difficulty * 100)
    # Independent streams: a change in one part of the scene does not reshuffle the others.
    layout, surface, photo = (Draws(seed, part) for part in range(3))
    view = _draw_view(layout, config, difficulty)
    street = plan_street(layout, view, difficulty)
    canvas = Canvas(config.height, config.width)
    stuff = {c["name"]: 1000 * c["id"] for c in CLASSES if not c["isthing"]}
    air = paint_street(canvas, street, surface, stuff)
    ground = np.isin(canvas.ids, [stuff[name] for name in _GROUND])
    items = Planner(layout, street, difficulty).plan()
    crowds = _paint_items(canvas, street, surface, items, ground, stuff)
    _paint_void(canvas, layout, street.along)
    tint = layout.integer(-16, 16)
    exposure = layout.integer(216, 284)
    image = develop(
        canvas,
        photo,
        haze_colour=air,
        gains=(exposure + tint, exposure, exposure - tint),
        contrast=256 - difficulty * layout.integer(20, 110) // 100,
        noise=layout.integer(6, 14 + difficulty * 56 // 100),
    )
    segments_info = _describe(canvas.ids, config.min_pixels, crowds)
    return Scene(image, canvas.ids, segments_info)


def _draw_view(draws: Draws, config: SceneConfig, difficulty: int) -> View:
    height = config.height
    return View(
        height,
        config.width,
        focal=height * draws.integer(125, 160) // 100,
        horizon=height * draws.integer(28, 42) // 100,
        camera_height=draws.integer(1700, 2500),
        haziness=draws.integer(120, 260 + 4 * difficulty),
    )


def _paint_items(
    canvas: Canvas,
    street: Street,
    draws: Draws,
    items: list[Item],
    ground: np.ndarray,
    stuff: dict[str, int],
) -> set[int]:
    """Paint shadows and things far to near; return the ids of crowd segments."""
    cast_shadows(canvas, [item.shadow(street) for item in items], ground, 92)
    numbers: dict[str, int] = {}
    crowds: dict[int, int] = {}
    for item in items:
        if item.kind == "tree":
            segment = stuff["vegetation"]
        elif item.kind == "clutter":
            segment = 0
        elif item.crowd in crowds:
            segment = crowds[item.crowd]
        else:
            numbers[item.kind] = numbers.get(item.kind, 0) + 1
            segment = 1000 * _CATEGORY_ID[item.kind] + numbers[item.kind]
            if item.crowd >= 0:
                crowds[item.crowd] = segment
        haze = int(street.view.haze_at(item.z))
        brush = Brush(canvas, segment, haze, street.light_at(item.x), street.sun)
        item.paint(brush, street, draws)
    return set(crowds.values())


def _paint_void(canvas: Canvas, draws: Draws, along: bool) -> None:
    """Paint regions without truth: the bonnet of the camera's own car, a blurred patch."""
    height, width = canvas.height, canvas.width
    if along and draws.chance(30):
        centre = np.array([width << 7, (height << 8) + (height << 4)])
        radii = np.array([width * draws.integer(90, 150), height * draws.integer(28, 50)])
        paint = draws.choice([(44, 46, 54), (96, 30, 34), (120, 122, 126), (36, 52, 84)])
        brush = Brush(canvas, 0, grain=4)
        brush.polygon(centre + (CIRCLE * radii >> 16), paint, slope=(40, -180))
    if draws.chance(20):
        h, w = height * draws.integer(6, 14) // 100, height * draws.integer(8, 24) // 100
        w = min(w, width)
        top, left = draws.integer(height // 3, height - h), draws.integer(0, width - w)
        block = max(2, height // 32)
        rows = np.arange(top, top + h) // block * block
        columns = np.arange(left, left + w) // block * block
        canvas.rgb[:, top : top + h, left : left + w] = canvas.rgb[:, rows[:, None], columns]
        canvas.ids[top : top + h, left : left + w] = 0


def _describe(ids: np.ndarray, min_pixels: int, crowds: set[int]) -> list[dict]:
    """Turn too small segments into void, in place, and describe the others."""
    height, width = ids.shape
    segments = []
    for segment in np.unique(ids):
        if segment == 0:
            continue
        mask = ids == segment
        area = int(np.count_nonzero(mask))
        category = int(segment) // 1000
        isthing = CLASSES[category - 1]["isthing"]
        if area < (min_pixels if isthing else 4 * min_pixels):
            ids[mask] = 0
            continue
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        left, top = int(columns[0]), int(rows[0])
        segments.append(
            {
                "id": int(segment),
                "category_id": category,
                "isthing": isthing,
                "iscrowd": int(int(segment) in crowds),
                "area": area,
                "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
            }
        )
    return segments
