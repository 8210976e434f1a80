"""Batch norm that looks at a batch without remembering it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def keeping_statistics(model: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch norm as they are while a model sees images.

    In training mode the outputs are what they would be anyway: those of the batch's own statistics.

    Args:
        model: whose batch norms are meant.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm, (_, count) in zip(norms, before, strict=True):
            norm.momentum = 0.0
            norm.num_batches_tracked = None if count is None else count.clone()
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
