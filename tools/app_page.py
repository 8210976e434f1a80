"""The page of tools/app.py: what is shown where, and what a click does. Only this needs Gradio.

What is computed is `panoptic_common.inference.explorer`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
import torch

from panoptic_common.coco.image_reading import RGBImage
from panoptic_common.inference.explorer import (
    TABLE_HEAD,
    Explorer,
    OpenedImage,
    PixelView,
    Shown,
)
from panoptic_common.inference.media import read_image
from panoptic_common.inference.panels import Pixel

WELCOME = "Drop an image, or click one of the examples."
CLICK = "Click on the map: what the model ties that pixel to is drawn here."
SECONDS_KEPT = 3600  # that a page left alone keeps its image
CSS = """
.gradio-container { max-width: 1500px !important; margin: auto; }
#panoptic img { cursor: crosshair; }
footer { display: none !important; }
"""


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

    def forget(self) -> None:
        """Remove its files."""
        shutil.rmtree(self.folder, ignore_errors=True)


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
        except (ValueError, OSError) as error:  # of the image; it names the file of the server
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
            [str(path) for path in shown.write(folder)],
        ]

    @staticmethod
    def _blank(visit: Visit | None, text: str) -> list[Any]:
        if visit is not None:
            visit.opened = None
        nothing = gr.update(value=None, label=CLICK)
        return [visit, text, None, nothing, gr.update(visible=False), [], [], None]


def _pixel_image(shown: Shown, seen: PixelView | None) -> Any:
    if seen is not None:
        return gr.update(value=seen.drawing, label=seen.title)
    asked = shown.view.pixel is not None
    label = "This model has nothing to say of a pixel." if asked else CLICK
    return gr.update(value=None, label=label)


def _table(seen: PixelView | None) -> dict[str, Any]:
    rows = [list(row) for row in seen.rows] if seen else []
    return {"headers": list(seen.head) if seen else [], "data": rows}


def build_page(page: Page, title: str) -> gr.Blocks:
    """Lay the page out.

    Args:
        page: what its events do.
        title: the model.
    """
    slider = page.explorer.slider
    with gr.Blocks(
        title="Panoptic segmentation", analytics_enabled=False, delete_cache=(600, SECONDS_KEPT)
    ) as blocks:
        visit = gr.State(None, time_to_live=SECONDS_KEPT, delete_callback=_forget)
        gr.Markdown(f"## Panoptic segmentation: {title}")
        with gr.Row():
            with gr.Column(scale=1, min_width=260):
                file = gr.File(label="Image", type="filepath", height=130, elem_id="file")
                value = gr.Slider(
                    slider.low if slider else 0,
                    slider.high if slider else 1,
                    slider.value if slider else 0,
                    step=slider.step if slider else 1,
                    label=slider.title if slider else "",
                    info=slider.hint if slider else "",
                    visible=slider is not None,
                    elem_id="slider",
                )
                examples = gr.Gallery(
                    [(image, name) for name, image in page.examples],
                    label="Examples",
                    columns=3,
                    height="auto",
                    allow_preview=False,
                    interactive=False,
                    format="png",
                    buttons=[],
                    elem_id="examples",
                )
                files = gr.File(label="Downloads", file_count="multiple", interactive=False)
            with gr.Column(scale=4):
                message = gr.Markdown(WELCOME, elem_id="message")
                with gr.Row():
                    panoptic = _image("panoptic", "panoptic", ["fullscreen"])
                    pixel_image = _image(CLICK, "pixel", ["fullscreen"])
                with gr.Row():
                    segments = gr.Dataframe(
                        headers=list(TABLE_HEAD),
                        label="Segments",
                        interactive=False,
                        max_height=300,
                        elem_id="segments",
                    )
                    pixel_table = gr.Dataframe(
                        label="The marked pixel",
                        interactive=False,
                        max_height=300,
                        visible=False,
                        elem_id="pixel_table",
                    )
                others = gr.Gallery(
                    label="More drawings",
                    columns=4,
                    object_fit="contain",
                    interactive=False,
                    format="png",
                    buttons=["fullscreen"],
                    elem_id="others",
                )
        shown = [visit, message, panoptic, pixel_image, pixel_table, others, segments, files]
        # One at a time: the network takes all cores, or all of the GPU's memory.
        alone: dict[str, Any] = {"outputs": shown, "concurrency_id": "network"}
        file.change(page.open_file, [file, visit, value], **alone)
        examples.select(page.open_example, [visit, value], **alone)
        value.release(page.move_slider, [visit, value], **alone)
        panoptic.select(page.click, [visit, value], **alone)
    return blocks


def _image(label: str, name: str, buttons: list[Any]) -> gr.Image:
    return gr.Image(
        label=label, elem_id=name, format="png", interactive=False, buttons=buttons, height=520
    )


def _forget(visit: Visit | None) -> None:
    if visit is not None:
        visit.forget()


def build_application(
    explorer: Explorer, title: str, examples: Sequence[tuple[str, RGBImage]], folder: Path
) -> fastapi.FastAPI:
    """Make the application that a server runs.

    Args:
        explorer: of the model.
        title: the model.
        examples: name and image of each.
        folder: for all files that the page shows.
    """
    blocks = build_page(Page(explorer, examples, folder), title)
    # Fonts of the machine: Gradio's own come from the internet.
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    application = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    return gr.mount_gradio_app(
        application,
        blocks,
        path="/",
        ssr_mode=False,
        show_error=True,
        allowed_paths=[str(folder)],
        theme=theme,
        css=CSS,
        footer_links=[],
        enable_monitoring=False,
    )
