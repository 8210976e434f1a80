"""What torchrun, or a batch script in its stead, says to each process by the environment.

A part of it, or numbers that contradict each other, would not be noticed later. Processes would
wait for half an hour for a peer that never comes, or each would train alone and write the same
files. Standard library only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

_NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_ALL = (*_NUMBERS, "MASTER_ADDR", "MASTER_PORT")
_ADVICE = "start by torchrun, or unset RANK and WORLD_SIZE"


class LaunchRefused(ValueError):
    """The processes cannot be started as asked; the message is one sentence."""


@dataclass(frozen=True)
class TorchrunPlace:
    """The place of this process among those that train together.

    Attributes:
        rank: number of this process.
        world_size: how many there are.
        local_rank: number of this process on its machine.
        local_size: how many there are on each machine.
        address: where all meet, as HOST:PORT.
    """

    rank: int
    world_size: int
    local_rank: int
    local_size: int
    address: str


def torchrun_place() -> TorchrunPlace | None:
    """Return the place that the environment gives this process; None: it was started alone.

    Raises:
        LaunchRefused: it gives only a part of a place, no numbers, or numbers that contradict each
            other.
    """
    there = [name for name in ("RANK", "WORLD_SIZE") if name in os.environ]
    if not there or (len(there) == 1 and _is_alone()):
        return None
    missing = [name for name in _ALL if name not in os.environ]
    if missing:
        raise LaunchRefused(
            f"{' and '.join(there)} {'are' if there[1:] else 'is'} in the environment, as torchrun "
            f"sets them, but {', '.join(missing)} not: {_ADVICE}"
        )
    rank, world_size, local_rank, local_size = (_number(name) for name in _NUMBERS)
    for name, value, size in (("", rank, world_size), ("LOCAL_", local_rank, local_size)):
        if value >= size:
            raise LaunchRefused(f"{name}RANK is {value}, but {name}WORLD_SIZE {size}: {_ADVICE}")
    if world_size % local_size or rank % local_size != local_rank:
        raise LaunchRefused(
            f"RANK {rank} of WORLD_SIZE {world_size} cannot be LOCAL_RANK {local_rank} of "
            f"LOCAL_WORLD_SIZE {local_size}: each machine needs equally many processes, numbered "
            f"one after another; {_ADVICE}"
        )
    port = _number("MASTER_PORT")
    if not 0 < port < 65536:
        raise LaunchRefused(f"MASTER_PORT is {port}, no port from 1 to 65535: {_ADVICE}")
    address = f"{os.environ['MASTER_ADDR']}:{port}"
    return TorchrunPlace(rank, world_size, local_rank, local_size, address)


def _is_alone() -> bool:
    """Tell whether RANK and WORLD_SIZE, as far as they are set, are those of a single process."""
    return os.environ.get("RANK", "0") == "0" and os.environ.get("WORLD_SIZE", "1") == "1"


def _number(name: str) -> int:
    """Return a number of the environment.

    Raises:
        LaunchRefused: it is none.
    """
    text = os.environ[name]
    if not (text.isascii() and text.isdecimal()):
        raise LaunchRefused(f"{name} is {text!r} in the environment, no number: {_ADVICE}")
    return int(text)
