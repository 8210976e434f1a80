"""Instances as microscopists store them, one mask per file or one label image, to one id map.

A mask file holds one instance: it is where the file is bright. A label image holds all of them:
0 is background, every other number an instance, as StarDist, Cellpose and QuPath write it. What
cannot be read is an error that names the file. What had to be decided (a pixel that two masks
claim) is counted, so that a caller can report it.

Shape shorthand: H, W image size in pixels; N masks of an image.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from panoptic_common.coco.image_reading import ImageSizeError, check_pixels, open_image, size_text
from panoptic_common.coco.segment_ids import MAX_ID
from panoptic_common.coco.user_files import open_regular

BoolMap = npt.NDArray[np.bool_]
IntMap = npt.NDArray[np.int32]
MOST_LABELS = 2**16 - 1  # that a label image of 16 bits can number


@dataclass
class MergedMasks:
    """All masks of an image in one map.

    Attributes:
        labels: (H, W) int32, 0 = no mask, else 1 + the position of the mask in `names`.
        names: of the masks that have a pixel in the map.
        empty: names of the masks without a pixel.
        hidden: names of the masks all of whose pixels belong to earlier ones.
        overlaps: by name, pixels that a mask lost to earlier ones.
    """

    labels: IntMap
    names: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    overlaps: dict[str, int] = field(default_factory=dict)


def read_mask(path: str | os.PathLike[str], size: tuple[int, int]) -> BoolMap:
    """Read the mask of one instance.

    A pixel belongs to it if its value is above half of the greatest value of the file. So masks of
    0 and 1, of 0 and 255, and smoothed ones are read alike. An alpha channel counts only where the
    colours are the same everywhere; an opaque one never does.

    Args:
        path: any file that Pillow reads.
        size: (H, W) that it must have.

    Returns:
        (H, W) bool.

    Raises:
        FileNotFoundError: there is no such file.
        ImageSizeError: it has another size.
        ValueError: naming it, if it is damaged, no image, no regular file, or too large.
    """
    values = open_image(path, _mask_values, size)
    if values.shape != tuple(size):
        raise ImageSizeError(os.fspath(path), (values.shape[0], values.shape[1]), size)
    return np.asarray(values > values.max(initial=0) / 2)


def _mask_values(image: Image.Image) -> npt.NDArray[Any]:
    """Return the (H, W) values that say where the mask is."""
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    channels = np.asarray(image).astype(np.float64)
    if channels.ndim == 2:
        return channels
    alpha = channels[:, :, -1] if "A" in image.getbands() else None
    colours = channels if alpha is None else channels[:, :, :-1]
    values: npt.NDArray[Any] = colours.max(axis=2)
    if alpha is not None and values.min() == values.max() and alpha.min() < alpha.max():
        return alpha
    return values


def read_label_image(path: str | os.PathLike[str], size: tuple[int, int]) -> IntMap:
    """Read a label image: 0 is background, each other whole number one instance.

    Args:
        path: a PNG or TIFF of one channel with 8, 16 or 32 bits, or a .npy file of numbers.
        size: (H, W) that it must have.

    Returns:
        (H, W) int32 labels as they are in the file.

    Raises:
        FileNotFoundError: there is no such file.
        ImageSizeError: it has another size.
        ValueError: naming it, if it is damaged or holds no labels.
    """
    name = os.fspath(path)
    if name.lower().endswith(".npy"):
        values = _read_npy(name)
    else:
        values = open_image(path, _label_values, size)
    while values.ndim > 2 and 1 in (values.shape[0], values.shape[-1]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim != 2:
        raise ValueError(
            f"{name}: a label image has one channel, this one has shape {values.shape}"
            " (a picture of coloured labels is none: export the labels themselves)"
        )
    if values.shape != tuple(size):
        raise ImageSizeError(name, (values.shape[0], values.shape[1]), size)
    return _as_labels(values, name)


def _label_values(image: Image.Image) -> npt.NDArray[Any]:
    return np.asarray(image)  # of a palette image the numbers, not the colours


def _read_npy(name: str) -> npt.NDArray[Any]:
    """Read a .npy file, which must not hold Python objects: those would run code."""
    with open_regular(name) as file:
        try:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0}.get(
                version, np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read(file)
            if dtype.hasobject:
                raise ValueError(
                    "it holds Python objects, such as a _seg.npy of Cellpose: save its masks as"
                    " PNG or TIFF instead"
                )
            check_pixels(name, (int(np.prod(shape, dtype=np.int64)), 1))
            file.seek(0)
            return np.asarray(np.load(file, allow_pickle=False))
        except Exception as error:  # numpy raises many types for damaged files
            raise ValueError(f"{name}: no array of labels ({error})") from error


def _as_labels(values: npt.NDArray[Any], name: str) -> IntMap:
    """Check that values are labels and return them as (H, W) int32."""
    if values.dtype.kind not in "iufb":
        raise ValueError(f"{name}: labels are numbers, not {values.dtype}")
    if not values.size:
        return np.zeros(values.shape, np.int32)
    low, high = float(values.min()), float(values.max())
    whole = values.dtype.kind != "f" or bool(np.all(values == np.floor(values)))
    if not (whole and low >= 0 and high <= MAX_ID):
        raise ValueError(
            f"{name}: labels are whole numbers from 0 to {MAX_ID}, these go from {low:g} to"
            f" {high:g}{'' if whole else ' with fractions between'}"
        )
    return values.astype(np.int32)


def is_one_in_pieces(labels: IntMap) -> bool:
    """Tell whether a label image has one label alone, and that in pieces which do not touch.

    A mask of black and white is read so: all its cells are one instance.

    Args:
        labels: (H, W), 0 = background.
    """
    # Imported here: most of this room needs no scipy.
    from scipy import ndimage

    highest = labels.max(initial=0)
    if not highest or ((labels != 0) & (labels != highest)).any():
        return False
    # Pixels that meet at a corner are of one piece.
    return int(ndimage.label(labels, structure=np.ones((3, 3)))[1]) > 1


def merge_masks(masks: Iterable[tuple[str, BoolMap]], size: tuple[int, int]) -> MergedMasks:
    """Put masks into one map; a pixel that several claim belongs to the first of them.

    Args:
        masks: (name, (H, W) bool) of each, in the order in which they claim pixels.
        size: (H, W).

    Returns:
        The map, and what of each mask did not get into it.

    Raises:
        ValueError: naming a mask of another size.
    """
    merged = MergedMasks(np.zeros(size, np.int32))
    for name, mask in masks:
        if mask.shape != tuple(size):
            raise ValueError(f"{name} has {size_text(mask.shape)}, expected are {size_text(size)}")
        pixels = int(mask.sum())
        free = mask & (merged.labels == 0)
        left = int(free.sum())
        if not pixels:
            merged.empty.append(name)
            continue
        if left < pixels:
            merged.overlaps[name] = pixels - left
        if not left:
            merged.hidden.append(name)
            continue
        merged.names.append(name)
        merged.labels[free] = len(merged.names)
    return merged


def number_instances(id_map: IntMap, ids: Sequence[int]) -> npt.NDArray[np.uint16]:
    """Give some segments the numbers from 1 on, in the order given; the rest is 0.

    Args:
        id_map: (H, W) segment ids.
        ids: which; at most 65,535.

    Returns:
        (H, W).

    Raises:
        ValueError: there are more than 16 bits can number.
    """
    if len(ids) > MOST_LABELS:
        raise ValueError(f"{len(ids)} instances in one image: 16 bits number {MOST_LABELS}")
    present, index = np.unique(id_map, return_inverse=True)
    numbers = {segment: number for number, segment in enumerate(ids, start=1)}
    values = np.array([numbers.get(int(segment), 0) for segment in present], dtype=np.uint16)
    return values[index.reshape(id_map.shape)]
