"""Optimizers from the config.

SGD, AdamW and Adam, learning-rate factors by parameter name, a weight decay of their own for
normalisation layers, and all ways of gradient clipping.

Detectron2's own function knows SGD and one learning rate for all parameters. For the settings that
it has, the parameter groups made here are the same (a test compares them).
"""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler
from torch import nn

logger = logging.getLogger(__name__)

_ADAPTIVE = {"ADAMW": torch.optim.AdamW, "ADAM": torch.optim.Adam}
_NORM_LAYERS = (
    nn.modules.batchnorm._BatchNorm,  # also SyncBatchNorm and Detectron2's NaiveSyncBatchNorm
    nn.modules.instancenorm._InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.LocalResponseNorm,
)


def parameter_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    weight_decay_norm: float | None = None,
    weight_decay_bias: float | None = None,
    bias_lr_factor: float = 1.0,
    lr_multipliers: Sequence[tuple[str, float]] = (),
) -> list[dict[str, Any]]:
    """Group the trainable parameters by (learning rate, weight decay).

    Args:
        model: the model; a parameter that several modules share counts once.
        base_lr: learning rate at factor 1.
        weight_decay: for all parameters without a rule of their own.
        weight_decay_norm: for weights and biases of normalisation layers; None: `weight_decay`.
        weight_decay_bias: for biases, those of normalisation layers too; None: no rule.
        bias_lr_factor: learning-rate factor of biases.
        lr_multipliers: (name prefix, factor); the first prefix that fits a parameter's full name
            counts. A factor of 0 holds the parameter still, but for weight decay.

    Returns:
        Groups with "params", "lr", "weight_decay", in the order of their first parameter.

    Raises:
        ValueError: a prefix fits no trainable parameter (a misspelt one would do nothing).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    used: set[str] = set()
    for module_name, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            name = f"{module_name}.{leaf}" if module_name else leaf
            lr, decay = base_lr, weight_decay
            if isinstance(module, _NORM_LAYERS) and weight_decay_norm is not None:
                decay = weight_decay_norm
            if leaf == "bias":
                lr *= bias_lr_factor
                decay = decay if weight_decay_bias is None else weight_decay_bias
            for prefix, factor in lr_multipliers:
                if name.startswith(prefix):
                    lr *= factor
                    used.add(prefix)
                    break
            groups.setdefault((lr, decay), []).append(parameter)
    unused = [prefix for prefix, _ in lr_multipliers if prefix not in used]
    if unused:
        tops = sorted({name.split(".")[0] for name, p in model.named_parameters()})
        raise ValueError(
            f"SOLVER.LR_MULTIPLIERS: no trainable parameter is matched first by {unused}; "
            f"the model's parameter names start with {tops}"
        )
    return [
        {"params": parameters, "lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in groups.items()
    ]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer that SOLVER describes.

    SOLVER.OPTIMIZER is "SGD" (with MOMENTUM and NESTEROV), "ADAMW" or "ADAM".
    SOLVER.CLIP_GRADIENTS.CLIP_TYPE is Detectron2's "value" or "norm" (each parameter by itself),
    or "full_model" (the norm of all gradients together, as usual with AdamW).

    Raises:
        ValueError: an unknown optimizer, or a prefix in SOLVER.LR_MULTIPLIERS that fits nothing.
    """
    solver = cfg.SOLVER
    name = solver.OPTIMIZER.upper()
    options: dict[str, Any]
    if name == "SGD":
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.SGD
        options = {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
    elif name in _ADAPTIVE:
        optimizer_class, options = _ADAPTIVE[name], {}
    else:
        raise ValueError(f'SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}: use "SGD", "ADAMW" or "ADAM"')
    groups = parameter_groups(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        lr_multipliers=[(prefix, float(factor)) for prefix, factor in solver.LR_MULTIPLIERS],
    )
    clipped_class = _with_clipping(optimizer_class, solver.CLIP_GRADIENTS)
    return clipped_class(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, **options)


def build_poly_scheduler(
    cfg: CfgNode, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """Build the schedule of DeepLab: BASE_LR (1 - t / T)^SOLVER.POLY_POWER after a warm-up.

    Args:
        cfg: SOLVER's MAX_ITER is T; the WARMUP keys mean what they mean for Detectron2's schedules.
        optimizer: its learning rates are those at t = 0.
    """
    solver = cfg.SOLVER
    # An iteration is its own end of the interval: the last one still has a rate above 0.
    decay = PolynomialDecayParamScheduler(1.0, solver.POLY_POWER)
    scheduler = WarmupParamScheduler(
        decay,
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
    )
    return LRMultiplier(optimizer, multiplier=scheduler, max_iter=solver.MAX_ITER)


def _with_clipping(
    optimizer_class: type[torch.optim.Optimizer], clip: CfgNode
) -> type[torch.optim.Optimizer]:
    """Precede `step` of the class by the clipping that SOLVER.CLIP_GRADIENTS asks for.

    Clipping lives in `step` because a gradient scaler divides the gradients by its scale just
    before it calls `step`.
    """
    if not clip.ENABLED:
        return optimizer_class
    if clip.CLIP_TYPE == "full_model":
        return full_model_clipping(optimizer_class, clip.CLIP_VALUE, clip.NORM_TYPE)
    if clip.CLIP_TYPE not in ("value", "norm"):
        raise ValueError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}: "
            'use "value", "norm" or "full_model"'
        )
    node = CfgNode()
    node.SOLVER = CfgNode()
    node.SOLVER.CLIP_GRADIENTS = copy.deepcopy(clip)
    return maybe_add_gradient_clipping(node, optimizer_class)


def full_model_clipping(
    optimizer_class: type[torch.optim.Optimizer], max_norm: float, norm_type: float
) -> type[torch.optim.Optimizer]:
    """Precede `step` of the class by clipping the norm over all parameters together.

    Args:
        optimizer_class: is not changed; a subclass is returned.
        max_norm: longer gradients are scaled to it.
        norm_type: p of the norm.
    """

    def step(self: torch.optim.Optimizer, closure: Any = None) -> Any:
        parameters = itertools.chain.from_iterable(g["params"] for g in self.param_groups)
        torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type=norm_type)
        return optimizer_class.step(self, closure)

    return type("FullModelClipping", (optimizer_class,), {"step": step})
