"""What of COPS is shown beside the common panels: what goes into its solver, and what comes out."""

from __future__ import annotations

from typing import Any, cast

import panoptic_common.compat

import numpy as np
import numpy.typing as npt
import torch

from cops.grid_graph import DIRECTIONS
from panoptic_common.drawing.heat import draw_lines, draw_links, draw_probabilities
from panoptic_common.drawing.strokes import ImageArray, legible_scale
from panoptic_common.inference.explorer import PixelView, Slider
from panoptic_common.inference.panels import PANOPTIC, SEMANTIC, Panel, View
from panoptic_common.inference.predictor import Prediction, Predictor
from panoptic_common.inference.record_sheets import Column

# Outputs of the model per cell of the grid. One is the probability that the network gives to a cut
# between a cell and the next ones. The other one is the share of these edges that the solver cut.
EXTRA_MAPS = ("affinity_map", "cut_edges")


def _draw_affinities(view: View) -> ImageArray:
    values = view.prediction.extra_maps["affinity_map"]
    return draw_probabilities(view.image, values, scale=view.scale)


def _draw_cut_edges(view: View) -> ImageArray:
    return draw_lines(view.image, view.prediction.extra_maps["cut_edges"], scale=view.scale)


AFFINITIES = Panel("affinities", "affinities", _draw_affinities)
CUT_EDGES = Panel("cut_edges", "cut edges", _draw_cut_edges)
PANELS = (AFFINITIES, CUT_EDGES)

# What goes into the solver, what comes out, and the results. The first model is as pre-training
# left it, the second was trained through the solver, the last one was calibrated.
DEMO_COLUMNS = (
    Column(SEMANTIC, "class argmax"),
    Column(AFFINITIES),
    Column(CUT_EDGES),
    Column(PANOPTIC, "baseline", model=0),
    Column(PANOPTIC, "full", model=1),
    Column(PANOPTIC, "calibrated"),
)


# ---- one image, looked at from all sides ---------------------------------------------------------

EDGES_HEAD = ("direction", "pixels", "edge cost", "P(cut)", "solver")
EDGES_TITLE = "edges of the marked pixel; red: likely a cut, cross: was cut"
_WIDTH = 768  # to about which the part of the image around a pixel is enlarged
_LEAST_REACH = 8  # of that part, in pixels
_RANGE = 3.0  # of the offset, in log odds


def slider_of(model: Any) -> Slider:
    """Return the slider of the constant that is added to every edge cost."""
    value = float(model.options.edge_offset)
    return Slider(
        "edge offset",
        "Added to every edge cost: more of it joins more, less of it cuts more.",
        low=min(-_RANGE, value),
        high=max(_RANGE, value),
        step=0.05,
        value=value,
    )


class CopsExploration:
    """The costs of one image; each offset is solved once."""

    def __init__(self, predictor: Predictor, image: npt.NDArray[np.uint8]) -> None:
        """Run the network, but not the solver."""
        self._predictor, self._image = predictor, image
        self._model = cast(Any, predictor.model)
        self._inputs = predictor.prepare(image)
        with torch.no_grad():
            images = self._model.preprocess([self._inputs])
            self._solved = next(self._model.solved_images([self._inputs], images))

    def predict(self, value: float) -> Prediction:
        """Solve with an edge offset."""
        options = self._model.options.changed({"edge_offset": value})
        with torch.no_grad():
            output = self._solved.outputs(options)
        return self._predictor.prediction(self._image, self._inputs, output)

    def look_at(self, view: View, value: float) -> PixelView | None:
        """List the edges of the pixel's cell: cost, probability of a cut, what the solver did."""
        assert view.pixel is not None  # it is asked for only then
        options = self._model.options.changed({"edge_offset": value})
        graph, costs, result = self._solved.solve(options)
        size = np.array([view.image.shape[1], view.image.shape[0]])  # x, y
        input_size = np.array(self._solved.input_size[::-1])
        column, row = (np.array(view.pixel) * input_size / size / options.stride).astype(int)
        node = row * graph.width + column
        numbers = np.flatnonzero((graph.edges == node).any(axis=1))
        edges = graph.edges[numbers].astype(np.int64)
        others = edges.sum(axis=1) - node
        edge_costs = graph.edge_costs_from_maps(costs.edge_costs.numpy())[numbers]
        probabilities = 1 / (1 + np.exp(edge_costs.astype(np.float64)))
        is_cut = result.node_clusters[others] != result.node_clusters[node]
        cells = np.stack([others % graph.width, others // graph.width], axis=1)
        steps = cells - [column, row]
        stretch = options.stride * size / input_size
        # A place (x, y) is the middle of pixel x, y: half a pixel before the middle of a cell.
        ends = (cells + 0.5) * stretch - 0.5
        x, y = (np.array([column, row]) + 0.5) * stretch - 0.5
        drawing = _draw_edges(view.image, (float(x), float(y)), ends, probabilities, is_cut)
        rows = [
            (
                DIRECTIONS[int(step[0] == 0)],
                round(float((step * stretch).sum()), 1),
                round(float(cost), 2),
                round(float(probability), 3),
                "cut" if cut else "joined",
            )
            for step, cost, probability, cut in zip(
                steps, edge_costs, probabilities, is_cut, strict=True
            )
        ]
        rows.sort(key=lambda entry: (entry[0], entry[1]))
        return PixelView(EDGES_TITLE, drawing, EDGES_HEAD, rows)


def _draw_edges(
    image: npt.NDArray[np.uint8],
    centre: tuple[float, float],
    ends: npt.NDArray[np.float64],
    probabilities: npt.NDArray[np.float64],
    is_cut: npt.NDArray[np.bool_],
) -> ImageArray:
    """Draw the edges of one place in a part of the image that they fill, enlarged."""
    height, width = image.shape[:2]
    longest = max([_LEAST_REACH, *np.abs(ends - centre).max(axis=1, initial=0).tolist()])
    reach = int(np.ceil(1.2 * longest))
    left, top = (max(0, int(place) - reach) for place in centre)
    right, bottom = min(width, int(centre[0]) + reach + 1), min(height, int(centre[1]) + reach + 1)
    part = image[top:bottom, left:right]
    return draw_links(
        part,
        (centre[0] - left, centre[1] - top),
        ends - [left, top],
        probabilities,
        is_cut,
        scale=legible_scale(part, _WIDTH),
    )


explore = CopsExploration
