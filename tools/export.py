#!/usr/bin/env python3
"""Write a model as ONNX, to run without torch, and check the result against torch.

    python tools/export.py output/model_final.pth --output exported --images some/*.jpg
    panoptic-run exported image.jpg

The folder holds the networks and model.json. The latter says how images are prepared and what
becomes of the outputs. With --images, each image is segmented both ways. Without, only the networks
are compared, on noise. It needs the extra [export]: onnx, onnxscript and onnxruntime. The exit
status is 1 if a network differs by more than 1e-3, or a map in more than 1 pixel of 1000.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import panoptic_common.compat  # sets OMP_WAIT_POLICY before torch reads it

import numpy as np
import torch

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.coco.image_reading import read_image
from panoptic_common.inference.exporting import Export, differences, write_export
from panoptic_common.inference.predictor import Predictor
from panoptic_common.runtime.folder import ExportedModel
from panoptic_common.runtime.images import prepare_image
from panoptic_common.systems import system_module
from panoptic_tools.arguments import (
    FAULTY,
    add_unsafe_option,
    input_file,
    make_parser,
    orderly,
    output_folder,
    refuse,
    require_pairs,
)

MOST_DIFFERENCE, MOST_PIXELS = 1e-3, 1e-3


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    parser.add_argument("checkpoint", type=input_file, help="of panoptic-train")
    parser.add_argument("--output", type=output_folder, required=True, metavar="FOLDER")
    parser.add_argument("--images", type=input_file, nargs="+", default=[], metavar="IMAGE")
    parser.add_argument("--config-file", default="", metavar="YAML", help="instead of the stored")
    add_unsafe_option(parser)
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="config keys and values; comes last"
    )
    args = parser.parse_args(words)
    require_pairs(parser, args.opts)
    missing = [
        name
        for name in ("onnx", "onnxscript", "onnxruntime")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        parser.error(
            f"{', '.join(missing)} missing: pip install {' '.join(missing)}, or this project's "
            "extra [export]"
        )
    return args


def compare_networks(folder: Path, export: Export, predictor: Predictor, images: list) -> float:
    """Print the greatest differences of each network; return the greatest of all."""
    greatest = 0.0
    for name, part in export.parts.items():
        batches = [part.examples]
        if list(part.examples) == ["image"] and images:
            options = {
                **predictor.image_options,
                "divisibility": export.divisibility,
                "smallest": list(export.smallest),
            }
            batches = [
                {"image": torch.from_numpy(prepare_image(image, options)[0])} for image in images
            ]
        found: dict[str, float] = {}
        for batch in batches:
            for output, value in differences(folder / f"{name}.onnx", part, batch).items():
                found[output] = max(found.get(output, 0.0), value)
        for output, value in found.items():
            print(f"{name}: {output} differs by at most {value:.1e}")
        greatest = max(greatest, *found.values())
    return greatest


def compare_maps(
    folder: Path, predictor: Predictor, paths: Sequence[Path], images: list[np.ndarray]
) -> float:
    """Print how the panoptic maps agree; return the greatest share of other pixels."""
    model = ExportedModel(folder, threads=torch.get_num_threads())
    predict = system_module(model.system, "runtime.pipeline").predict
    shares, seconds = [], np.zeros(2)
    for path, image in zip(paths, images, strict=True):
        if not len(shares):
            predict(model, image)  # what Numba compiles is no part of the time
            predictor(image)
        begin = time.process_time()
        expected = predictor(image)
        middle = time.process_time()
        id_map, segments = predict(model, image)
        seconds += middle - begin, time.process_time() - middle
        shares.append(float((id_map != expected.id_map).mean()))
        same = [(s["id"], s["category_id"]) for s in segments] == [
            (s["id"], s["category_id"]) for s in expected.segments_info
        ]
        print(
            f"{path.name}: {len(segments)} segments, {shares[-1]:.4%} of the pixels differ"
            + ("" if same else f"; torch has {len(expected.segments_info)} segments")
        )
    equal = sum(share == 0 for share in shares)
    print(
        f"{equal} of {len(shares)} panoptic maps are equal; processor time {seconds[1]:.2f} s, "
        f"torch {seconds[0]:.2f} s, ratio {seconds[1] / seconds[0]:.2f}"
    )
    return max(shares)


def export(args: argparse.Namespace) -> int:
    """Write and check; return the exit status."""
    predictor = Predictor.from_checkpoint(
        str(args.checkpoint),
        config_file=args.config_file,
        opts=args.opts,
        device="cpu",
        allow_unsafe=args.allow_unsafe_checkpoint,
    )
    images = [read_image(path) for path in args.images]
    described = system_module(predictor.meta_architecture, "modeling.export").export_model(
        predictor.model
    )
    write_export(
        args.output,
        described,
        predictor.meta_architecture,
        predictor.class_table,
        predictor.image_options,
    )
    wrong = compare_networks(args.output, described, predictor, images) > MOST_DIFFERENCE
    if images:
        wrong |= compare_maps(args.output, predictor, args.images, images) > MOST_PIXELS
    if wrong:
        return refuse(__file__, "the export differs from torch: see the figures above", FAULTY)
    print(f"written to {args.output}: panoptic-run {args.output} IMAGE")
    return 0


@orderly
def main(words: Sequence[str] | None = None) -> int:
    """Export the model and return the exit status."""
    args = parse_args(words)
    logging.getLogger("panoptic_common").setLevel(logging.WARNING)
    try:
        return export(args)
    except (CheckpointError, ValueError, OSError) as error:
        return refuse(__file__, error)


if __name__ == "__main__":
    sys.exit(main())
