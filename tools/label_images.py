#!/usr/bin/env python3
r"""Exchange a panoptic data set of one thing class with programs that use label images.

    python tools/label_images.py write datasets/nuclei/panoptic_train.json cellpose/train \
        --images datasets/nuclei/train
    python tools/label_images.py read datasets/nuclei/panoptic_val.json cellpose/val \
        --out cellpose/predictions.json

In a label image 0 is background, and every other number is one instance: the form of StarDist,
Cellpose and QuPath. `write` makes one per image, and copies the image beside it. `read` turns the
label images that such a program made into predictions that tools/evaluate_panoptic.py takes, so
that all systems are measured alike. tools/prepare_nuclei.py makes a data set of label images.
Exit status: 2 for what cannot be used.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import panoptic_common.processes.starting  # Ctrl-C while libraries are imported

import numpy as np
from PIL import Image
from tqdm import tqdm

from panoptic_common.coco.annotations import build_class_table
from panoptic_common.coco.instance_folders import LABEL_ENDINGS, LABEL_SUFFIXES
from panoptic_common.coco.instance_masks import IntMap, number_instances, read_label_image
from panoptic_common.coco.pairing import read_lists
from panoptic_common.coco.segment_ids import read_id_map, update_segments, write_id_map
from panoptic_common.files import write_json
from panoptic_tools.arguments import (
    Parser,
    input_file,
    input_folder,
    make_parser,
    orderly,
    output_file,
    output_folder,
    refuse,
)
from panoptic_tools.error_images import find_images

# Where a label image lies: beside its image, or in a folder of its own under the same name.
LAYOUTS = ("suffixes", "pairs")


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    commands: Any = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    write = commands.add_parser("write", help="write label images of a data set")
    read = commands.add_parser("read", help="read label images as predictions")
    for command in (write, read):
        command.add_argument("json", type=input_file, metavar="JSON", help="of the data set")
        command.add_argument("--thing", default="nucleus", help="the class (default: nucleus)")
    write.add_argument("folder", type=output_folder, metavar="FOLDER", help="to write to")
    write.add_argument("--images", required=True, type=input_folder, metavar="DIR")
    write.add_argument(
        "--png", type=input_folder, metavar="DIR", help="default: JSON without .json"
    )
    write.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="suffixes",
        help="NAME.png beside NAME_masks.png, or images/NAME.png and masks/NAME.png",
    )
    read.add_argument("folder", type=input_folder, metavar="FOLDER", help="of the label images")
    read.add_argument("--out", required=True, type=output_file, metavar="JSON")
    read.add_argument("--rest", default="background", help="stuff class of the rest, '' for void")
    return parser.parse_args(words)


def class_of(table: Sequence[dict[str, Any]], name: str, *, isthing: bool, option: str) -> int:
    """Return the contiguous class of a name.

    Raises:
        ValueError: there is no such class of that kind; the sentence lists them.
    """
    names = [entry["name"] for entry in table if bool(entry["isthing"]) == isthing]
    if name not in names:
        kind = "thing" if isthing else "stuff"
        raise ValueError(f"{option} is {name!r}, but the {kind} classes are {', '.join(names)}")
    return next(k for k, entry in enumerate(table) if entry["name"] == name)


# --------------------------------------------------------------------------------------- write


def write_labels(options: argparse.Namespace) -> int:
    """Write a label image per image, and a copy of the image; returns how many."""
    content = read_lists(options.json, "images", "annotations", "categories")
    table = build_class_table(content["categories"], str(options.json))
    thing = table[class_of(table, options.thing, isthing=True, option="--thing")]["id"]
    files = find_images(options.images, content, options.json)
    refuse_equal_names(files.values())
    png = options.png or options.json.with_suffix("")
    pairs = options.layout == "pairs"
    image_folder = options.folder / "images" if pairs else options.folder
    label_folder = options.folder / "masks" if pairs else options.folder
    image_folder.mkdir(parents=True, exist_ok=True)
    label_folder.mkdir(parents=True, exist_ok=True)
    for annotation in tqdm(content["annotations"], unit="image", disable=None):
        image = Path(files[annotation["image_id"]])
        ids = [s["id"] for s in annotation["segments_info"] if s["category_id"] == thing]
        labels = number_instances(read_id_map(png / annotation["file_name"]), ids)
        shutil.copyfile(image, image_folder / image.name)
        name = f"{image.stem}.png" if pairs else f"{image.stem}_masks.png"
        Image.fromarray(labels).save(label_folder / name)
    return len(content["annotations"])


def refuse_equal_names(files: Iterable[str]) -> None:
    """Refuse images of several folders with the same name, which one folder cannot hold.

    Raises:
        ValueError: naming two.
    """
    seen: dict[str, str] = {}
    for file in files:
        stem = Path(file).stem
        if stem in seen:
            raise ValueError(f"{seen[stem]} and {file} would have the same label image: rename one")
        seen[stem] = file


# ---------------------------------------------------------------------------------------- read


def read_labels(options: argparse.Namespace) -> int:
    """Turn label images into predictions in COCO's panoptic form; returns how many."""
    content = read_lists(options.json, "images", "annotations", "categories")
    table = build_class_table(content["categories"], str(options.json))
    thing = class_of(table, options.thing, isthing=True, option="--thing")
    rest = None
    if options.rest:
        rest = class_of(table, options.rest, isthing=False, option="--rest")
    annotated = {annotation["image_id"] for annotation in content["annotations"]}
    images = [image for image in content["images"] if image["id"] in annotated]
    found = {image["id"]: find_label_image(options.folder, image) for image in images}
    pngs = options.out.with_suffix("")
    pngs.mkdir(exist_ok=True)
    annotations = []
    for image in tqdm(images, unit="image", disable=None):
        labels = read_label_image(found[image["id"]], (image["height"], image["width"]))
        id_map, segments = segments_of_labels(labels, thing, rest)
        name = f"{Path(image['file_name']).stem}.png"
        write_id_map(pngs / name, id_map)
        for segment in segments:
            segment["category_id"] = table[segment["category_id"]]["id"]
        annotations.append({"image_id": image["id"], "file_name": name, "segments_info": segments})
    write_json(options.out, {"annotations": annotations})
    return len(annotations)


