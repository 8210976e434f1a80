"""A COPS that is trained on the PQ surrogate, and its training images, for studies of one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from detectron2.config import CfgNode
from torch import nn

from cops import build_target_function
from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.config import load_config
from panoptic_common.engine.trainer import PanopticTrainer


def surrogate_config(file: str, opts: Sequence[str]) -> CfgNode:
    """Load a complete config, whose images are read in this process.

    Args:
        file: the config's.
        opts: keys and values by turns.

    Raises:
        ValueError: it does not train the surrogate.
    """
    cfg = load_config(file, opts)
    cfg.DATALOADER.NUM_WORKERS = 0
    if cfg.MODEL.COPS.TRAINING != "surrogate":
        raise ValueError(
            f'MODEL.COPS.TRAINING is {cfg.MODEL.COPS.TRAINING!r}: give a config with "surrogate"'
        )
    return cfg


def loaded_model(cfg: CfgNode) -> nn.Module:
    """Build the model in training mode, with the weights of MODEL.WEIGHTS.

    Raises:
        CheckpointError, ValueError, OSError: the weights cannot be used; says why.
    """
    model = _Trainer.build_model(cfg)
    PanopticCheckpointer(model, cfg=cfg).resume_or_load(cfg.MODEL.WEIGHTS, resume=False)
    return model.train()


def training_batches(cfg: CfgNode) -> Iterator[list[dict]]:
    """Yield the batches that a training with the seed of `cfg` would see, without end."""
    return iter(_Trainer.build_train_loader(cfg))


class _Trainer(PanopticTrainer):
    """Gives model and training images of a config."""

    @classmethod
    def build_target_function(cls, cfg: CfgNode) -> Callable[..., dict[str, Any]]:
        """Return that of COPS."""
        return build_target_function(cfg)
