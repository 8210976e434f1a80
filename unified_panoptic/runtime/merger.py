"""The heuristic merger of instances and a semantic map in numpy (Kirillov et al., CVPR 2019).

What it does and why stands in `unified_panoptic.modeling.postprocess.merge_heuristically`, with
which tests compare it.

Shapes: D detections; K classes; h, w cells at stride 4; H, W pixels of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from panoptic_common.runtime.resampling import resample
from unified_panoptic.runtime.potential import Detections, FloatArray, Painter, argmax, strips

LEAST_FREE_SHARE = 0.5  # of a mask, so that its instance enters


def merge(
    detections: Detections,
    class_map: npt.NDArray[Any],
    is_thing: Sequence[bool],
    *,
    score_threshold: float,
    stuff_area_limit: int = 0,
) -> tuple[npt.NDArray[np.int32], list[dict[str, Any]]]:
    """Give pixels to instances by falling score, and what is left to stuff.

    Args:
        detections: with masks; boxes in pixels of the result.
        class_map: (H, W) best class of each pixel.
        is_thing: K flags.
        score_threshold: least score.
        stuff_area_limit: stuff below this area, in pixels, becomes void.

    Returns:
        (H, W) int32 ids, 0 = void, and segments_info. Ids count what is trimmed, too.
    """
    # Psi is not painted: any variant will do, and no stuff.
    painter = Painter(detections, (), "B", (class_map.shape[0], class_map.shape[1]))
    id_map = np.zeros(class_map.shape, dtype=np.int32)
    segments_info: list[dict[str, Any]] = []
    for k in np.argsort(-detections.scores, kind="stable").tolist():
        score = float(detections.scores[k])
        if score < score_threshold:
            break
        left, top, right, bottom = painter.extents[k]
        mask = painter.mask(k, top, bottom) >= 0.5
        place = id_map[top:bottom, left:right]
        free = mask & (place == 0)
        area, free_area = int(mask.sum()), int(free.sum())
        if free_area == 0 or free_area / area < LEAST_FREE_SHARE:
            continue
        place[free] = len(segments_info) + 1
        segments_info.append(
            {
                "id": len(segments_info) + 1,
                "isthing": True,
                "category_id": int(detections.classes[k]),
                "score": score,
                "area": free_area,
            }
        )
    areas = np.bincount(class_map[id_map == 0], minlength=len(is_thing))
    owners = [k for k in np.flatnonzero(areas).tolist() if not is_thing[k]]
    number = np.zeros(len(areas), dtype=np.int32)  # of each class; 0 stays void
    for segment_id, class_id in enumerate(owners, start=len(segments_info) + 1):
        area = int(areas[class_id])
        if area < stuff_area_limit:
            continue
        number[class_id] = segment_id
        segments_info.append(
            {"id": segment_id, "isthing": False, "category_id": class_id, "area": area}
        )
    return np.where(id_map == 0, number[class_map], id_map), segments_info


def best_classes(
    probabilities: FloatArray,
    input_size: tuple[int, int],
    output_size: tuple[int, int],
    stride: int,
) -> npt.NDArray[np.intp]:
    """Find the most probable class of each pixel; of equals the first wins.

    Args:
        probabilities: (K, h, w) V.
        input_size: (H_in, W_in).
        output_size: (H, W).
        stride: of the grid.

    Returns:
        (H, W) classes.
    """
    result = np.empty(output_size, dtype=np.intp)
    for first, last in strips(len(probabilities), output_size):
        rows = (first, last)
        result[first:last] = argmax(resample(probabilities, input_size, output_size, stride, rows))
    return result
