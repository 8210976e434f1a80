"""Processes that were started with different settings or images are refused in one sentence."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest
from process_group import run_processes
from project import ROOT
from trials.processes import ENVIRONMENT, train_command, train_words

from panoptic_common.engine.loaders import _require_same_images
from panoptic_common.engine.same_settings import require_same
from panoptic_common.processes.torchrun import LaunchRefused


def test_one_process_agrees_with_itself():
    require_same({"SOLVER": {"MAX_ITER": 4}})


def told(function, *arguments) -> str:
    try:
        function(*arguments)
    except LaunchRefused as error:
        return str(error)
    return ""


def each_case(rank: int, count: int) -> dict[str, str]:
    """All of it in one start of the processes."""
    records = [{"image_id": 7}, {"image_id": 8 + (rank == 2)}]
    return {
        "same": told(require_same, {"SOLVER": {"MAX_ITER": 4, "STEPS": (1, 2)}}),
        "value": told(require_same, {"SOLVER": {"MAX_ITER": 4 + 2 * (rank == 1)}}),
        "key": told(require_same, {"SEED": 0, **({"EXTRA": "x"} if rank else {})}),
        "same images": told(_require_same_images, ("street",), records[:1]),
        "images": told(_require_same_images, ("street",), records),
    }


def test_all_are_told_what_differs_first(tmp_path):
    results = run_processes(3, tmp_path / "gloo", each_case)
    assert results[0] == results[1] == results[2]
    (found, _, _) = results
    assert found["same"] == found["same images"] == ""
    assert "SOLVER.MAX_ITER is 4 in process 0 and 6 in process 1" in found["value"]
    assert "EXTRA is absent in process 0 and 'x' in process 1" in found["key"]
    assert "the images of street is '2 (checksum" in found["images"]
    assert "in process 2" in found["images"]


@pytest.mark.parametrize("key, value", [("SOLVER.MAX_ITER", "6"), ("SEED", "9")])
def test_a_training_by_torchrun_ends_before_its_first_step(tmp_path, key, value):
    """With another MAX_ITER it waited for ever; with another seed it trained."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    words = train_words(tmp_path / "data", tmp_path / "run", 4)
    processes = [
        subprocess.Popen(
            train_command([*words, *((key, value) if rank else ())]),
            env={**ENVIRONMENT, **group, "MASTER_PORT": str(port)}
            | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        text, _ = process.communicate(timeout=120)
        assert process.returncode == 2, text
        assert f"{key} is " in text and f"and {value} in process 1" in text
        assert "Traceback" not in text
    assert not any(name.endswith(".pth") for name in os.listdir(tmp_path / "run"))
