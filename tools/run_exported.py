#!/usr/bin/env python3
"""Segment images with a model of tools/export.py: onnxruntime, without torch and Detectron2.

    panoptic-run exported image.jpg --output results

For each image it writes the drawing NAME_panoptic.jpg, and for all of them panoptic/NAME.png and
panoptic.json in COCO's format for panoptic results.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import panoptic_common.processes.starting  # Ctrl-C while libraries are imported

from PIL import Image

from panoptic_common.coco.image_reading import read_image
from panoptic_common.coco.results import CocoResults
from panoptic_common.drawing.overlays import draw_panoptic
from panoptic_common.files import write_atomically
from panoptic_common.runtime.folder import MANIFEST, ExportedModel, ExportError
from panoptic_common.systems import system_module
from panoptic_tools.arguments import (
    input_file,
    input_folder,
    make_parser,
    orderly,
    output_folder,
    refuse,
    require_at_least,
)
from panoptic_tools.outputs import refuse_own_inputs


def parse_args(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    parser.add_argument("model", type=input_folder, help="folder of panoptic-export")
    parser.add_argument("images", type=input_file, nargs="+", metavar="IMAGE")
    parser.add_argument("--output", type=output_folder, default=Path("results"), metavar="FOLDER")
    parser.add_argument("--threads", type=int, default=0, help="of onnxruntime; 0: its choice")
    args = parser.parse_args(words)
    require_at_least(parser, args, 0, "threads")
    names = [path.stem for path in args.images]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        parser.error(f"several images are called {double[0]}: their results would be one file")
    results = [args.output / "panoptic.json"]
    results += [args.output / "panoptic" / f"{name}.png" for name in names]
    results += [args.output / f"{name}_panoptic.jpg" for name in names]
    refuse_own_inputs(
        parser,
        [("--output", path) for path in results],
        [("the model", args.model / MANIFEST), *(("the model", path) for path in args.images)],
    )
    return args


def run(args: argparse.Namespace) -> None:
    """Segment all images and write the results."""
    model = ExportedModel(args.model, args.threads)
    predict = system_module(model.system, "runtime.pipeline").predict
    results = CocoResults(args.output, model.classes)
    for path in args.images:
        image = read_image(path)
        try:
            id_map, segments = predict(model, image)
            drawn = draw_panoptic(image, id_map, segments, model.classes)
        except ExportError:
            raise
        except (ValueError, LookupError, TypeError, ArithmeticError) as error:
            raise ExportError(
                f"{args.model}: the sizes of its networks and model.json do not fit together "
                f"({type(error).__name__}: {error}): export the model again"
            ) from error
        results.add(path.stem, path.name, id_map, segments)
        drawing = io.BytesIO()
        Image.fromarray(drawn).save(drawing, "JPEG", quality=92)
        target = args.output / f"{path.stem}_panoptic.jpg"
        write_atomically(target, lambda file, data=drawing: file.write(data.getvalue()))
        print(f"{path}: {len(segments)} segments -> {target}")
    print(f"written to {results.write()}")


@orderly
def main(words: Sequence[str] | None = None) -> int:
    """Segment the images and return the exit status."""
    args = parse_args(words)
    try:
        run(args)
    except (ValueError, OSError) as error:
        return refuse(__file__, error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
