"""The ids of Cityscapes' instanceIds images: whether they are those that the converter needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from panoptic_common.coco.image_reading import open_image, read_image_size

_RULE = (
    "The pixels of gtFine_instanceIds.png are label ids, and for things 1000 * label id + number:"
    " make it anew by cityscapesscripts"
)
_ID_LIMIT, _NUMBERED = 65536, 1000
_THINGS = np.arange(24, 34)  # label ids: person to bicycle, caravan and trailer included
_EVALUATED = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]  # label ids
_INSTANCES = _NUMBERED * _THINGS[:, None] + np.arange(_NUMBERED)
_POSSIBLE = np.concatenate([np.arange(34), _INSTANCES.ravel()])
_LAST_TRAIN_ID = 18
# Void, and the numbered things, person (11) to bicycle (18), in train ids.
_TRAIN_IDS = {255, *range(11 * _NUMBERED, (_LAST_TRAIN_ID + 1) * _NUMBERED)}


def require_instance_ids(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Refuse truth that is no instanceIds image, or holds ids of another kind.

    The converter takes whatever there is: train ids would become void, and things without numbers
    crowds, of which nothing can be learnt.

    Args:
        pairs: of `find_truth`.

    Raises:
        ValueError: naming the file, and the kind of ids that it seems to hold.
    """
    pixels = np.zeros(_ID_LIMIT, np.int64)
    for image, truth in pairs:
        counts = count_ids(truth, read_image_size(image))
        ids = np.flatnonzero(counts)
        wrong = ids[~np.isin(ids, _POSSIBLE)]
        if wrong.size:
            hint = "; train ids, it seems" if set(wrong.tolist()) & _TRAIN_IDS else ""
            raise ValueError(f"{truth}: the id {wrong[0]} is none of Cityscapes'{hint}. {_RULE}")
        pixels += counts
    present = np.flatnonzero(pixels)
    first = pairs[0][1]
    if present.max() <= _LAST_TRAIN_ID and 2 * pixels[_EVALUATED].sum() < pixels.sum():
        raise ValueError(
            f"{first}: these are train ids, it seems, as no file of the split has an id above"
            f" {_LAST_TRAIN_ID}. {_RULE}"
        )
    if np.isin(present, _THINGS).any() and present.max() < _NUMBERED:
        raise ValueError(
            f"{first}: no thing has a number, in the whole split: this is a labelIds image. {_RULE}"
        )


def count_ids(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Count the pixels of each id of an instanceIds image.

    Args:
        path: of the image.
        size: (height, width) that it must have.

    Returns:
        (65536,) int64.

    Raises:
        ValueError: it is damaged, of another size, or no 16-bit grey image.
    """

    def count(image: Image.Image) -> np.ndarray | str:
        if image.mode != "I" and not image.mode.startswith("I;16"):
            return image.mode
        ids = np.asarray(image).astype(np.int64).clip(0, _ID_LIMIT - 1)
        return np.bincount(ids.ravel(), minlength=_ID_LIMIT)

    counts = open_image(path, count, size)
    if isinstance(counts, str):
        bits = "8 bits of grey" if counts in ("L", "P", "1") else f"colours ({counts})"
        raise ValueError(f"{path}: an instanceIds image has 16 bits of grey, not {bits}. {_RULE}")
    return counts
