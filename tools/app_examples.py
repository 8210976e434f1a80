"""Images for tools/app.py to begin with, drawn by a program: no data set and no licence needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from panoptic_common.coco.image_reading import RGBImage
from panoptic_common.inference.media import IMAGE_ENDINGS, MediaError, limit_size, read_image
from panoptic_common.scenes.composition import make_scene

MOST_IMAGES = 12
NUCLEI_SEEDS, SCENE_SEEDS = (1, 2, 3), (11, 12, 13)


def example_images(table: Sequence[Mapping[str, Any]]) -> list[tuple[str, RGBImage]]:
    """Draw images that suit a model: nuclei where all its things are nuclei, else street scenes.

    Args:
        table: class table of the model.

    Returns:
        Name and (H, W, 3) uint8 RGB of each.
    """
    things = {entry["name"] for entry in table if entry["isthing"]}
    if things == {"nucleus"}:
        return [(f"drawn_nuclei_{k}", draw_nuclei(k, stained=k == 3)) for k in NUCLEI_SEEDS]
    return [(f"scene_{k}", make_scene(k).image) for k in SCENE_SEEDS]


def images_of_folder(folder: Path, longest_side: int) -> list[tuple[str, RGBImage]]:
    """Read the first images of a folder, by name.

    Args:
        folder: with images.
        longest_side: larger ones are reduced to this side in pixels; 0: never.

    Raises:
        MediaError: there is none, or one cannot be read.
    """
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_ENDINGS)
    if not paths:
        raise MediaError(f"{folder}: no image in this folder ({', '.join(IMAGE_ENDINGS)})")
    chosen = paths[:MOST_IMAGES]
    return [(path.stem, limit_size(read_image(path), longest_side)) for path in chosen]


def draw_nuclei(seed: int, size: int = 256, *, stained: bool = False) -> RGBImage:
    """Draw ellipses that look like nuclei: bright on dark ground, or dark on pink if stained.

    Args:
        seed: of the drawing.
        size: of its sides, in pixels.
        stained: like tissue in transmitted light, not like fluorescence.
    """
    generator = np.random.default_rng(seed)
    light = np.zeros((size, size), np.float32)
    for _ in range(int(generator.integers(25, 40))):
        centre = generator.integers(0, size, 2).tolist()
        axes = generator.integers(size // 32, size // 14, 2).tolist()
        blob = np.zeros_like(light)
        angle = float(generator.uniform(0, 180))
        cv2.ellipse(blob, centre, axes, angle, 0, 360, float(generator.uniform(0.35, 0.9)), -1)
        light = np.maximum(light, blob)
    light = cv2.GaussianBlur(light, (0, 0), size / 200)
    grain = cv2.GaussianBlur(generator.normal(0, 1, light.shape).astype(np.float32), (0, 0), 1.5)
    light = (0.06 + light * (1 + 0.35 * grain))[:, :, None]
    if stained:
        ground, ink = np.array([232, 196, 222]), np.array([96, 58, 142])
        image = ground + (ink - ground) * light
    else:
        image = 200 * light.repeat(3, axis=2)
    image = image + generator.normal(0, 3, image.shape)
    return np.ascontiguousarray(image.round().clip(0, 255).astype(np.uint8))
