"""From the solver's labels to a panoptic map (Abbas, Swoboda, NeurIPS 2021, 4.1).

Shapes: h, w cells of the grid, stride x stride pixels of the network's input (H_in, W_in) each;
H, W pixels of the result; K classes; M clusters; S segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from panoptic_common.runtime.resampling import resample_nearest


def label_segments(
    node_classes: npt.NDArray[Any],
    clusters: npt.NDArray[Any],
    is_thing: Sequence[bool],
    input_size: tuple[int, int],
    output_size: tuple[int, int],
    *,
    stride: int = 4,
    scores: npt.NDArray[Any] | None = None,
    thing_area_limit: int = 0,
    stuff_area_limit: int = 0,
) -> tuple[npt.NDArray[np.int32], list[dict[str, Any]]]:
    """Make the panoptic map at the size of the result; each pixel takes the labels of its cell.

    Args:
        node_classes: (h, w) integers, the class of each cell.
        clusters: (h, w) integers 0..M-1, the cluster of each cell; a cluster has one class.
        is_thing: K flags.
        input_size: (H_in, W_in) of the network's input, without padding.
        output_size: (H, W).
        stride: of the grid that was solved.
        scores: (M,) of `instance_scores`; become the "score" of things.
        thing_area_limit: things below this area, in pixels of the result, become void.
        stuff_area_limit: stuff likewise.

    Returns:
        (H, W) ids 1..S in the order of the clusters, 0 = void, and segments_info with "id",
        "isthing", "category_id", "area" and, for things, "score". A cluster so small that no pixel
        of the result has its centre in it is no segment.

    Raises:
        ValueError: shapes that do not fit together, or a grid that does not cover the input.
    """
    if node_classes.shape != clusters.shape:
        raise ValueError(f"classes of {node_classes.shape} and clusters of {clusters.shape} cells")
    num_clusters = int(clusters.max()) + 1
    if scores is not None and scores.shape != (num_clusters,):
        raise ValueError(f"{num_clusters} clusters with scores of shape {scores.shape}")
    class_of = np.zeros(num_clusters, np.int64)
    class_of[clusters] = node_classes
    labels = resample_nearest(clusters.astype(np.int64), input_size, output_size, stride)
    areas = np.bincount(labels.ravel(), minlength=num_clusters)
    things = np.asarray(is_thing, dtype=bool)[class_of]
    limits = np.where(things, max(thing_area_limit, 1), max(stuff_area_limit, 1))
    kept = np.flatnonzero(areas >= limits)
    number = np.zeros(num_clusters, dtype=np.int32)
    number[kept] = np.arange(1, len(kept) + 1, dtype=np.int32)
    segments_info: list[dict[str, Any]] = []
    for segment_id, cluster in enumerate(kept.tolist(), start=1):
        segment = {
            "id": segment_id,
            "isthing": bool(things[cluster]),
            "category_id": int(class_of[cluster]),
            "area": int(areas[cluster]),
        }
        if segment["isthing"] and scores is not None:
            segment["score"] = float(scores[cluster])
        segments_info.append(segment)
    return number[labels], segments_info
