"""Run a function in several processes that talk by gloo, and collect what they return."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SECONDS = 120


def _work(rank: int, count: int, folder: str, function: Callable[..., Any], args: tuple) -> None:
    torch.set_num_threads(1)
    store = (Path(folder) / "store").as_uri()
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=count)
    torch.save(function(rank, count, *args), Path(folder) / f"{rank}.pt")
    dist.barrier()  # nobody leaves while another one still reads from it
    os._exit(0)  # gloo's threads may abort while they are torn down


def run_processes(count: int, folder: Path, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Return what `function(rank, count, *args)` returns in each of `count` processes, by rank.

    Args:
        count: of processes; each has one thread.
        folder: empty; for the store by which they meet, and for their results.
        function: of a module that an import by name finds; returns what torch can save.
        args: the same for all.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["panoptic_common.compat", "torch.distributed", "cops.solver"])
    folder.mkdir(exist_ok=True)
    workers = [
        server.Process(target=_work, args=(rank, count, str(folder), function, args))
        for rank in range(count)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(SECONDS)
    codes = [worker.exitcode for worker in workers]
    for worker in workers:
        worker.kill()
    assert codes == [0] * count, f"exit statuses {codes}"
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]
