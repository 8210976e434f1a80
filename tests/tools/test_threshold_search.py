"""tools/threshold_search.py: which values of keys are taken, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cops_factory import IS_THING
from PIL import Image
from two_things import NAME, forget_two_things, two_things_options, write_two_things

from panoptic_common.coco.image_reading import read_image
from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.data.catalog import load_panoptic, register_panoptic
from panoptic_tools.threshold_search import Choice, Trials, changed, judge_by_halves, search


@pytest.fixture
def records(tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """Two images; each has stuff of classes 0 and 2, and two things of class 1."""
    write_two_things(tmp_path)
    register_panoptic(*two_things_options(tmp_path)[1:])
    yield load_panoptic(NAME)
    forget_two_things()


class Counted:
    """Makers of maps that lack some segments of the truth, and how often they were asked."""

    def __init__(
        self, records: Sequence[dict[str, Any]], lacks: Callable[[int, Choice], set[int]]
    ) -> None:
        self.calls: list[tuple[int, Choice]] = []
        self._lacks = lacks
        self._pixels = [read_image(record["file_name"]) for record in records]
        self._records = records

    def __call__(self, choices: Sequence[Choice]) -> Iterable[Any]:
        def make(image: np.ndarray) -> Iterator[tuple[np.ndarray, list[dict]]]:
            (number,) = (k for k, seen in enumerate(self._pixels) if np.array_equal(seen, image))
            record = self._records[number]
            true_ids = read_id_map(record["pan_seg_file_name"], image.shape[:2])
            for choice in choices:
                self.calls.append((number, choice))
                lacking = self._lacks(number, choice)
                segments = [s for s in record["segments_info"] if s["id"] not in lacking]
                yield np.where(np.isin(true_ids, list(lacking)), 0, true_ids), segments

        yield make


def test_values_that_only_help_together_with_the_next_key_are_found(records) -> None:
    # Segment 3 is there if a = 1; segment 4 if a = 1 and b = 2, so that b must be tried after a.
    def lacks(_: int, choice: Choice) -> set[int]:
        values = dict(choice)
        lacking = set() if values["a"] == 1 else {3, 4}
        return lacking if values["b"] == 2 else lacking | {4}

    counted = Counted(records, lacks)
    trials = Trials(records, IS_THING, counted)
    start = (("b", 0), ("a", 0), ("idle", 5))
    candidates = {"b": [0, 1, 2], "a": [0, 1], "idle": [4, 5, 6]}
    assert search(trials, start, candidates) == (("b", 2), ("a", 1), ("idle", 5))
    assert len(counted.calls) == len(set(counted.calls)) == 2 * len(trials)
    # At the start class 1 has no match: PQ is the mean of 1, 0 and 1.
    assert trials.quality(start).all.pq == pytest.approx(2 / 3)
    # One of two things: 1 / (1 + 1/2).
    one = changed(changed(start, "a", 1), "idle", 4)
    assert trials.quality(one).things.pq == pytest.approx(2 / 3)


def test_every_value_beside_the_chosen_ones_has_been_measured(records) -> None:
    counted = Counted(records, lambda _, choice: {3} if dict(choice)["a"] < 3 else set())
    trials = Trials(records, IS_THING, counted)
    candidates = {"a": [1, 2, 3, 4], "b": [1, 2]}
    best = search(trials, (("a", 1), ("b", 1)), candidates)
    assert best == (("a", 3), ("b", 1))  # the first of equal ones
    before = len(counted.calls)
    for key, values in candidates.items():
        for value in values:
            trials.quality(changed(best, key, value))
    assert len(counted.calls) == before


def test_a_part_of_the_images_chooses_for_itself(records) -> None:
    # Image 0 is whole if a = 0, image 1 if a = 1; otherwise all segments are missed.
    trials = Trials(
        records,
        IS_THING,
        Counted(
            records, lambda image, choice: set() if dict(choice)["a"] == image else {1, 2, 3, 4}
        ),
    )
    start, candidates = (("a", 0),), {"a": [0, 1]}
    assert search(trials, start, candidates, [0]) == (("a", 0),)
    assert search(trials, start, candidates, [1]) == (("a", 1),)
    assert trials.quality(start, [0]).all.pq == 1.0
    # Each half is judged under what suits the other one: nothing is found.
    assert judge_by_halves(trials, start, candidates).all.pq == 0.0
    # All images: one of two is found. 1 / (1 + 1/2) for stuff, 2 / (2 + 2/2) for things.
    assert trials.quality(search(trials, start, candidates)).all.pq == pytest.approx(2 / 3)


def test_images_without_any_segment_leave_values_as_they_are(records) -> None:
    empty = [{**record, "segments_info": []} for record in records]

    def makers(choices: Sequence[Choice]) -> Iterable[Any]:
        yield lambda image: [(np.zeros(image.shape[:2], np.int32), []) for _ in choices]

    for record in empty:
        ids = np.zeros((record["height"], record["width"], 3), np.uint8)
        Image.fromarray(ids).save(record["pan_seg_file_name"])
    trials = Trials(empty, IS_THING, makers)
    assert search(trials, (("a", 1),), {"a": [0, 1, 2]}) == (("a", 1),)
