"""Dynamic potential head (Li, Qi, Torr, CVPR 2020, section 3.4.1, Eq. 1 and 2, Fig. 4).

Assemble one channel per detection and per stuff class from the semantic probabilities V,
the boxes B, their scores s and, optionally, their masks M. It has no parameters and any number of
channels, and it is differentiable in V, s and M.

Shapes: D detections; K classes; N_st stuff classes; S = D + N_st channels, detections first;
m x m raw masks (28 x 28); h, w the grid on which Psi is formed - stride 4 in training, any size at
inference. Boxes are in units of that grid: cell (y, x) covers [x, x + 1) x [y, y + 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

VARIANTS = ("A", "B", "C")


def inside_boxes(boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Tell which cells have their centre in each box.

    Args:
        boxes: (D, 4) XYXY in cells.
        height: h.
        width: w.

    Returns:
        (D, h, w) bool.
    """
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    in_x = (x >= boxes[:, 0:1]) & (x < boxes[:, 2:3])
    in_y = (y >= boxes[:, 1:2]) & (y < boxes[:, 3:4])
    return in_y[:, :, None] & in_x[:, None, :]


def _hat_weights(low: torch.Tensor, high: torch.Tensor, cells: int, samples: int) -> torch.Tensor:
    """Make (D, cells, samples) weights that interpolate `samples` values spread over [low, high).

    Sample j sits at low + (j + 0.5) (high - low) / samples. A cell whose centre lies at position u,
    counted in samples, takes max(0, 1 - |u - j|) of sample j. For example, u = 3.2 takes 0.8 of the
    3rd and 0.2 of the 4th. Beyond the outermost samples the values fade to zero, as in Detectron2's
    paste.
    """
    centre = torch.arange(cells, device=low.device, dtype=torch.float32) + 0.5
    extent = (high - low).clamp(min=1e-6)[:, None]
    position = (centre[None] - low[:, None]) / extent * samples - 0.5
    index = torch.arange(samples, device=low.device, dtype=torch.float32)
    return (1 - (position[:, :, None] - index).abs()).clamp(min=0)


def paste_masks(masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Resize raw masks to their boxes and place them on the grid, differentiably (M in Eq. 2).

    Bilinear interpolation is separable, so two batched matrix products do it. The grid of a mask
    is rows (h, m) @ mask (m, m) @ columns (m, w).

    Args:
        masks: (D, m, m) probabilities.
        boxes: (D, 4) XYXY in cells.
        height: h.
        width: w.

    Returns:
        (D, h, w) probabilities, 0 outside the boxes.
    """
    boxes = boxes.float()
    rows = _hat_weights(boxes[:, 1], boxes[:, 3], height, masks.shape[-2])
    columns = _hat_weights(boxes[:, 0], boxes[:, 2], width, masks.shape[-1])
    # Autocast would round the interpolation weights to 8 bits: steps of 0.004 in every mask.
    with torch.autocast(masks.device.type, enabled=False):
        pasted = rows @ masks.float() @ columns.transpose(1, 2)
    return pasted * inside_boxes(boxes, height, width)


def paste_mask_crops(
    masks: torch.Tensor, boxes: torch.Tensor, height: int, width: int
) -> list[tuple[tuple[slice, slice], torch.Tensor]]:
    """Do what `paste_masks` does, but make only the part of each map that its box covers.

    Args:
        masks: (D, m, m) probabilities.
        boxes: (D, 4) XYXY in cells.
        height: h.
        width: w.

    Returns:
        Per mask, the rows and columns of the grid and the values there.
    """
    boxes = boxes.float()
    columns = _hat_weights(boxes[:, 0], boxes[:, 2], width, masks.shape[-1]).transpose(1, 2)
    rows = _hat_weights(boxes[:, 1], boxes[:, 3], height, masks.shape[-2])
    with torch.autocast(masks.device.type, enabled=False):
        rows = rows @ masks.float()
        crops = []
        for k, (left, top, right, bottom) in enumerate(box_extents(boxes, height, width)):
            values = rows[k, top:bottom] @ columns[k, :, left:right]
            crops.append(((slice(top, bottom), slice(left, right)), values))
    return crops


def box_extents(boxes: torch.Tensor, height: int, width: int) -> list[list[int]]:
    """Return left, top, right, bottom (exclusive) of the cells that have their centre in each box.

    The cells x with low <= x + 0.5 < high are ceil(low - 0.5) <= x < ceil(high - 0.5).
    """
    limits = boxes.new_tensor([width, height, width, height])
    edges = (boxes - 0.5).ceil().clamp(min=0).minimum(limits).long()
    edges[:, 2:] = edges[:, 2:].maximum(edges[:, :2])  # a box beside the grid has no cell
    extents: list[list[int]] = edges.tolist()
    return extents


def dynamic_potential(
    semantic: torch.Tensor,
    boxes: torch.Tensor,
    classes: torch.Tensor,
    scores: torch.Tensor,
    masks: torch.Tensor | None,
    stuff_ids: Sequence[int],
    variant: str = "B",
) -> torch.Tensor:
    """Assemble Psi of one image.

    Args:
        semantic: (K, h, w) probabilities V.
        boxes: (D, 4) XYXY in cells.
        classes: (D,) contiguous classes c of the detections.
        scores: (D,) s in [0, 1].
        masks: (D, m, m) raw mask probabilities, or None.
        stuff_ids: contiguous classes of the N_st stuff channels, in order.
        variant: with masks, inside the box, "A": V + M, "B": s V M, "C": s (V + M). Without masks,
            "A": V, "B" and "C": s V (Eq. 1). Zero outside the box. Stuff is V in all: its dummy box
            is the whole image, its score 1, and it has no mask.

    Returns:
        (D + N_st, h, w).

    Raises:
        ValueError: an unknown variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r} of the dynamic potential: use {VARIANTS}")
    height, width = semantic.shape[-2:]
    stuff = semantic[list(stuff_ids)]
    if len(boxes) == 0:
        return stuff
    inside = inside_boxes(boxes, height, width)
    things = semantic[classes]
    if masks is not None:
        pasted = paste_masks(masks, boxes, height, width)
        things = things * pasted if variant == "B" else things + pasted
    if variant != "A":
        things = things * scores[:, None, None]
    return torch.cat([things * inside, stuff])


