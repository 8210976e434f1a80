"""Worker processes that cannot hand over what they have loaded, or die: a sentence, and no wait."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_disk import run_on_disk

from panoptic_common.data import handing_over
from panoptic_common.data.handing_over import HandingLoader, LoaderError, explain_worker
from panoptic_common.engine.endings import FAILED, ending

# Batches of 1 MB from two workers.
PROGRAM = """
import sys
import panoptic_common.compat
import torch
from panoptic_common.data.handing_over import HandingLoader, LoaderError
images = [{"image": torch.full((1 << 18,), float(i)), "number": i} for i in range(8)]
try:
    loader = HandingLoader(images, batch_size=1, num_workers=2)
    read = [(batch[0]["number"], batch[0]["image"].mean().item()) for batch in loader]
except LoaderError as error:
    sys.exit(f"refused: {error}")
assert read == [(i, float(i)) for i in range(8)], read
"""


class Killed(torch.utils.data.Dataset):
    """Images, the third of which costs the worker its life, as the system does without memory."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        if index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


class Unsendable(torch.utils.data.Dataset):
    """What no process can send to another."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> object:
        return lambda: index


@pytest.fixture
def few_files() -> Iterator[None]:
    """Few open files, for workers that are started from here on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    now = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (now + 24, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("free", [0, 1 << 40])
def test_batches_are_those_of_the_data_set(num_workers, free, monkeypatch):
    """With and without workers, through shared memory and through pipes."""
    if free == 0:
        monkeypatch.setattr(handing_over, "ROOM", 1 << 60)
    images = [{"image": torch.arange(5) * i, "name": f"image {i}"} for i in range(5)]
    batches = list(HandingLoader(images, batch_size=2, num_workers=num_workers))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    read = [sample for batch in batches for sample in batch]
    assert [sample["name"] for sample in read] == [image["name"] for image in images]
    for sample, image in zip(read, images, strict=True):
        assert torch.equal(sample["image"], image["image"])


@pytest.mark.parametrize(("size", "works"), [("4k", False), ("64k", False), ("2m", True)])
def test_a_small_shared_memory_is_refused_or_done_without(tmp_path: Path, size: str, works: bool):
    """2 MB hold two of eight batches of 1 MB, which once made the program wait for ever."""
    code = f'mount --bind "$disk" /dev/shm && {sys.executable} -c "$program"'
    done, _ = run_on_disk(tmp_path / "disk", size, "sh", "-c", code, program=PROGRAM)
    if works:
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert done.stderr.startswith("refused: worker processes of the loader cannot start (No")
        assert f"/dev/shm has {size[:-1]} KB free, give it more" in done.stderr


def test_too_few_open_files_are_told(few_files):
    """Each tensor is an open file: 64 of them do not fit, and were dropped without a word."""
    images = [[torch.zeros(3) for _ in range(64)]]
    with pytest.raises(LoaderError, match="Too many open files.*: allow more by `ulimit -n`, or"):
        list(HandingLoader(images, num_workers=1))


def test_what_cannot_be_sent_is_an_error_and_not_a_wait():
    with pytest.raises(Exception, match="[Cc]an't (get local|pickle)"):
        list(HandingLoader(Unsendable(), num_workers=1))


def test_a_worker_that_dies_is_told_in_a_sentence():
    with pytest.raises(RuntimeError) as caught:
        list(HandingLoader(Killed(), num_workers=1))
    status, sentence = ending(caught.value) or (None, "")
    assert status == FAILED
    assert "a worker process of the loader was ended" in sentence and "NUM_WORKERS" in sentence


@pytest.mark.parametrize(
    ("said", "how"),
    [
        ("DataLoader worker (pid 22456) is killed by signal: Killed. ", "by the signal Killed;"),
        (
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that",
            "by the signal Bus error;",
        ),
        ("DataLoader worker (pid(s) 3, 4) exited unexpectedly", "unexpectedly;"),
        ("DataLoader worker (pid 3) exited unexpectedly with exit code 1. Details", "unexpectedly"),
    ],
)
def test_the_words_of_torch_are_understood(said, how):
    assert f"was ended {how}" in (explain_worker(RuntimeError(said)) or "")
    assert explain_worker(ValueError(said)) is None


def test_other_errors_keep_their_traceback():
    assert explain_worker(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
