"""A COPS model whose network knows the two touching things, but leans towards cutting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from cops_factory import IS_THING, perfect_maps, tiny_config, tiny_model
from detectron2.config import CfgNode
from two_things import (
    NAME,
    forget_two_things,
    id_map_of_two_things,
    segments_of_two_things,
    two_things_options,
)

from cops.calibrate import build_finish_function
from cops.modeling.meta_arch import Maps
from cops.targets import make_cops_targets
from panoptic_common.data.catalog import register_panoptic

DISTANCES = (1, 2)


def biased_config(**changes: Any) -> CfgNode:
    """A config that calibrates on both images; changes are keys of MODEL.COPS.CALIBRATION."""
    values = {"IMAGES": 2, **changes}
    return tiny_config(
        {
            "DATASETS.TRAIN": (NAME,),
            "MODEL.COPS.DISTANCES": DISTANCES,
            "INPUT.MIN_SIZE_TEST": 48,
            **{f"MODEL.COPS.CALIBRATION.{key}": value for key, value in values.items()},
        }
    )


def biased_model(bias: float = 3.0) -> Any:
    """A model whose costs are the truth with noise, pushed towards cutting by a constant."""
    model = tiny_model({"MODEL.COPS.DISTANCES": DISTANCES})
    segments = segments_of_two_things()
    targets = make_cops_targets(id_map_of_two_things(), segments, IS_THING, DISTANCES)
    class_logits, edge_logits = perfect_maps(targets["cops_target"], len(IS_THING))

    def predict_maps(images: torch.Tensor) -> Maps:
        assert not model.training
        # Another noise for each image, the same whenever it is seen.
        generator = torch.Generator().manual_seed(int(images.sum().abs() * 100) % 1000)
        noise = torch.randn(edge_logits.shape, generator=generator)
        logits = (edge_logits / 5 + noise + bias)[None]
        return Maps(
            class_logits=class_logits[None],
            edge_logits=logits,
            class_costs=-class_logits[None],
            edge_costs=model.cost_scale.edge_costs(logits),
        )

    model.predict_maps = predict_maps
    return model


def finished_scales(rank: int, count: int, root: Path) -> dict[str, torch.Tensor]:
    """Scales and offsets of the model, calibrated by this process and its peers."""
    register_panoptic(*two_things_options(root)[1:])
    model = biased_model().train()
    finish = build_finish_function(biased_config())
    assert finish is not None
    finish(model)
    assert model.training
    forget_two_things()
    return {name: value.detach().clone() for name, value in model.cost_scale.named_parameters()}
