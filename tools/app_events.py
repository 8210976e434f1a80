"""What the events of tools/app.py's page do, with Gradio's updates as their results.

What is computed is `panoptic_common.inference.explorer`; where it is shown says `app_page`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import torch

from panoptic_common.coco.image_reading import RGBImage
from panoptic_common.inference.explorer import Explorer, OpenedImage, PixelView, Shown
from panoptic_common.inference.media import read_image
from panoptic_common.inference.panels import Pixel

WELCOME = "Drop an image, or click one of the examples."
CLICK = "Click on the map: what the model ties that pixel to is drawn here."
DOWNLOADS = ("drawing", "COCO JSON", "COCO PNG", "label image")  # in the order of Shown.write
NO_DOWNLOADS = [gr.update(value=None, interactive=False)] * len(DOWNLOADS)


@dataclass
class Visit:
    """What one open page looks at.

    Attributes:
        folder: of its downloads.
        opened: its image; None before the first.
        pixel: that was clicked.
    """

    folder: Path
    opened: OpenedImage | None = None
    pixel: Pixel | None = None

    @staticmethod
    def forget(visit: Visit | None) -> None:
        """Remove the files of a page that was left."""
        if visit is not None:
            shutil.rmtree(visit.folder, ignore_errors=True)


class Page:
    """What the page's events do; every method returns the page's outputs in one order."""

    def __init__(
        self, explorer: Explorer, examples: Sequence[tuple[str, RGBImage]], folder: Path
    ) -> None:
        """Take a model.

        Args:
            explorer: of the model.
            examples: name and image of each.
            folder: for downloads.
        """
        self.explorer = explorer
        self.examples = examples
        self._folder = folder

    def open_file(self, path: str | None, visit: Visit | None, value: float) -> list[Any]:
        """Show a file that was dropped."""
        if path is None:
            return self._blank(visit, WELCOME)
        return self._open(lambda: read_image(path), Path(path).stem, visit, value)

    def open_example(self, visit: Visit | None, value: float, event: gr.SelectData) -> list[Any]:
        """Show the example that was clicked."""
        name, image = self.examples[event.index]
        return self._open(lambda: image, name, visit, value)

    def move_slider(self, visit: Visit | None, value: float) -> list[Any]:
        """Show the same image with another value."""
        if visit is None or visit.opened is None:
            return self._blank(visit, WELCOME)
        return self._show(visit, value)

    def click(self, visit: Visit | None, value: float, event: gr.SelectData) -> list[Any]:
        """Look at the pixel that was clicked in the drawing."""
        if visit is None or visit.opened is None:
            return self._blank(visit, WELCOME)
        scale = visit.opened.scale
        visit.pixel = (event.index[0] // scale, event.index[1] // scale)
        return self._show(visit, value)

    def _open(
        self, read: Callable[[], RGBImage], name: str, visit: Visit | None, value: float
    ) -> list[Any]:
        if visit is None:
            visit = Visit(Path(tempfile.mkdtemp(dir=self._folder)))
        try:
            visit.opened, visit.pixel = self.explorer.open(read(), name), None
        except (ValueError, OSError, FloatingPointError) as error:  # it names the server's file
            return self._blank(visit, f"{name}: {str(error).partition(': ')[2] or error}")
        except torch.cuda.OutOfMemoryError:
            text = f"{name}: the GPU's memory is full; a smaller --max-side needs less"
            return self._blank(visit, text)
        return self._show(visit, value)

    def _show(self, visit: Visit, value: float) -> list[Any]:
        assert visit.opened is not None  # the callers look
        shown = visit.opened.show(value if self.explorer.slider else None, visit.pixel)
        for entry in visit.folder.iterdir():  # of the image before
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        return [visit, shown.sentence(), *self._drawings(shown, visit.folder)]

    @staticmethod
    def _drawings(shown: Shown, folder: Path) -> list[Any]:
        seen = shown.pixel_view
        return [
            shown.panoptic,
            _pixel_image(shown, seen),
            gr.update(value=_table(seen), visible=seen is not None and bool(seen.rows)),
            [(drawing, title) for title, drawing in shown.drawings()],
            [list(row) for row in shown.table()],
            *(gr.update(value=str(path), interactive=True) for path in shown.write(folder)),
        ]

    @staticmethod
    def _blank(visit: Visit | None, text: str) -> list[Any]:
        if visit is not None:
            visit.opened = None
        nothing = gr.update(value=None, label=CLICK)
        return [visit, text, None, nothing, gr.update(visible=False), [], [], *NO_DOWNLOADS]


def _pixel_image(shown: Shown, seen: PixelView | None) -> Any:
    if seen is not None:
        return gr.update(value=seen.drawing, label=seen.title)
    asked = shown.view.pixel is not None
    label = "This model has nothing to say of a pixel." if asked else CLICK
    return gr.update(value=None, label=label)


def _table(seen: PixelView | None) -> dict[str, Any]:
    rows = [list(row) for row in seen.rows] if seen else []
    return {"headers": list(seen.head) if seen else [], "data": rows}
