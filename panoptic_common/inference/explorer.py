"""One image looked at from all sides: what `tools/app.py` shows, without the page.

The network runs once per image. What it found is kept, and a moved slider or another pixel only
repeats what comes after it. A system says in its module `panels` what its slider changes and what
it knows of a pixel (`slider_of`, `explore`, see `panoptic_common.systems`). Any other one has its
drawings, and no slider.

    explorer = Explorer(predictor)
    opened = explorer.open(image, "cells")
    shown = opened.show(value=0.6, pixel=(120, 80))
    shown.drawings(), shown.table(), shown.write("out")

Shape shorthand: H, W image size in pixels.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from panoptic_common.coco.image_reading import RGBImage
from panoptic_common.coco.instance_masks import number_instances
from panoptic_common.coco.results import CocoResults
from panoptic_common.drawing.strokes import ImageArray, legible_scale
from panoptic_common.files import write_atomically
from panoptic_common.inference.api import Result
from panoptic_common.inference.media import limit_size, write_image
from panoptic_common.inference.panels import LEAST_SCORE, PANOPTIC, Panel, Pixel, View, panels_of
from panoptic_common.inference.predictor import Prediction, Predictor
from panoptic_common.systems import system_panels

WIDTH = 768  # to about which small images are enlarged
TABLE_HEAD = ("segment", "class", "score", "pixels", "% of image")


@dataclass(frozen=True)
class Slider:
    """One number that changes the panoptic map without the network.

    Attributes:
        title: what it is.
        hint: what more of it does, in a sentence.
        low, high, step: its range.
        value: that of the model's config.
        is_score: whether it is a least score, which boxes must have as well to be drawn.
    """

    title: str
    hint: str
    low: float
    high: float
    step: float
    value: float
    is_score: bool = False


@dataclass(frozen=True, eq=False)
class PixelView:
    """What a system knows of one pixel.

    Attributes:
        title: of the drawing.
        drawing: uint8 RGB, of the whole image or of the part around the pixel.
        head: titles of the columns of a table, none without one.
        rows: of that table.
    """

    title: str
    drawing: ImageArray
    head: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()


class Exploration(Protocol):
    """What a system keeps of one image."""

    def predict(self, value: float) -> Prediction:
        """Make the result of a value of the slider."""

    def look_at(self, view: View, value: float) -> PixelView | None:
        """Say what is known of the pixel of a view; None if the model has nothing to say."""


class _Fixed:
    """The exploration of a system that offers none: one result, and its own panel of a pixel."""

    def __init__(self, predictor: Predictor, image: RGBImage) -> None:
        self._predictor = predictor
        self._prediction = predictor(image)

    def predict(self, value: float) -> Prediction:
        return self._prediction

    def look_at(self, view: View, value: float) -> PixelView | None:
        for panel in panels_of(self._predictor).values():
            if panel.needs_pixel and panel.available(self._predictor.model):
                return PixelView(panel.title, panel.draw(view))
        return None


class Explorer:
    """A model to look at images with.

    Attributes:
        predictor: of the model.
        slider: of its system; None without one.
    """

    def __init__(self, predictor: Predictor, longest_side: int = 0) -> None:
        """Take a model.

        Args:
            predictor: of the model.
            longest_side: larger images are reduced to this side in pixels; 0: never.
        """
        self.predictor = predictor
        module = system_panels(predictor.meta_architecture, predictor.systems)
        slider_of = getattr(module, "slider_of", None)
        self.slider: Slider | None = slider_of(predictor.model) if slider_of else None
        self._explore = getattr(module, "explore", _Fixed)
        self._longest_side = longest_side

    def open(self, image: RGBImage, name: str = "image") -> OpenedImage:
        """Run the network on an image.

        Args:
            image: (H, W, 3) uint8 RGB.
            name: of its files.
        """
        image = limit_size(image, self._longest_side)
        return OpenedImage(self, image, name, self._explore(self.predictor, image))


class OpenedImage:
    """An image with what the network found in it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        name: of its files.
        scale: whole factor of its drawings.
    """

    def __init__(
        self, explorer: Explorer, image: RGBImage, name: str, exploration: Exploration
    ) -> None:
        """Keep what `Explorer.open` found."""
        self.image = image
        self.name = name
        self.scale = legible_scale(image, WIDTH)
        self._explorer = explorer
        self._exploration = exploration

    def show(self, value: float | None = None, pixel: Pixel | None = None) -> Shown:
        """Make the result of a value of the slider.

        Args:
            value: of the slider; None: that of the model's config.
            pixel: (x, y) to look at.

        Raises:
            IndexError: the pixel lies outside the image.
            ValueError: the value is out of the slider's range.
        """
        slider, predictor = self._explorer.slider, self._explorer.predictor
        if slider is not None:
            value = slider.value if value is None else value
            if not slider.low <= value <= slider.high:
                raise ValueError(
                    f"{slider.title} is {value}: it lies between {slider.low} and {slider.high}"
                )
        height, width = self.image.shape[:2]
        if pixel is not None and not (0 <= pixel[0] < width and 0 <= pixel[1] < height):
            raise IndexError(f"pixel {pixel} lies outside the image of {width} x {height}")
        number = 0.0 if value is None else value
        things = sum(bool(entry["isthing"]) for entry in predictor.class_table)
        view = View(
            self.image,
            self._exploration.predict(number),
            predictor,
            scale=self.scale,
            pixel=pixel,
            least_score=number if slider is not None and slider.is_score else LEAST_SCORE,
            names=things > 1,  # a hundred times the same name would hide what it names
        )
        looked_at = None if pixel is None else self._exploration.look_at(view, number)
        result = Result(self.image, view.prediction, predictor.class_table, self.name)
        return Shown(result, view, looked_at)


@dataclass(frozen=True)
class Shown:
    """A result with its drawings and tables.

    Attributes:
        result: of `panoptic_common.load`'s form.
        view: that is drawn.
        pixel_view: what is known of the pixel of the view, if there is one.
    """

    result: Result
    view: View
    pixel_view: PixelView | None = None

    @cached_property
    def panoptic(self) -> ImageArray:
        """The drawing of the panoptic map."""
        return PANOPTIC.draw(self.view)

    def drawings(self) -> list[tuple[str, ImageArray]]:
        """Draw all other panels of the system that need no pixel, each with its title."""
        return [(panel.title, panel.draw(self.view)) for panel in other_panels(self.view.predictor)]

    def table(self) -> list[tuple[int, str, float | None, int, float]]:
        """List the segments, the largest first, in the columns of `TABLE_HEAD`."""
        pixels = self.result.panoptic.size
        return [
            (
                segment.id,
                segment.class_name,
                None if segment.score is None else round(segment.score, 3),
                segment.area,
                round(100 * segment.area / pixels, 2),
            )
            for segment in self.result.segments
        ]

    def sentence(self) -> str:
        """Say how many segments there are, and which one the pixel is in."""
        segments = self.result.segments
        things = sum(segment.is_thing for segment in segments)
        height, width = self.result.panoptic.shape
        text = (
            f"{_count(things, 'thing')} and {_count(len(segments) - things, 'stuff segment')} "
            f"in {width} x {height} pixels"
        )
        void = int((self.result.panoptic == 0).sum())
        text += f", {void} of them void." if void else "."
        if self.view.pixel is None:
            return text
        x, y = (int(place) for place in self.view.pixel)
        found = int(self.result.panoptic[y, x])
        at = next((segment for segment in segments if segment.id == found), None)
        what = "void" if at is None else f"segment {at.id}, {at.class_name}, {at.area} pixels"
        if at is not None and at.score is not None:
            what += f", score {at.score:.2f}"
        return f"{text} Pixel ({x}, {y}): {what}."

    def write(self, folder: str | os.PathLike[str]) -> tuple[Path, Path, Path, Path]:
        """Write what others can use: drawing, COCO's panoptic form, and the things as labels.

        Args:
            folder: that exists; files of the same names are replaced.

        Returns:
            The drawing NAME_panoptic.png; panoptic.json, with NAME.png in the folder panoptic; and
            NAME_labels.png of 16 bits. In the latter 0 is no thing, any other number one thing.

        Raises:
            ValueError: there are more things than 16 bits can number.
        """
        place, result = Path(folder), self.result
        ids = [segment.id for segment in result.segments if segment.is_thing]
        labels = Image.fromarray(number_instances(result.panoptic, ids))
        drawing = place / f"{result.name}_panoptic.png"
        write_image(drawing, self.panoptic)
        coco = CocoResults(place, self.view.predictor.class_table)
        found = result.prediction
        present = {segment.id for segment in result.segments}
        listed = [entry for entry in found.segments_info if entry["id"] in present]
        coco.add(result.name, result.name, found.id_map, listed)
        label_file = place / f"{result.name}_labels.png"
        write_atomically(label_file, lambda file: labels.save(file, format="PNG"))
        png = place / "panoptic" / f"{result.name}.png"
        return drawing, coco.write(), png, label_file


def other_panels(predictor: Predictor) -> list[Panel]:
    """List the panels that need no pixel and that a model has, but for the panoptic one."""
    return [
        panel
        for name, panel in panels_of(predictor).items()
        if not panel.needs_pixel and name != PANOPTIC.name and panel.available(predictor.model)
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
