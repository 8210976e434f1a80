"""The official files of panoptic predictions, as panopticapi and the test servers read them.

Shape shorthand: H, W image size in pixels.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from panoptic_common.coco.segment_ids import write_id_map
from panoptic_common.evaluation.truth import PanopticTruth, coco_image
from panoptic_common.files import write_json

logger = logging.getLogger(__name__)


class PredictionFiles:
    """The official result files: `<prefix>.json`, with dataset category ids, and `<prefix>/*.png`.

    Each process writes the PNGs of its images, and its share of the JSON to a file of its own. The
    main process joins the shares.
    """

    def __init__(self, truth: PanopticTruth, output_dir: Path, prefix: str) -> None:
        """Prepare to write predictions of the images of `truth`."""
        self._truth = truth
        self._json = output_dir / f"{prefix}.json"
        self._folder = output_dir / prefix
        self._root = MetadataCatalog.get(truth.dataset_name).panoptic_root
        self._annotations: list[dict[str, Any]] = []

    def reset(self) -> None:
        """Forget all images; PNGs on disk are replaced one by one.

        A JSON of an earlier evaluation goes first: it would vouch for PNGs of both if this one is
        stopped by a full disk, say.
        """
        self._annotations = []
        self._folder.mkdir(parents=True, exist_ok=True)
        if comm.is_main_process():
            self._json.unlink(missing_ok=True)

    def add(
        self, record: Mapping[str, Any], ids: np.ndarray, segments: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write the PNG of one image and remember its JSON entry."""
        # The name of the true PNG below its root: unlike the image's, it is unique.
        name = os.path.relpath(record["pan_seg_file_name"], self._root)
        if name.startswith(".."):
            name = os.path.basename(name)
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_id_map(path, ids)
        listed = []
        for segment in segments:
            entry = self._truth.table[int(segment["category_id"])]
            item = {"id": int(segment["id"]), "category_id": entry["id"]}
            if segment.get("score") is not None:
                item["score"] = float(segment["score"])
            listed.append(item)
        self._annotations.append(
            {
                "image_id": record["image_id"],
                "file_name": Path(name).as_posix(),
                "segments_info": listed,
            }
        )

    def _part(self, rank: int) -> Path:
        return self._json.with_name(f"{self._json.stem}.process{rank}.json")

    def write_part(self) -> None:
        """Write this process's share."""
        write_json(self._part(comm.get_rank()), self._annotations)

    def merge(self, seen: Sequence[Sequence[Any]]) -> None:
        """Join the shares into one JSON in the order of the data set, on the main process.

        Args:
            seen: the image ids of each process, in its order. A share that differs is of another
                evaluation, or (several machines without a common folder) not there.
        """
        annotations: dict[Any, dict[str, Any]] = {}
        absent = []
        for rank, image_ids in enumerate(seen):
            part = self._part(rank)
            share = json.loads(part.read_text()) if part.is_file() else []
            if [annotation["image_id"] for annotation in share] != list(image_ids):
                absent.append(rank)
                continue
            annotations |= {annotation["image_id"]: annotation for annotation in share}
            part.unlink()
        if absent:
            logger.warning(
                "%s lacks the images of the processes %s: their files are not in %s. The figures"
                " count all images; for a complete file, use a folder that all machines share.",
                self._json,
                absent,
                self._json.parent,
            )
        content = {
            "images": [coco_image(record) for record in self._truth.records.values()],
            "categories": self._truth.table,
            "annotations": [annotations[key] for key in self._truth.records if key in annotations],
        }
        write_json(self._json, content)
        logger.info("Panoptic predictions: %s and %s", self._json, self._folder)
