"""Search values of config keys by the panoptic quality of the maps that they give.

`Trials` measures. It keeps the sums of each image under each choice: nothing is computed twice, and
any part of the images can be judged by itself. `search` goes from key to key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from panoptic_common.coco.image_reading import read_image
from panoptic_common.coco.quality import PanopticQuality, PanopticStatistics, match_segments
from panoptic_common.coco.segment_ids import read_id_map
from panoptic_common.data.sampling import Record

Choice = tuple[tuple[str, Any], ...]  # keys with their values
Map = tuple[Any, list[dict[str, Any]]]  # (H, W) ids, as an array, and segments_info
# Makes the maps of one image, (H, W, 3) uint8 RGB, under several choices.
Maker = Callable[[Any], Iterable[Map]]
MOST_ROUNDS = 4


def changed(choice: Choice, key: str, value: Any) -> Choice:
    """Return a choice with another value of one key."""
    return tuple((name, value if name == key else old) for name, old in choice)


class Trials:
    """Images with truth, and the quality of their maps under any choice.

    Args:
        records: of the images, with contiguous classes.
        is_thing: K flags.
        makers: returns, for some choices, functions that together make the maps of all of them, in
            their order. Each function is called once per image.
    """

    def __init__(
        self,
        records: Sequence[Record],
        is_thing: Sequence[bool],
        makers: Callable[[Sequence[Choice]], Iterable[Maker]],
    ) -> None:
        self.records = list(records)
        self.is_thing = [bool(flag) for flag in is_thing]
        self._makers = makers
        self._sums: dict[Choice, list[PanopticStatistics]] = {}

    def __len__(self) -> int:
        return len(self._sums)

    def measure(self, choices: Sequence[Choice]) -> None:
        """Make the maps of all images under the choices that were not measured before."""
        new = [choice for choice in dict.fromkeys(choices) if choice not in self._sums]
        columns: list[list[PanopticStatistics]] = []  # of each choice
        for make in self._makers(new) if new else ():
            rows = [
                self._compare(record, make(read_image(record["file_name"])))
                for record in tqdm(self.records, unit="image", leave=False, disable=None)
            ]
            columns += [list(column) for column in zip(*rows, strict=True)]
        self._sums.update(zip(new, columns, strict=True))

    def quality(self, choice: Choice, images: Iterable[int] | None = None) -> PanopticQuality:
        """Return the quality of some images under a choice; None: of all."""
        return self.mixed_quality(
            [(choice, range(len(self.records)) if images is None else images)]
        )

    def mixed_quality(self, parts: Iterable[tuple[Choice, Iterable[int]]]) -> PanopticQuality:
        """Return the quality of images, each part of them under a choice of its own."""
        total = PanopticStatistics.zeros(len(self.is_thing))
        for choice, images in parts:
            self.measure([choice])
            for index in images:
                total += self._sums[choice][index]
        return total.quality(self.is_thing)

    def _compare(self, record: Record, maps: Iterable[Map]) -> list[PanopticStatistics]:
        """Compare maps of one image with its truth, which is read once."""
        true_ids = read_id_map(record["pan_seg_file_name"], (record["height"], record["width"]))
        truth, number = (true_ids, record["segments_info"]), len(self.is_thing)
        return [match_segments(*truth, *found, number).statistics(number) for found in maps]


def search(
    trials: Trials,
    start: Choice,
    candidates: Mapping[str, Sequence[Any]],
    images: Sequence[int] | None = None,
) -> Choice:
    """Take the best value of each key in turn, until no key changes any more.

    Equal qualities leave a value as it is, so that a key without effect keeps the config's.

    Args:
        trials: measures.
        start: the config's values.
        candidates: values to try of each key of `start`.
        images: those that the quality is taken of; None: all.

    Returns:
        The choice; all that differ from it in one key have been measured.
    """
    best = start
    for _ in range(MOST_ROUNDS):
        before = best
        for key, values in candidates.items():
            choices = [best, *(changed(best, key, value) for value in values)]
            trials.measure(choices)
            # Of equal ones `max` returns the first.
            best = max(choices, key=lambda choice: _number(trials.quality(choice, images).all.pq))
        if best == before:
            break
    trials.measure([changed(best, key, v) for key, values in candidates.items() for v in values])
    return best


def judge_by_halves(
    trials: Trials, start: Choice, candidates: Mapping[str, Sequence[Any]]
) -> PanopticQuality:
    """Choose on each half of the images, and judge it on the other one.

    What the choice on all images gains there says too much: it was made for them. This does not.

    Returns:
        The quality of all images, each under the choice of the half that it is not in.
    """
    everything = range(len(trials.records))
    halves = [everything[0::2], everything[1::2]]
    found = [search(trials, start, candidates, half) for half in halves]
    return trials.mixed_quality(zip(found, reversed(halves), strict=True))


def _number(value: float) -> float:
    """Order a quality; nan, that of images without any segment, is below all."""
    return value if value == value else -1.0
