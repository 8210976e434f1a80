"""From the mapper's images to what a network takes: normalised, of one size, on its device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone
from detectron2.structures import ImageList


def normalised_batch(
    batched_inputs: Sequence[dict],
    pixel_mean: torch.Tensor,
    pixel_std: torch.Tensor,
    divisibility: int,
    coarsest_stride: int | None = None,
) -> ImageList:
    """Normalise images and pad them with 0, the mean, at the right and at the bottom.

    Batch norm cannot learn from one value per channel, which is all that a single image of 16 x 16
    pixels leaves at stride 16. Such an image is padded by one more cell.

    Args:
        batched_inputs: N dicts with "image" (C, H_i, W_i), values 0 to 255.
        pixel_mean: (C, 1, 1), on the network's device.
        pixel_std: (C, 1, 1), likewise.
        divisibility: the padded sides are multiples of it; 0 and 1 pad to the largest sides only.
        coarsest_stride: of the network's maps, in training; None: one cell suffices.

    Returns:
        (N, C, H, W) float32 on the device of `pixel_mean`, and the sizes before padding.
    """
    images = [x["image"].to(pixel_mean.device).float() for x in batched_inputs]
    images = [(image - pixel_mean) / pixel_std for image in images]
    batch = ImageList.from_tensors(images, divisibility)
    if coarsest_stride is None or len(images) > 1 or max(batch.tensor.shape[2:]) > coarsest_stride:
        return batch
    step = max(1, divisibility)
    width = (coarsest_stride // step + 1) * step
    return ImageList(F.pad(batch.tensor, (0, width - batch.tensor.shape[3])), batch.image_sizes)


def coarsest_stride(backbone: Backbone) -> int:
    """Return the greatest stride of a backbone's maps, in pixels."""
    return max(shape.stride for shape in backbone.output_shape().values())


def require_targets(batched_inputs: Sequence[dict], names: Sequence[str]) -> None:
    """Refuse a batch without what a network learns from.

    Args:
        batched_inputs: of a training step.
        names: of the entries that each input must have.

    Raises:
        ValueError: says which is missing, and which mapper makes it.
    """
    for name in names:
        if any(name not in inputs for inputs in batched_inputs):
            raise ValueError(
                f"batched_inputs have no {name!r}, which training needs: load them with "
                "PanopticDatasetMapper.from_config(cfg, True, build_target_function(cfg)) as the "
                "mapper, as DefaultTrainer does for a config of this project"
            )


def require_classes(is_thing: Sequence[bool]) -> None:
    """Refuse a config whose class counts are still open, before a network is built from it.

    Args:
        is_thing: K flags of MODEL.PANOPTIC.IS_THING; none as long as nobody has asked a data set.

    Raises:
        ValueError: says how to complete the config.
    """
    if not is_thing:
        raise ValueError(
            "the config does not say which classes there are (MODEL.PANOPTIC.IS_THING is empty): "
            "load it by panoptic_common.config.load_config, which asks its data sets, or complete "
            "it by fill_classes(cfg, table) with the table of panoptic_common.data.catalog"
        )
