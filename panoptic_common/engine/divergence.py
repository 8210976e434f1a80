"""One sentence on a training that has become NaN or infinite: when, on which images, and where."""

from __future__ import annotations

import contextlib
import itertools
import re
from pathlib import PurePath

import torch

from panoptic_common.checkpoint.finite import NotFiniteError, first_not_finite
from panoptic_common.data.train_loader import TrainLoader, sample_batches

_LOSS = re.compile(r"'([^']+)': (?:[\w.]+\()?-?(?:nan|inf)")  # in the message of SimpleTrainer
_MOST_NAMES = 16


def batch_names(loader: TrainLoader, iteration: int) -> list[str]:
    """Return the file names of the images of an iteration, over all processes.

    Args:
        loader: of the run.
        iteration: counted from 0; -1 gives no names.
    """
    if iteration < 0:
        return []
    size = len(loader.records)
    batches = sample_batches(size, loader.total_batch_size, loader.seed, loader.is_landscape)
    batch = next(itertools.islice(batches, iteration, None))
    return [PurePath(loader.records[index]["file_name"]).name for _, index in batch]


def explain(
    error: Exception, model: torch.nn.Module, loader: TrainLoader, iteration: int, in_step: bool
) -> NotFiniteError | None:
    """Say why a training cannot go on, if that is because of NaN or infinite values.

    Args:
        error: what a step, or a hook after it, raised.
        model: that trains.
        loader: gives the images their names.
        iteration: in which it was raised.
        in_step: whether the step raised it. The weights of that moment are those which the step
            before has left.

    Returns:
        The error to raise instead; None if all weights and losses are finite.
    """
    part = None
    with contextlib.suppress(RuntimeError):  # of a GPU that has failed
        part = first_not_finite(model.state_dict().items())
        parameters = dict(model.named_parameters())
        # Statistics of batch norm change in the forward pass already.
        if in_step and part is not None and part in parameters:
            iteration -= 1
    if part is not None:
        what = f"{part} is not finite"
    elif isinstance(error, NotFiniteError):
        what = str(error)
    elif isinstance(error, FloatingPointError):
        losses = _LOSS.findall(str(error))
        what = f"{', '.join(losses)} is not finite" if losses else " ".join(str(error).split())
    else:
        return None
    names = batch_names(loader, iteration)
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return NotFiniteError(
        f"the training became NaN or infinite in iteration {iteration} with the images "
        f"{', '.join(names[:_MOST_NAMES])}{more}: {what}; nothing of it was saved, and --resume "
        "goes on from the last checkpoint once the cause is gone"
    )
