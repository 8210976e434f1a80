"""Several worker processes, with or without a GPU.

Detectron2 0.6 insists on CUDA, and its main branch still wraps a CPU model in a way that
DistributedDataParallel refuses. Here a machine without a GPU gets processes that talk by gloo. The
processes are spawned and begin in a function of this module. So the work-arounds of
`panoptic_common.compat` are in place before one of them unpickles anything of Detectron2.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import pickle
import signal
import socket
import tempfile
import threading
import time
import traceback
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from panoptic_common.compat.engine import apply_to_engine

import torch
import torch.distributed as dist
import torch.multiprocessing
from detectron2.utils import comm

from panoptic_common.files import write_atomically
from panoptic_common.processes import stopping
from panoptic_common.processes.torchrun import LaunchRefused, TorchrunPlace, torchrun_place

logger = logging.getLogger(__name__)

TIMEOUT = timedelta(minutes=30)  # how long a worker waits for the others
SECONDS_IN_SILENCE = 20.0  # in which the others mostly come
SECONDS_AFTER_FAILURE = 10.0  # what is left to workers whose peer failed, before they are killed


@dataclass(frozen=True)
class _Job:
    """What each process of `launch` has to know."""

    main_func: Callable[..., Any]
    args: tuple[Any, ...]
    use_cuda: bool
    world_size: int
    processes_per_machine: int
    machine_rank: int
    dist_url: str
    failure_folder: str
    parent: int  # process id of the launcher


def leads(machine_rank: int = 0) -> bool:
    """Return whether the run's main process is this one or one that `launch` starts here."""
    place = torchrun_place()
    return machine_rank == 0 and (place is None or place.rank == 0)


def count_workers(
    num_gpus_per_machine: int, num_machines: int = 1, num_processes: int | None = None
) -> int:
    """Count the processes that `launch` makes train together, from its arguments."""
    if place := torchrun_place():
        return place.world_size
    per_machine = num_gpus_per_machine if num_processes is None else num_processes
    return num_machines * max(1, per_machine)


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple[Any, ...] = (),
    num_processes: int | None = None,
) -> None:
    """Run ``main_func(*args)`` in one process per worker, as Detectron2's function of that name.

    Detectron2 0.6 asserts a GPU; here processes without a GPU talk by gloo. The processes are
    spawned, and start in a function of this module, so that each has the work-arounds before it
    unpickles anything of Detectron2. One worker in all runs in this very process. A process that
    torchrun started joins its peers instead, by what the environment says; num_machines and
    dist_url then have no meaning. SIGTERM and SIGINT end all in good order
    (`panoptic_common.processes.stopping`), and the processes end when this one is killed.

    Args:
        main_func: function at the top level of a module (it is pickled by name).
        num_gpus_per_machine: workers on each machine: one per GPU (nccl), or CPU processes
            (gloo) on a machine without a GPU. 0 and 1 mean a single worker.
        num_machines: number of machines; `launch` is called on each.
        machine_rank: 0-based number of this machine.
        dist_url: address where the workers meet, such as ``tcp://10.0.0.1:23456``; None or
            "auto" takes a free port of this machine.
        args: positional arguments of ``main_func``.
        num_processes: CPU processes per machine instead, even where there is a GPU.

    Raises:
        LaunchRefused: arguments that contradict each other or the machine.
        SystemExit: a signal ended the run; 143 or 130.
        RuntimeError: a worker failed; the message holds the traceback of the first that did, and
            ``__cause__`` what it raised.
    """
    if num_machines < 1:
        raise LaunchRefused(f"num_machines is {num_machines}, it must be at least 1")
    use_cuda = num_processes is None and torch.cuda.is_available()
    per_machine = max(1, num_gpus_per_machine if num_processes is None else num_processes)
    world_size = num_machines * per_machine
    if place := torchrun_place():
        _join_torchrun(place, main_func, args, use_cuda, num_gpus_per_machine, num_processes)
        return
    if world_size == 1:
        with stopping.orderly_end():
            main_func(*args)
        return
    if not 0 <= machine_rank < num_machines:
        raise LaunchRefused(f"machine_rank {machine_rank} is not in 0..{num_machines - 1}")
    if use_cuda and per_machine > torch.cuda.device_count():
        raise LaunchRefused(
            f"{per_machine} GPUs were asked for, but torch sees {torch.cuda.device_count()}; for "
            "CPU processes give num_processes"
        )
    if dist_url in (None, "auto"):
        if num_machines > 1:
            raise LaunchRefused(
                "several machines need a dist_url that all of them reach, such as "
                "tcp://ADDRESS_OF_MACHINE_0:PORT, instead of 'auto'"
            )
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    elif machine_rank == 0:
        _require_free(dist_url)
    with (
        stopping.orderly_end(),
        tempfile.TemporaryDirectory(prefix="panoptic_launch_") as failure_folder,
    ):
        _spawn(
            _Job(
                main_func,
                args,
                use_cuda,
                world_size,
                per_machine,
                machine_rank,
                dist_url,
                failure_folder,
                os.getpid(),
            )
        )


