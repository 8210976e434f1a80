"""Segment ids: between PNG colours, integer id maps and (class, instance) pairs.

The COCO panoptic format stores the segment of every pixel as a colour, with
``id = R + 256 G + 256^2 B``; id 0 is void (unlabelled). An id therefore needs 24 bits. Arithmetic
on uint8 wraps round and half precision loses digits, so everything here is integer arithmetic on
int32, which holds each id exactly.

Source of the format: https://cocodataset.org/#format-data, "Panoptic Segmentation", and
Kirillov et al., "Panoptic Segmentation", CVPR 2019.

Shape shorthand: H, W image size in pixels; S number of segments in the image.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

VOID_ID = 0
MAX_ID = 256**3 - 1  # the largest id that three bytes can hold

IntArray = npt.NDArray[np.int32]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_TRUECOLOUR = 2


# ---------------------------------------------------------------------------------- colours


def rgb_to_id(rgb: npt.NDArray[Any]) -> IntArray:
    """Turn the colours of a panoptic PNG into segment ids.

    Args:
        rgb: (H, W, 3) uint8, in the order red, green, blue.

    Returns:
        (H, W) int32 segment ids.

    Raises:
        ValueError: if the array is not (H, W, 3) uint8.
    """
    rgb = np.asarray(rgb)
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"expected (H, W, 3) uint8 colours, got {rgb.shape} {rgb.dtype}")
    # The channels are the low bytes of a little-endian integer, so copying them is all there is to
    # do: 3 times faster than widening and shifting. Channel by channel, as numpy copies runs of 3
    # bytes slowly.
    padded = np.zeros((*rgb.shape[:2], 4), dtype=np.uint8)
    for channel in range(3):
        padded[:, :, channel] = rgb[:, :, channel]
    return padded.view("<i4")[:, :, 0].astype(np.int32, copy=False)


def id_to_rgb(id_map: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Turn segment ids into the colours of a panoptic PNG; the inverse of `rgb_to_id`.

    Args:
        id_map: (H, W) integer ids from 0 to 2^24 - 1.

    Returns:
        (H, W, 3) uint8 colours.

    Raises:
        ValueError: if the array is not a 2-D integer array within that range.
    """
    ids = _as_id_map(id_map)
    rgb = np.empty((*ids.shape, 3), dtype=np.uint8)
    for channel in range(3):
        rgb[:, :, channel] = (ids >> (8 * channel)) & 255
    return rgb


def _as_id_map(id_map: npt.NDArray[Any]) -> IntArray:
    """Check type, rank and range, and return the map as int32 (H, W)."""
    ids = np.asarray(id_map)
    if ids.ndim != 2:
        raise ValueError(f"an id map is (H, W), got shape {ids.shape}")
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"an id map holds integers, got {ids.dtype} (floats round ids)")
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) > MAX_ID):
        raise ValueError(f"segment ids lie in 0..{MAX_ID}, got {int(ids.min())}..{int(ids.max())}")
    return ids.astype(np.int32, copy=False)


# ------------------------------------------------------------------------------------ files


def read_id_map(path: str | os.PathLike[str]) -> IntArray:
    """Read a panoptic PNG.

    Every chunk's checksum is verified, and the bit depth too. Pillow alone may decode a file whose
    bits were flipped without complaint, and reads a 16-bit file by dropping half of each number;
    both would silently give other ids.

    Args:
        path: an 8-bit RGB PNG.

    Returns:
        (H, W) int32 segment ids, writable.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, if it is damaged or not an 8-bit RGB PNG.
    """
    name = os.fspath(path)
    with open(name, "rb") as file:
        data = file.read()
    if not data.startswith(_PNG_SIGNATURE) or len(data) < 26:
        raise ValueError(f"{name}: not a PNG file (a panoptic map is an 8-bit RGB PNG)")
    # IHDR comes first: signature, length, name, then width, height, depth, colour type.
    _, _, depth, colour_type = struct.unpack(">IIBB", data[16:26])
    if depth != 8 or colour_type != _PNG_TRUECOLOUR:
        raise ValueError(
            f"{name}: a panoptic map is an 8-bit RGB PNG (colour type 2), this file has {depth}"
            f" bits per channel and colour type {colour_type}"
        )
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.verify()  # checks the checksums and leaves the image unusable
        with Image.open(io.BytesIO(data)) as image:
            rgb = np.array(image)
    except Exception as error:  # Pillow raises SyntaxError, OSError, zlib.error, ... for damage
        raise ValueError(f"{name}: damaged PNG file ({error})") from error
    return rgb_to_id(rgb)


