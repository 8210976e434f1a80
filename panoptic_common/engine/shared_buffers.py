"""The same statistics of batch norm in all processes, wherever they matter.

Each process takes them from images of its own while it trains. A checkpoint has those of the main
process. An evaluation, which shares its images among all, would measure several models otherwise.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from detectron2.utils import comm


@torch.no_grad()
def share_buffers(model: torch.nn.Module) -> None:
    """Give the buffers of the main process to all others; every process must call this."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