class DynamicPotential(nn.Module):
    """`dynamic_potential` with the data set's stuff classes and the variant bound."""

    def __init__(self, *, stuff_ids: Sequence[int], variant: str) -> None:
        """Bind them.

        Args:
            stuff_ids: contiguous classes that are stuff, in the order of their channels.
            variant: "A", "B" or "C".

        Raises:
            ValueError: an unknown variant.
        """
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant is {variant!r}: use one of {VARIANTS}")
        self.stuff_ids = tuple(stuff_ids)
        self.variant = variant

    def forward(
        self,
        semantic: torch.Tensor,
        boxes: torch.Tensor,
        classes: torch.Tensor,
        scores: torch.Tensor,
        masks: torch.Tensor | None,
    ) -> torch.Tensor:
        """Assemble Psi; see `dynamic_potential`."""
        return dynamic_potential(
            semantic, boxes, classes, scores, masks, self.stuff_ids, self.variant
        )


class PotentialPainter:
    """Adds Psi of one image to given maps, strip by strip, without gradients.

    The values are those of `dynamic_potential`, but a detection costs the area of its box instead
    of the image's. 100 boxes of 200 x 200 pixels cover 4 million of the 104 million values that 100
    channels of 800 x 1300 have. What all strips share is computed once.
    """

    def __init__(
        self,
        potential: DynamicPotential,
        boxes: torch.Tensor,
        classes: torch.Tensor,
        scores: torch.Tensor,
        masks: torch.Tensor | None,
        size: tuple[int, int],
    ) -> None:
        """Compute what all strips share.

        Args:
            potential: variant and stuff classes.
            boxes: (D, 4) XYXY in cells.
            classes: (D,) contiguous classes.
            scores: (D,) s in [0, 1].
            masks: (D, m, m) raw mask probabilities, or None.
            size: (h, w) of the grid.
        """
        height, width = size
        boxes = boxes.float()
        self.extents = box_extents(boxes, height, width)
        self.classes = classes.tolist()
        self.scores = scores.tolist() if potential.variant != "A" else None
        self.multiplied = potential.variant == "B"
        self.stuff_ids = list(potential.stuff_ids)
        self.rows = self.columns = None
        if masks is not None and len(boxes):
            rows = _hat_weights(boxes[:, 1], boxes[:, 3], height, masks.shape[-2])
            with torch.autocast(masks.device.type, enabled=False):
                self.rows = rows @ masks.float()
            columns = _hat_weights(boxes[:, 0], boxes[:, 2], width, masks.shape[-1])
            self.columns = columns.transpose(1, 2)

    def paint(self, maps: torch.Tensor, semantic: torch.Tensor, first_row: int) -> None:
        """Add the rows of Psi from `first_row` on to `maps`, in place.

        Args:
            maps: (D + N_st, rows, w), changed.
            semantic: (K, rows, w) probabilities V of the same rows.
            first_row: the row of the grid that `maps` begins with.
        """
        last_row = first_row + maps.shape[1]
        for k, (left, top, right, bottom) in enumerate(self.extents):
            top, bottom = max(top, first_row), min(bottom, last_row)
            if top >= bottom or left >= right:
                continue
            inside = (slice(top - first_row, bottom - first_row), slice(left, right))
            value = semantic[self.classes[k]][inside]
            if self.rows is not None and self.columns is not None:
                with torch.autocast(maps.device.type, enabled=False):
                    mask = self.rows[k, top:bottom] @ self.columns[k, :, left:right]
                value = mask.mul_(value) if self.multiplied else mask.add_(value)
            if self.scores is not None:
                value = value * self.scores[k]
            maps[k][inside].add_(value)
        for channel, class_id in enumerate(self.stuff_ids, start=len(self.extents)):
            maps[channel].add_(semantic[class_id])
