"""The page of tools/app.py: what is shown where, and which event is whose. Needs Gradio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr

from panoptic_common.coco.image_reading import RGBImage
from panoptic_common.inference.explorer import TABLE_HEAD, Explorer, Slider, other_panels
from panoptic_tools.app_events import CLICK, DOWNLOADS, WELCOME, Page, Visit

SECONDS_KEPT = 3600  # that a page left alone keeps its image
CSS = """
.gradio-container { max-width: 1500px !important; margin: auto; }
#panoptic img { cursor: crosshair; }
#examples .grid-container { grid-template-columns: repeat(3, minmax(0, 1fr)); }
#examples .grid-wrap, #others .grid-wrap { min-height: 0; }
footer { display: none !important; }
"""


def build_page(page: Page, title: str) -> gr.Blocks:
    """Lay the page out.

    Args:
        page: what its events do.
        title: the model.
    """
    with gr.Blocks(
        title="Panoptic segmentation", analytics_enabled=False, delete_cache=(600, SECONDS_KEPT)
    ) as blocks:
        visit = gr.State(None, time_to_live=SECONDS_KEPT, delete_callback=Visit.forget)
        gr.Markdown(f"## Panoptic segmentation: {title}")
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                file = gr.File(label="Image", type="filepath", height=130, elem_id="file")
                value = _slider(page.explorer.slider)
                examples = gr.Gallery(
                    [image for _, image in page.examples],
                    label="Examples",
                    columns=3,
                    height="auto",
                    allow_preview=False,
                    interactive=False,
                    format="png",
                    buttons=[],
                    elem_id="examples",
                )
                gr.Markdown("Downloads")
                with gr.Row():
                    files = [
                        gr.DownloadButton(name, interactive=False, size="sm", min_width=130)
                        for name in DOWNLOADS
                    ]
            with gr.Column(scale=4):
                message = gr.Markdown(WELCOME, elem_id="message")
                with gr.Row():
                    panoptic = _image("panoptic: click a pixel", "panoptic", ["fullscreen"])
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
                    columns=len(other_panels(page.explorer.predictor)),
                    height="auto",
                    object_fit="contain",
                    interactive=False,
                    format="png",
                    buttons=["fullscreen"],
                    elem_id="others",
                )
        shown = [visit, message, panoptic, pixel_image, pixel_table, others, segments, *files]
        # One at a time: the network takes all cores, or all of the GPU's memory.
        alone: dict[str, Any] = {"outputs": shown, "concurrency_id": "network"}
        file.change(page.open_file, [file, visit, value], **alone)
        examples.select(page.open_example, [visit, value], **alone)
        value.release(page.move_slider, [visit, value], **alone)
        panoptic.select(page.click, [visit, value], **alone)
    return blocks


def _slider(slider: Slider | None) -> gr.Slider:
    if slider is None:
        return gr.Slider(visible=False)
    return gr.Slider(
        slider.low,
        slider.high,
        slider.value,
        step=slider.step,
        label=slider.title,
        info=slider.hint,
        elem_id="slider",
    )


def _image(label: str, name: str, buttons: list[Any]) -> gr.Image:
    return gr.Image(label=label, elem_id=name, format="png", interactive=False, buttons=buttons)


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