def write_id_map(path: str | os.PathLike[str], id_map: npt.NDArray[Any]) -> None:
    """Write a panoptic PNG (8-bit RGB, lossless).

    Args:
        path: file to write; the folder must exist.
        id_map: (H, W) integer ids from 0 to 2^24 - 1.

    Raises:
        ValueError: naming the file, if the ids cannot be stored.
    """
    try:
        rgb = id_to_rgb(id_map)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error
    Image.fromarray(rgb).save(path, format="PNG")


# ---------------------------------------------------------------------- (class, instance) ids


def pack_ids(
    class_map: npt.NDArray[Any], instance_map: npt.NDArray[Any], label_divisor: int = 1000
) -> IntArray:
    """Combine classes and instance numbers into ``class * label_divisor + instance``.

    Args:
        class_map: (H, W) integers, from 0.
        instance_map: (H, W) integers from 0 to ``label_divisor - 1``.
        label_divisor: how many instance numbers each class has room for.

    Returns:
        (H, W) int32 ids.

    Raises:
        ValueError: if an instance number does not fit or an id does not fit into 24 bits.
    """
    classes, instances = np.asarray(class_map), np.asarray(instance_map)
    if classes.shape != instances.shape:
        raise ValueError(f"class map {classes.shape} and instance map {instances.shape} differ")
    if label_divisor < 1:
        raise ValueError(f"label_divisor must be at least 1, got {label_divisor}")
    for what, array in (("class", classes), ("instance", instances)):
        if not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"the {what} map holds integers, got {array.dtype}")
        if array.size and int(array.min()) < 0:
            raise ValueError(f"the {what} map holds the negative number {int(array.min())}")
    if instances.size and int(instances.max()) >= label_divisor:
        raise ValueError(
            f"instance number {int(instances.max())} needs a label_divisor above {label_divisor}"
        )
    # int64 on the way: 20 000 * 1000 would still fit, but a uint8 class map * 1000 would not.
    return _as_id_map(classes.astype(np.int64) * label_divisor + instances.astype(np.int64))


def unpack_ids(id_map: npt.NDArray[Any], label_divisor: int = 1000) -> tuple[IntArray, IntArray]:
    """Split ids of `pack_ids` into classes and instance numbers, both (H, W) int32."""
    if label_divisor < 1:
        raise ValueError(f"label_divisor must be at least 1, got {label_divisor}")
    classes, instances = np.divmod(_as_id_map(id_map), np.int32(label_divisor))
    return classes, instances


# --------------------------------------------------------------------------------- segments


