"""Batches of training: a function of seed and iteration, and of nothing else."""

from __future__ import annotations

import random
import tempfile

import numpy as np
import pytest
import torch
from programs import run_program

from panoptic_common.data.train_loader import TrainLoader, sample_batches, scoped_seed


def take(batches, count: int) -> list:
    iterator = iter(batches)
    return [next(iterator) for _ in range(count)]


def test_every_image_once_an_epoch():
    samples = [sample for batch in take(sample_batches(7, 2, seed=3), 14) for sample in batch]
    assert [position for position, _ in samples] == list(range(28))
    epochs = [[index for _, index in samples[start : start + 7]] for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4  # each in an order of its own
    assert take(sample_batches(7, 2, seed=4), 14) != take(sample_batches(7, 2, seed=3), 14)


def test_batches_of_one_orientation():
    is_landscape = [True, False, False, True, True, False, True]
    batches = take(sample_batches(7, 3, seed=0, is_landscape=is_landscape), 70)
    assert all(len({is_landscape[index] for _, index in batch}) == 1 for batch in batches)
    # Nothing is lost or doubled: the first 7 * 29 positions are all among the first batches.
    positions = [position for batch in batches for position, _ in batch]
    assert len(set(positions)) == len(positions) == 210
    assert set(range(200)) <= set(positions)


def noisy_mapper(record: dict) -> dict:
    """Draws from all three generators, as augmentations do."""
    return {**record, "draws": (random.random(), np.random.rand(), torch.rand(()).item())}


def make_loader(**options) -> TrainLoader:
    records = [{"name": name} for name in "abcdefg"]
    return TrainLoader(records, noisy_mapper, **{"total_batch_size": 4, "seed": 1, **options})


def test_batch_is_a_function_of_seed_and_iteration():
    batches = take(make_loader(), 10)
    resumed = make_loader(seed=99)
    resumed.start_at(6, seed=1)
    assert take(resumed, 4) == batches[6:]
    assert take(make_loader(num_workers=2), 10) == batches
    assert take(make_loader(seed=2), 10) != batches
    shares = [take(make_loader(rank=rank, world_size=2), 10) for rank in range(2)]
    assert [a + b for a, b in zip(*shares, strict=True)] == batches
    draws = {sample["draws"] for batch in batches for sample in batch}
    assert len(draws) == 40  # no two samples share their augmentation


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loading_leaves_the_models_generators_alone(num_workers):
    """Also at its start, which a resumed run has at another iteration."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    expected = (random.random(), np.random.rand(), torch.rand(()).item())
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    take(make_loader(num_workers=num_workers), 2)
    assert (random.random(), np.random.rand(), torch.rand(()).item()) == expected


def test_scoped_seed_restores_after_an_error():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with pytest.raises(ZeroDivisionError), scoped_seed(5):
        torch.rand(7)
        raise ZeroDivisionError
    assert torch.equal(torch.rand(2), expected)


def test_loader_refuses_what_it_cannot_share():
    with pytest.raises(ValueError, match="IMS_PER_BATCH is 4, which 3 processes cannot share"):
        make_loader(world_size=3)
    with pytest.raises(ValueError, match="no image"):
        TrainLoader([], noisy_mapper, total_batch_size=1, seed=0)


HELD = """
import panoptic_common.compat
from panoptic_common.data.train_loader import TrainLoader
batches = iter(TrainLoader([{}] * 4, dict, total_batch_size=2, seed=0, num_workers=2))
next(batches)
"""


def test_a_program_ends_though_its_workers_ignore_the_signal_that_would_end_them():
    """The iterator lives to the end of the program, as that of a training that a signal ends."""
    done = run_program("-c", HELD)  # TimeoutExpired after 120 s, if it waits for them
    assert done.returncode == 0 and done.stderr == ""


def test_a_temporary_folder_with_too_long_a_name_is_refused(tmp_path, monkeypatch):
    """Workers would fail to bind their sockets, and the training would hang."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 20)))
    options = {"total_batch_size": 1, "seed": 0}
    TrainLoader([{}], noisy_mapper, **options)
    with pytest.raises(ValueError, match="longlong.*set TMPDIR to a shorter one"):
        TrainLoader([{}], noisy_mapper, num_workers=1, **options)
