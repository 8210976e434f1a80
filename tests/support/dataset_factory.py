"""Tiny data sets for tests: COCO-panoptic and Cityscapes trees in a temporary folder.

The images hold what goes wrong in real ones: category ids with gaps, ids that need all 24 bits,
void, and a crowd. Also a segment of one pixel, two things of a class that touch, a thing in two
pieces, and stuff behind everything.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.segment_ids import update_segments, write_id_map

# Dataset ids have gaps and are not sorted, and stuff ids lie between thing ids. The order in the
# class table is person 1, road 4, car 7, bus 12, sky 90.
CATEGORIES: list[dict[str, Any]] = [
    {"id": 7, "name": "car", "isthing": 1, "color": [0, 0, 142]},
    {"id": 1, "name": "person", "isthing": 1, "color": [220, 20, 60]},
    {"id": 12, "name": "bus", "isthing": 1, "color": [0, 60, 100]},
    {"id": 4, "name": "road", "isthing": 0, "color": [128, 64, 128]},
    {"id": 90, "name": "sky", "isthing": 0, "color": [70, 130, 180]},
]

# The classes of Cityscapes' evaluation: label id, name, isthing, colour.
CITYSCAPES_CLASSES: list[tuple[int, str, int, list[int]]] = [
    (7, "road", 0, [128, 64, 128]),
    (8, "sidewalk", 0, [244, 35, 232]),
    (11, "building", 0, [70, 70, 70]),
    (12, "wall", 0, [102, 102, 156]),
    (13, "fence", 0, [190, 153, 153]),
    (17, "pole", 0, [153, 153, 153]),
    (19, "traffic light", 0, [250, 170, 30]),
    (20, "traffic sign", 0, [220, 220, 0]),
    (21, "vegetation", 0, [107, 142, 35]),
    (22, "terrain", 0, [152, 251, 152]),
    (23, "sky", 0, [70, 130, 180]),
    (24, "person", 1, [220, 20, 60]),
    (25, "rider", 1, [255, 0, 0]),
    (26, "car", 1, [0, 0, 142]),
    (27, "truck", 1, [0, 0, 70]),
    (28, "bus", 1, [0, 60, 100]),
    (31, "train", 1, [0, 80, 100]),
    (32, "motorcycle", 1, [0, 0, 230]),
    (33, "bicycle", 1, [119, 11, 32]),
]

# (id, category, crowd); 16777215 = 255 + 256 * 255 + 65536 * 255 is the largest id there is.
_COCO_SEGMENTS = [
    (3, 4, 0),  # road
    (65536, 90, 0),  # sky
    (256, 7, 0),  # car
    (257, 7, 0),  # another car, touching it
    (16777215, 1, 0),  # person, in two pieces
    (12345678, 12, 0),  # bus of one pixel
    (777, 1, 1),  # crowd of persons
]


def make_coco_panoptic(
    root: Path | str,
    num_images: int = 3,
    size: tuple[int, int] = (48, 64),
    seed: int = 0,
    suffix: str = ".jpg",
    name: str = "tiny",
) -> PanopticPaths:
    """Write a data set in the COCO panoptic form.

    Args:
        root: existing folder; images go to `<root>/<name>`, PNGs to `<root>/panoptic_<name>`, the
            JSON to `<root>/panoptic_<name>.json`.
        num_images: images to write; their ids are 100, 101, ...
        size: (height, width) in pixels, at least 24 x 32.
        seed: of everything random in them.
        suffix: of the images; ".png" stores them without loss.
        name: of the split.

    Returns:
        Where it lies, to be given to `register_panoptic(name, *paths)` field by field.
    """
    root = Path(root)
    paths = PanopticPaths(
        images=str(root / name),
        panoptic_json=str(root / f"panoptic_{name}.json"),
        panoptic_png=str(root / f"panoptic_{name}"),
    )
    Path(paths.images).mkdir(parents=True)
    Path(paths.panoptic_png).mkdir()
    colours = {category["id"]: category["color"] for category in CATEGORIES}
    images, annotations = [], []
    for number in range(num_images):
        rng = np.random.default_rng([seed, number])
        id_map = _draw_coco(rng, size)
        segments = update_segments(
            id_map,
            [{"id": i, "category_id": c, "iscrowd": crowd} for i, c, crowd in _COCO_SEGMENTS],
        )
        colour_of = {segment["id"]: colours[segment["category_id"]] for segment in segments}
        stem = f"{100 + number:012d}"
        _paint(rng, id_map, colour_of).save(Path(paths.images) / (stem + suffix))
        write_id_map(Path(paths.panoptic_png) / f"{stem}.png", id_map)
        height, width = size
        images.append(
            {"id": 100 + number, "file_name": stem + suffix, "height": height, "width": width}
        )
        annotations.append(
            {"image_id": 100 + number, "file_name": f"{stem}.png", "segments_info": segments}
        )
    data = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    Path(paths.panoptic_json).write_text(json.dumps(data))
    return paths


def _draw_coco(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Draw an (H, W) int32 map with all segments of `_COCO_SEGMENTS` and a void frame below."""
    height, width = size
    id_map = np.zeros(size, np.int32)
    horizon = height // 3 + int(rng.integers(0, height // 8))
    id_map[:horizon] = 65536
    id_map[horizon : height - 2] = 3
    left = int(rng.integers(1, width // 8))
    body = slice(horizon, horizon + height // 4)
    id_map[body, left : left + width // 6] = 256
    id_map[body, left + width // 6 : left + width // 3] = 257
    column = width // 2 + int(rng.integers(0, 3))
    id_map[horizon - 4 : horizon + 2, column : column + 4] = 16777215
    id_map[horizon + 5 : horizon + 9, column : column + 4] = 16777215
    id_map[height - 6 : height - 3, width - 12 : width] = 777  # cut by the border
    id_map[1, width - 3] = 12345678
    return id_map


def _paint(
    rng: np.random.Generator, id_map: np.ndarray, colour_of: dict[int, list[int]]
) -> Image.Image:
    """Paint every segment in the colour of its class, with noise; void is dark."""
    image = np.full((*id_map.shape, 3), 20.0)
    for segment_id, colour in colour_of.items():
        image[id_map == segment_id] = colour
    image += rng.normal(0, 6, image.shape)
    return Image.fromarray(image.clip(0, 255).astype(np.uint8))


def make_cityscapes(
    root: Path | str,
    splits: tuple[str, ...] = ("train", "val"),
    num_images: int = 2,
    size: tuple[int, int] = (64, 128),
    seed: int = 0,
    panoptic: bool = True,
) -> Path:
    """Write a tree in the format of Cityscapes.

    Args:
        root: existing folder; the tree is `<root>/cityscapes`.
        splits: the splits to write; each has two cities.
        num_images: images in each city.
        size: (height, width) in pixels, at least 32 x 64.
        seed: of everything random in them.
        panoptic: write the panoptic PNGs and JSON too, in the form of Cityscapes' own converter
            (`tools/prepare_cityscapes.py` makes them from the rest).

    Returns:
        `<root>/cityscapes`, with leftImg8bit/ and gtFine/ (instanceIds and labelIds images).
    """
    tree = Path(root) / "cityscapes"
    for split in splits:
        images, annotations = [], []
        cities = ("aachen", "bochum") if split == "train" else ("frankfurt", "lindau")
        for city_number, city in enumerate(cities):
            folder_of_city = tree / "leftImg8bit" / split / city
            truth = tree / "gtFine" / split / city
            folder_of_city.mkdir(parents=True)
            truth.mkdir(parents=True)
            for number in range(num_images):
                rng = np.random.default_rng([seed, len(split), city_number, number])
                instance_ids = _draw_cityscapes(rng, size)
                image_id = f"{city}_{number:06d}_000019"
                _write_cityscapes_image(rng, folder_of_city, truth, image_id, instance_ids)
                images.append(_cityscapes_image(image_id, size))
                annotations.append(_cityscapes_annotation(image_id, instance_ids))
        if panoptic:
            folder = tree / "gtFine" / f"cityscapes_panoptic_{split}"
            _write_cityscapes_panoptic(folder, images, annotations)
    return tree


def _draw_cityscapes(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Draw an (H, W) int32 map of instanceIds: label id, or 1000 * label id + number for things."""
    height, width = size
    ids = np.full(size, 4, np.int32)  # 4 is "static", which evaluation ignores
    horizon = height // 2 + int(rng.integers(-3, 4))
    ids[:horizon] = 23  # sky
    ids[horizon // 2 : horizon, : width // 2] = 11  # building
    ids[horizon : height - 4] = 7  # road
    left = int(rng.integers(2, width // 8))
    ids[horizon - 4 : horizon + 8, left : left + 20] = 26000  # car number 0
    ids[horizon - 2 : horizon + 8, left + 20 : left + 36] = 26001
    ids[horizon - 6 : horizon + 6, width - 30 : width - 24] = 24000  # person
    ids[horizon : horizon + 6, width - 20 : width - 10] = 24  # a group of persons: crowd
    ids[0:3, 0:5] = 29  # "caravan": a thing that evaluation ignores
    return ids


def _write_cityscapes_image(
    rng: np.random.Generator, images: Path, truth: Path, image_id: str, ids: np.ndarray
) -> None:
    """Write one image and its two truth images."""
    labels = np.where(ids >= 1000, ids // 1000, ids)
    colours = {label: colour for label, _, _, colour in CITYSCAPES_CLASSES}
    _paint(rng, labels, colours).save(images / f"{image_id}_leftImg8bit.png")
    instance_image = Image.fromarray(ids.astype(np.uint16))  # 16-bit grey, as in the data set
    instance_image.save(truth / f"{image_id}_gtFine_instanceIds.png")
    Image.fromarray(labels.astype(np.uint8)).save(truth / f"{image_id}_gtFine_labelIds.png")


def _cityscapes_image(image_id: str, size: tuple[int, int]) -> dict[str, Any]:
    # The converter writes "_gtFine_leftImg8bit.png", a name that no image has.
    return {
        "id": image_id,
        "file_name": f"{image_id}_gtFine_leftImg8bit.png",
        "height": size[0],
        "width": size[1],
    }


def _cityscapes_annotation(image_id: str, instance_ids: np.ndarray) -> dict[str, Any]:
    """Make the JSON entry; "_id_map" holds the map until it is written."""
    things = {label: isthing for label, _, isthing, _ in CITYSCAPES_CLASSES}
    labels = np.where(instance_ids >= 1000, instance_ids // 1000, instance_ids)
    id_map = np.where(np.isin(labels, list(things)), instance_ids, 0).astype(np.int32)
    segments = []
    for segment_id in np.unique(id_map[id_map > 0]).tolist():
        label = segment_id // 1000 if segment_id >= 1000 else segment_id
        crowd = int(bool(things[label]) and segment_id < 1000)
        segments.append({"id": segment_id, "category_id": label, "iscrowd": crowd})
    return {
        "image_id": image_id,
        "file_name": f"{image_id}_gtFine_panoptic.png",
        "segments_info": update_segments(id_map, segments),
        "_id_map": id_map,
    }


def _write_cityscapes_panoptic(
    folder: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]
) -> None:
    """Write `<folder>/*.png` and `<folder>.json`."""
    folder.mkdir()
    for annotation in annotations:
        write_id_map(folder / annotation["file_name"], annotation.pop("_id_map"))
    categories = [
        {"id": label, "name": name, "isthing": isthing, "color": colour}
        for label, name, isthing, colour in CITYSCAPES_CLASSES
    ]
    data = {"images": images, "annotations": annotations, "categories": categories}
    folder.with_suffix(".json").write_text(json.dumps(data))
