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
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import panoptic_common.processes.starting  # Ctrl-C while libraries are imported

import numpy as np
from tqdm import tqdm

from panoptic_common.coco.instance_folders import LABEL_ENDINGS, LABEL_SUFFIXES
from panoptic_common.coco.instance_masks import IntMap, read_label_image
from panoptic_common.coco.segment_ids import update_segments, write_id_map
from panoptic_common.files import write_json
from panoptic_common.processes.scratch import scratch_folder
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
from panoptic_tools.label_writing import (
    class_of,
    read_data_set,
    refuse_equal_names,
    write_labels,
)
from panoptic_tools.outputs import refuse_own_inputs

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
    options = parser.parse_args(words)
    truth = options.json.with_suffix("")
    if options.command == "write":
        options.png = options.png or truth
        return options
    if options.out.suffix.lower() != ".json":
        parser.error(f"--out {options.out}: end it with .json; the PNGs go to the name without")
    refuse_own_inputs(
        parser,
        [("--out", options.out), ("--out (its PNGs)", options.out.with_suffix(""))],
        [("JSON", options.json), ("JSON (its PNGs)", truth), ("FOLDER", options.folder)]
        + [("FOLDER", options.folder / name) for name in ("masks", "labels")],
    )
    return options


# ---------------------------------------------------------------------------------------- read


def read_labels(options: argparse.Namespace) -> int:
    """Turn label images into predictions in COCO's panoptic form; returns how many."""
    content, table, images = read_data_set(options.json)
    thing = class_of(table, options.thing, isthing=True, option="--thing")
    rest = None
    if options.rest:
        rest = class_of(table, options.rest, isthing=False, option="--rest")
    annotated = [images[annotation["image_id"]] for annotation in content["annotations"]]
    found = {image["id"]: find_label_image(options.folder, image) for image in annotated}
    pngs = options.out.with_suffix("")
    names = {image["id"]: f"{Path(image['file_name']).stem}.png" for image in annotated}
    refuse_equal_names(
        [(i["file_name"], (pngs / names[i["id"]], found[i["id"]])) for i in annotated]
    )
    if not options.out.exists():
        refuse_other_files(pngs, names.values())
    annotations = []
    with scratch_folder(options.out.absolute().parent) as folder:  # wrong labels leave nothing
        for image in tqdm(annotated, unit="image", disable=None):
            size = int(image["height"]), int(image["width"])
            labels = read_label_image(found[image["id"]], size)
            id_map, segments = segments_of_labels(labels, thing, rest)
            name = names[image["id"]]
            write_id_map(folder / name, id_map)
            for segment in segments:
                segment["category_id"] = table[segment["category_id"]]["id"]
            entry = {"image_id": image["id"], "file_name": name, "segments_info": segments}
            annotations.append(entry)
        pngs.mkdir(exist_ok=True)
        for name in names.values():
            os.replace(folder / name, pngs / name)
    write_json(options.out, {"annotations": annotations})
    return len(annotations)


def refuse_other_files(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder for the PNGs that has files of these names which no earlier run has made.

    Raises:
        ValueError: naming the first.
    """
    if there := [folder / name for name in names if os.path.lexists(folder / name)]:
        raise ValueError(
            f"--out: its PNGs go to {folder}, which holds {there[0].name} already: name another"
        )


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
