r"""Panoptic-DeepLab on our images, for a comparison at equal time.

    python tools/train_net.py --import panoptic_tools.studies.peers.panoptic_deeplab \
        --config-file tools/studies/peers/panoptic_deeplab_nuclei.yaml

It needs a Detectron2 that has its projects; the wheel that set-up may take has none. The network,
its targets, its losses and its post-processing are Detectron2's. Two things are added:

* Its own dataset mapper knows a resize, a crop and a flip. Here its targets are made behind our
  mapper, so that it sees all augmentations of the others.
* It resizes its offsets with the map and leaves their length, in pixels of the network's input.
  At a scale s of the input they are s times too long, so they are divided by it.

Shapes: N images; H, W pixels of the network's input.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.projects.panoptic_deeplab import PanopticDeepLab
from detectron2.projects.panoptic_deeplab import add_panoptic_deeplab_config as add_keys
from detectron2.projects.panoptic_deeplab.target_generator import PanopticDeepLabTargetGenerator
from torch import nn

from panoptic_common.data.mapper import PanopticDatasetMapper

# The backbone of COPS registers itself: its ResNet may be thinner than Detectron2's for DeepLab.
importlib.import_module("cops.modeling.backbone")


def add_panoptic_deeplab_config(cfg: CfgNode) -> None:
    """Add the keys of Panoptic-DeepLab to a config, in place."""
    add_keys(cfg)


class Targets:
    """Makes the targets of an image; a class, so that it can be pickled.

    Args:
        generator: Detectron2's.
    """

    def __init__(self, generator: PanopticDeepLabTargetGenerator) -> None:
        self.generator = generator

    def __call__(self, id_map: np.ndarray, segments_info: Sequence[dict]) -> dict[str, Any]:
        """Return the maps that the network is trained on.

        Args:
            id_map: (H, W) panoptic ids, 0 = void.
            segments_info: dicts with "id", "category_id" (contiguous) and "iscrowd".
        """
        targets = self.generator(id_map, segments_info)
        del targets["center_points"]  # a list of points, which nothing reads
        return targets


class Mapper:
    """Our mapper with these targets, for INPUT.MAPPER.

    Args:
        cfg: complete; reads INPUT and DATASETS.TRAIN.
    """

    def __init__(self, cfg: CfgNode) -> None:
        metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
        node = cfg.INPUT
        generator = PanopticDeepLabTargetGenerator(
            ignore_label=metadata.ignore_label,
            thing_ids=list(metadata.thing_dataset_id_to_contiguous_id.values()),
            sigma=node.GAUSSIAN_SIGMA,
            ignore_stuff_in_offset=node.IGNORE_STUFF_IN_OFFSET,
            small_instance_area=node.SMALL_INSTANCE_AREA,
            small_instance_weight=node.SMALL_INSTANCE_WEIGHT,
            ignore_crowd_in_semantic=node.IGNORE_CROWD_IN_SEMANTIC,
        )
        self.mapper = PanopticDatasetMapper.from_config(cfg, True, Targets(generator))

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Return what the network is trained on, of one record of the data set."""
        return self.mapper(record)


@META_ARCH_REGISTRY.register()
class ScaledPanopticDeepLab(PanopticDeepLab):
    """Panoptic-DeepLab whose test images are enlarged by INPUT.TEST_SCALE.

    Args:
        cfg: complete.
    """

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__(cfg)
        self.ins_embed_head.register_forward_hook(ShortenedOffsets(cfg.INPUT.TEST_SCALE))


class ShortenedOffsets:
    """Forward hook: offsets in pixels of the image instead of the network's input.

    Args:
        scale: of the input.
    """

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, module: nn.Module, inputs: tuple, outputs: tuple) -> tuple | None:
        """Divide the (N, 2, H, W) offsets at inference; nothing changes in training."""
        if module.training:
            return None
        centers, offsets, *losses = outputs
        return centers, offsets / self.scale, *losses
