"""Several CPU processes train together; a failure in one ends all and is reported."""

from __future__ import annotations

import os
import socket
import time
import warnings
from pathlib import Path

from panoptic_common.compat import launch as launch_module
from panoptic_common.compat.launch import launch

import pytest
import torch
from detectron2.utils import comm
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def train_one_step(folder: str) -> None:
    """Rank r sees the input r + 1; DDP must average the gradients 1 and 2 to 1.5."""
    import detectron2.engine.defaults as defaults

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = defaults.create_ddp_model(nn.Linear(1, 1, bias=False), broadcast_buffers=False)
    model(torch.tensor([[comm.get_rank() + 1.0]])).sum().backward()
    facts = {
        "ranks": (comm.get_rank(), comm.get_local_rank()),
        "sizes": (comm.get_world_size(), comm.get_local_size()),
        "wrapped": isinstance(model, DistributedDataParallel),
        "sends_buffers": getattr(model, "forward_sync_buffers", model.broadcast_buffers),
        "warnings": [str(warning.message) for warning in caught],
        "gradient": next(model.parameters()).grad.item(),
        "gathered": comm.all_gather(comm.get_rank()),
    }
    torch.save(facts, Path(folder, f"{comm.get_rank()}.pth"))


def test_two_cpu_processes_train_together(tmp_path: Path) -> None:
    launch(train_one_step, 2, dist_url="auto", args=(str(tmp_path),), num_processes=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.pth", "1.pth"]
    for rank in range(2):
        facts = torch.load(tmp_path / f"{rank}.pth", weights_only=True)
        assert facts["ranks"] == (rank, rank)
        assert facts["sizes"] == (2, 2)
        assert facts["wrapped"] and not facts["sends_buffers"]
        assert facts["warnings"] == []
        assert facts["gradient"] == 1.5
        assert facts["gathered"] == [0, 1]


def fail_on_rank_1() -> None:
    if comm.get_rank() == 1:
        raise ValueError("the reason to report")
    comm.synchronize()  # would wait for half an hour


def test_failure_of_one_process_ends_all_and_is_reported() -> None:
    start = time.monotonic()
    before = set(torch.multiprocessing.active_children())  # other tests may have left some
    with pytest.raises(RuntimeError, match="(?s)worker 1 of 2 failed.*the reason to") as caught:
        launch(fail_on_rank_1, 2, num_processes=2)
    assert isinstance(caught.value.__cause__, ValueError)
    assert str(caught.value.__cause__) == "the reason to report"
    # What is terminated takes a moment to end; not the half hour of the timeout.
    while set(torch.multiprocessing.active_children()) - before:
        assert time.monotonic() - start < 600
        time.sleep(0.1)


def make_job(folder: Path) -> launch_module._Job:
    return launch_module._Job(
        main_func=print,
        args=(),
        use_cuda=False,
        world_size=4,
        processes_per_machine=2,
        machine_rank=1,
        dist_url="",
        failure_folder=str(folder),
        parent=os.getpid(),
    )


def write_failure(path: Path, report: str) -> None:
    path.write_bytes(launch_module._pack_failure(report, ValueError(report)))


def test_an_error_that_cannot_be_pickled_leaves_its_traceback(tmp_path: Path) -> None:
    packed = launch_module._pack_failure("the traceback", ValueError(lambda: None))
    (tmp_path / "1.failure").write_bytes(packed)
    found = launch_module._first_failure([1, 1], make_job(tmp_path))
    assert found == ("the traceback", None)


def test_first_report_wins_over_its_consequences(tmp_path: Path) -> None:
    write_failure(tmp_path / "2000.failure", "connection closed by peer")
    write_failure(tmp_path / "999.failure", "the cause")
    report, cause = launch_module._first_failure([1, 1], make_job(tmp_path))
    assert report == "the cause" and isinstance(cause, ValueError)


def test_killed_process_is_named_rather_than_its_consequences(tmp_path: Path) -> None:
    write_failure(tmp_path / "1.failure", "connection closed by peer")
    message, cause = launch_module._first_failure([1, -9], make_job(tmp_path))
    assert cause is None
    assert message is not None and "worker 3 of 4 was killed by SIGKILL" in message
    # SIGTERM is what the others get, not a cause.
    message, _ = launch_module._first_failure([-15, 1], make_job(tmp_path))
    assert message == "connection closed by peer"


def test_no_report_no_cause(tmp_path: Path) -> None:
    assert launch_module._first_failure([1, 1], make_job(tmp_path)) == (None, None)


def test_one_worker_runs_in_this_process() -> None:
    seen: list[int] = []
    launch(seen.append, 1, args=(os.getpid(),))  # not picklable: no process may start
    launch(seen.append, 0, args=(2,))
    assert seen == [os.getpid(), 2]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_machines": 0}, "num_machines is 0"),
        ({"num_machines": 2, "machine_rank": 2}, "machine_rank 2 is not in 0..1"),
        ({"num_machines": 2, "dist_url": "auto"}, "several machines need a dist_url"),
        ({"num_machines": 2}, "several machines need a dist_url"),
    ],
)
def test_contradictory_launch_is_refused(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        launch(print, 2, num_processes=2, **options)


def test_a_port_that_is_taken_is_refused_at_once() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = f"tcp://127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(ValueError, match="Address already in use"):
            launch(print, 2, num_processes=2, dist_url=taken)


def test_more_gpus_than_there_are_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="2 GPUs were asked for, but torch sees 1"):
        launch(print, 2)
