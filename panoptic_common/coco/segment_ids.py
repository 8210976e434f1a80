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
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from panoptic_common.coco.image_reading import ImageSizeError, check_pixels, open_unlimited
from panoptic_common.coco.user_files import open_regular
from panoptic_common.files import write_atomically

VOID_ID = 0
MAX_ID = 256**3 - 1  # the largest id that three bytes can hold

IntArray = npt.NDArray[np.int32]

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_TRUECOLOUR = 2
_HEADER_BYTES = 26


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


def read_id_map(
    path: str | os.PathLike[str], expected_size: tuple[int, int] | None = None
) -> IntArray:
    """Read a panoptic PNG.

    Every chunk's checksum is verified, and the bit depth too. Pillow alone may decode a file whose
    bits were flipped without complaint. It reads a 16-bit file by dropping half of each number.
    Both would silently give other ids.

    Args:
        path: an 8-bit RGB PNG.
        expected_size: (H, W). A header that says otherwise is refused before anything is decoded. A
            file of half a megabyte can hold two gigabytes of black.

    Returns:
        (H, W) int32 segment ids, writable.

    Raises:
        FileNotFoundError: if there is no such file.
        ImageSizeError: if it has another size than expected.
        ValueError: naming the file, if it is damaged, too large, no regular file, or not an 8-bit
            RGB PNG.
    """
    name = os.fspath(path)
    with open_regular(name) as file:
        data = file.read()
    size = _check_header(name, data[:_HEADER_BYTES])
    if expected_size is not None and size != tuple(expected_size):
        raise ImageSizeError(name, size, expected_size)
    check_pixels(name, size)
    try:
        with open_unlimited(io.BytesIO(data)) as image:
            image.verify()  # checks the checksums and leaves the image unusable
        with open_unlimited(io.BytesIO(data)) as image:
            rgb = np.array(image)
    except Exception as error:  # Pillow raises SyntaxError, OSError, zlib.error, ... for damage
        raise ValueError(f"{name}: damaged PNG file ({error})") from error
    return rgb_to_id(rgb)


