#!/usr/bin/env python3
"""Shows what a trained model makes of images, folders, videos or a camera.

    python tools/demo.py --checkpoint model.pth street.jpg holiday/ 'frames/*.png' --output out
    python tools/demo.py --checkpoint model.pth drive.mp4 --output out --json
    python tools/demo.py --checkpoint model.pth street.jpg --affinity 250,120 --output out
    python tools/demo.py --checkpoint model.pth street.jpg --panels cut_edges --output out
    python tools/demo.py --checkpoint model.pth --webcam 0

A checkpoint of this project is all that is needed: config and class names travel inside it. Other
weights, of Detectron2's model zoo for example, need --config-file as well.

An image gives one file a panel, `<name>_<panel>.png`; a video gives `<name>.mp4` with the panels
side by side; the panel contact_sheet gives one table of all images. The panel affinity shows the
instance affinity of one pixel (UnifiedPanoptic); the panels affinities and cut_edges show which
neighbouring cells the network wants to part, and where the solver cut (COPS). Without --output,
results are shown in a window. What cannot be read is listed at the end, and the exit status is then
1.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import panoptic_common.compat  # noqa: F401  (before detectron2)

import numpy as np
import torch

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.coco.results import CocoResults
from panoptic_common.drawing.overlays import (
    draw_affinities,
    draw_affinity,
    draw_boxes,
    draw_cut_edges,
    draw_panoptic,
    draw_semantic,
)
from panoptic_common.drawing.sheets import contact_sheet, legend
from panoptic_common.inference.media import (
    Frame,
    MediaError,
    VideoReader,
    VideoWriter,
    Window,
    find_media,
    limit_size,
    read_image,
    unique_names,
    write_image,
)
from panoptic_common.inference.predictor import Prediction, Predictor

ROOT = Path(__file__).resolve().parent.parent

PANELS = (
    *("image", "panoptic", "semantic", "boxes"),
    *("affinity", "affinities", "cut_edges", "contact_sheet"),
)
# Panels of systems that cut a graph of the image, and what they show.
GRAPH_PANELS = {
    "affinities": ("affinity_map", "affinities between neighbours"),
    "cut_edges": ("cut_edges", "edges that a solver could cut"),
}
LEGIBLE_WIDTH = 512  # narrower images are enlarged, so that names can be read
SHEET_ROWS = 40  # more would make an image that few programs open

Panels = dict[str, np.ndarray]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; adds what follows from it."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog="\n\n".join(__doc__.split("\n\n")[1:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("inputs", nargs="*", help="images, videos, folders, patterns such as 'frames/*.png'")
    add("--checkpoint", required=True, help="file of weights")
    add("--webcam", type=int, metavar="NUMBER", help="camera to use, usually 0")
    add("--output", help="folder for the results (default: show them in a window)")
    add(
        "--panels",
        default="",
        help=f"comma-separated, of {', '.join(PANELS)} (default panoptic,boxes; with --affinity "
        "affinity too)",
    )
    add("--affinity", type=_pixel, metavar="X,Y", help="pixel whose instance affinity to paint")
    add("--score-threshold", type=float, help="least score of a detection, 0 to 1 (default: that "
        "of the config in the panoptic map, 0.5 for boxes)")  # fmt: skip
    add("--json", action="store_true", help="write the results in COCO's panoptic format too")
    add("--max-side", type=int, default=2048, metavar="PIXELS",
        help="reduce larger images to this side, which bounds the memory; 0: never (default "
        "2048)")  # fmt: skip
    add("--device", default="", help="cpu, cuda, cuda:1 ... (default: the GPU if there is one)")
    add("--config-file", default="", help="instead of the config inside the checkpoint")
    add("--allow-unsafe-checkpoint", action="store_true",
        help="read pickles that could run code; only for files you trust")  # fmt: skip
    add("--opts", nargs=argparse.REMAINDER, default=[], help="config keys and values; comes last")
    options = parser.parse_args(arguments)
    options.panels = [name for name in options.panels.split(",") if name]
    unknown = [name for name in options.panels if name not in PANELS]
    if unknown:
        parser.error(f"--panels: {', '.join(unknown)} is none of {', '.join(PANELS)}")
    if not options.panels:
        options.panels = ["panoptic", "boxes"]
    if options.affinity and not {"affinity", "contact_sheet"} & set(options.panels):
        options.panels.append("affinity")
    if "affinity" in options.panels and not options.affinity:
        parser.error("the panel affinity needs a pixel: --affinity X,Y")
    if bool(options.inputs) == (options.webcam is not None):
        parser.error("name images or videos, or a camera by --webcam")
    if options.score_threshold is not None and not 0 <= options.score_threshold <= 1:
        parser.error("--score-threshold lies between 0 and 1")
    if options.max_side < 0:
        parser.error("--max-side must not be negative")
    if len(options.opts) % 2:
        parser.error("--opts are pairs of key and value")
    if not options.output and (options.json or "contact_sheet" in options.panels):
        parser.error("--json and the panel contact_sheet need a folder: --output")
    return options


def _pixel(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y, such as 250,120") from None
    return x, y


# ---- drawing ------------------------------------------------------------------------------------


class PanelUnavailable(Exception):
    """A panel shows something that the model does not have."""


class Painter:
    """Predicts on frames and draws the panels that were asked for."""

    def __init__(self, predictor: Predictor, options: argparse.Namespace) -> None:
        self.predictor = predictor
        self.table = predictor.class_table
        self.sheet: list[Panels] = []
        self.columns: list[str] = []
        if "contact_sheet" in options.panels:
            self.columns = ["image", "semantic", "boxes", "panoptic"]
            self.columns += ["affinity"] if options.affinity else []
        self._max_side = options.max_side
        self._affinity = options.affinity
        self._box_score = 0.5 if options.score_threshold is None else options.score_threshold
        self.wanted = [name for name in options.panels if name != "contact_sheet"]

    def __call__(self, frame: Frame) -> tuple[Prediction, Panels]:
        """Prediction and the panels by name.

        Raises:
            IndexError: the pixel of --affinity lies outside the image.
            PanelUnavailable: the model does not give what a panel shows.
        """
        image = limit_size(frame.image, self._max_side)
        reduced = image.shape[1] / frame.image.shape[1]
        prediction = self.predictor(image)
        if self.columns and not self.sheet:  # what the model gives shows with its first prediction
            self.columns += [
                name
                for name, (field, _) in GRAPH_PANELS.items()
                if getattr(prediction, field) is not None and name not in self.columns
            ]
        on_sheet = self.columns if len(self.sheet) < SHEET_ROWS else []
        names = dict.fromkeys([*on_sheet, *self.wanted])
        drawn = {name: self._draw(name, image, prediction, reduced) for name in names}
        if on_sheet:
            self.sheet.append({name: drawn[name] for name in on_sheet})
        return prediction, {name: drawn[name] for name in self.wanted}

    def _draw(
        self, name: str, image: np.ndarray, prediction: Prediction, reduced: float
    ) -> np.ndarray:
        scale = max(1, round(LEGIBLE_WIDTH / image.shape[1]))
        if name == "panoptic":
            return draw_panoptic(
                image, prediction.id_map, prediction.segments_info, self.table, scale=scale
            )
        if name == "semantic":
            return draw_semantic(image, prediction.semantic, self.table, scale=scale)
        if name == "boxes":
            kept = prediction.scores >= self._box_score
            boxes, classes = prediction.boxes[kept], prediction.classes[kept].tolist()
            scores = prediction.scores[kept].tolist()
            return draw_boxes(image, boxes, classes, scores, self.table, scale=scale)
        if name == "affinity":
            x, y = (value * reduced for value in self._affinity)
            affinity = self.predictor.affinity(image, x, y)
            return draw_affinity(image, affinity, (x, y), scale=scale)
        if name in GRAPH_PANELS:
            field, what = GRAPH_PANELS[name]
            values = getattr(prediction, field)
            if values is None:
                raise PanelUnavailable(f"this model has no {what}: leave out the panel {name}")
            draw = draw_affinities if name == "affinities" else draw_cut_edges
            return draw(image, values, scale=scale)
        return image

    def draw_sheet(self) -> np.ndarray:
        """The contact sheet of all frames so far, a row each."""
        rows = [[panels[name] for name in self.columns] for panels in self.sheet]
        body = contact_sheet(rows, self.columns)
        return np.concatenate([body, legend(self.table, body.shape[1])])


class Progress:
    """Says how far a long job is, at most every few seconds."""

    def __init__(self, what: str, total: int | None, period: float = 3.0) -> None:
        self._what, self._total, self._period = what, total, period
        self._start = self._last = time.monotonic()
        self._done = 0

    def step(self) -> None:
        """Count one more."""
        self._done += 1
        now = time.monotonic()
        if now - self._last < self._period:
            return
        self._last = now
        each = (now - self._start) / self._done
        text = f"{self._done} {self._what}, {each:.2f} s each"
        if self._total:
            left = timedelta(seconds=round(each * max(self._total - self._done, 0)))
            text = f"{self._done}/{self._total} {self._what}, {each:.2f} s each, {left} left"
        print(text, file=sys.stderr, flush=True)


# ---- running ------------------------------------------------------------------------------------


class Demo:
    """One run over all inputs."""

    def __init__(self, painter: Painter, output: Path | None, json_wanted: bool) -> None:
        self.painter = painter
        self.output = output
        self.window = Window("panoptic segmentation") if output is None else None
        self.done = 0
        self.errors: list[str] = []
        self.results: CocoResults | None = None
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            if json_wanted:
                self.results = CocoResults(output, painter.table)

    def run_images(self, paths: Sequence[Path], names: Sequence[str]) -> bool:
        """Work through images; False when the user closed the window."""
        progress = Progress("images", len(paths))
        for path, name in zip(paths, names, strict=True):
            try:
                frame = Frame(name, str(path), read_image(path))
                panels = self._predict(frame)
            except (MediaError, IndexError, torch.cuda.OutOfMemoryError) as error:
                self._fail(str(path), error)
                continue
            for panel, drawn in panels.items():
                if self.output is not None:
                    write_image(self.output / f"{name}_{panel}.png", drawn)
            self.done += 1
            progress.step()
            shown = _side_by_side(panels)
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
        progress = Progress(f"frames of {reader.source}", reader.num_frames)
        writer = VideoWriter(self.output / name, reader.rate) if self.output else None
        try:
            for frame in reader:
                shown = _side_by_side(self._predict(frame))
                if shown is not None and writer is not None:
                    writer.write(shown)
                if shown is not None and self.window and not self.window.show(shown, wait=False):
                    return False
                progress.step()
            self.done += 1
        except (MediaError, IndexError, torch.cuda.OutOfMemoryError) as error:
            self._fail(reader.source, error)
        finally:
            reader.close()
            if writer is not None:
                writer.close()
        return True

    def _predict(self, frame: Frame) -> Panels:
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
        if self.output is not None and self.painter.sheet:
            path = self.output / "contact_sheet.png"
            write_image(path, self.painter.draw_sheet())
            print(f"Contact sheet of {len(self.painter.sheet)} images: {path}")


def _side_by_side(panels: Panels) -> np.ndarray | None:
    """Panels of one frame in a row, all as high as the first; sides are even, as codecs want."""
    if not panels:
        return None
    height, width = next(iter(panels.values())).shape[:2]
    same = [p for p in panels.values() if p.shape[:2] == (height, width)]
    if len(same) != len(panels):  # the plain image, beside panels that were enlarged
        largest = max(panels.values(), key=lambda p: p.shape[0])
        factor = largest.shape[0] // min(p.shape[0] for p in panels.values())
        same = [
            p if p.shape == largest.shape else p.repeat(factor, axis=0).repeat(factor, axis=1)
            for p in panels.values()
        ]
    row = np.concatenate(same, axis=1)
    return np.pad(row, ((0, row.shape[0] % 2), (0, row.shape[1] % 2), (0, 0)), mode="edge")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    try:
        images, videos = find_media(options.inputs)
        predictor = Predictor.from_checkpoint(
            options.checkpoint,
            config_file=options.config_file,
            opts=options.opts,
            device=options.device,
            score_threshold=options.score_threshold,
            allow_unsafe=options.allow_unsafe_checkpoint,
        )
        if options.affinity and not predictor.has_affinity:
            raise ValueError(f"the model of {options.checkpoint} has no instance affinity to paint")
        output = Path(options.output) if options.output else None
        demo = Demo(Painter(predictor, options), output, options.json)
    except (CheckpointError, MediaError, ValueError, KeyError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    names = unique_names([*images, *videos])
    try:
        go_on = demo.run_images(images, names[: len(images)])
        for path, name in zip(videos, names[len(images) :], strict=True):
            go_on = go_on and demo.run_video(path, name)
        if options.webcam is not None:
            demo.run_video(options.webcam, f"camera{options.webcam}")
    except PanelUnavailable as error:
        print(f"demo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if options.webcam is None:  # a camera has no other end
            demo.errors.append("stopped by the user")
    finally:
        demo.finish()
    if output is not None:
        print(f"{demo.done} done, results in {output}")
    if demo.errors:
        print(f"{len(demo.errors)} failed:", *demo.errors, sep="\n  ", file=sys.stderr)
    return 1 if demo.errors else 0


if __name__ == "__main__":
    sys.exit(main())
