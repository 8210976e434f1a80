"""How sure COPS is of an instance, for average precision (Abbas, Swoboda, NeurIPS 2021, Eq. 12).

AP ranks instances by a score, and the solver gives none. Eq. 12 takes it from what the network
said about the result:

    mean class logit of the cells of the mask, for its class
    + mean logit "cut" of the edges that leave the mask
    - mean logit "cut" of the edges inside it.

So an instance is sure if its class, its outline and its inside were all clear. The equation prints
the class *cost* with a plus sign, which would rank backwards. The sum over inner edges, as printed,
also runs over the edges of all other segments. Here the class logit counts, and the edges with one
end, or both ends, in the mask.

Shapes: h, w cells of the grid; K classes; D distances; M clusters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cops.grid_graph import GridGraph

FloatArray = npt.NDArray[np.float64]


def instance_scores(
    node_classes: npt.NDArray[Any],
    clusters: npt.NDArray[Any],
    class_logits: npt.NDArray[Any],
    edge_logits: npt.NDArray[Any],
    graph: GridGraph,
) -> FloatArray:
    """Score every cluster of a solution.

    The scores are those of Eq. 12, squashed into (0, 1) by s -> (1 + s / (1 + |s|)) / 2. A sigmoid
    would do that as well, but logits sum up to 30 and more here. In float32, in which detections
    keep their scores, the sigmoid is exactly 1 from 17 on, and the surest instances would be tied.

    Args:
        node_classes: (h, w) integers, the class of each cell.
        clusters: (h, w) integers 0..M-1, the cluster of each cell; a cluster has one class.
        class_logits: (K, h, w); class costs with the opposite sign will do.
        edge_logits: (2 D, h, w), positive where an edge wants to be cut; likewise.
        graph: of the grid.

    Returns:
        (M,) scores in (0, 1), those of stuff included. A group of edges that a cluster does not
        have adds 0: the outline of a segment that fills the image, the inside of a single cell.

    Raises:
        ValueError: for shapes that do not fit together.
    """
    size = (graph.height, graph.width)
    shapes = {
        "node_classes": (node_classes.shape, size),
        "clusters": (clusters.shape, size),
        "class_logits": (class_logits.shape, (len(class_logits), *size)),
        "edge_logits": (edge_logits.shape, (graph.num_channels, *size)),
    }
    for name, (shape, expected) in shapes.items():
        if shape != expected:
            raise ValueError(f"{name} has shape {shape}, expected {expected}")
    num_clusters = int(clusters.max()) + 1
    logits = np.take_along_axis(class_logits, node_classes[None].astype(np.intp), axis=0)[0]
    certainty = _means(*_sums(clusters.ravel(), logits.ravel(), num_clusters))
    cut, inner = np.zeros((2, 2, num_clusters))
    for channel in graph.channels:
        first, second = clusters[channel.first], clusters[channel.second]
        values = edge_logits[channel.channel][channel.cells]
        is_cut = first != second
        inner += _sums(first[~is_cut], values[~is_cut], num_clusters)
        values = values[is_cut]
        for end in (first, second):
            cut += _sums(end[is_cut], values, num_clusters)
    certainty += _means(*cut) - _means(*inner)
    return (1 + certainty / (1 + np.abs(certainty))) / 2


def _sums(labels: npt.NDArray[Any], values: npt.NDArray[Any], length: int) -> FloatArray:
    """Return (2, length): the sum of the values of each label, and how many there are."""
    return np.stack(
        [
            np.bincount(labels, weights=values, minlength=length),
            np.bincount(labels, minlength=length),
        ]
    )


def _means(sums: FloatArray, counts: FloatArray) -> FloatArray:
    return np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
