"""From frames to the panels that a user asked for, and to one contact sheet of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from panoptic_common.drawing.sheets import contact_sheet, legend
from panoptic_common.drawing.strokes import ImageArray, legible_scale
from panoptic_common.inference.media import Frame, limit_size
from panoptic_common.inference.panels import (
    CONTACT_SHEET,
    LEAST_SCORE,
    Panel,
    Pixel,
    View,
    choose_panels,
    sheet_panels,
)
from panoptic_common.inference.predictor import Prediction, Predictor

SHEET_ROWS = 40  # more would make an image that few programs open


class Painter:
    """Predicts on frames and draws their panels.

    Attributes:
        predictor: of the model.
        wanted: panels of each frame.
        columns: panels of the contact sheet; empty without one.
        rows: the contact sheet's drawings so far, one list per frame.
    """

    def __init__(
        self,
        predictor: Predictor,
        names: Sequence[str] = (),
        *,
        pixel: Pixel | None = None,
        least_score: float = LEAST_SCORE,
        longest_side: int = 0,
    ) -> None:
        """Find the panels.

        Args:
            predictor: of the model.
            names: of panels, as `choose_panels` understands them; "contact_sheet" is one more.
            pixel: (x, y) in the frames for panels that show one pixel.
            least_score: of the boxes that are drawn, 0..1.
            longest_side: larger frames are reduced to this side in pixels; 0: never.

        Raises:
            ValueError: a name is unknown, or the model does not have what a panel shows.
        """
        self.predictor = predictor
        self.wanted = choose_panels(names, predictor, pixel)
        self.columns: list[Panel] = []
        if CONTACT_SHEET in names:
            self.columns = sheet_panels(predictor, pixel)
        self.rows: list[list[ImageArray | None]] = []
        self._pixel = pixel
        self._least_score = least_score
        self._longest_side = longest_side

    def __call__(self, frame: Frame) -> tuple[Prediction, dict[str, ImageArray]]:
        """Predict on a frame, and draw it.

        Returns:
            The prediction, at the size to which the frame was reduced, and the wanted drawings by
            name of the panel.

        Raises:
            IndexError: the pixel lies outside the image.
        """
        image = limit_size(frame.image, self._longest_side)
        reduced = image.shape[1] / frame.image.shape[1]
        view = View(
            image,
            self.predictor(image),
            self.predictor,
            scale=legible_scale(image),
            pixel=self._pixel and (self._pixel[0] * reduced, self._pixel[1] * reduced),
            least_score=self._least_score,
        )
        on_sheet = self.columns if len(self.rows) < SHEET_ROWS else []
        panels = {panel.name: panel for panel in (*on_sheet, *self.wanted)}
        drawn = {name: panel.draw(view) for name, panel in panels.items()}
        if on_sheet:
            self.rows.append([drawn[panel.name] for panel in on_sheet])
        return view.prediction, {panel.name: drawn[panel.name] for panel in self.wanted}

    def draw_sheet(self) -> ImageArray:
        """Draw the contact sheet of the frames so far, a row each, with a legend below.

        Raises:
            ValueError: no contact sheet was asked for.
        """
        body = contact_sheet(self.rows, [panel.title for panel in self.columns])
        return np.concatenate([body, legend(self.predictor.class_table, body.shape[1])])


def side_by_side(panels: Mapping[str, ImageArray]) -> ImageArray | None:
    """Place the panels of one frame in a row, all as high as the highest.

    Args:
        panels: by name; one may be the image itself, beside others that were enlarged.

    Returns:
        (H, W, 3) uint8 RGB with even sides, as video codecs want them; None without panels.
    """
    if not panels:
        return None
    height = max(panel.shape[0] for panel in panels.values())
    row = np.concatenate([_repeat(panel, height) for panel in panels.values()], axis=1)
    return np.pad(row, ((0, row.shape[0] % 2), (0, row.shape[1] % 2), (0, 0)), mode="edge")


def _repeat(panel: ImageArray, height: int) -> ImageArray:
    """Enlarge a panel to a multiple of its height by repeating its pixels."""
    factor = height // panel.shape[0]
    return panel.repeat(factor, axis=0).repeat(factor, axis=1)
