"""One run of tools/demo.py over images, videos or a camera, whatever ends it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import panoptic_common.compat  # sets OMP_WAIT_POLICY before torch reads it

import torch
from tqdm import tqdm

from panoptic_common.checkpoint.finite import NotFiniteError
from panoptic_common.coco.results import CocoResults
from panoptic_common.drawing.strokes import ImageArray
from panoptic_common.files import require_writable
from panoptic_common.inference import media
from panoptic_common.inference.media import MediaError
from panoptic_common.inference.painter import Painter, side_by_side
from panoptic_common.inference.video import VideoReader, VideoWriter, Window
from panoptic_common.processes import stopping

PERIOD = 3.0  # seconds between two reports of progress; what is done sooner shows none

# What ends the work on one image or video; the others are done all the same.
OF_ONE_INPUT = (MediaError, IndexError, NotFiniteError, torch.cuda.OutOfMemoryError)


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

    def files(self, images: Sequence[Path], videos: Sequence[Path]) -> list[Path]:
        """Return what will be written of these inputs, as far as images may have such names."""
        if self.output is None:
            return []
        names = media.unique_names([*images, *videos])
        files = [self.output / "contact_sheet.png"]
        for name in names[: len(images)]:
            files += [self.output / f"{name}_{p.name}.png" for p in self.painter.wanted]
            files.append(self.output / "panoptic" / f"{name}.png")
        for name in names[len(images) :]:
            files += [self.output / f"{name}{ending}" for ending in (".mp4", ".avi")]
        return files

    def run(self, images: Sequence[Path], videos: Sequence[Path], camera: int | None) -> int:
        """Work through all inputs, and write what concerns all of them.

        Args:
            images: paths.
            videos: paths.
            camera: its number.

        Returns:
            0; or 143 or 130, if SIGTERM or SIGINT ended the work. What was done is written then,
            too.
        """
        names = media.unique_names([*images, *videos])
        ended = 0
        try:
            go_on = self.run_images(images, names[: len(images)])
            for path, name in zip(videos, names[len(images) :], strict=True):
                go_on = go_on and self.run_video(path, name)
            if camera is not None:
                self.run_video(camera, f"camera{camera}")
        except SystemExit as end:
            ended = stopping.status_of(end)
        except OSError as error:  # of writing
            self.errors.append(f"stopped: {error}")
        try:
            self.finish()
        except OSError as error:
            self.errors.append(str(error))
        return ended

    def run_images(self, paths: Sequence[Path], names: Sequence[str]) -> bool:
        """Work through images; False when the user closed the window."""
        with tqdm(total=len(paths), unit="image", mininterval=PERIOD, delay=PERIOD) as bar:
            for path, name in zip(paths, names, strict=True):
                try:
                    panels = self._predict(media.Frame(name, str(path), media.read_image(path)))
                except OF_ONE_INPUT as error:
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
        # Who stops a camera wants what it has seen.
        keep = isinstance(source, int)
        writer = VideoWriter(self.output / name, reader.rate, keep) if self.output else None
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
        except OF_ONE_INPUT as error:
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
