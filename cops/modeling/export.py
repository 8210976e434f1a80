"""COPS as ONNX: one network, from an image to costs; `cops.runtime.pipeline` does the rest."""

from __future__ import annotations

import torch
from torch import nn

from cops.modeling.decoder import AtrousPyramid
from cops.modeling.meta_arch import COPS
from panoptic_common.inference.exporting import Export, Normalised, Part
from panoptic_common.modeling.network_input import coarsest_stride

EXAMPLE_SIZE = (512, 640)  # any will do that exceeds the greatest distance and pooling window


class CostNetwork(nn.Module):
    """The network of COPS with normalisation in front and the costs alone behind."""

    def __init__(self, model: COPS) -> None:
        super().__init__()
        self.normalise = Normalised(model.pixel_mean, model.pixel_std)
        self.model = model

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn (1, 3, H, W) values 0 to 255 into (1, K, h, w) and (1, 2 D, h, w) costs."""
        maps = self.model.predict_maps(self.normalise(image))
        return maps.class_costs, maps.edge_costs


def export_model(model: COPS) -> Export:
    """Describe what is exported of a model.

    Args:
        model: on the CPU, in evaluation mode.

    Raises:
        ValueError: the model solves on a finer grid than its network's, or with the truth.
    """
    options = model.options
    if options.stride != model.stride:
        raise ValueError(
            f"MODEL.COPS.INFERENCE.STRIDE is {options.stride}, but an export solves on the grid of "
            f"the network: add MODEL.COPS.INFERENCE.STRIDE {model.stride}"
        )
    if options.semantic_oracle:
        raise ValueError(
            "MODEL.COPS.INFERENCE.SEMANTIC_ORACLE needs the truth, which an export has not: "
            "add MODEL.COPS.INFERENCE.SEMANTIC_ORACLE False"
        )
    image = torch.zeros(1, 3, *EXAMPLE_SIZE)
    network = Part(
        CostNetwork(model),
        {"image": image},
        ("class_costs", "edge_costs"),
        {"image": (2, 3)},
    )
    return Export(
        parts={"network": network},
        options={
            "method": options.method,
            "stride": model.stride,
            "distances": list(model.distances),
            "edge_offset": options.edge_offset,
            "thing_area_limit": options.thing_area_limit,
            "stuff_area_limit": options.stuff_area_limit,
        },
        divisibility=model.divisibility,
        smallest=_smallest(model),
    )


def _smallest(model: COPS) -> tuple[int, int]:
    """Return the least input for which the pooling windows fit into their maps, in pixels."""
    windows = [
        module.pool_window
        for module in model.modules()
        if isinstance(module, AtrousPyramid) and module.pool_window is not None
    ]
    stride = coarsest_stride(model.backbone)
    rows = max((window[0] for window in windows), default=1)
    columns = max((window[1] for window in windows), default=1)
    return rows * stride, columns * stride
