#!/usr/bin/env python3
r"""Make a panoptic data set of annotations that other programs have written.

    python tools/prepare_dataset.py coco instances.json --images images --out datasets/mine
    python tools/prepare_dataset.py coco instances.json --images images --out datasets/mine \
        --semantic semantic_pngs --values road=1 sky=2
    python tools/prepare_dataset.py labelme folder --out datasets/mine --stuff road sky
    python tools/prepare_dataset.py cvat annotations.xml --images images --out datasets/mine
    python tools/prepare_dataset.py labels folder --out datasets/mine --things cell

  coco     a COCO instances JSON (also that of CVAT's and Label Studio's COCO exports); stuff from
           PNGs of class numbers, or from categories that --stuff names
  labelme  a folder of labelme's JSON files: polygon, rectangle, circle, mask
  cvat     "CVAT for images 1.1": polygon, box, ellipse, mask
  labels   instance label images or mask files: the layouts of tools/prepare_nuclei.py

Classes are things unless --stuff names them. Pixels that nothing covers become void, which is not
trained. Stuff lies below things; of two things the later lies on top, in COCO the smaller one.

Written are OUT/SPLIT/ with the images, OUT/panoptic_SPLIT/ and OUT/panoptic_SPLIT.json. The splits
are train and val, by --val-share, or the one that --split names. With --split, name --things and
--stuff as well, so that all splits have the same classes. Exit status: 0 if everything got in, 1 if
something was left out, 2 if nothing could be made.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import panoptic_common.processes.starting  # Ctrl-C while libraries are imported

from tqdm import tqdm

from panoptic_common.coco.annotated_images import (
    make_classes,
    prepare_image,
    require_usable,
)
from panoptic_common.coco.from_coco import read_coco
from panoptic_common.coco.from_cvat import read_cvat
from panoptic_common.coco.from_labelme import read_labelme
from panoptic_common.coco.instance_folders import find_samples
from panoptic_common.coco.instance_samples import categories, prepare_sample
from panoptic_common.coco.splits import (
    PreparedSample,
    Totals,
    open_output,
    split_of,
    write_split,
)
from panoptic_tools.arguments import (
    FAULTY,
    REFUSED,
    Parser,
    input_file,
    input_folder,
    make_parser,
    orderly,
    output_folder,
    refuse,
)
from panoptic_tools.value_types import finite

KINDS = ("coco", "labelme", "cvat", "labels")


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    parser.add_argument("kind", choices=KINDS, help="who has written the annotations, see above")
    parser.add_argument("source", type=Path, help="the file, or the folder, of the annotations")
    parser.add_argument("--out", type=output_folder, required=True, help="folder to write to")
    parser.add_argument("--images", type=input_folder, help="folder of the images (coco, cvat)")
    parser.add_argument("--semantic", type=input_folder, help="folder of semantic PNGs (coco)")
    parser.add_argument(
        "--values",
        nargs="+",
        default=[],
        metavar="NAME=NUMBER",
        help="stuff classes of the semantic PNGs and their numbers there",
    )
    parser.add_argument("--stuff", nargs="+", default=[], help="classes that are stuff")
    parser.add_argument("--things", nargs="+", default=[], help="things (default: all others)")
    parser.add_argument("--ignore", nargs="+", default=[], help="classes that become void")
    parser.add_argument(
        "--val-share",
        type=finite,
        default=0.0,
        metavar="SHARE",
        help="share of the images, chosen by a hash of their names, that become val (default: 0)",
    )
    parser.add_argument("--split", help="put all images into the split of this name")
    parser.add_argument(
        "--keep-incomplete",
        action="store_true",
        help="keep images of which a shape cannot be used, without that shape",
    )
    parser.add_argument("--force", action="store_true", help="make splits anew that exist already")
    options = parser.parse_args(arguments)
    _require_consistent(parser, options)
    return options


def _require_consistent(parser: Parser, options: argparse.Namespace) -> None:
    """Refuse options that do not go together."""
    needs_images = options.kind in ("coco", "cvat")
    if needs_images != bool(options.images):
        parser.error(
            f"{options.kind} needs --images" if needs_images else "--images is for coco and cvat"
        )
    if bool(options.semantic) != bool(options.values):
        parser.error("--semantic and --values belong together")
    if options.semantic and options.kind != "coco":
        parser.error("--semantic is for coco")
    if options.kind == "labels" and (len(options.things) != 1 or options.stuff or options.ignore):
        parser.error("label images hold one class: name it by --things, and nothing else")
    if not 0 <= options.val_share < 1:
        parser.error(f"--val-share is {options.val_share}: give a share from 0 to less than 1")
    plain = options.split not in ("", "..") and Path(options.split or "").name == options.split
    if options.split is not None and (options.val_share or not plain):
        parser.error("--split is the plain name of one split, without --val-share")
    if options.kind != "labelme":
        try:
            (input_folder if options.kind == "labels" else input_file)(str(options.source))
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))


def read_values(words: Sequence[str]) -> dict[str, int]:
    """Read NAME=NUMBER words.

    Raises:
        ValueError: a word is none, or a number is negative.
    """
    values = {}
    for word in words:
        name, _, number = word.rpartition("=")
        if not name or not number.isdecimal():
            raise ValueError(f"--values: {word!r} is not NAME=NUMBER, such as road=1")
        values[name] = int(number)
    return values


@dataclass(frozen=True)
class Plan:
    """What is to be prepared: names, how to make each sample, the categories, what is wrong."""

    names: list[str]
    files: list[Path]  # all that are read
    make: Callable[[int, int], PreparedSample]  # (position, image id)
    categories: list[dict[str, Any]]
    problems: list[str]


def make_plan(options: argparse.Namespace) -> Plan:
    """Read the annotations.

    Raises:
        OSError, ValueError: they cannot be read, or a class is named wrongly.
    """
    if options.kind == "labels":
        found = find_samples(options.source)
        samples = found.samples
        return Plan(
            [sample.name for sample in samples],
            [options.source, *(file for sample in samples for file in sample.files)],
            lambda position, image_id: prepare_sample(samples[position], image_id),
            categories(options.things[0]),
            found.problems,
        )
    values = read_values(options.values)
    if options.kind == "coco":
        annotated = read_coco(options.source, options.images, options.semantic, values)
    elif options.kind == "cvat":
        annotated = read_cvat(options.source, options.images)
    else:
        annotated = read_labelme(options.source)
    require_usable(annotated)
    stuff = dict.fromkeys([*options.stuff, *values])
    classes = make_classes(annotated.labels, list(stuff), options.things, options.ignore)
    images = annotated.images
    given = filter(None, (options.source, options.images, options.semantic))
    return Plan(
        [image.name for image in images],
        [*given, *(image.image for image in images)],
        lambda position, image_id: prepare_image(images[position], image_id, classes),
        classes.categories,
        annotated.problems,
    )


def prepared(plan: Plan, positions: Sequence[int], split: str) -> Iterator[PreparedSample]:
    """Make the samples of a split one by one, with a bar."""
    interval = 0.1 if sys.stderr.isatty() else 30
    bar: Iterable[int] = tqdm(positions, unit="image", desc=split, mininterval=interval)
    return (plan.make(position, image_id) for image_id, position in enumerate(bar, start=1))


def _advise(out: Path, classes: Sequence[dict[str, Any]], splits: Sequence[str]) -> None:
    """Say what the classes have become, and how programs take the data."""
    for kind, isthing in (("things", 1), ("stuff", 0)):
        names = ", ".join(row["name"] for row in classes if row["isthing"] == isthing)
        print(f"{kind}: {names or 'none; the Unified system needs some (--stuff, --things)'}")
    for split in splits:
        name, images = f"{out.resolve().name}_{split}", out / split
        annotations = f"{out / f'panoptic_{split}.json'}", f"{out / f'panoptic_{split}'}"
        print(
            f"check: panoptic-check {name} --images {images} --json {annotations[0]}"
            f" --png {annotations[1]}"
        )
        print(f"use: --register {name} {images} {annotations[0]} {annotations[1]}")


@orderly
def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare a data set and return the exit status."""
    options = parse_args(arguments)
    total = Totals()
    try:
        plan = make_plan(options)
        total.problems += plan.problems
        splits: dict[str, list[int]] = {}
        for position, name in enumerate(plan.names):
            split = options.split or split_of(name, options.val_share)
            splits.setdefault(split, []).append(position)
        open_output(options.out, splits, plan.categories, plan.files, force=options.force)
        for split, positions in sorted(splits.items()):
            samples = prepared(plan, positions, split)
            count = write_split(
                *(options.out, split, samples, plan.categories, total),
                keep_incomplete=options.keep_incomplete,
            )
            if count:
                print(f"{split}: {count} images, {options.out / f'panoptic_{split}.json'}")
    except (OSError, ValueError) as error:
        return refuse(__file__, error)
    print("\n".join(total.lines()))
    if not total.images:
        return refuse(__file__, "no image could be prepared", REFUSED)
    _advise(options.out, plan.categories, sorted(splits))
    return FAULTY if total.problems else 0


if __name__ == "__main__":
    sys.exit(main())
