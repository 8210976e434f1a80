"""A model of two layers and files of its weights, for the tests of checkpoints."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import get_cfg
from torch import nn

from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.config import add_panoptic_config

TABLE = [{"id": 7, "name": "road", "isthing": 0}, {"id": 9, "name": "car", "isthing": 1}]


class TinyModel(nn.Module):
    """A backbone and a head that depends on the classes, by Detectron2's names."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
        self.sem_seg_head = nn.ModuleDict({"predictor": nn.Conv2d(4, num_classes, 1)})


def checkpointer_of(model, folder="", cfg=None, **options) -> PanopticCheckpointer:
    if cfg is None:
        cfg = get_cfg()
        add_panoptic_config(cfg)
    options = {"class_table": TABLE, "seed": 3, **options}
    return PanopticCheckpointer(model, str(folder), cfg=cfg, **options)


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and buffer distinct, so that a mix-up of names shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model


def write_zoo_pickle(path: Path, model: nn.Module, **extra) -> dict[str, np.ndarray]:
    """The format of model_final_*.pkl in Detectron2's zoo."""
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    with open(path, "wb") as file:
        pickle.dump({"model": arrays, "__author__": "Detectron2 Model Zoo", **extra}, file)
    return arrays


def saved_run(folder: Path, iterations=(9, 19)) -> tuple[PanopticCheckpointer, torch.optim.SGD]:
    """A tiny run with a checkpoint at each of `iterations`."""
    model = randomised(TinyModel())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    checkpointer = checkpointer_of(model, folder, optimizer=optimizer)
    for iteration in iterations:
        with torch.no_grad():
            model.backbone[0].bias.fill_(iteration)
        checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
    return checkpointer, optimizer


def change_entry(path: Path, *keys: Any, value: Any) -> None:
    """Set contents[key][key]... of a file of torch."""
    contents = node = torch.load(path, weights_only=True)
    for key in keys[:-1]:
        node = node[key]
    node[keys[-1]] = value
    torch.save(contents, path)
