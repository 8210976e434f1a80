"""From potentials to a panoptic map (Li, Qi, Torr, CVPR 2020, sections 3.4.2 and 4.1, appendix C).

There are two ways, the two inference options of the paper's Table 1. They are the argmax of P over
its channels and the heuristic merger of Panoptic FPN (Kirillov et al., CVPR 2019) for comparison.
Then, separately switchable, trimming small stuff.

Shapes: D detections; K classes; N_st stuff classes; S = D + N_st channels, detections first; h, w
the grid at stride 4 over the network's input of size (H_in, W_in); H, W the result's size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from panoptic_common.modeling.resampling import resample
from unified_panoptic.modeling.dynamic_potential import (
    DynamicPotential,
    PotentialPainter,
    paste_mask_crops,
    paste_masks,
)
from unified_panoptic.modeling.grid import STRIDE
from unified_panoptic.modeling.instance_affinity import FactoredResidual, spread, summarise
from unified_panoptic.runtime.merger import LEAST_FREE_SHARE

VOID = -1  # the channel of a pixel that belongs to none
# Values of P that are formed at a time. A CPU takes few, to stay near its cache: 21 rows of 153
# channels at a width of 1300, 16 MB. A GPU wants few and large kernels: 337 such rows, 256 MB. All
# of 800 rows would take 640 MB.
CPU_VALUES_AT_A_TIME = 2**22
GPU_VALUES_AT_A_TIME = 2**26


def argmax_at_output(
    potential: DynamicPotential,
    semantic: torch.Tensor,
    boxes: torch.Tensor,
    classes: torch.Tensor,
    scores: torch.Tensor,
    masks: torch.Tensor | None,
    residual: torch.Tensor | FactoredResidual | None,
    input_size: tuple[int, int],
) -> torch.Tensor:
    """Find the argmax of P formed at the size of the result.

    Psi is built from boxes and masks pasted at that size. The residual is linear in phi_0(Q), and
    so is resampling: the resampled residual *is* the residual of the resampled phi_0(Q). So
    nothing is lost by upsampling its S channels or its C features, whichever are fewer. Of equal
    values the first channel wins.

    Args:
        potential: the dynamic potential head.
        semantic: (K, H, W) probabilities V at the size of the result.
        boxes: (D, 4) XYXY in pixels of the result.
        classes: (D,) contiguous classes.
        scores: (D,).
        masks: (D, m, m) raw probabilities, or None.
        residual: second term of Eq. 4 at stride 4, (S, h, w) or factored; None for P = Psi.
        input_size: (H_in, W_in).

    Returns:
        (H, W) int64 channel numbers.
    """
    height, width = semantic.shape[-2:]
    num_channels = len(boxes) + len(potential.stuff_ids)
    painter = PotentialPainter(potential, boxes, classes, scores, masks, (height, width))
    strips = []
    for first, last in _strips(num_channels, (height, width), semantic.device):
        if residual is None:
            maps = semantic.new_zeros(num_channels, last - first, width, dtype=torch.float32)
        elif isinstance(residual, FactoredResidual):
            rows = (first, last)
            phi_0 = resample(residual.phi_0, input_size, (height, width), STRIDE, rows)
            maps = spread(residual.summary, phi_0)
        else:
            maps = resample(residual, input_size, (height, width), STRIDE, (first, last))
        painter.paint(maps, semantic[:, first:last], first)
        # `max` finds the same index as `argmax`, two to three times faster on a CPU.
        strips.append(maps.max(dim=0).indices)
    return torch.cat(strips)


def factor_residual(
    potential: DynamicPotential,
    semantic: torch.Tensor,
    boxes: torch.Tensor,
    classes: torch.Tensor,
    scores: torch.Tensor,
    masks: torch.Tensor | None,
    factors: tuple[torch.Tensor, torch.Tensor],
) -> FactoredResidual:
    """Form the residual as its factors, from strips of Psi, without gradients.

    With 400 detections Psi of an image of 2000 x 2800 pixels has 580 MB, and forming it as a whole
    takes some times that. A strip has 16 MB on a CPU.

    Args:
        potential: the dynamic potential head.
        semantic: (K, h, w) probabilities V at stride 4.
        boxes: (D, 4) XYXY in cells.
        classes: (D,) contiguous classes.
        scores: (D,).
        masks: (D, m, m) raw probabilities, or None.
        factors: phi_0(Q), phi_1(Q), each (C, h, w).

    Returns:
        The factors of what `instance_affinity.apply_affinity` gives for the whole Psi.
    """
    phi_0, phi_1 = factors
    height, width = semantic.shape[-2:]
    num_channels = len(boxes) + len(potential.stuff_ids)
    painter = PotentialPainter(potential, boxes, classes, scores, masks, (height, width))
    summary = phi_1.new_zeros(num_channels, len(phi_1), dtype=torch.float32)
    for first, last in _strips(num_channels, (height, width), semantic.device):
        maps = semantic.new_zeros(num_channels, last - first, width, dtype=torch.float32)
        painter.paint(maps, semantic[:, first:last].float(), first)
        summary += summarise(maps, phi_1[:, first:last])
    return FactoredResidual(summary, phi_0)


def argmax_of_resampled(
    potential: torch.Tensor, input_size: tuple[int, int], output_size: tuple[int, int]
) -> torch.Tensor:
    """Find the argmax of P formed at stride 4 and enlarged.

    Args:
        potential: (S, h, w) P.
        input_size: (H_in, W_in).
        output_size: (H, W) of the result.

    Returns:
        (H, W) int64 channel numbers.
    """
    strips = [
        resample(potential, input_size, output_size, STRIDE, rows).max(dim=0).indices
        for rows in _strips(len(potential), output_size, potential.device)
    ]
    return torch.cat(strips)


def _strips(
    num_channels: int, size: tuple[int, int], device: torch.device
) -> list[tuple[int, int]]:
    """List the first and last (exclusive) row of the strips in which P of a result is formed."""
    values = CPU_VALUES_AT_A_TIME if device.type == "cpu" else GPU_VALUES_AT_A_TIME
    rows = max(values // max(num_channels * size[1], 1), 1)
    return [(first, min(first + rows, size[0])) for first in range(0, size[0], rows)]


def uncovered_detections(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    masks: torch.Tensor,
    size: tuple[int, int],
    covered_threshold: float,
) -> torch.Tensor:
    """Find the detections that no better ones cover; the others are most likely duplicates.

    In training the matching with the truth removes duplicates (3.5); at inference nothing in the
    paper does. Non-maximum suppression works by class, so a car that was also found as a truck is
    two channels that share its pixels. Argmax then yields two segments, one of them false. By
    descending score, a detection is dropped if more than a share of its mask lies under the masks
    kept so far. Their class does not matter (as in UPSNet before its panoptic head).

    Args:
        boxes: (D, 4) XYXY in cells.
        scores: (D,).
        masks: (D, m, m) raw probabilities.
        size: (h, w) of the grid on which masks are compared.
        covered_threshold: the largest share that may be covered; 1 keeps every detection.

    Returns:
        Indices of the kept detections, ascending. One whose mask has no cell of at least 0.5 is
        kept: nothing covers it.
    """
    if covered_threshold >= 1 or len(boxes) < 2:
        return torch.arange(len(boxes), device=boxes.device)
    covered = torch.zeros(size, dtype=torch.bool, device=boxes.device)
    kept = []
    # Only what lies in the box is looked at: 400 nuclei of 1000 x 1400 cells would be 2 GB as maps.
    crops = paste_mask_crops(masks, boxes, *size)
    for index in scores.argsort(descending=True, stable=True).tolist():
        place, values = crops[index]
        binary = values >= 0.5
        if int((binary & covered[place]).sum()) > covered_threshold * int(binary.sum()):
            continue
        covered[place] |= binary
        kept.append(index)
    return torch.tensor(sorted(kept), device=boxes.device)


def supported_detections(
    semantic: torch.Tensor,
    boxes: torch.Tensor,
    classes: torch.Tensor,
    masks: torch.Tensor,
    support_threshold: float,
) -> torch.Tensor:
    """Find the detections that the semantic head bears out.

    V has the thing classes, too, and is learnt from pixels, the detector from boxes. A detection is
    dropped if V sees something else under its mask: another thing, or stuff.

    Args:
        semantic: (K, h, w) probabilities V.
        boxes: (D, 4) XYXY in cells.
        classes: (D,) contiguous classes.
        masks: (D, m, m) raw probabilities.
        support_threshold: least mean of V, of the detection's class, over the cells of its mask;
            0 keeps every detection.

    Returns:
        Indices of the kept detections, ascending. One whose mask has no cell of at least 0.5 is
        kept: there is nothing to look at.
    """
    if support_threshold <= 0 or len(boxes) == 0:
        return torch.arange(len(boxes), device=boxes.device)
    crops = paste_mask_crops(masks, boxes, semantic.shape[-2], semantic.shape[-1])
    supports = []
    for (place, values), class_id in zip(crops, classes.tolist(), strict=True):
        mask = values >= 0.5
        total = (semantic[class_id][place].float() * mask).sum()
        supports.append(torch.where(mask.any(), total / mask.sum(), 1.0))
    return (torch.stack(supports) >= support_threshold).nonzero()[:, 0]


def void_missed_things(
    channels: torch.Tensor,
    semantic: torch.Tensor,
    num_detections: int,
    is_thing: Sequence[bool],
) -> torch.Tensor:
    """Take the pixels of things that were not detected away from stuff.

    The paper has no channel for them, so the argmax gives them to the stuff next in line, which is
    seldom there. The merger of Panoptic FPN leaves them void, and UPSNet has a class for them.

    Args:
        channels: (H, W) int64 channel numbers, detections first.
        semantic: (K, H, W) class scores.
        num_detections: D.
        is_thing: K flags.

    Returns:
        (H, W): `VOID` where stuff has won although the best class is a thing.
    """
    things = torch.tensor(is_thing, device=channels.device)
    missed = (channels >= num_detections) & things[semantic.max(dim=0).indices]
    return channels.masked_fill(missed, VOID)


def segments_from_channels(
    channels: torch.Tensor,
    thing_classes: torch.Tensor,
    scores: torch.Tensor,
    stuff_ids: Sequence[int],
) -> tuple[torch.Tensor, list[dict]]:
    """Make a panoptic map in Detectron2's format from the channel of each pixel.

    Args:
        channels: (H, W) int64 channel numbers, detections first; `VOID` for none.
        thing_classes: (D,) contiguous classes of the detections.
        scores: (D,) their scores.
        stuff_ids: contiguous classes of the stuff channels.

    Returns:
        (H, W) int32 ids from 1 on, 0 = void, and the segments_info of the channels that own a
        pixel.
    """
    num_channels = len(thing_classes) + len(stuff_ids)
    owned = torch.bincount(channels.flatten() - VOID, minlength=num_channels + 1)[1:]
    present = owned.nonzero()[:, 0]
    # The extra last entry serves `VOID`.
    number = torch.zeros(num_channels + 1, dtype=torch.int32, device=channels.device)
    number[present] = torch.arange(1, len(present) + 1, dtype=torch.int32, device=channels.device)
    categories, certainties = thing_classes.tolist(), scores.tolist()
    segments_info = []
    for channel, area in zip(present.tolist(), owned[present].tolist(), strict=True):
        segment = {"id": len(segments_info) + 1, "area": area}
        if channel < len(categories):
            segment.update(
                isthing=True, category_id=categories[channel], score=certainties[channel]
            )
        else:
            segment.update(isthing=False, category_id=stuff_ids[channel - len(categories)])
        segments_info.append(segment)
    return number[channels], segments_info


def trim_small_stuff(
    panoptic: tuple[torch.Tensor, list[dict]], area_limit: int
) -> tuple[torch.Tensor, list[dict]]:
    """Let stuff segments below an area become void (appendix C, Table I).

    Args:
        panoptic: (H, W) ids and segments_info with "area"; left as they are.
        area_limit: in pixels of the result; 0 keeps all.

    Returns:
        The trimmed pair; the given one itself if nothing is below the limit.
    """
    id_map, segments_info = panoptic
    kept = [s for s in segments_info if s["isthing"] or s["area"] >= area_limit]
    if len(kept) == len(segments_info):
        return id_map, segments_info
    table = torch.zeros(
        max(s["id"] for s in segments_info) + 1, dtype=id_map.dtype, device=id_map.device
    )
    for segment in kept:
        table[segment["id"]] = segment["id"]
    return table[id_map.long()], kept


def merge_heuristically(
    semantic: torch.Tensor,
    boxes: torch.Tensor,
    classes: torch.Tensor,
    scores: torch.Tensor,
    masks: torch.Tensor,
    is_thing: Sequence[bool],
    overlap_threshold: float = LEAST_FREE_SHARE,
    score_threshold: float = 0.5,
) -> tuple[torch.Tensor, list[dict]]:
    """Merge as Panoptic FPN does: instances by score first, stuff in what is left.

    An instance takes the still free pixels of its mask, and is dropped if fewer than a share of
    its mask is free. Free pixels whose best class is a thing stay void.

    Args:
        semantic: (K, H, W) class scores.
        boxes: (D, 4) XYXY in pixels of the result.
        classes: (D,) contiguous classes.
        scores: (D,).
        masks: (D, m, m) raw probabilities.
        is_thing: K flags.
        overlap_threshold: least share of a mask that is free.
        score_threshold: least score.

    Returns:
        (H, W) int32 ids from 1 on, 0 = void, and segments_info.
    """
    height, width = semantic.shape[-2:]
    id_map = torch.zeros(height, width, dtype=torch.int32, device=semantic.device)
    segments_info: list[dict] = []
    categories, certainties = classes.tolist(), scores.tolist()
    for index in scores.argsort(descending=True, stable=True).tolist():
        if certainties[index] < score_threshold:
            break
        mask = paste_masks(masks[index : index + 1], boxes[index : index + 1], height, width)[0]
        mask = mask >= 0.5
        free = mask & (id_map == 0)
        area, free_area = torch.stack([mask.sum(), free.sum()]).tolist()
        if area == 0 or free_area / area < overlap_threshold or free_area == 0:
            continue
        segment_id = len(segments_info) + 1
        id_map[free] = segment_id
        segments_info.append(
            {
                "id": segment_id,
                "isthing": True,
                "category_id": categories[index],
                "score": certainties[index],
                "area": free_area,
            }
        )
    class_map = semantic.argmax(dim=0)
    for class_id in class_map.unique().tolist():
        free = (class_map == class_id) & (id_map == 0)
        area = int(free.sum())
        if is_thing[class_id] or area == 0:
            continue
        segment_id = len(segments_info) + 1
        id_map[free] = segment_id
        segments_info.append(
            {"id": segment_id, "isthing": False, "category_id": class_id, "area": area}
        )
    return id_map, segments_info
