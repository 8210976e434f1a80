#!/usr/bin/env python3
r"""Look at a data set: annotations, what a network is fed, counts and sizes of classes.

    python tools/browse_dataset.py coco_2017_val_panoptic --output look
    python tools/browse_dataset.py mine --register mine IMAGES JSON PNGS --output look \
        --config-file configs/unified/coco/R50.yaml --images 24
    python tools/browse_dataset.py mine --register mine IMAGES JSON PNGS --output look \
        --config-file configs/unified/coco/R50.yaml INPUT.MIN_SIZE_TRAIN "(320,)"

Written are LOOK/NAME_1.png and so on, six images on each. Beside an image stand its annotation, and
for each of --draws augmentations what the network gets, with its truth. The augmentations are those
of the config, or else Detectron2's defaults. Images are chosen so that every class is seen, if
--images suffices. The table of classes goes to the screen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# First: Detectron2 needs its work-arounds before it is imported.
from panoptic_common.compat.config_input import as_words

from detectron2.config import CfgNode, get_cfg
from PIL import Image

from panoptic_common.config import add_panoptic_config, read_config
from panoptic_common.data.browsing import (
    ROWS,
    Record,
    choose_records,
    describe,
    draw_sheets,
    keep_truth,
)
from panoptic_common.data.catalog import (
    class_table,
    has_truth,
    load_panoptic,
    register_builtin,
    register_panoptic,
)
from panoptic_common.data.mapper import PanopticDatasetMapper
from panoptic_tools.arguments import (
    FAULTY,
    add_register_option,
    make_parser,
    orderly,
    output_folder,
    refuse,
    require_at_least,
    require_pairs,
)
from panoptic_tools.outputs import require_apart


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    parser.add_argument("name", help="of the data set")
    parser.add_argument("--output", type=output_folder, required=True, help="folder to write to")
    add_register_option(parser)
    parser.add_argument("--config-file", default="", help="whose augmentations are shown")
    parser.add_argument("--images", type=int, default=12, help="how many (default: 12)")
    parser.add_argument("--draws", type=int, default=2, help="of the augmentations (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the augmentations (default: 0)")
    parser.add_argument("opts", nargs="*", default=[], help="config options, KEY VALUE by turns")
    options = parser.parse_intermixed_args(arguments)
    require_at_least(parser, options, 1, "images")
    require_at_least(parser, options, 0, "draws", "seed")
    require_pairs(parser, options.opts)
    return options


def load_settings(config_file: str, opts: Sequence[str]) -> CfgNode:
    """Return the config whose INPUT is shown.

    Raises:
        ValueError, FileNotFoundError: it cannot be read.
    """
    if config_file:
        return read_config(config_file, opts)
    cfg = get_cfg()
    add_panoptic_config(cfg)
    try:
        cfg.merge_from_list(as_words(opts))
    except (KeyError, AssertionError) as error:
        raise ValueError(str(error.args[0])) from error
    return cfg


def sheet_paths(
    options: argparse.Namespace, chosen: Sequence[Record], records: Sequence[Record]
) -> list[Path]:
    """Return the files of the sheets.

    Raises:
        ValueError: one is a file of the data set.
    """
    numbers = range(1, -(-len(chosen) // ROWS) + 1)
    paths = [options.output / f"{options.name}_{number}.png" for number in numbers]
    require_apart(
        [("--output", path) for path in paths],
        [(options.name, r[key]) for r in records for key in ("file_name", "pan_seg_file_name")],
    )
    return paths


@orderly
def main(arguments: Sequence[str] | None = None) -> int:
    """Write the sheets and print the table; returns the exit status."""
    options = parse_args(arguments)
    try:
        cfg = load_settings(options.config_file, options.opts)
        register_builtin()
        for name, images, panoptic_json, pngs in options.register:
            register_panoptic(name, images, panoptic_json, pngs)
        if not has_truth(options.name):
            raise ValueError(f"{options.name} has images only, and no annotations to show")
        records, table = load_panoptic(options.name), class_table(options.name)
        mapper = PanopticDatasetMapper.from_config(cfg, True, keep_truth)
        chosen = choose_records(records, options.images, len(table))
        paths = sheet_paths(options, chosen, records)
        options.output.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        return refuse(__file__, error)
    try:
        print(describe(records, table))
        sheets = draw_sheets(chosen, table, mapper, draws=options.draws, seed=options.seed)
        for path, sheet in zip(paths, sheets, strict=True):
            Image.fromarray(sheet).save(path)
            print(path)
    except (OSError, ValueError) as error:  # a damaged file of the data set
        return refuse(__file__, error, FAULTY)
    return 0


if __name__ == "__main__":
    sys.exit(main())
