"""True PQ of predictions on the grid, and what keeps it from 100.

Shapes: S true segments; K classes; h, w cells of the grid.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from cops.grid_graph import grid_graph
from cops.layers.panoptic_masks import PanopticMasks
from cops.losses.panoptic_quality import true_statistics
from cops.targets import CopsTarget
from panoptic_tools.studies.library.poor_costs import IS_THING


def true_quality(
    predictions: Sequence[PanopticMasks], truths: Sequence[CopsTarget], limits: Tensor
) -> float:
    """Return true PQ in percent over some images."""
    return 100 * true_statistics(predictions, truths, limits).quality(IS_THING).all.pq


def in_one_piece(truth: CopsTarget, distances: Sequence[int]) -> Tensor:
    """Return per true segment, (S,), whether its own edges join all its cells.

    Stuff need not be joined, so it passes.
    """
    graph = grid_graph(*truth.segment_map.shape, distances)
    segment_of = truth.segment_map.flatten().numpy()
    ends = graph.edges[segment_of[graph.edges[:, 0]] == segment_of[graph.edges[:, 1]]]
    joined = coo_matrix((np.ones(len(ends)), ends.T), shape=(graph.num_nodes,) * 2)
    _, piece = connected_components(joined, directed=False)
    return torch.tensor(
        [
            not IS_THING[category] or len(np.unique(piece[segment_of == segment])) == 1
            for segment, category in enumerate(truth.classes.tolist())
        ]
    )


def explain(
    prediction: PanopticMasks, truth: CopsTarget, limits: Tensor, distances: Sequence[int]
) -> Counter:
    """Count what keeps one image from 100, by kinds of errors.

    Args:
        prediction: of the image.
        truth: of the image.
        limits: (K,) rejection areas, cells.
        distances: of the edges, in cells.
    """
    labels = torch.from_numpy(prediction.solution.node_clusters).long()
    return missed_segments(prediction, truth, labels, limits, distances) + excess_segments(
        prediction, truth, labels, limits
    )


def missed_segments(
    prediction: PanopticMasks,
    truth: CopsTarget,
    labels: Tensor,
    limits: Tensor,
    distances: Sequence[int],
) -> Counter:
    """Count true segments that are not matched, or not perfectly; `labels` are (h w,) masks."""
    kinds: Counter = Counter()
    segment_map = truth.segment_map.flatten()
    partner = {int(s): j for j, s in enumerate(prediction.match) if s >= 0}
    whole = in_one_piece(truth, distances)
    for segment, category in enumerate(truth.classes.tolist()):
        where = segment_map == segment
        note = "" if whole[segment] else " (truth in pieces that no edge joins)"
        note = " (truth below its limit)" if where.sum() < limits[category] else note
        mask = partner[segment]
        if mask >= prediction.num_predicted:
            kinds["missed, no overlap" + note] += 1
            continue
        found = (labels == mask) & (segment_map >= 0)
        iou = float((found & where).sum() / (found | where).sum())
        kept = (labels == mask).sum() >= limits[category]
        if not kept:
            kinds["matched, but rejected as small" + note] += 1
        elif iou < 1:
            kinds[("matched below 1/2" if iou <= 0.5 else "matched, not perfect") + note] += 1
    return kinds


def excess_segments(
    prediction: PanopticMasks, truth: CopsTarget, labels: Tensor, limits: Tensor
) -> Counter:
    """Count predicted segments that match nothing; `labels` are (h w,) masks."""
    kinds: Counter = Counter()
    segment_map = truth.segment_map.flatten()
    present = set(truth.classes.tolist())
    for mask in range(prediction.num_predicted):
        category, where = int(prediction.classes[mask]), labels == mask
        known = int((where & (segment_map >= 0)).sum())
        if int(prediction.match[mask]) < 0 and 2 * known >= int(where.sum()):
            kind = "too many" if where.sum() >= limits[category] else "too many, but rejected"
            kinds[kind + ("" if category in present else ", of a class not there")] += 1
    return kinds
