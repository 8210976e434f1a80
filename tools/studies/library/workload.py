"""A workload of known size for the Unified system: an image, and what a model is to find in it.

With random weights a model finds any number of objects. A benchmark needs a number that it knows.

Shapes: H, W pixels of the input; R proposals; D detections; m x m raw masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from detectron2.structures import Boxes, Instances

from unified_panoptic.modeling.inference import STRIDE

MASK_SIDE = 28  # of raw masks, where no mask head makes them


@dataclass(frozen=True, eq=False)
class Workload:
    """One image, and what is forced upon the model for it.

    Attributes:
        size: (H, W).
        image: (3, H, W) uint8.
        proposals: (R, 4) XYXY in pixels.
        found: D detections with pred_boxes, scores and pred_classes.
    """

    size: tuple[int, int]
    image: torch.Tensor
    proposals: torch.Tensor
    found: Instances

    def detections(self, mask_side: int | None = None) -> Instances:
        """Return the detections; with "pred_masks" (D, 1, m, m) if m = `mask_side` is given."""
        found = Instances(self.size, **self.found.get_fields())
        if mask_side is not None:
            generator = torch.Generator().manual_seed(1)
            masks = torch.rand(len(found), 1, mask_side, mask_side, generator=generator)
            found.pred_masks = masks.to(self.proposals.device)
        return found


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of the grid at stride 4 that covers an image of (H, W)."""
    return math.ceil(size[0] / STRIDE), math.ceil(size[1] / STRIDE)


def random_boxes(count: int, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Draw boxes inside an image, their sides log-uniform from 1/40 to 1/2 of the image's.

    Args:
        count: how many.
        size: (H, W).
        generator: randomness.

    Returns:
        (count, 4) XYXY in pixels; on average a box covers 2.5 % of the image.
    """
    sides = torch.tensor([size[1], size[0]], dtype=torch.float32)
    extent = sides / 40 * torch.exp(torch.rand(count, 2, generator=generator) * math.log(20))
    corner = torch.rand(count, 2, generator=generator) * (sides - extent)
    return torch.cat([corner, corner + extent], dim=1)


def make_workload(
    size: tuple[int, int],
    *,
    num_detections: int,
    num_proposals: int,
    num_things: int,
    least_score: float,
    seed: int,
    device: torch.device,
) -> Workload:
    """Draw a workload that depends on its arguments alone.

    Args:
        size: (H, W).
        num_detections: D.
        num_proposals: R.
        num_things: thing classes to draw from.
        least_score: all scores lie above it.
        seed: of everything random.
        device: where the boxes lie; the image stays on the CPU, as a data loader leaves it.
    """
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    proposals = random_boxes(num_proposals, size, generator)
    uniform = torch.rand(num_detections, generator=generator)
    found = Instances(
        size,
        pred_boxes=Boxes(random_boxes(num_detections, size, generator)),
        scores=1 - 0.9 * (1 - least_score) * uniform,
        pred_classes=torch.randint(0, num_things, (num_detections,), generator=generator),
    )
    return Workload(size, image, proposals.to(device), found.to(device))


def training_sample(
    work: Workload, is_thing: Sequence[bool], make_targets: Callable[..., dict]
) -> dict:
    """Return the workload's image with a truth: 20 rectangles of things on four bands of stuff.

    Args:
        work: gives the image.
        is_thing: K flags.
        make_targets: (id_map, segments_info) -> targets of the model.
    """
    stuff = [index for index, thing in enumerate(is_thing) if not thing][:4]
    things = [index for index, thing in enumerate(is_thing) if thing]
    height, width = work.size
    bands = torch.arange(height) * len(stuff) // height
    id_map = (bands + 1).int()[:, None].repeat(1, width)
    categories = {number + 1: category for number, category in enumerate(stuff)}
    boxes = random_boxes(20, work.size, torch.Generator().manual_seed(1)).int().tolist()
    for number, (left, top, right, bottom) in enumerate(boxes):
        id_map[top : bottom + 1, left : right + 1] = 100 + number
        categories[100 + number] = things[number % len(things)]
    segments_info = [
        {"id": segment_id, "category_id": categories[segment_id], "iscrowd": 0}
        for segment_id in id_map.unique().tolist()
    ]
    return {"image": work.image, **make_targets(id_map.numpy(), segments_info)}
