"""What every evaluator asks of the truth: the record of an image, its map, and whether all came.

Several evaluators look at each image (panoptic, its variants, semantic, instances). They share
one `PanopticTruth`, so that a panoptic PNG is decoded once per image and not once per evaluator.

Shape shorthand: H, W image size in pixels; K number of classes, numbered 0..K-1.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from detectron2.utils import comm

from panoptic_common.coco.records import read_record_ids
from panoptic_common.data.catalog import class_table, load_panoptic


class PanopticTruth:
    """The truth of one registered data set; of images without truth, the images and classes.

    Attributes:
        dataset_name: as registered.
        table: the class table, K entries in contiguous order.
        is_thing: (K,) bool.
        records: the dataset dict of each image, by `image_id`, in the order of the data set.
    """

    def __init__(self, dataset_name: str) -> None:
        """Read the data set's JSON.

        Raises:
            ValueError, FileNotFoundError: if the data set is unknown, or wrong, or missing.
        """
        self.dataset_name = dataset_name
        self.records: dict[Any, dict[str, Any]] = {
            record["image_id"]: record for record in load_panoptic(dataset_name)
        }
        self.table = class_table(dataset_name)
        self.is_thing = np.array([bool(entry["isthing"]) for entry in self.table])
        self._last: tuple[str, npt.NDArray[np.int32]] | None = None

    @property
    def num_classes(self) -> int:
        """K, how many classes there are."""
        return len(self.table)

    @property
    def thing_table(self) -> list[dict[str, Any]]:
        """The entries of things; the position in this list is the class of a detection."""
        return [entry for entry in self.table if entry["isthing"]]

    def record(self, image: Mapping[str, Any]) -> dict[str, Any]:
        """Return the dataset dict of an image.

        Args:
            image: what the loader gave, with `image_id`.

        Raises:
            ValueError: if the data set has no such image.
        """
        try:
            return self.records[image["image_id"]]
        except KeyError:
            raise ValueError(
                f"{describe(image)} is not in data set {self.dataset_name!r}: the loader reads"
                " another data set than the evaluator"
            ) from None

    def read(self, record: Mapping[str, Any]) -> npt.NDArray[np.int32]:
        """Return the (H, W) int32 true id map of an image; read-only, the last one is kept."""
        path = record["pan_seg_file_name"]
        if self._last is None or self._last[0] != path:
            id_map = read_record_ids(record, (record["height"], record["width"]))
            id_map.setflags(write=False)
            self._last = (path, id_map)
        return self._last[1]

    def forget(self) -> None:
        """Drop the kept map, so that a changed file is read again."""
        self._last = None

    def check_complete(self, image_ids: Iterable[Any]) -> None:
        """Check that every image was evaluated once, on whichever process.

        Args:
            image_ids: of all processes.

        Raises:
            ValueError: naming the first images that are missing or came more than once.
        """
        counts = Counter(image_ids)
        missing = [record for key, record in self.records.items() if key not in counts]
        if missing:
            raise ValueError(
                f"no prediction for {len(missing)} of the {len(self.records)} images of"
                f" {self.dataset_name!r}, the first is {describe(missing[0])}"
            )
        twice = [self.records[key] for key, count in counts.items() if count > 1]
        if twice:
            raise ValueError(
                f"{len(twice)} images were predicted more than once, the first is"
                f" {describe(twice[0])}: the loader of an evaluation must give each image once"
            )


def segment_classes(record: Mapping[str, Any]) -> dict[int, int]:
    """Return the contiguous class of each segment id of an image, crowd included."""
    return {segment["id"]: segment["category_id"] for segment in record["segments_info"]}


def coco_image(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry of an image in the `images` of a COCO file."""
    return {
        "id": record["image_id"],
        "file_name": os.path.basename(record["file_name"]),
        "height": record["height"],
        "width": record["width"],
    }


def describe(image: Mapping[str, Any]) -> str:
    """Name an image in an error."""
    return f"image {image.get('image_id')!r} ({image.get('file_name', 'no file name')})"


def output_of(image: Mapping[str, Any], output: Mapping[str, Any], key: str) -> Any:
    """Return one entry of a model's output.

    Raises:
        ValueError: if the model did not give it; the sentence says what it gave.
    """
    if key not in output:
        raise ValueError(
            f"{describe(image)}: the model's output has no {key!r}, only {sorted(output)}"
        )
    return output[key]


def gather_list(items: list[Any]) -> list[Any]:
    """Join a list over all processes; each of them gets the whole.

    All of them, so that a check on the whole raises on every process. With the error on one alone,
    the others would wait for it until the time-out.
    """
    return [item for part in comm.all_gather(items) for item in part]
