"""What of COPS is shown beside the common panels: what goes into its solver, and what comes out."""

from __future__ import annotations

from panoptic_common.drawing.heat import draw_lines, draw_probabilities
from panoptic_common.drawing.strokes import ImageArray
from panoptic_common.inference.panels import PANOPTIC, SEMANTIC, Panel, View
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

# What goes into the solver, what comes out, and the result before and after training through it.
# The first model is as pre-training left it, the last one was trained through the solver.
DEMO_COLUMNS = (
    Column(SEMANTIC, "class argmax"),
    Column(AFFINITIES),
    Column(CUT_EDGES),
    Column(PANOPTIC, "baseline", model=0),
    Column(PANOPTIC, "full"),
)
