#!/usr/bin/env python3
"""Look at what a model sees in an image, in a page of this machine's browser.

    python tools/app.py nuclei
    python tools/app.py output/unified/scenes/D2/model_final.pth --port 7861
    python tools/app.py --model cops-nuclei --examples datasets/nuclei/val

The page takes an image and shows the panoptic map, the boxes, what else the system has, and a table
of the segments. A click on a pixel shows what the model ties it to. With UnifiedPanoptic that is
its affinity to all other places; with COPS its edges, their costs, and which the solver cut. A
slider changes the score threshold, or the edge offset; the network does not run again for it. The
results can be downloaded: the drawing, COCO's panoptic form, and the things as a label image.

WEIGHTS is a checkpoint of this project, its address, or the name of a model that comes along
(--model list). The page is for this machine only, unless --host says otherwise; then it has no
password. It asks nothing of the internet, and sends nothing there. Needs the extra [app].
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import panoptic_common.compat  # sets OMP_WAIT_POLICY before torch reads it

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.external.modules import import_modules
from panoptic_common.inference.explorer import Explorer
from panoptic_common.inference.predictor import Predictor
from panoptic_common.systems import shipped_models
from panoptic_tools.app_examples import example_images, images_of_folder
from panoptic_tools.app_server import LOOPBACK, bind, serve
from panoptic_tools.arguments import (
    add_import_options,
    add_register_option,
    add_unsafe_option,
    input_folder,
    make_parser,
    orderly,
    refuse,
    require_at_least,
    require_pairs,
)
from panoptic_tools.weights_options import add_weights_options, require_weights

DEFAULT_PORT = 7860


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, and refuse what cannot go together."""
    parser = make_parser(__doc__, whole=True)
    add = parser.add_argument
    add("weights", nargs="?", default="", metavar="WEIGHTS", help="checkpoint, address or model")
    add_weights_options(parser)
    text = f"of the page (default: {DEFAULT_PORT}; 0: any that is free)"
    add("--port", type=int, default=DEFAULT_PORT, help=text)
    text = "address to listen at (default: 127.0.0.1, this machine only)"
    add("--host", default="127.0.0.1", help=text)
    text = "images to begin with (default: some that the program draws)"
    add("--examples", type=input_folder, metavar="FOLDER", help=text)
    text = "reduce larger images to this side, which bounds the memory; 0: never (default 2048)"
    add("--max-side", type=int, default=2048, metavar="PIXELS", help=text)
    add(
        "--device",
        default="",
        help="cpu, cuda, cuda:1 ... (default: the config's; cpu for models that come along)",
    )
    add("--config-file", default="", help="instead of the config inside the checkpoint")
    add_register_option(parser)
    add_unsafe_option(parser)
    add_import_options(parser)
    add("--opts", nargs=argparse.REMAINDER, default=[], help="config keys and values; comes last")
    options = parser.parse_args(words)
    if importlib.util.find_spec("gradio") is None:
        parser.error("gradio is missing: pip install gradio, or this project's extra [app]")
    if options.weights:
        if options.checkpoint or options.model:
            parser.error("name the weights once: WEIGHTS, --checkpoint or --model")
        place = "model" if options.weights in shipped_models() else "checkpoint"
        setattr(options, place, options.weights)
    require_weights(parser, options)
    require_at_least(parser, options, 0, "max_side", "port")
    if options.port > 65535:
        parser.error("--port is at most 65535")
    require_pairs(parser, options.opts)
    return options


def run(options: argparse.Namespace) -> None:
    """Load the model, and serve the page until a signal ends it.

    Raises:
        CheckpointError, MediaError, ValueError, KeyError, OSError: something is wrong; says what.
    """
    socket = bind(options.host, options.port)  # first: loading takes seconds
    with socket:
        predictor = Predictor.from_checkpoint(
            options.checkpoint,
            config_file=options.config_file,
            opts=options.opts,
            datasets=options.register,
            device=options.device,
            allow_unsafe=options.allow_unsafe_checkpoint,
            extensions=import_modules(options.imports, options.add_config).extensions,
        )
        if options.examples:
            examples = images_of_folder(options.examples, options.max_side)
        else:
            examples = example_images(predictor.class_table)
        explorer = Explorer(predictor, options.max_side)
        host, port = socket.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"Open http://{shown}:{port} (Ctrl-C ends it)", flush=True)
        if host not in LOOPBACK:
            print("Everybody who reaches this address can use it: there is no password.")
        name = options.model or Path(options.checkpoint).name
        serve(explorer, f"{name} ({predictor.meta_architecture})", examples, socket)


@orderly
def main(words: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options = parse_arguments(words)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        run(options)
    except (CheckpointError, ValueError, KeyError, OSError) as error:
        return refuse(__file__, error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
