"""Whether the processes that train together were started with one and the same task.

torchrun and Slurm start a command on each machine. With another MAX_ITER on one of them the others
would wait for ever. With another seed images would count twice or never, and nobody would notice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.utils import comm

from panoptic_common.processes.torchrun import LaunchRefused
from panoptic_common.values import flatten

_ABSENT = "absent"


def require_same(settings: Mapping[str, Any]) -> None:
    """Refuse a run whose processes have different settings; each of them raises.

    All processes have to call this together; a single one compares nothing.

    Args:
        settings: a config, or names and plain values.

    Raises:
        LaunchRefused: naming the first setting that differs, with its values.
    """
    flat = {key: repr(value) for key, value in flatten(settings).items()}
    first, *others = comm.all_gather(flat)
    for rank, other in enumerate(others, start=1):
        for key in sorted(first.keys() | other.keys()):
            own, theirs = first.get(key, _ABSENT), other.get(key, _ABSENT)
            if own != theirs:
                raise LaunchRefused(
                    f"processes that are to work together were started differently: {key} is {own} "
                    f"in process 0 and {theirs} in process {rank}; give all the same command and "
                    "files"
                )
