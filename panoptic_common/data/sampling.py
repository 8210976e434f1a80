"""A few images of a data set, the same ones each time."""

from __future__ import annotations

from typing import Any

import numpy as np

from panoptic_common.data.catalog import load_panoptic

Record = dict[str, Any]


def sample_records(name: str, num_images: int, max_pixels: int, seed: int = 0) -> list[Record]:
    """Choose images of a data set to tune numbers on.

    Args:
        name: of the data set, which has truth.
        num_images: how many of it.
        max_pixels: larger images are left out, which take most of the time.
        seed: of the choice.

    Returns:
        Their records, in the order of the data set.

    Raises:
        ValueError: the data set is unknown or wrong, or all of its images are too large.
        FileNotFoundError: it is not there.
    """
    records = [r for r in load_panoptic(name) if r["height"] * r["width"] <= max_pixels]
    if not records:
        raise ValueError(f"{name} has no image of at most {max_pixels} pixels to choose from")
    chosen = np.random.default_rng(seed).permutation(len(records))[:num_images]
    return [records[index] for index in sorted(chosen.tolist())]
