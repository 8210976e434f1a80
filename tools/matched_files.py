"""The two maps of an image as files: read, checked, and named where something is wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from panoptic_common.coco.overlaps import Overlaps, count_overlaps
from panoptic_common.coco.quality import SegmentMatches, check_truth, match_segments
from panoptic_common.coco.segment_ids import IntArray, present_ids, read_id_map

_TRIED = 8  # images looked into before the work, as before a training


class Pair(Protocol):
    """Two files of one image; segments have contiguous classes."""

    image_id: Any
    truth_png: str
    truth_segments: list[dict[str, Any]]
    prediction_png: str
    prediction_segments: list[dict[str, Any]]
    num_classes: int


@contextlib.contextmanager
def naming_image(pair: Pair) -> Iterator[None]:
    """Let a ValueError of the block name the image."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"image {pair.image_id!r}: {error}") from error


def read_maps(pair: Pair) -> tuple[IntArray, IntArray, Overlaps]:
    """Read the true and the predicted map.

    Returns:
        truth, prediction: (H, W) ids.
        overlaps: of the two.

    Raises:
        ValueError, OSError: a file cannot be used, or the true one has ids that nobody knows.
    """
    truth, prediction = read_id_map(pair.truth_png), read_id_map(pair.prediction_png)
    overlaps = count_overlaps(truth, prediction)
    check_truth(pair.truth_segments, np.unique(overlaps.truth))
    return truth, prediction, overlaps


def match_files(pair: Pair) -> tuple[SegmentMatches, Overlaps]:
    """Read the two maps of an image and match their segments.

    Returns:
        The matches, and the overlaps that they come from.

    Raises:
        ValueError: naming the image.
    """
    with naming_image(pair):
        truth, prediction, overlaps = read_maps(pair)
        matches = match_segments(
            truth,
            pair.truth_segments,
            prediction,
            pair.prediction_segments,
            pair.num_classes,
            overlaps=overlaps,
        )
    return matches, overlaps


def read_truth(pair: Pair) -> IntArray:
    """Return the ids of the true map alone, void included.

    Raises:
        ValueError, OSError: as `read_maps`; a ValueError names the image.
    """
    with naming_image(pair):
        ids = present_ids(read_id_map(pair.truth_png))
        check_truth(pair.truth_segments, ids)
    return ids


def try_truth(pairs: Sequence[Pair]) -> None:
    """Look into a few true maps, spread over the data set, for a fault that all of them have.

    Raises:
        ValueError, OSError: as `read_truth`. Also where none of them shows a segment that the JSON
            lists: they were written wrongly, and any prediction would have PQ 0.
    """
    count = min(_TRIED, len(pairs))
    listed = [pairs[k * len(pairs) // count] for k in range(count)]
    shown = [bool(read_truth(pair).any()) for pair in listed if pair.truth_segments]
    if shown and not any(shown):
        raise ValueError(
            f"not one pixel of the truth belongs to a segment, as in all {len(shown)} of its PNGs"
            " that were looked at; the JSON lists segments there, so the PNGs were written wrongly"
        )
