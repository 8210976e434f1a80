"""One image from an exported COPS network to its panoptic map: run, solve, post-process.

Shapes: K classes; D distances; h, w cells of the network's grid; H, W pixels of the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cops.grid_graph import grid_graph
from cops.runtime.instance_scores import instance_scores
from cops.runtime.segments import label_segments
from cops.solver import METHODS, solve_amwc
from panoptic_common.runtime.folder import ExportedModel
from panoptic_common.runtime.forms import NOT_NEGATIVE, NUMBER, POSITIVE, Form, choice
from panoptic_common.runtime.images import prepare_image

OPTIONS: Form = {
    "method": choice(*METHODS),
    "stride": POSITIVE,
    "distances": [POSITIVE],
    "edge_offset": NUMBER,
    "thing_area_limit": NOT_NEGATIVE,
    "stuff_area_limit": NOT_NEGATIVE,
}


def predict(
    model: ExportedModel, image: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.int32], list[dict[str, Any]]]:
    """Segment one image.

    Args:
        model: an export of `cops.modeling.export`.
        image: (H, W, 3) RGB.

    Returns:
        (H, W) segment ids, 0 = void, and segments_info with contiguous "category_id".
    """
    model.require_options(OPTIONS)
    padded, input_size = prepare_image(image, model.preparation)
    maps = model.run("network", {"image": padded})
    options = model.options
    stride = int(options["stride"])
    height, width = (-(-length // stride) for length in input_size)
    # Padding is cut off before the solver sees it.
    class_costs = maps["class_costs"][0, :, :height, :width]
    edge_costs = maps["edge_costs"][0, :, :height, :width]
    if options["edge_offset"]:
        edge_costs = edge_costs + np.float32(options["edge_offset"])
    is_thing = [bool(entry["isthing"]) for entry in model.classes]
    graph = grid_graph(height, width, options["distances"])
    result = solve_amwc(
        graph.node_costs_from_maps(class_costs),
        graph.edges,
        graph.edge_costs_from_maps(edge_costs),
        np.asarray(is_thing),
        method=options["method"],
    )
    classes = result.node_classes.reshape(height, width)
    clusters = result.node_clusters.reshape(height, width)
    return label_segments(
        classes,
        clusters,
        is_thing,
        input_size,
        (image.shape[0], image.shape[1]),
        stride=stride,
        scores=instance_scores(classes, clusters, -class_costs, -edge_costs, graph),
        thing_area_limit=options["thing_area_limit"],
        stuff_area_limit=options["stuff_area_limit"],
    )
