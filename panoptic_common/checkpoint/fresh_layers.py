"""Which entries of initial weights make sense only together.

A deformable convolution has learnt its offsets, and a normalisation its statistics, for the outputs
of one convolution. If that convolution's own weight does not fit the model, it starts afresh. What
was learnt around it means nothing there then, even if its shape happens to fit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from detectron2.layers import FrozenBatchNorm2d
from torch import nn

# The first are also SyncBatchNorm and Detectron2's NaiveSyncBatchNorm.
_NORMS = (nn.modules.batchnorm._NormBase, FrozenBatchNorm2d, nn.GroupNorm, nn.LayerNorm)


def pop_orphans(model: nn.Module, fitting: dict[str, Any], misfits: Iterable[str]) -> list[str]:
    """Take out the entries that fit, but belong to a layer whose main weight does not.

    These are the layer's bias and what lies below it (offsets, Detectron2's `norm`). In an
    `nn.Sequential` the normalisation right behind the layer belongs to it, too.

    Args:
        model: the model that is filled.
        fitting: entries that fit, such as "backbone.res2.0.conv1.norm.bias"; changed.
        misfits: names whose shapes differ. A main weight is called "weight" and has two dimensions
            or more, as those of convolutions and linear layers.

    Returns:
        Their names.
    """
    own = model.state_dict()
    prefixes: list[str] = []
    for name in misfits:
        layer, _, leaf = name.rpartition(".")
        if leaf == "weight" and own[name].dim() > 1:
            prefixes += [f"{layer}.", *_norm_behind(model, layer)]
    orphans = [name for name in fitting if name.startswith(tuple(prefixes))]
    for name in orphans:
        del fitting[name]
    return orphans


def _norm_behind(model: nn.Module, layer: str) -> list[str]:
    """Return the prefix of the normalisation that follows a layer of an `nn.Sequential`, if any."""
    parent_name, _, last = layer.rpartition(".")
    parent = model.get_submodule(parent_name)
    if not isinstance(parent, nn.Sequential):
        return []
    names = [name for name, _ in parent.named_children()]
    following = names[names.index(last) + 1 :][:1]
    return [
        f"{parent_name}.{name}." if parent_name else f"{name}."
        for name in following
        if isinstance(parent.get_submodule(name), _NORMS)
    ]