def _join_torchrun(
    place: TorchrunPlace,
    main_func: Callable[..., Any],
    args: tuple[Any, ...],
    use_cuda: bool,
    num_gpus: int,
    num_processes: int | None,
) -> None:
    """Join the processes that torchrun started, and run the function in this one.

    Raises:
        LaunchRefused: another number of processes was asked for, or they cannot meet.
    """
    local_size = place.local_size
    asked = num_processes if num_processes is not None else num_gpus
    if asked > 1 and asked != local_size:
        raise LaunchRefused(
            f"torchrun started {local_size} processes on this machine, but {asked} are asked for"
        )
    if use_cuda and local_size > torch.cuda.device_count():
        raise LaunchRefused(
            f"torchrun started {local_size} processes, but torch sees {torch.cuda.device_count()} "
            "GPUs; for CPU processes give --num-processes"
        )
    parent, machine = os.getppid(), place.rank // local_size
    job = _Job(
        main_func, args, use_cuda, place.world_size, local_size, machine, "env://", "", parent
    )
    if "TORCHELASTIC_RUN_ID" in os.environ:
        stopping.die_with(parent)
    with stopping.orderly_end(patient=True):
        try:
            with _told_if_slow(place):
                _join_process_group(place.local_rank, place.rank, job)
        except RuntimeError as error:
            # torch 2.4 has no kind of its own for a port that is taken.
            if not isinstance(error, dist.DistError) and "EADDRINUSE" not in str(error):
                raise
            reason = str(error).strip().splitlines()[0]
            raise LaunchRefused(
                f"process {place.rank} of {place.world_size} cannot meet the others at "
                f"{place.address} ({reason}): see to MASTER_ADDR and MASTER_PORT"
            ) from error
        main_func(*args)
        comm.synchronize()
        if use_cuda:  # gloo's threads may abort the process: see `_worker`
            dist.destroy_process_group()


@contextlib.contextmanager
def _told_if_slow(place: TorchrunPlace) -> Iterator[None]:
    """Say for whom this process waits if the block takes long: the others may never come."""
    words = (place.rank, place.world_size, place.address, TIMEOUT)
    text = "Process %d of %d waits for the others at %s, for %s at most."
    timer = threading.Timer(SECONDS_IN_SILENCE, logger.warning, (text, *words))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _free_port() -> int:
    """Return a TCP port of this machine that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def _require_free(dist_url: str) -> None:
    """Raise LaunchRefused if the port of an address tcp://HOST:PORT of this machine is taken.

    Workers would find out, but only after half a minute, and each with a traceback.
    """
    try:
        port = urllib.parse.urlsplit(dist_url).port
    except ValueError as error:
        raise LaunchRefused(f"dist_url {dist_url} is none: {error}") from error
    if port is None:  # another kind of address, such as file://
        return
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("", port))
        except OSError as error:
            raise LaunchRefused(
                f"dist_url {dist_url} cannot be used ({error.strerror}), since another run uses "
                "that port perhaps: name another one, or 'auto' for a free one"
            ) from error


def _spawn(job: _Job) -> None:
    """Run the processes of this machine; the first failure ends the others and is raised."""
    context = torch.multiprocessing.start_processes(
        _worker, args=(job,), nprocs=job.processes_per_machine, join=False, start_method="spawn"
    )
    processes = context.processes
    try:
        while alive := [process for process in processes if process.exitcode is None]:
            connection.wait([process.sentinel for process in alive])
            failed = next((p.exitcode for p in processes if p.exitcode), None)
            if failed is not None and -failed in stopping.SIGNALS:  # it came during the imports
                failed = 128 - failed
            if failed in stopping.STATUSES:  # a signal that the workers alone got
                _wait(processes, stopping.SECONDS_TO_SAVE)
                raise SystemExit(failed)
            if failed is not None:
                exit_codes = [process.exitcode for process in processes]
                _end(processes)
                report, cause = _first_failure(exit_codes, job)
                raise RuntimeError(report or f"a worker ended: {failed}") from cause
    except SystemExit as end:
        if stopping.request.number is not None:
            _pass_on(stopping.STATUSES[int(str(end.code))], processes)
        raise
    finally:  # an abandoned worker would wait for its peers
        for process in processes:
            if process.is_alive():
                process.kill()


def _end(processes: Sequence[BaseProcess]) -> None:
    """Ask the other workers to end after a failure; rank 0 may be writing a file."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    _wait(processes, SECONDS_AFTER_FAILURE)


