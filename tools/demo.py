#!/usr/bin/env python3
"""Show what a trained model makes of images, folders, videos or a camera.

    python tools/demo.py --model nuclei cells.png --output out
    python tools/demo.py --checkpoint model.pth street.jpg holiday/ 'frames/*.png' --output out
    python tools/demo.py --checkpoint model.pth drive.mp4 --output out --json
    python tools/demo.py --checkpoint model.pth street.jpg --affinity 250,120 --output out
    python tools/demo.py --checkpoint model.pth --webcam 0

--model takes a model that comes along; "list" shows them. Otherwise a checkpoint of this project is
enough, .pth or .safetensors: config and class names travel inside it. It may be an address,
https://...#sha256=... or hf://owner/name/file#sha256=... Other weights need --config-file as well,
and the data set that it names (--register).

An image gives one file per panel, `<name>_<panel>.png`; a video gives `<name>.mp4` with the panels
side by side; contact_sheet is one table of all images. Every model has the panels image, panoptic,
semantic and boxes. UnifiedPanoptic adds affinity, the instance affinity of one pixel. COPS adds
affinities and cut_edges: what the network wants to part, and where the solver cut. Without --output
results are shown in a window. What failed is listed at the end; the exit status is then 1. Ctrl-C
and SIGTERM end it with status 130 or 143. What is done by then is whole, --json and contact_sheet
included; a video file that is not done is removed.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import panoptic_common.compat  # sets OMP_WAIT_POLICY before torch reads it

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.external.modules import import_modules
from panoptic_common.inference import media
from panoptic_common.inference.media import MediaError
from panoptic_common.inference.painter import Painter
from panoptic_common.inference.panels import CONTACT_SHEET, LEAST_SCORE
from panoptic_common.inference.predictor import Predictor
from panoptic_tools.arguments import (
    FAULTY,
    add_import_options,
    add_register_option,
    add_unsafe_option,
    make_parser,
    orderly,
    output_folder,
    refuse,
    require_at_least,
    require_pairs,
)
from panoptic_tools.demo_run import Demo
from panoptic_tools.outputs import require_apart
from panoptic_tools.value_types import camera, finite, pixel
from panoptic_tools.weights_options import add_weights_options, require_weights


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, and refuse what cannot go together."""
    parser = make_parser(__doc__, whole=True)
    add = parser.add_argument
    add("inputs", nargs="*", help="images, videos, folders, patterns such as 'frames/*.png'")
    add_weights_options(parser)
    add("--webcam", type=camera, metavar="NUMBER", help="camera to use, usually 0")
    text = "folder for the results (default: show them in a window)"
    add("--output", type=output_folder, help=text)
    text = "comma-separated: image, panoptic, semantic, boxes, contact_sheet, and those of the "
    text += "model's system (default panoptic,boxes; with --affinity affinity too)"
    add("--panels", default="", help=text)
    add("--affinity", type=pixel, metavar="X,Y", help="pixel whose instance affinity to paint")
    text = "least score of a detection, 0 to 1 (default: that of the config in the panoptic map, "
    add("--score-threshold", type=finite, help=f"{text}{LEAST_SCORE} for boxes)")
    add("--json", action="store_true", help="write the results in COCO's panoptic format too")
    text = "reduce larger images to this side, which bounds the memory; 0: never (default 2048)"
    add("--max-side", type=int, default=2048, metavar="PIXELS", help=text)
    add(
        "--device",
        default="",
        help="cpu, cuda, cuda:1 ... (default: the config's; cpu for --model)",
    )
    add("--config-file", default="", help="instead of the config inside the checkpoint")
    add_register_option(parser)
    add_unsafe_option(parser)
    add_import_options(parser)
    add("--opts", nargs=argparse.REMAINDER, default=[], help="config keys and values; comes last")
    options = parser.parse_args(words)
    require_weights(parser, options)
    options.panels = [name for name in options.panels.split(",") if name]
    if bool(options.inputs) == (options.webcam is not None):
        parser.error("name images or videos, or a camera by --webcam")
    if options.score_threshold is not None and not 0 <= options.score_threshold <= 1:
        parser.error("--score-threshold lies between 0 and 1")
    require_at_least(parser, options, 0, "max_side")
    require_pairs(parser, options.opts)
    if not options.output and (options.json or CONTACT_SHEET in options.panels):
        parser.error("--json and the panel contact_sheet need a folder: --output")
    return options


def build_demo(options: argparse.Namespace) -> Demo:
    """Load the model, and prepare the run that the command line asks for.

    Raises:
        CheckpointError, MediaError, ValueError, OSError: something about it is wrong; says what.
    """
    predictor = Predictor.from_checkpoint(
        options.checkpoint,
        config_file=options.config_file,
        opts=options.opts,
        datasets=options.register,
        device=options.device,
        score_threshold=options.score_threshold,
        allow_unsafe=options.allow_unsafe_checkpoint,
        extensions=import_modules(options.imports, options.add_config).extensions,
    )
    painter = Painter(
        predictor,
        options.panels,
        pixel=options.affinity,
        least_score=LEAST_SCORE if options.score_threshold is None else options.score_threshold,
        longest_side=options.max_side,
    )
    return Demo(painter, options.output, options.json)


@orderly
def main(words: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options = parse_arguments(words)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        images, videos = media.find_media(options.inputs)
        demo = build_demo(options)
    except (CheckpointError, MediaError, ValueError, KeyError, OSError) as error:
        return refuse(__file__, error)
    try:
        require_apart(
            [("--output", path) for path in demo.files(images, videos)],
            [("demo", path) for path in (*images, *videos, options.checkpoint)],
        )
    except ValueError as error:
        return refuse(__file__, error)
    ended = demo.run(images, videos, options.webcam)
    if demo.output is not None:
        print(f"{demo.done} done, results in {demo.output}")
    if demo.errors:
        print(f"{len(demo.errors)} failed:", *demo.errors, sep="\n  ", file=sys.stderr)
    if ended:
        # A camera has no other end than Ctrl-C.
        if options.webcam is not None and ended == 128 + signal.SIGINT:
            return FAULTY if demo.errors else 0
        number = len(images) + len(videos)
        name = signal.Signals(ended - 128).name
        sentence = f"ended by {name}: {demo.done} of {number} inputs are done, and whole"
        return refuse(__file__, sentence, ended)
    return FAULTY if demo.errors else 0


if __name__ == "__main__":
    sys.exit(main())
