#!/usr/bin/env python3
"""Make synthetic street scenes in the COCO panoptic format, or a sheet to look at.

    python tools/make_scenes.py --output datasets/scenes --split train --number 500 --workers 4
    python tools/make_scenes.py --contact-sheet scenes.png --number 12 --difficulty 0.8

The contact sheet shows images with their truth: classes in the colours of the class table,
outlines white, void black.  Both options together write the data set and draw its first scenes.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from functools import partial
from pathlib import Path

import panoptic_common.processes.starting  # Ctrl-C while libraries are imported

import numpy as np
from PIL import Image

from panoptic_common.files import write_atomically
from panoptic_common.scenes.storage import (
    CLASSES,
    Scene,
    SceneConfig,
    make_scene,
    scene_seed,
    write_scenes,
)
from panoptic_tools.arguments import (
    make_parser,
    orderly,
    output_file,
    output_folder,
    refuse,
    require_at_least,
)
from panoptic_tools.value_types import finite, plain_name

_SHEET_LIMIT = 24  # scenes on a contact sheet


def overlay(scene: Scene) -> np.ndarray:
    """Blend the image with the class colours, things of a class in different tones.

    Args:
        scene: image and truth, (H, W).

    Returns:
        (H, W, 3) uint8 RGB.
    """
    ids = scene.id_map
    tint = np.zeros((ids.max() + 1, 3), np.int32)
    for order, segment in enumerate(scene.segments_info):
        colour = np.array(CLASSES[segment["category_id"] - 1]["color"])
        tone = (order * 29) % 61 - 30 if segment["isthing"] else 0
        tint[segment["id"]] = np.clip(colour + tone, 0, 255)
    blended = (tint[ids] * 6 + scene.image.astype(np.int32) * 4) // 10
    blended[ids == 0] = 0
    outline = np.zeros(ids.shape, bool)
    outline[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    outline[1:] |= ids[1:] != ids[:-1]
    blended[outline] = 255
    return blended.astype(np.uint8)


def contact_sheet(scenes: list[Scene], columns: int = 2) -> np.ndarray:
    """Tile (image | truth) pairs; an incomplete last row is filled with grey."""
    cells = [np.concatenate([scene.image, overlay(scene)], axis=1) for scene in scenes]
    columns = min(columns, len(cells))
    cells += [np.full_like(cells[0], 128)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], axis=1) for i in range(0, len(cells), columns)]
    return np.concatenate(rows)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__)
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    default = SceneConfig()
    parser.add_argument("--output", type=output_folder, help="folder of the data set")
    parser.add_argument("--split", type=plain_name, default="train", help="name of the split")
    parser.add_argument("--number", type=int, default=12, help="how many scenes")
    parser.add_argument("--seed", type=int, default=0, help="seed of the data set")
    parser.add_argument("--height", type=int, default=default.height, help="pixels")
    parser.add_argument("--width", type=int, default=default.width, help="pixels")
    parser.add_argument("--difficulty", type=finite, default=default.difficulty, help="0 to 1")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--contact-sheet", type=output_file, metavar="FILE", help="image to write")
    parsed = parser.parse_args(arguments)
    if parsed.output is None and parsed.contact_sheet is None:
        parser.error("nothing to do: give --output, --contact-sheet or both")
    require_at_least(parser, parsed, 1, "number", "workers")
    require_at_least(parser, parsed, 0, "seed")
    return parsed


def _format_of(path: Path) -> str:
    """Return Pillow's name of the format that the ending of a file names."""
    image_format = Image.registered_extensions().get(path.suffix.lower())
    if image_format is None:
        raise ValueError(f"{path}: {path.suffix!r} is the ending of no image format")
    return image_format


@orderly
def main(arguments: list[str] | None = None) -> int:
    """Write a split, draw a sheet, or both; return the exit status."""
    parsed = parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        config = SceneConfig(parsed.height, parsed.width, parsed.difficulty)
        if parsed.output is not None:
            start = time.perf_counter()
            paths = write_scenes(
                parsed.output, parsed.split, parsed.number, parsed.seed, config, parsed.workers
            )
            seconds = time.perf_counter() - start
            print(f"{paths.panoptic_json}: {parsed.number} scenes, {seconds:.1f} s")
            rate = 60 * parsed.number / seconds
            print(f"{rate:.0f} scenes per minute, {parsed.workers} process(es)")
        if parsed.contact_sheet is not None:
            count = min(parsed.number, _SHEET_LIMIT)
            seeds = [scene_seed(parsed.seed, parsed.split, index) for index in range(count)]
            columns = 2 if parsed.width <= 400 else 1
            sheet = contact_sheet([make_scene(seed, config) for seed in seeds], columns)
            save = partial(Image.fromarray(sheet).save, format=_format_of(parsed.contact_sheet))
            write_atomically(parsed.contact_sheet, save)
            print(f"{parsed.contact_sheet}: {count} scenes")
    except (ValueError, OSError) as error:
        return refuse(__file__, error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
