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
results are shown in a window. What failed is listed at the end; the exit status is then 1.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import panoptic_common.compat  # sets OMP_WAIT_POLICY before torch reads it

import torch
from tqdm import tqdm

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.coco.results import CocoResults
from panoptic_common.drawing.strokes import ImageArray
from panoptic_common.external.modules import import_modules
from panoptic_common.files import require_writable
from panoptic_common.inference import media
from panoptic_common.inference.media import MediaError
from panoptic_common.inference.painter import Painter, side_by_side
from panoptic_common.inference.panels import CONTACT_SHEET, LEAST_SCORE
from panoptic_common.inference.predictor import Predictor
from panoptic_common.inference.video import VideoReader, VideoWriter, Window
from panoptic_tools.arguments import (
    add_import_options,
    add_register_option,
    add_unsafe_option,
    add_weights_options,
    make_parser,
    output_folder,
    pixel,
    refuse,
    require_at_least,
    require_pairs,
    require_weights,
)

PERIOD = 3.0  # seconds between two reports of progress; what is done sooner shows none


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, and refuse what cannot go together."""
    parser = make_parser(__doc__, whole=True)
    add = parser.add_argument
    add("inputs", nargs="*", help="images, videos, folders, patterns such as 'frames/*.png'")
    add_weights_options(parser)
    add("--webcam", type=int, metavar="NUMBER", help="camera to use, usually 0")
    text = "folder for the results (default: show them in a window)"
    add("--output", type=output_folder, help=text)
    text = "comma-separated: image, panoptic, semantic, boxes, contact_sheet, and those of the "
    text += "model's system (default panoptic,boxes; with --affinity affinity too)"
    add("--panels", default="", help=text)
    add("--affinity", type=pixel, metavar="X,Y", help="pixel whose instance affinity to paint")
    text = "least score of a detection, 0 to 1 (default: that of the config in the panoptic map, "
    add("--score-threshold", type=float, help=f"{text}{LEAST_SCORE} for boxes)")
    add("--json", action="store_true", help="write the results in COCO's panoptic format too")
    text = "reduce larger images to this side, which bounds the memory; 0: never (default 2048)"
    add("--max-side", type=int, default=2048, metavar="PIXELS", help=text)
    add("--device", default="", help="cpu, cuda, cuda:1 ... (default: the GPU if there is one)")
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
    require_at_least(parser, options, 0, "max_side", "webcam")
    require_pairs(parser, options.opts)
    if not options.output and (options.json or CONTACT_SHEET in options.panels):
        parser.error("--json and the panel contact_sheet need a folder: --output")
    return options


class Demo:
    """One run over all inputs.

    Attributes:
        done: inputs without an error.
        errors: a sentence per input that failed.
    """

    def __init__(self, painter: Painter, output: Path | None, json_wanted: bool) -> None:
        """Make the folder, or open the window: MediaError without a display."""
        self.painter = painter
        self.output = output
        self.window = Window("panoptic segmentation") if output is None else None
        self.done, self.errors = 0, list[str]()
        self.results: CocoResults | None = None
        if output is not None:
            require_writable(output)
            if json_wanted:
                self.results = CocoResults(output, painter.predictor.class_table)

    def run_images(self, paths: Sequence[Path], names: Sequence[str]) -> bool:
        """Work through images; False when the user closed the window."""
        with tqdm(total=len(paths), unit="image", mininterval=PERIOD, delay=PERIOD) as bar:
            for path, name in zip(paths, names, strict=True):
                try:
                    panels = self._predict(media.Frame(name, str(path), media.read_image(path)))
                except (MediaError, IndexError, torch.cuda.OutOfMemoryError) as error:
                    self._fail(str(path), error)
                    continue
                for panel, drawn in panels.items():
                    if self.output is not None:
                        media.write_image(self.output / f"{name}_{panel}.png", drawn)
                self.done += 1
                bar.update()
                shown = side_by_side(panels)
                if self.window and shown is not None and not self.window.show(shown, wait=True):
                    return False
        return True

    def run_video(self, source: Path | int, name: str) -> bool:
        """Work through a video or a camera; False when the user closed the window."""
        try:
            reader = VideoReader(source, name)
        except MediaError as error:
            self._fail(str(source), error)
            return True
        writer = VideoWriter(self.output / name, reader.rate) if self.output else None
        bar = tqdm(desc=reader.source, total=reader.num_frames, unit="frame", mininterval=PERIOD)
        try:
            with writer or nullcontext():
                for frame in reader:
                    shown = side_by_side(self._predict(frame))
                    if shown is not None and writer is not None:
                        writer.write(shown)
                    if shown is not None and self.window and not self.window.show(shown, False):
                        return False
                    bar.update()
            self.done += 1
        except (MediaError, IndexError, torch.cuda.OutOfMemoryError) as error:
            self._fail(reader.source, error)
        finally:
            bar.close()
            reader.close()
        return True

    def _predict(self, frame: media.Frame) -> dict[str, ImageArray]:
        prediction, panels = self.painter(frame)
        if self.results is not None:
            self.results.add(frame.name, frame.source, prediction.id_map, prediction.segments_info)
        return panels

    def _fail(self, source: str, error: Exception) -> None:
        message = str(error) if source in str(error) else f"{source}: {error}"
        if isinstance(error, torch.cuda.OutOfMemoryError):
            message += " (a smaller --max-side needs less memory)"
        self.errors.append(message)

    def finish(self) -> None:
        """Write what concerns all frames; close the window."""
        if self.window is not None:
            self.window.close()
        if self.results is not None:
            print(f"COCO panoptic format: {self.results.write()}")
        if self.output is not None and self.painter.rows:
            path = self.output / "contact_sheet.png"
            media.write_image(path, self.painter.draw_sheet())
            print(f"Contact sheet of {len(self.painter.rows)} images: {path}")


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


def main(words: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options = parse_arguments(words)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        images, videos = media.find_media(options.inputs)
        demo = build_demo(options)
    except (CheckpointError, MediaError, ValueError, KeyError, OSError) as error:
        return refuse(__file__, error)
    names = media.unique_names([*images, *videos])
    try:
        go_on = demo.run_images(images, names[: len(images)])
        for path, name in zip(videos, names[len(images) :], strict=True):
            go_on = go_on and demo.run_video(path, name)
        if options.webcam is not None:
            demo.run_video(options.webcam, f"camera{options.webcam}")
    except KeyboardInterrupt:
        if options.webcam is None:  # a camera has no other end
            demo.errors.append("stopped by the user")
    except OSError as error:  # of writing
        demo.errors.append(f"stopped: {error}")
    try:
        demo.finish()
    except OSError as error:
        demo.errors.append(str(error))
    if demo.output is not None:
        print(f"{demo.done} done, results in {demo.output}")
    if demo.errors:
        print(f"{len(demo.errors)} failed:", *demo.errors, sep="\n  ", file=sys.stderr)
    return 1 if demo.errors else 0


if __name__ == "__main__":
    sys.exit(main())
