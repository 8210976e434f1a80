"""From the solver's labels to Detectron2's outputs (Abbas, Swoboda, NeurIPS 2021, 4.1, A.6, A.8).

The solver labels the cells of a grid: a class and a cluster each. Here they become a panoptic map
at the size of the result; its small segments become void. That is all the post-processing there is,
as the solver's segments neither overlap nor leave gaps. Its things, with the scores of Eq. 12,
become the instances by which average precision is computed.

Beside it stands the semantic oracle of Table 9: class costs that are replaced by the truth.

Shapes: h, w cells of the grid, stride x stride pixels of the network's input (H_in, W_in) each;
H, W pixels of the result; K classes; D distances; M clusters; S segments; T things among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from detectron2.structures import Boxes, Instances

from cops.runtime.segments import label_segments
from panoptic_common.coco.segment_ids import segment_areas_and_boxes
from panoptic_common.modeling.resampling import resample

# Detectron2's form: (H, W) int32 ids on the CPU with 0 = void, and one dict per segment.
Panoptic = tuple[torch.Tensor, list[dict[str, Any]]]


# ---- segments -----------------------------------------------------------------------------------


def segments_from_labels(
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
) -> Panoptic:
    """Make the panoptic map of `cops.runtime.segments.label_segments` as a tensor."""
    id_map, segments_info = label_segments(
        node_classes,
        clusters,
        is_thing,
        input_size,
        output_size,
        stride=stride,
        scores=scores,
        thing_area_limit=thing_area_limit,
        stuff_area_limit=stuff_area_limit,
    )
    return torch.from_numpy(id_map), segments_info


def instances_from_segments(
    panoptic: Panoptic, is_thing: Sequence[bool], max_instances: int = 100
) -> Instances:
    """Turn the things of a panoptic map into detections, best first.

    Args:
        panoptic: of `segments_from_labels`, with scores.
        is_thing: K flags.
        max_instances: only so many of the best. COCO's AP looks at 100 of an image, and an
            untrained network makes thousands, whose masks would not fit into memory.

    Returns:
        T instances on the CPU: pred_masks (T, H, W) bool, pred_boxes that enclose them tightly,
        scores, and pred_classes. The latter are thing indices as in Detectron2's detectors.
    """
    id_map, segments_info = panoptic
    things = sorted((s for s in segments_info if s["isthing"]), key=lambda s: -s["score"])
    things = things[:max_instances]
    ids, _, corners = segment_areas_and_boxes(id_map.numpy())
    position = {segment_id: k for k, segment_id in enumerate(ids.tolist())}
    rows = np.array([position[s["id"]] for s in things], dtype=np.int64)
    boxes = corners[rows].astype(np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]  # XYWH to XYXY
    thing_index = np.cumsum(is_thing) - 1
    chosen = torch.tensor([s["id"] for s in things], dtype=torch.int32)
    instances = Instances((id_map.shape[0], id_map.shape[1]))
    instances.pred_boxes = Boxes(torch.from_numpy(boxes))
    instances.scores = torch.tensor([s["score"] for s in things], dtype=torch.float32)
    instances.pred_classes = torch.tensor(
        [int(thing_index[s["category_id"]]) for s in things], dtype=torch.int64
    )
    instances.pred_masks = id_map[None] == chosen[:, None, None]
    return instances


def semantic_probabilities(
    class_logits: torch.Tensor,
    input_size: tuple[int, int],
    output_size: tuple[int, int],
    *,
    stride: int = 4,
) -> torch.Tensor:
    """Compute the semantic output: softmax on the grid, then bilinear interpolation.

    In this order nothing larger than the output is ever made, and each pixel's probabilities still
    sum to 1.

    Args:
        class_logits: (K, h, w).
        input_size: (H_in, W_in).
        output_size: (H, W).
        stride: of the grid.

    Returns:
        (K, H, W) float32 probabilities.
    """
    return resample(class_logits.float().softmax(dim=0), input_size, output_size, stride)


# ---- what to draw -------------------------------------------------------------------------------


def cut_edge_map(clusters: npt.NDArray[Any]) -> torch.Tensor:
    """Draw where the solver cut: lines of one cell between the clusters.

    Args:
        clusters: (h, w) integers, the cluster of each cell.

    Returns:
        (h, w) float32, the share of the cell's edges of distance 1 that are cut. These are the
        edges to the right and lower neighbour, as in the edge maps. In the last row and column the
        one there is.
    """
    labels = np.asarray(clusters)
    cut, edges = torch.zeros(2, *labels.shape)
    cut[:, :-1] += torch.from_numpy(labels[:, :-1] != labels[:, 1:])
    cut[:-1] += torch.from_numpy(labels[:-1] != labels[1:])
    edges[:, :-1] += 1
    edges[:-1] += 1
    return cut / edges.clamp(min=1)


def cut_probability_map(edge_logits: torch.Tensor) -> torch.Tensor:
    """Compute the network's belief that a cell is cut from its right or lower neighbour.

    Args:
        edge_logits: (2 D, h, w), positive for "cut", those of distance 1 first; edge costs with
            the opposite sign will do.

    Returns:
        (h, w) float32, the larger of the two probabilities; where an edge would leave the grid, the
        other one's.
    """
    probability = edge_logits[:2].detach().float().sigmoid()
    probability[0, :, -1:] = 0
    probability[1, -1:, :] = 0
    return probability.amax(dim=0)


# ---- semantic oracle (A.8, Table 9) -------------------------------------------------------------


def oracle_class_costs(
    class_costs: torch.Tensor, edge_costs: torch.Tensor, sem_seg: torch.Tensor
) -> torch.Tensor:
    """Make class costs as a perfect semantic branch would give them.

    The true class costs 0, any other one more than all edges of a cell together. No edge can then
    make a cell take a wrong class, and which of its neighbours it joins is up to the edges.

    Args:
        class_costs: (K, h, w) of the network; kept where the truth is not known.
        edge_costs: (2 D, h, w).
        sem_seg: (h, w) true classes; 255 or any other number outside 0..K-1: not known.

    Returns:
        (K, h, w) of the dtype of `class_costs`, which is left as it is.

    Raises:
        ValueError: truth and costs have different numbers of cells.
    """
    if sem_seg.shape != class_costs.shape[1:]:
        raise ValueError(
            f"a truth of {tuple(sem_seg.shape)} cells for class costs of {tuple(class_costs.shape)}"
        )
    # A cell is in two edges of a channel at most.
    margin = 1 + 2 * float(edge_costs.abs().flatten(1).amax(dim=1).sum())
    known = (sem_seg >= 0) & (sem_seg < len(class_costs))
    classes = torch.arange(len(class_costs), device=class_costs.device)
    wrong = (classes[:, None, None] != sem_seg[None]).to(class_costs.dtype)
    return torch.where(known[None], margin * wrong, class_costs)
