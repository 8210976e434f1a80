"""What can be drawn of a prediction: panels that every system has, and those that one brings.

A panel turns an image and what a model makes of it into an image of the result. Programs name
panels on their command line, place them side by side, or put them into the columns of a sheet.
A system adds its own in its module `panels`, see `panoptic_common.systems`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from panoptic_common.drawing.overlays import draw_boxes, draw_panoptic, draw_semantic
from panoptic_common.drawing.strokes import ImageArray
from panoptic_common.inference.predictor import Prediction, Predictor
from panoptic_common.systems import system_panels

logger = logging.getLogger(__name__)

CONTACT_SHEET = "contact_sheet"  # asked for like a panel: one table of all images
LEAST_SCORE = 0.5  # of the boxes that are drawn
Pixel = tuple[float, float]

_OLD_NAMES = {"picture": "image"}  # until the next release


@dataclass(frozen=True, eq=False)
class View:
    """An image and what a model makes of it, as a panel draws it.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        prediction: of this image.
        predictor: that made it; its class table names and colours the classes.
        scale: whole factor by which to enlarge the drawing.
        pixel: (x, y) in the image, for panels that show one pixel.
        least_score: of the boxes that are drawn, 0..1.
        names: whether to write names and scores.
    """

    image: np.ndarray
    prediction: Prediction
    predictor: Predictor
    scale: int = 1
    pixel: Pixel | None = None
    least_score: float = LEAST_SCORE
    names: bool = True


def _always(model: nn.Module) -> bool:
    return True


@dataclass(frozen=True)
class Panel:
    """One kind of drawing.

    Attributes:
        name: on the command line, and in names of files.
        title: on sheets.
        draw: makes the (scale * H, scale * W, 3) uint8 RGB image.
        needs_pixel: whether it shows one pixel, and so needs `View.pixel`.
        available: whether a model of the system has what it shows.
    """

    name: str
    title: str
    draw: Callable[[View], ImageArray]
    needs_pixel: bool = False
    available: Callable[[nn.Module], bool] = _always


# ---- the panels of every system -----------------------------------------------------------------


def _draw_image(view: View) -> ImageArray:
    return view.image


def _draw_panoptic(view: View) -> ImageArray:
    found, table = view.prediction, view.predictor.class_table
    return draw_panoptic(
        view.image,
        found.id_map,
        found.segments_info,
        table,
        names=view.names,
        scale=view.scale,
    )


def _draw_semantic(view: View) -> ImageArray:
    table, classes = view.predictor.class_table, view.prediction.semantic
    return draw_semantic(view.image, classes, table, names=view.names, scale=view.scale)


def _draw_boxes(view: View) -> ImageArray:
    found = view.prediction
    kept = found.scores >= view.least_score
    return draw_boxes(
        view.image,
        found.boxes[kept],
        found.classes[kept].tolist(),
        found.scores[kept].tolist(),
        view.predictor.class_table,
        names=view.names,
        scale=view.scale,
    )


IMAGE = Panel("image", "image", _draw_image)
PANOPTIC = Panel("panoptic", "panoptic", _draw_panoptic)
SEMANTIC = Panel("semantic", "semantic", _draw_semantic)
BOXES = Panel("boxes", "boxes", _draw_boxes)
COMMON_PANELS = (IMAGE, PANOPTIC, SEMANTIC, BOXES)


# ---- which are drawn ----------------------------------------------------------------------------


def panels_of(predictor: Predictor) -> dict[str, Panel]:
    """Return all panels of a model's system by name, the common ones first."""
    module = system_panels(predictor.meta_architecture, predictor.systems)
    panels = (*COMMON_PANELS, *getattr(module, "PANELS", ()))
    return {panel.name: panel for panel in panels}


def choose_panels(
    names: Sequence[str], predictor: Predictor, pixel: Pixel | None = None
) -> list[Panel]:
    """Find the panels that a user names.

    Args:
        names: of panels; CONTACT_SHEET is none and is passed over. Empty: panoptic and boxes.
        predictor: of the model whose results are drawn.
        pixel: (x, y) that panels of one pixel show. Where it is given and `names` asks for nothing
            that shows it, all panels of one pixel join.

    Returns:
        The panels in the order of their names, none twice.

    Raises:
        ValueError: a name is no panel of the system, or the model lacks what a panel shows. Also
            if a panel needs a pixel and there is none, or the other way round.
    """
    known = panels_of(predictor)
    asked = [_OLD_NAMES.get(name, name) for name in names] or [PANOPTIC.name, BOXES.name]
    for old in _OLD_NAMES.keys() & set(names):
        logger.warning("The panel %s is called %s now; use that name.", old, _OLD_NAMES[old])
    wrong = [name for name in asked if name not in (*known, CONTACT_SHEET)]
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)} is none of the panels of {predictor.meta_architecture}: "
            f"{', '.join((*known, CONTACT_SHEET))}"
        )
    if pixel is not None:
        of_pixel = [panel.name for panel in known.values() if panel.needs_pixel]
        if not of_pixel:
            raise ValueError(f"{predictor.meta_architecture} has no panel that shows one pixel")
        if not {CONTACT_SHEET, *of_pixel} & set(asked):
            asked += of_pixel
        _refuse_unavailable([known[name] for name in of_pixel], predictor.model)
    chosen = [known[name] for name in dict.fromkeys(asked) if name != CONTACT_SHEET]
    _refuse_unavailable(chosen, predictor.model)
    for panel in chosen:
        if panel.needs_pixel and pixel is None:
            raise ValueError(f"the panel {panel.name} needs a pixel X,Y")
    return chosen


def _refuse_unavailable(panels: Sequence[Panel], model: nn.Module) -> None:
    for panel in panels:
        if not panel.available(model):
            raise ValueError(
                f"this model has no {panel.title}: leave out the panel {panel.name}, or take a "
                "model that was trained with it"
            )


def sheet_panels(predictor: Predictor, pixel: Pixel | None = None) -> list[Panel]:
    """Return the columns of a contact sheet: all that the model has.

    Args:
        predictor: of the model.
        pixel: without one, panels that show one pixel are left out.
    """
    own = [
        panel
        for panel in list(panels_of(predictor).values())[len(COMMON_PANELS) :]
        if panel.available(predictor.model) and (pixel is not None or not panel.needs_pixel)
    ]
    return [IMAGE, SEMANTIC, BOXES, PANOPTIC, *own]