def _pass_on(number: int, processes: Sequence[BaseProcess]) -> None:
    """Give a signal to the workers, and let them save and end."""
    for process in processes:
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, number)
    _wait(processes, stopping.SECONDS_TO_SAVE)


def _wait(processes: Sequence[BaseProcess], seconds: float) -> None:
    """Wait until all processes have ended, or for so long."""
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, end - time.monotonic()))


def _first_failure(
    exit_codes: list[int | None], job: _Job
) -> tuple[str | None, BaseException | None]:
    """Return what made the job fail: a killed worker, or else the first that raised, and what.

    When a worker fails, its peers fail a moment later with "connection closed"; torch reports
    whichever it notices first. SIGTERM is not a cause: with it torch ends the peers.
    """
    for local_rank, code in enumerate(exit_codes):
        if code is not None and code < 0 and code != -signal.SIGTERM:
            return (
                f"worker {_global_rank(local_rank, job)} of {job.world_size} was killed by "
                f"{signal.Signals(-code).name} (SIGKILL often means: out of memory)"
            ), None
    reports = list(Path(job.failure_folder).glob("*.failure"))
    first = min(reports, key=lambda path: int(path.stem), default=None)
    if first is None:
        return None, None
    report, packed = pickle.loads(first.read_bytes())
    with contextlib.suppress(Exception):  # a class that only the worker knows
        return report, pickle.loads(packed)
    return report, None


def _pack_failure(report: str, error: Exception) -> bytes:
    """Pickle a traceback and, if it can be pickled, the error, for `_first_failure`."""
    packed = b""
    with contextlib.suppress(Exception):  # an error may hold anything
        packed = pickle.dumps(error)
    return pickle.dumps((report, packed))


def _global_rank(local_rank: int, job: _Job) -> int:
    return job.machine_rank * job.processes_per_machine + local_rank


def _worker(local_rank: int, job: _Job) -> None:
    """Join the process group, then run the job's function (one process of `launch`)."""
    # torch asks for SIGINT, which is ignored in what a script starts in its background.
    stopping.die_with(job.parent)
    rank = _global_rank(local_rank, job)
    try:
        with stopping.orderly_end(patient=True):
            _join_process_group(local_rank, rank, job)
            job.main_func(*job.args)
            if dist.is_initialized():
                comm.synchronize()  # or the group would be torn down while a peer still needs it
                if job.use_cuda:
                    dist.destroy_process_group()
        # Taking gloo's threads down, here or at the end of the interpreter, now and then aborts a
        # process whose work is done. Python's own end is run; that of the C++ libraries is not.
        logging.shutdown()
        atexit.register(os._exit, 0)
    except Exception as error:
        report = f"worker {rank} of {job.world_size} failed:\n{traceback.format_exc()}"
        packed = _pack_failure(report, error)
        # Atomically: the parent must not read half of it.
        path = Path(job.failure_folder, f"{time.monotonic_ns()}.failure")
        write_atomically(path, lambda file: file.write(packed))
        raise


def _join_process_group(local_rank: int, rank: int, job: _Job) -> None:
    """Initialise torch.distributed and Detectron2's group of this machine's processes."""
    if job.use_cuda:
        torch.cuda.set_device(local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        # Each process would otherwise take all cores, and they would slow one another down.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // job.processes_per_machine))
    dist.init_process_group(
        backend="nccl" if job.use_cuda else "gloo",
        init_method=job.dist_url,
        world_size=job.world_size,
        rank=rank,
        timeout=TIMEOUT,
    )
    if hasattr(comm, "create_local_process_group"):  # Detectron2 main
        comm.create_local_process_group(job.processes_per_machine)
    else:
        for machine in range(job.world_size // job.processes_per_machine):
            first = machine * job.processes_per_machine
            # new_group is collective: every process creates the groups of all machines.
            group = dist.new_group(list(range(first, first + job.processes_per_machine)))
            if machine == job.machine_rank:
                comm._LOCAL_PROCESS_GROUP = group
    apply_to_engine()
    comm.synchronize()