def find_label_image(folder: Path, image: dict[str, Any]) -> Path:
    """Find the label image that a program made of an image, by the endings in use.

    Raises:
        FileNotFoundError: there is none.
    """
    stem = Path(image["file_name"]).stem
    for place in (folder / "masks", folder / "labels", folder):
        for ending in (*LABEL_ENDINGS, ""):
            for suffix in LABEL_SUFFIXES:
                path = place / f"{stem}{ending}{suffix}"
                # An image that bears the very name is the image, not its labels.
                if path.is_file() and (ending or place != folder):
                    return path
    raise FileNotFoundError(
        f"{folder} holds no label image of {image['file_name']}, such as {stem}_masks.png"
    )


def segments_of_labels(
    labels: IntMap, thing: int, rest: int | None
) -> tuple[IntMap, list[dict[str, Any]]]:
    """Make segments of a label image.

    Args:
        labels: (H, W), 0 = background.
        thing: contiguous class of the instances.
        rest: that of the background; None leaves it void.

    Returns:
        id_map: (H, W) int32, 0 = void, 1 = background, instances from 2 on.
        segments: "id", "category_id", "area", "bbox" of each.
    """
    present, index = np.unique(labels, return_inverse=True)
    ids = np.cumsum(present != 0) + 1
    ids[present == 0] = 0 if rest is None else 1
    id_map = ids[index.reshape(labels.shape)].astype(np.int32)
    listed = [
        {"id": int(i), "category_id": rest if i == 1 else thing} for i in sorted(ids) if i > 0
    ]
    return id_map, update_segments(id_map, listed)


@orderly
def main(words: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options = parse_arguments(words)
    try:
        count = (write_labels if options.command == "write" else read_labels)(options)
    except (OSError, ValueError) as error:
        return refuse(__file__, error)
    where = options.folder if options.command == "write" else options.out
    print(f"{count} images: {where}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
