"""Training batches that are a pure function of (seed, iteration).

So a resumed run goes on exactly where the killed one stopped.

Detectron2's `TrainingSampler` starts its shuffled stream anew at every start of the program, and
its augmentations draw from whatever state the global generators are in. So a resumed run sees other
images than the run without the kill. Here

- the stream of samples is a function of the seed alone: epoch after epoch, each shuffled by a
  generator of its own. Iteration i takes the i-th group of IMS_PER_BATCH samples, rank r its r-th
  share. A resumed run asks for iteration i and skips what lies before it;
- the augmentation of the sample at stream position p draws from generators seeded by (seed, p).
  It does not matter which worker process prepares it, how many of them there are, or how far they
  run ahead.

For one total batch size the stream does not even depend on the number of ranks.
"""

from __future__ import annotations

import atexit
import itertools
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from panoptic_common.data.handing_over import HandingLoader
from panoptic_common.processes.stopping import leave_signals_to_the_parent

# First key of `derive_seed`: each use of randomness has a family of seeds of its own.
SHUFFLE, AUGMENTATION, MODEL_STEP, MODEL_INIT = range(4)

Sample = tuple[int, int]  # (position in the stream, index into the data set)


# A socket's name has at most 103 bytes (macOS; Linux 107). Python adds 32 to the folder's, for
# "/pymp-xxxxxxxx/listener-xxxxxxxx".
LONGEST_TEMPORARY_FOLDER = 70


def derive_seed(seed: int, *key: int) -> int:
    """Derive a well mixed 32-bit seed for one purpose; neighbouring keys are unrelated.

    Args:
        seed: the run's seed, at least 0.
        key: what it is for, such as (AUGMENTATION, position); each at least 0.
    """
    return int(np.random.SeedSequence((seed, *key)).generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch (every device)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def scoped_seed(seed: int) -> Iterator[None]:
    """Seed the global CPU generators for one block and put their states back afterwards.

    Detectron2's augmentations know only the global generators. Without the restoring, a loader
    without worker processes would draw from the stream that the model's sampling uses.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    torch_state = torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)
        # Not torch.manual_seed: that would also seed the GPUs, whose states are not kept here.
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)


def sample_batches(
    size: int, batch_size: int, seed: int, is_landscape: Sequence[bool] | None = None
) -> Iterator[list[Sample]]:
    """Give the endless sequence of batches of a run.

    Args:
        size: number of images in the data set.
        batch_size: samples in a batch, over all ranks.
        seed: the run's seed.
        is_landscape: per image, whether it is wider than high; if given, a batch holds images
            of one orientation only, which saves padding.

    Yields:
        `batch_size` pairs (position, index).
    """
    waiting: tuple[list[Sample], list[Sample]] = ([], [])
    position = 0
    for epoch in itertools.count():
        generator = torch.Generator().manual_seed(derive_seed(seed, SHUFFLE, epoch))
        for index in torch.randperm(size, generator=generator).tolist():
            group = waiting[bool(is_landscape[index]) if is_landscape is not None else 0]
            group.append((position, index))
            position += 1
            if len(group) == batch_size:
                yield group[:]
                group.clear()


class _MappedSamples(Dataset):
    """Data set over (position, index) pairs: one mapped image each, with its own seed."""

    def __init__(self, records: Sequence[dict], mapper: Callable[[dict], dict], seed: int) -> None:
        self.records = records
        self.mapper = mapper
        self.seed = seed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, sample: Sample) -> dict:
        position, index = sample
        with scoped_seed(derive_seed(self.seed, AUGMENTATION, position)):
            return self.mapper(self.records[index])


def require_room_for_sockets() -> None:
    """Refuse a temporary folder whose name is too long for the sockets of loader workers.

    Workers would fail to send what they have loaded, and the training would wait for ever.

    Raises:
        ValueError: naming the folder, and what to do.
    """
    folder = tempfile.gettempdir()
    length = len(os.fsencode(folder))
    if os.name == "posix" and length > LONGEST_TEMPORARY_FOLDER:
        raise ValueError(
            f"the name of the temporary folder {folder} has {length} characters, more than "
            f"{LONGEST_TEMPORARY_FOLDER}: set TMPDIR to a shorter one, or DATALOADER.NUM_WORKERS 0"
        )


class TrainLoader:
    """Endless iterable of training batches that can start at any iteration.

    Iterating builds the worker processes at the first `next`, not before. Detectron2 0.6 calls
    `iter` when the trainer is made, before it knows which iteration the run resumes at.
    """

    def __init__(
        self,
        records: Sequence[dict],
        mapper: Callable[[dict], dict],
        *,
        total_batch_size: int,
        seed: int,
        is_landscape: Sequence[bool] | None = None,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Prepare to load a data set.

        Args:
            records: dataset dicts.
            mapper: dataset dict -> input of the model.
            total_batch_size: images per iteration over all ranks, SOLVER.IMS_PER_BATCH.
            seed: the run's seed, the same on all ranks.
            is_landscape: see `sample_batches`.
            num_workers: worker processes of this rank; 0 maps in this process.
            rank: number of this process among those that train together, from 0.
            world_size: how many train together.

        Raises:
            ValueError: no image, a batch that cannot be shared among the ranks, or worker processes
                that could not send what they load.
        """
        if not len(records):
            raise ValueError("the training set holds no image")
        if total_batch_size < 1 or total_batch_size % world_size:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH is {total_batch_size}, which {world_size} processes cannot "
                f"share equally: make it a multiple of {world_size}"
            )
        if num_workers:
            require_room_for_sockets()
        self.records = records
        self.mapper = mapper
        self.total_batch_size = total_batch_size
        self.seed = seed
        self.is_landscape = is_landscape
        self.num_workers = num_workers
        self.rank = rank
        self.world_size = world_size
        self.start_iteration = 0

    def start_at(self, iteration: int, seed: int) -> None:
        """Set where the next iterator starts; must precede its first `next`.

        Args:
            iteration: 0-based iteration whose batch comes first.
            seed: the run's seed.
        """
        self.start_iteration = iteration
        self.seed = seed

    def _own_samples(self) -> Iterator[list[Sample]]:
        share = self.total_batch_size // self.world_size
        batches = sample_batches(
            len(self.records), self.total_batch_size, self.seed, self.is_landscape
        )
        # Skipping only counts indices: about a second for a million iterations of 4 images.
        for batch in itertools.islice(batches, self.start_iteration, None):
            yield batch[self.rank * share : (self.rank + 1) * share]

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        loader = HandingLoader(
            _MappedSamples(self.records, self.mapper, self.seed),
            batch_sampler=_Reiterable(self._own_samples),
            num_workers=self.num_workers,
            worker_init_fn=leave_signals_to_the_parent,
            # By default the loader takes a number from torch's global generator when it starts. A
            # resumed run would do that at another iteration than the uninterrupted one.
            generator=torch.Generator().manual_seed(self.seed),
        )
        batches = iter(loader)
        # At the end of the program multiprocessing ends workers by SIGTERM and then awaits them.
        # These ignore it, so they are told before; functions registered last are called first.
        shut_down = getattr(batches, "shut_down", None)
        if shut_down is None:  # no workers
            yield from batches
            return
        atexit.register(shut_down)
        try:
            yield from batches
        finally:
            atexit.unregister(shut_down)
            shut_down()


class _Reiterable:
    """A batch sampler from a function that makes an iterator."""

    def __init__(self, make: Callable[[], Iterator[list[Sample]]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[list[Sample]]:
        return self.make()
