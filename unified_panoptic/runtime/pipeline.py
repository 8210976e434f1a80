"""One image from exported parts of the Unified network to its panoptic map.

Shapes: R proposals; D detections; K classes; h, w cells at stride 4; H, W pixels of the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from panoptic_common.runtime.folder import ExportedModel, ExportError
from panoptic_common.runtime.forms import (
    NOT_NEGATIVE,
    NUMBER,
    POSITIVE,
    TEXT,
    TRUTH,
    WHOLE,
    Form,
    choice,
)
from panoptic_common.runtime.images import prepare_image
from unified_panoptic.runtime import potential
from unified_panoptic.runtime.boxes import detections, levels_of, proposals
from unified_panoptic.runtime.merger import best_classes, merge
from unified_panoptic.runtime.potential import Detections, FloatArray

OPTIONS: Form = {
    "stride": POSITIVE,
    "proposals": {
        "levels": [TEXT],
        "strides": [POSITIVE],
        "offset": NUMBER,
        "anchors": [[[NUMBER]]],
        "weights": [NUMBER],
        "pre_nms": POSITIVE,
        "post_nms": POSITIVE,
        "nms_threshold": NUMBER,
        "least_side": NUMBER,
    },
    "boxes": {
        "levels": [TEXT],
        "first_level": WHOLE,
        "canonical_size": POSITIVE,
        "canonical_level": WHOLE,
        "weights": [NUMBER],
        "score_threshold": NUMBER,
        "nms_threshold": NUMBER,
        "most": WHOLE,
    },
    "panoptic": {
        "method": choice("argmax", "heuristic"),
        "variant": TEXT,
        "residual": TRUTH,
        "score_threshold": NUMBER,
        "missed_things": choice("stuff", "void"),
        "support_threshold": NUMBER,
        "covered_threshold": NUMBER,
        "heuristic_score_threshold": NUMBER,
        "stuff_area_limit": NOT_NEGATIVE,
    },
}


def predict(
    model: ExportedModel, image: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.int32], list[dict[str, Any]]]:
    """Segment one image.

    Args:
        model: an export of `unified_panoptic.modeling.export`.
        image: (H, W, 3) RGB.

    Returns:
        (H, W) segment ids, 0 = void, and segments_info with contiguous "category_id".
    """
    model.require_options(OPTIONS)
    padded, input_size = prepare_image(image, model.preparation)
    maps = model.run("dense", {"image": padded})
    stride = int(model.options["stride"])
    height, width = (-(-length // stride) for length in input_size)
    logits = maps["semantic"][0, :, :height, :width]
    found, probabilities = detect(model, maps, input_size), _softmax(logits)
    support = model.options["panoptic"]["support_threshold"]
    on_grid = potential.supported(found.scaled(1 / stride, 1 / stride), probabilities, support)
    found = on_grid.scaled(stride, stride)
    output_size = (image.shape[0], image.shape[1])
    if model.options["panoptic"]["method"] == "heuristic":
        return _merged(model, found, probabilities, input_size, output_size)
    factors = None
    if "factors" in model and model.options["panoptic"]["residual"]:
        query = np.ascontiguousarray(maps["query"][0, :, :height, :width])
        answers = model.run("factors", {"query": query})
        factors = answers["phi_0"], answers["phi_1"]
    return _argmax(model, found, probabilities, factors, input_size, output_size)


def detect(
    model: ExportedModel, maps: Mapping[str, FloatArray], input_size: tuple[int, int]
) -> Detections:
    """Find the detections of one image: boxes in pixels of the input, contiguous classes."""
    options = model.options["boxes"]
    boxes = proposals(maps, model.options["proposals"], input_size)
    answers = _on_levels(model, "boxes", maps, boxes)
    boxes, scores, things = detections(
        answers["scores"], answers["deltas"], boxes, options, input_size
    )
    masks = None
    if "masks" in model:
        every = _on_levels(model, "masks", maps, boxes)["masks"]
        masks = every[np.arange(len(boxes)), things if every.shape[1] > 1 else 0]
    thing_ids = np.array([i for i, entry in enumerate(model.classes) if entry["isthing"]])
    return Detections(boxes, thing_ids[things], scores, masks)


def _on_levels(
    model: ExportedModel, part: str, maps: Mapping[str, FloatArray], boxes: FloatArray
) -> dict[str, FloatArray]:
    """Run a head on boxes, each on the level that its size belongs to; answers in their order."""
    options = model.options["boxes"]
    names = options["levels"]
    level = levels_of(boxes, options)
    groups = [np.flatnonzero(level == index) for index in range(len(names))]
    inputs = {f"level_{name}": maps[f"level_{name}"] for name in names}
    for name, group in zip(names, groups, strict=True):
        inputs[f"boxes_{name}"] = boxes[group]
    order = np.argsort(np.concatenate(groups), kind="stable")
    return {name: answer[order] for name, answer in model.run(part, inputs).items()}


def _softmax(logits: FloatArray) -> FloatArray:
    powers = np.exp(logits - logits.max(axis=0))
    return powers / powers.sum(axis=0)


def _merged(
    model: ExportedModel,
    found: Detections,
    probabilities: FloatArray,
    input_size: tuple[int, int],
    output_size: tuple[int, int],
) -> tuple[npt.NDArray[np.int32], list[dict[str, Any]]]:
    """Merge instances and the semantic map by the heuristic."""
    options = model.options["panoptic"]
    if found.masks is None:
        raise ExportError(
            f"{model.folder} has no network 'masks', which the heuristic merger needs: export the "
            "model again"
        )
    return merge(
        found.scaled(output_size[1] / input_size[1], output_size[0] / input_size[0]),
        best_classes(probabilities, input_size, output_size, int(model.options["stride"])),
        [bool(entry["isthing"]) for entry in model.classes],
        score_threshold=options["heuristic_score_threshold"],
        stuff_area_limit=options["stuff_area_limit"],
    )


def _argmax(
    model: ExportedModel,
    found: Detections,
    probabilities: FloatArray,
    factors: tuple[FloatArray, FloatArray] | None,
    input_size: tuple[int, int],
    output_size: tuple[int, int],
) -> tuple[npt.NDArray[np.int32], list[dict[str, Any]]]:
    """Form P and take its argmax."""
    options = model.options["panoptic"]
    stride = int(model.options["stride"])
    stuff_ids = [i for i, entry in enumerate(model.classes) if not entry["isthing"]]
    found = found.chosen(np.flatnonzero(found.scores > options["score_threshold"]))
    grid = (probabilities.shape[1], probabilities.shape[2])
    on_grid = potential.uncovered(
        found.scaled(1 / stride, 1 / stride), grid, options["covered_threshold"]
    )
    residual = None
    if factors is not None:
        painter = potential.Painter(on_grid, stuff_ids, options["variant"], grid)
        num_channels = len(on_grid.boxes) + len(stuff_ids)
        summary = potential.summarise(painter, probabilities, factors[1], num_channels)
        residual = summary, factors[0]
    at_output = on_grid.scaled(
        stride * output_size[1] / input_size[1], stride * output_size[0] / input_size[0]
    )
    channels = potential.best_channels(
        potential.Painter(at_output, stuff_ids, options["variant"], output_size),
        probabilities,
        residual,
        input_size,
        output_size,
        stride,
    )
    if options["missed_things"] == "void":
        best = best_classes(probabilities, input_size, output_size, stride)
        is_thing = np.array([bool(entry["isthing"]) for entry in model.classes])
        channels[(channels >= len(at_output.boxes)) & is_thing[best]] = potential.VOID
    return potential.channel_segments(channels, at_output, stuff_ids, options["stuff_area_limit"])
