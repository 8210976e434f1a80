"""The kinds of a file's weights, beside those of the model that is to take them."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from panoptic_common.checkpoint.files import CheckpointError


def require_kinds(
    weights: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor], path: str
) -> None:
    """Raise CheckpointError if whole numbers or flags are to become weights that are floats.

    torch would convert them without a word. They come from bytes whose factors are lost, or from a
    program that rounded.

    Args:
        weights: of the file, by the model's names.
        own: the model's.
        path: of the file.
    """
    wrong = [
        name
        for name, value in weights.items()
        if own[name].is_floating_point() and not value.is_floating_point()
    ]
    if wrong:
        kind = str(weights[wrong[0]].dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{path} holds {len(wrong)} of the model's weights as whole numbers or flags, first "
            f"{wrong[0]} as {kind}: write the file anew, with floats"
        )