def check_id_map_header(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Read the header of a panoptic PNG and nothing else.

    Args:
        path: an 8-bit RGB PNG.

    Returns:
        (H, W) that it promises.

    Raises:
        FileNotFoundError, ValueError: as `read_id_map`, as far as the header shows it.
    """
    name = os.fspath(path)
    with open_regular(name) as file:
        size = _check_header(name, file.read(_HEADER_BYTES))
    check_pixels(name, size)
    return size


def _check_header(name: str, head: bytes) -> tuple[int, int]:
    """Return (H, W) from the first bytes of a PNG; refuse what is no 8-bit RGB PNG."""
    if not head.startswith(_PNG_SIGNATURE) or len(head) < _HEADER_BYTES:
        raise ValueError(f"{name}: not a PNG file (a panoptic map is an 8-bit RGB PNG)")
    # IHDR comes first: signature, length, name, then width, height, depth, colour type.
    width, height, depth, colour_type = struct.unpack(">IIBB", head[16:])
    if depth != 8 or colour_type != _PNG_TRUECOLOUR:
        raise ValueError(
            f"{name}: a panoptic map is an 8-bit RGB PNG (colour type 2), this file has {depth}"
            f" bits per channel and colour type {colour_type}"
        )
    return height, width


def write_id_map(path: str | os.PathLike[str], id_map: npt.NDArray[Any]) -> None:
    """Write a panoptic PNG (8-bit RGB, lossless).

    Args:
        path: file to write; the folder must exist.
        id_map: (H, W) integer ids from 0 to 2^24 - 1.

    Raises:
        ValueError: naming the file, if the ids cannot be stored.
        OSError: naming it, if the disk is full, say; there is the old file then, or none.
    """
    try:
        rgb = id_to_rgb(id_map)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error
    image = Image.fromarray(rgb)
    write_atomically(path, lambda file: image.save(file, format="PNG"), flush=False)


# --------------------------------------------------------------------------------- segments


def _runs(ids: IntArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Cut a non-empty (H, W) map into the horizontal runs of equal ids.

    Segments are areas, so neighbours along a row mostly agree. Some ten thousand runs stand for the
    2 million pixels of a Cityscapes image; sorting or scattering is done on runs only.

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


def present_ids(id_map: npt.NDArray[Any]) -> IntArray:
    """Return the ids that a map holds.

    Args:
        id_map: (H, W) integer ids.

    Returns:
        (S,) int32, ascending, void included where it occurs.
    """
    ids = _as_id_map(id_map)
    if not ids.size:
        return np.zeros(0, np.int32)
    return np.unique(ids.ravel()[_runs(ids)[0]])


class SegmentExtents(NamedTuple):
    """How large the segments of a map are and where they lie, void excluded.

    Attributes:
        ids: (S,) int32, ascending.
        areas: (S,) int64, in pixels.
        boxes: (S, 4) int64, x, y, width, height in pixels; a segment of one pixel is 1 x 1.
    """

    ids: IntArray
    areas: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.int64]


def segment_areas_and_boxes(id_map: npt.NDArray[Any]) -> SegmentExtents:
    """Count the pixels and find the bounding box of every segment, void excluded.

    Args:
        id_map: (H, W) integer ids.
    """
    ids = _as_id_map(id_map)
    if not ids.size:
        nothing = np.zeros(0, np.int64)
        return SegmentExtents(np.zeros(0, np.int32), nothing, nothing.reshape(0, 4))
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
    return SegmentExtents(present[keep], areas[keep], boxes[keep])


def update_segments(
    id_map: npt.NDArray[Any], segments_info: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Copy `segments_info` with `area` and `bbox` of the map; segments not in it are dropped."""
    return with_extents(segments_info, segment_areas_and_boxes(id_map))


def with_extents(
    segments_info: Sequence[Mapping[str, Any]], extents: SegmentExtents
) -> list[dict[str, Any]]:
    """Copy `segments_info` with these areas and boxes; segments that have none are dropped."""
    position = {segment_id: k for k, segment_id in enumerate(extents.ids.tolist())}
    updated = []
    for segment in segments_info:
        k = position.get(int(segment["id"]))
        if k is not None:
            area, box = int(extents.areas[k]), extents.boxes[k].tolist()
            updated.append({**segment, "area": area, "bbox": box})
    return updated


def segment_problems(
    extents: SegmentExtents,
    segments_info: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Compare a map with its list of segments, in both directions.

    Args:
        extents: the segments of the map.
        segments_info: dicts with `id`, optionally `area`, `bbox` (x, y, width,
            height); what is given is compared.

    Returns:
        One sentence per problem, each naming the segment; empty if the two agree.
    """
    problems: list[str] = []
    seen: set[int] = set()
    position = {segment_id: k for k, segment_id in enumerate(extents.ids.tolist())}
    for segment in segments_info:
        segment_id = int(segment["id"])
        if not VOID_ID < segment_id <= MAX_ID:
            problems.append(f"segment {segment_id}: ids lie in 1..{MAX_ID} (0 is void)")
            continue
        if segment_id in seen:
            problems.append(f"segment {segment_id}: listed more than once")
            continue
        seen.add(segment_id)
        if segment_id not in position:
            problems.append(f"segment {segment_id}: listed, but no pixel of the PNG has this id")
            continue
        problems += _extent_problems(segment, extents, position[segment_id])
    for segment_id, k in position.items():
        if segment_id not in seen:
            pixels = extents.areas[k]
            problems.append(f"segment {segment_id}: {pixels} pixels in the PNG, but not listed")
    return problems


def _extent_problems(segment: Mapping[str, Any], extents: SegmentExtents, k: int) -> list[str]:
    """Compare the area and the box that a segment lists with those of the map's k-th segment."""
    name, problems = f"segment {int(segment['id'])}", []
    area, box = int(extents.areas[k]), extents.boxes[k].tolist()
    if segment.get("area") is not None and segment["area"] != area:
        problems.append(f"{name}: area {segment['area']} listed, {area} pixels in the PNG")
    listed = segment.get("bbox")
    listed = list(listed) if isinstance(listed, tuple) else listed
    if listed and listed != box:
        problems.append(f"{name}: bbox {listed} listed, {box} in the PNG (x, y, width, height)")
    return problems