def _runs(ids: IntArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Cut a non-empty (H, W) map into the horizontal runs of equal ids.

    Segments are areas, so neighbours along a row mostly agree: some ten thousand runs stand for the
    2 million pixels of a Cityscapes image, and sorting or scattering is done on runs only.

    Returns:
        starts: (R,) position of each run's first pixel in the flattened map, ascending.
        lengths: (R,) pixels in each run; no run continues from one row into the next.
    """
    flat = ids.ravel()
    begins = np.empty(flat.size, dtype=bool)
    begins[0] = True
    np.not_equal(flat[1:], flat[:-1], out=begins[1:])
    begins[:: ids.shape[1]] = True
    starts = np.flatnonzero(begins).astype(np.int64)
    return starts, np.diff(starts, append=flat.size)


def compact_ids(id_map: npt.NDArray[Any]) -> tuple[IntArray, IntArray]:
    """Number the ids of a map 0..S-1 in ascending order: ``ids[index_map] == id_map``.

    Args:
        id_map: (H, W) integer ids.

    Returns:
        ids: (S,) int32, ascending, void included where it occurs.
        index_map: (H, W) int32 positions in `ids`.
    """
    ids = _as_id_map(id_map)
    if not ids.size:
        return np.zeros(0, np.int32), np.zeros(ids.shape, np.int32)
    starts, lengths = _runs(ids)
    present, index = np.unique(ids.ravel()[starts], return_inverse=True)
    return present, np.repeat(index.astype(np.int32), lengths).reshape(ids.shape)


def segment_areas_and_boxes(
    id_map: npt.NDArray[Any],
) -> tuple[IntArray, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Count the pixels and find the bounding box of every segment, void excluded.

    Args:
        id_map: (H, W) integer ids.

    Returns:
        ids: (S,) int32, ascending.
        areas: (S,) int64, in pixels.
        boxes: (S, 4) int64, x, y, width, height in pixels; a segment of one pixel is 1 x 1.
    """
    ids = _as_id_map(id_map)
    if not ids.size:
        return np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros((0, 4), np.int64)
    height, width = ids.shape
    starts, lengths = _runs(ids)
    present, index = np.unique(ids.ravel()[starts], return_inverse=True)
    rows, left = np.divmod(starts, width)
    areas = np.zeros(len(present), np.int64)
    np.add.at(areas, index, lengths)
    low = np.tile(np.array([width, height]), (len(present), 1))  # x, y of the first pixel
    high = np.zeros_like(low)  # one past the last
    np.minimum.at(low, index, np.stack([left, rows], axis=1))
    np.maximum.at(high, index, np.stack([left + lengths, rows + 1], axis=1))
    boxes = np.concatenate([low, high - low], axis=1).astype(np.int64)
    keep = present != VOID_ID
    return present[keep], areas[keep], boxes[keep]


def merge_stuff(
    id_map: npt.NDArray[Any],
    segments_info: Sequence[Mapping[str, Any]],
    stuff_categories: Collection[int],
) -> tuple[IntArray, list[dict[str, Any]]]:
    """Join the segments of each stuff class into one, as the panoptic format demands.

    The first listed segment of a class gives its id (and its other keys) to the joint segment;
    areas and boxes are recomputed. Crowd segments stay as they are: they mark pixels to ignore.

    Args:
        id_map: (H, W) integer ids.
        segments_info: dicts with at least `id` and `category_id`; not changed.
        stuff_categories: the category ids (of the same kind as in `segments_info`) that are stuff.

    Returns:
        The new (H, W) int32 map and the new list.
    """
    first_of: dict[int, int] = {}
    new_id: dict[int, int] = {}
    kept: list[dict[str, Any]] = []
    for segment in segments_info:
        segment_id, category = int(segment["id"]), int(segment["category_id"])
        if category in stuff_categories and not segment.get("iscrowd", 0):
            new_id[segment_id] = first_of.setdefault(category, segment_id)
            if new_id[segment_id] != segment_id:
                continue
        kept.append(dict(segment))
    ids, index_map = compact_ids(id_map)
    table = np.array([new_id.get(int(i), int(i)) for i in ids], dtype=np.int32)
    merged = table[index_map] if len(ids) else index_map
    return merged, update_segments(merged, kept)


def update_segments(
    id_map: npt.NDArray[Any], segments_info: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Copy `segments_info` with `area` and `bbox` of the map; segments not in it are dropped."""
    ids, areas, boxes = segment_areas_and_boxes(id_map)
    position = {int(segment_id): k for k, segment_id in enumerate(ids)}
    updated = []
    for segment in segments_info:
        k = position.get(int(segment["id"]))
        if k is not None:
            updated.append({**segment, "area": int(areas[k]), "bbox": boxes[k].tolist()})
    return updated


def check_id_map(
    id_map: npt.NDArray[Any],
    segments_info: Sequence[Mapping[str, Any]],
    stuff_categories: Collection[int] = (),
) -> list[str]:
    """Compare a map with its list of segments, in both directions.

    Args:
        id_map: (H, W) integer ids.
        segments_info: dicts with `id` and `category_id`, optionally `area`, `bbox` (x, y, width,
            height) and `iscrowd`; what is given is compared.
        stuff_categories: category ids that are stuff; each may have one segment per image.

    Returns:
        One sentence per problem, each naming the segment; empty if the two agree.

    Raises:
        ValueError: if `id_map` is not an id map at all.
    """
    problems: list[str] = []
    seen: set[int] = set()
    stuff_of: dict[int, int] = {}
    ids, areas, boxes = segment_areas_and_boxes(id_map)
    position = {int(segment_id): k for k, segment_id in enumerate(ids)}
    for segment in segments_info:
        segment_id, category = int(segment["id"]), int(segment["category_id"])
        if not VOID_ID < segment_id <= MAX_ID:
            problems.append(f"segment {segment_id}: ids lie in 1..{MAX_ID} (0 is void)")
            continue
        if segment_id in seen:
            problems.append(f"segment {segment_id}: listed more than once")
            continue
        seen.add(segment_id)
        if category in stuff_categories and not segment.get("iscrowd", 0):
            other = stuff_of.setdefault(category, segment_id)
            if other != segment_id:
                problems.append(
                    f"segment {segment_id}: second segment of stuff category {category}"
                    f" (the first is {other}); a stuff class has one segment per image"
                )
        if segment_id not in position:
            problems.append(f"segment {segment_id}: listed, but no pixel of the PNG has this id")
            continue
        k = position[segment_id]
        if "area" in segment and segment["area"] != int(areas[k]):
            problems.append(
                f"segment {segment_id}: area {segment['area']} listed, {areas[k]} pixels in the PNG"
            )
        box = segment.get("bbox")
        box = list(box) if isinstance(box, tuple) else box
        if "bbox" in segment and box != boxes[k].tolist():
            problems.append(
                f"segment {segment_id}: bbox {box} listed, {boxes[k].tolist()} in the PNG"
                " (x, y, width, height)"
            )
    for segment_id, k in position.items():
        if segment_id not in seen:
            problems.append(f"segment {segment_id}: {areas[k]} pixels in the PNG, but not listed")
    return problems
