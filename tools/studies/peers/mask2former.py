r"""Mask2Former on our images, for a comparison at equal time.

    PYTHONPATH=MASK2FORMER python tools/train_net.py \
        --import panoptic_tools.studies.peers.mask2former \
        --config-file tools/studies/peers/mask2former_scenes.yaml

MASK2FORMER is a checkout of facebookresearch/Mask2Former. It needs timm, and a Detectron2 that has
its projects; the wheel that set-up may take has none. The network, its losses and its
post-processing are its own. Its deformable attention has a compiled form and a slower one in torch.
This takes the latter where the former is not there, which its own import refuses. Nor is its
evaluation imported, which needs compiled parts of Detectron2, or its data sets.

Its dataset mappers have augmentations of their own. Here its targets are made behind our mapper, so
that it sees those of the others.

Shapes: H, W pixels of the network's input; S segments.
"""

from __future__ import annotations

import importlib.util
import sys
import types
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.projects.deeplab import add_deeplab_config as add_deeplab_keys
from detectron2.structures import Instances

from panoptic_common.data.mapper import PanopticDatasetMapper

# The backbone of COPS registers itself: its ResNet may be thinner than Detectron2's.
importlib.import_module("cops.modeling.backbone")


def _import_network() -> types.ModuleType:
    """Import the network and its config, but not all of the package.

    Raises:
        ImportError: it is not on the path.
    """
    compiled = "MultiScaleDeformableAttention"
    if importlib.util.find_spec(compiled) is None:
        # An empty module: each call of it fails, and then the attention goes on in torch.
        sys.modules[compiled] = types.ModuleType(compiled)
    spec = importlib.util.find_spec("mask2former")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("no package mask2former: put a checkout of Mask2Former on PYTHONPATH")
    package = types.ModuleType("mask2former")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["mask2former"] = package
    importlib.import_module("mask2former.maskformer_model")
    importlib.import_module("mask2former.modeling")
    return importlib.import_module("mask2former.config")


# Its code is of 2022: torch warns of each call in it, some hundred lines an iteration.
warnings.filterwarnings("ignore", message=r"`torch\.cuda\.amp", category=FutureWarning)
_config = _import_network()


def add_mask2former_config(cfg: CfgNode) -> None:
    """Add the keys of Mask2Former to a config, in place; they build on those of DeepLab."""
    add_deeplab_keys(cfg)
    _config.add_maskformer2_config(cfg)


def make_targets(id_map: np.ndarray, segments_info: Sequence[dict]) -> dict[str, Any]:
    """Return the segments of an image, things and stuff alike, without crowds.

    Args:
        id_map: (H, W) panoptic ids, 0 = void.
        segments_info: dicts with "id", "category_id" (contiguous) and "iscrowd".

    Returns:
        "instances" with S `gt_classes` and (S, H, W) bool `gt_masks`.
    """
    segments = [segment for segment in segments_info if not segment["iscrowd"]]
    ids = np.array([segment["id"] for segment in segments], np.int64)
    instances = Instances(id_map.shape)
    instances.gt_classes = torch.tensor([s["category_id"] for s in segments], dtype=torch.int64)
    instances.gt_masks = torch.from_numpy(id_map[None] == ids[:, None, None])
    return {"instances": instances}


class Mapper:
    """Our mapper with these targets, for INPUT.MAPPER.

    Args:
        cfg: complete; reads INPUT.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.mapper = PanopticDatasetMapper.from_config(cfg, True, make_targets)

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return what the network is trained on, of one record of the data set."""
        return self.mapper(record)
