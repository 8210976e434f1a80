#!/usr/bin/env python3
"""Make a panoptic data set of microscope images and their instance masks or label images.

    python tools/prepare_nuclei.py stage1_train --out datasets/nuclei --val-share 0.15
    python tools/prepare_nuclei.py my_cells --out datasets/cells --thing cell

FOLDER is in one of three layouts, told apart by what is there:

  NAME/images/ with one image, NAME/masks/ with one file per instance (2018 Data Science Bowl)
  images/NAME.*, masks/NAME.* (or labels/): label images, background 0, as StarDist has them
  NAME.*, NAME_masks.* (_cp_masks, -labels, ...): label images, as Cellpose and QuPath have them
Masks are images of any mode; label images are PNG, TIFF (8 to 32 bits) or .npy.

Written are OUT/train/ with the images, OUT/panoptic_train/ and OUT/panoptic_train.json, and the
same for val. A pixel that several masks claim belongs to the first. Everything that is not as it
should be is listed. An image with a mask that cannot be used is left out, as its instance would be
taught to be background. --keep-incomplete takes it without that mask. Exit status: 0 if all images
and all masks got in, 1 if something was left out, 2 if nothing could be made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import panoptic_common.processes.starting  # Ctrl-C while libraries are imported

from tqdm import tqdm

from panoptic_common.coco.annotations import category_problems
from panoptic_common.coco.instance_folders import InstanceSample, find_samples
from panoptic_common.coco.instance_samples import categories, prepare_sample
from panoptic_common.coco.splits import (
    PreparedSample,
    Totals,
    open_output,
    split_of,
    write_split,
)
from panoptic_tools.arguments import input_folder, make_parser, orderly, output_folder, refuse
from panoptic_tools.value_types import finite


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    parser.add_argument("folder", type=input_folder, help="folder with images and masks, see above")
    parser.add_argument("--out", type=output_folder, required=True, help="folder to write to")
    parser.add_argument(
        "--val-share",
        type=finite,
        default=0.0,
        metavar="SHARE",
        help="share of the images, chosen by a hash of their names, that become val (default: 0)",
    )
    parser.add_argument("--thing", default="nucleus", help="name of the class (default: nucleus)")
    parser.add_argument(
        "--keep-incomplete",
        action="store_true",
        help="keep images of which a mask cannot be used, without that mask",
    )
    parser.add_argument("--force", action="store_true", help="make splits anew that exist already")
    options = parser.parse_args(arguments)
    if not 0 <= options.val_share < 1:
        parser.error(f"--val-share is {options.val_share}: give a share from 0 to less than 1")
    if problems := category_problems(categories(options.thing)):
        sentence = f"--thing is {options.thing!r}: give the name of a class, not background"
        parser.error(f"{sentence} ({problems[0]})")
    return options


def prepare_all(samples: list[InstanceSample], split: str) -> Iterator[PreparedSample]:
    """Prepare the samples of a split one by one, with a bar."""
    interval = 0.1 if sys.stderr.isatty() else 30
    bar = tqdm(samples, unit="image", desc=split, mininterval=interval)
    return (prepare_sample(sample, image_id) for image_id, sample in enumerate(bar, start=1))


@orderly
def main(arguments: list[str] | None = None) -> int:
    """Prepare a folder and return the exit status."""
    options = parse_args(arguments)
    total = Totals()
    try:
        found = find_samples(options.folder)
        total.problems += found.problems
        print(f"{options.folder}: layout {found.layout!r}, {len(found.samples)} images")
        splits: dict[str, list[InstanceSample]] = {}
        for sample in found.samples:
            splits.setdefault(split_of(sample.name, options.val_share), []).append(sample)
        inputs = [options.folder, *(file for sample in found.samples for file in sample.files)]
        classes = categories(options.thing)
        open_output(options.out, splits, classes, inputs, force=options.force)
        for split in sorted(splits):
            written = write_split(
                options.out,
                split,
                prepare_all(splits[split], split),
                classes,
                total,
                keep_incomplete=options.keep_incomplete,
            )
            if written:
                print(f"{split}: {written} images, {options.out / f'panoptic_{split}.json'}")
    except (OSError, ValueError) as error:
        return refuse(__file__, error)
    print("\n".join(total.lines()))
    if not total.images:
        return refuse(__file__, "no image could be prepared")
    out = options.out
    print(
        f"Check the result: panoptic-check cells --images {out}/train"
        f" --json {out}/panoptic_train.json --png {out}/panoptic_train"
    )
    return 1 if total.problems else 0


if __name__ == "__main__":
    sys.exit(main())
