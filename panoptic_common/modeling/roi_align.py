"""ROIAlign whose boxes keep their place, and whose backward pass is fast on a CPU.

Detectron2's layer rounds boxes to the type of the features. In bfloat16 that has 8 bits, so a box
at 1000 pixels lies up to 2 pixels beside itself. Here both are in single precision.

torchvision's backward pass on a CPU computes the weights of each bin anew for every channel. With
the weights at hand, a bin is the weighted sum of some cells: an embedding bag, whose gradient
PyTorch has. Values are the same but for rounding (docs/benchmark.md).

Shapes: N images; C channels; h, w cells of a level; R boxes; p x q bins of a box.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.layers import ROIAlign
from detectron2.modeling.poolers import ROIPooler
from torch import nn
from torchvision.ops import roi_align


class PreciseROIAlign(nn.Module):
    """Does what Detectron2's `ROIAlign` does, in single precision."""

    def __init__(
        self,
        output_size: tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool = True,
    ) -> None:
        """Take the settings of Detectron2's layer.

        Args:
            output_size: (p, q).
            spatial_scale: cells of the level per pixel of the input.
            sampling_ratio: samples per bin and axis; 0 takes as many as the box has cells.
            aligned: whether cell i has its centre at i + 0.5.
        """
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, features: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Pool the features of each box.

        Args:
            features: (N, C, h, w).
            boxes: (R, 5) index of the image, then XYXY in pixels of the input; no gradient.

        Returns:
            (R, C, p, q), of the features' type.
        """
        learning = torch.is_grad_enabled() and features.requires_grad
        bags = learning and features.device.type == "cpu" and self.sampling_ratio > 0
        pool = _pool_by_bags if bags and len(boxes) else roi_align
        with torch.autocast(features.device.type, enabled=False):
            pooled = pool(
                features.float(),
                boxes.detach().float(),
                self.output_size,
                self.spatial_scale,
                self.sampling_ratio,
                self.aligned,
            )
        return pooled.to(features.dtype)

    def extra_repr(self) -> str:
        """Name the settings."""
        return (
            f"output_size={self.output_size}, spatial_scale={self.spatial_scale}, "
            f"sampling_ratio={self.sampling_ratio}, aligned={self.aligned}"
        )


def use_precise_roi_align(model: nn.Module) -> None:
    """Replace Detectron2's `ROIAlign` in all poolers of a model, in place; nothing else."""
    for pooler in model.modules():
        if not isinstance(pooler, ROIPooler):
            continue
        for index, layer in enumerate(pooler.level_poolers):
            if type(layer) is ROIAlign:
                pooler.level_poolers[index] = PreciseROIAlign(
                    layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned
                )


def _pool_by_bags(
    features: torch.Tensor,
    boxes: torch.Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> torch.Tensor:
    """Sum weighted cells per bin; arguments as of torchvision's `roi_align`, float32."""
    (count, channels, height, width), (tall, wide) = features.shape, output_size
    limits = boxes[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    rows, row_weights = _taps(limits[:, 1::2], tall, height, sampling_ratio, aligned)
    columns, column_weights = _taps(limits[:, 0::2], wide, width, sampling_ratio, aligned)
    # (R, p, q, taps, taps): the cells of each bin, counted through all images.
    first_rows = boxes[:, 0].long()[:, None, None] * height
    cells = (first_rows + rows)[:, :, None, :, None] * width + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    table = features.permute(0, 2, 3, 1).reshape(count * height * width, channels)
    bins = len(boxes) * tall * wide
    sums = F.embedding_bag(
        cells.reshape(bins, -1), table, mode="sum", per_sample_weights=weights.reshape(bins, -1)
    )
    return sums.view(len(boxes), tall, wide, channels).permute(0, 3, 1, 2)


def _taps(
    limits: torch.Tensor, bins: int, size: int, sampling_ratio: int, aligned: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the cells along one axis that each bin interpolates between, and their weights.

    Args:
        limits: (R, 2) low and high end of each box, in cells from the centre of the first.
        bins: p.
        size: cells along the axis.
        sampling_ratio: samples per bin, the mean of which is taken.
        aligned: False makes boxes at least one cell long.

    Returns:
        (R, p, 2 * sampling_ratio) int64 cells, and weights. Samples more than a cell beyond the
        map weigh nothing.
    """
    low, high = limits.unbind(1)
    length = high - low if aligned else (high - low).clamp(min=1)
    samples = (torch.arange(bins * sampling_ratio, device=limits.device) + 0.5) / sampling_ratio
    places = low[:, None] + (length / bins)[:, None] * samples
    counted = (places >= -1) & (places <= size)
    places = torch.where(counted, places, 0.0).clamp(0, size - 1)
    before = places.floor()
    share = places - before
    after = (before + 1).clamp(max=size - 1)
    cells = torch.stack([before, after], dim=-1).long()
    weights = torch.stack([1 - share, share], dim=-1) * counted[..., None] / sampling_ratio
    shape = (len(limits), bins, 2 * sampling_ratio)
    return cells.view(shape), weights.view(shape)
