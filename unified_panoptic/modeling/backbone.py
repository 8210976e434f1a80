"""ResNet-FPN with squeeze-and-excitation on res5 (Li, Qi, Torr, CVPR 2020, section 3.1).

The paper re-weights the channels of the top ResNet feature before the first FPN feature is made
from it. The weights come from a global description of the image, "to encourage global consistency".
Parameter names stay those of Detectron2's ResNet-FPN, so that its model-zoo files fill everything
but the two new layers `bottom_up.squeeze_excitation.*`.

Shapes: N images; res5 is (N, C, H / 32, W / 32).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import FPN
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import ResNet
from torch import nn

from panoptic_common.modeling.thin_resnet import build_resnet_of_any_width


class SqueezeExcitation(nn.Module):
    """Channel re-weighting after Hu, Shen and Sun, CVPR 2018: x * sigmoid(W2 relu(W1 mean(x)))."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        """Build the block.

        Args:
            channels: C.
            reduction: the hidden layer has C / reduction channels, at least 1.
        """
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        # A gate of sigmoid(2) = 0.88 at the start leaves pre-trained features nearly as they are.
        nn.init.zeros_(self.excite.weight)
        nn.init.constant_(self.excite.bias, 2.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Re-weight the channels: (N, C, h, w) -> (N, C, h, w)."""
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(x.mean(dim=(2, 3))))))
        return x * gate[:, :, None, None]


class SqueezeExcitationResNet(ResNet):
    """A Detectron2 ResNet whose res5 passes through squeeze-and-excitation."""

    def __init__(self, resnet: ResNet, out_features: Sequence[str]) -> None:
        """Take a network over.

        Args:
            resnet: with its parameters and frozen stages.
            out_features: names of the stages whose features are returned.

        Raises:
            ValueError: res5 is not among them.
        """
        if "res5" not in out_features:
            raise ValueError(f"squeeze-and-excitation needs res5 in out_features: {out_features}")
        stages = [getattr(resnet, name) for name in resnet.stage_names]
        super().__init__(resnet.stem, stages, out_features=list(out_features))
        channels = self.output_shape()["res5"].channels
        self.squeeze_excitation = SqueezeExcitation(channels)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute (N, 3, H, W) -> {"res2": (N, C_2, H / 4, W / 4), ..., "res5": (N, C_5, ...)}."""
        outputs = super().forward(x)
        outputs["res5"] = self.squeeze_excitation(outputs["res5"])
        return outputs


@BACKBONE_REGISTRY.register()
def build_unified_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a ResNet-FPN of depth 18 to 101 with squeeze-and-excitation on res5.

    Args:
        cfg: reads MODEL.RESNETS, MODEL.FPN, MODEL.UNIFIED.SQUEEZE_EXCITATION.
        input_shape: channels of the image.

    Raises:
        ValueError: res5 is not among the features although squeeze-and-excitation is on.
    """
    bottom_up = build_resnet_of_any_width(cfg, input_shape)
    if cfg.MODEL.UNIFIED.SQUEEZE_EXCITATION:
        bottom_up = SqueezeExcitationResNet(bottom_up, cfg.MODEL.RESNETS.OUT_FEATURES)
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
