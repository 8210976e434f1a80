#!/usr/bin/env python3
r"""Turn a network of the COPS authors (https://github.com/aabbas90/COPS) into a checkpoint of ours.

    python tools/convert_cops_checkpoint.py theirs.pth output/cityscapes.pth \
        --config-file configs/cops/cityscapes/full.yaml
    python tools/train_net.py --config-file output/cityscapes.yaml --eval-only

The converted network computes the same class logits and the same edge logits. It is written with
its config and its class table, so that tools/demo.py needs nothing else, and the config once more
beside it as YAML. Pixel mean and deviation and the area limits are taken from the file. So is the
number of edge distances. If the config has another number, the distances become the first ones of
1, 4, 16, 32, 64, 128, or those of --distances.

Nothing is converted in part: entries of either side without a partner are an error that names them
all. The data set need not be there if it is COCO or Cityscapes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import panoptic_common.compat

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES, COCO_CATEGORIES
from detectron2.modeling import build_model

from cops.authors_names import converted_weights, take_settings
from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.checkpoint.files import CheckpointError, read_weights_file
from panoptic_common.checkpoint.finite import NotFiniteError
from panoptic_common.checkpoint.own_format import is_own
from panoptic_common.coco.annotations import build_class_table
from panoptic_common.config import load_config, read_config
from panoptic_common.data.catalog import class_table
from panoptic_common.files import write_atomically
from panoptic_tools.arguments import (
    add_register_option,
    add_unsafe_option,
    input_file,
    make_parser,
    orderly,
    output_file,
    refuse,
    require_pairs,
)
from panoptic_tools.outputs import refuse_own_inputs

KNOWN_CLASSES = {"coco": COCO_CATEGORIES, "cityscapes": CITYSCAPES_CATEGORIES}


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    parser.add_argument("input", type=input_file, help="their file")
    parser.add_argument("output", type=output_file, help="our checkpoint, a new .pth file")
    parser.add_argument(
        "--config-file", required=True, metavar="YAML", help="a config of ours for its data set"
    )
    parser.add_argument(
        "--distances",
        type=int,
        nargs="+",
        metavar="D",
        help="of the file's classifiers, in their order, in cells of the stride-4 grid",
    )
    add_register_option(parser)
    add_unsafe_option(parser)
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="config keys and values; comes last"
    )
    args = parser.parse_args(words)
    if args.output.suffix != ".pth":
        parser.error(f"the output {args.output} must end in .pth")
    refuse_own_inputs(
        parser,
        [("output", args.output), ("output (its config)", args.output.with_suffix(".yaml"))],
        [("the program", args.input), ("--config-file", args.config_file)],
    )
    require_pairs(parser, args.opts)
    return args


def read_their_weights(path: Path, allow_unsafe: bool) -> dict[str, torch.Tensor]:
    """Read the parameters of their file by their names; floats in single precision.

    Raises:
        CheckpointError: the file is damaged, unsafe or no file of weights; says what to do.
    """
    contents = read_weights_file(path, allow_unsafe)
    if is_own(contents):
        raise CheckpointError(f"{path} is a checkpoint of this project already")
    weights = {}
    for name, value in contents["model"].items():
        if not isinstance(value, (torch.Tensor, np.ndarray)):
            kind = type(value).__name__
            raise CheckpointError(f"{path}: the entry {name!r} is a {kind}, not an array")
        value = torch.as_tensor(value)
        name = name.removeprefix("module.")  # of a network wrapped for several processes
        weights[name] = value.float() if value.is_floating_point() else value
    return weights


def complete_config(args: argparse.Namespace) -> tuple[CfgNode, list[dict]]:
    """Return the config with its classes filled in, and the class table.

    Raises:
        ValueError, FileNotFoundError, KeyError: something about the config is wrong; says what.
    """
    cfg = read_config(args.config_file, args.opts)
    names = [*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST]
    if not names:
        raise ValueError(f"{args.config_file} names no data set, whose classes are needed")
    try:
        cfg = load_config(args.config_file, args.opts, datasets=args.register)
        table = class_table(names[0])
    except FileNotFoundError:
        family = names[0].partition("_")[0]
        if family not in KNOWN_CLASSES or args.register:
            raise
        print(f"{names[0]} is not on this machine: the class table is Detectron2's.")
        table = build_class_table(KNOWN_CLASSES[family], f"Detectron2's classes of {family}")
        cfg = load_config(args.config_file, args.opts, table=table)
    return cfg, table


def convert(args: argparse.Namespace) -> None:
    """Read, convert, write, and read back."""
    weights = read_their_weights(args.input, args.allow_unsafe_checkpoint)
    cfg, table = complete_config(args)
    for remark in take_settings(cfg, weights, args.distances, str(args.input)):
        print(remark)
    cfg.MODEL.WEIGHTS = str(args.output)
    on_cpu = cfg.clone()
    on_cpu.MODEL.DEVICE = "cpu"
    model = build_model(on_cpu)
    network = model.state_dict()
    converted = converted_weights(weights, network, cfg.MODEL.COPS.DISTANCES, str(args.input))
    model.load_state_dict({**network, **converted})
    folder = args.output.parent
    checkpointer = PanopticCheckpointer(
        model, str(folder), cfg=cfg, class_table=table, save_to_disk=True
    )
    # An iteration of -1: none was run here. No tag: the folder's training is another one.
    checkpointer.save(args.output.stem, tag=False, iteration=-1)
    checkpointer.load(str(args.output), checkpointables=[], purpose="evaluate")
    settings = args.output.with_suffix(".yaml")
    write_atomically(settings, lambda file: file.write(cfg.dump().encode()))
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{args.input}: {len(weights)} entries, {len(table)} classes, distances "
        f"{tuple(cfg.MODEL.COPS.DISTANCES)}, {parameters} parameters -> {args.output}, {settings}"
    )


@orderly
def main(words: Sequence[str] | None = None) -> int:
    """Convert the file and return the exit status."""
    args = parse_args(words)
    try:
        convert(args)
    except (CheckpointError, NotFiniteError, ValueError, OSError) as error:
        return refuse(__file__, error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
