"""The official files of panoptic predictions, as panopticapi and the test servers read them.

Shape shorthand: H, W image size in pixels.
"""

from __future__ import annotations

import json
import logging
import os
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.utils import comm

from panoptic_common.coco.segment_ids import write_id_map
from panoptic_common.evaluation.truth import PanopticTruth, coco_image
from panoptic_common.files import write_atomically, write_json

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
        self._names = _png_names(truth)
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
        name = self._names[record["image_id"]]
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
                "file_name": name,
                "segments_info": listed,
            }
        )

    def _part(self, rank: int) -> Path:
        return self._json.with_name(f"{self._json.stem}.process{rank}.json")

    def write_part(self) -> None:
        """Write this process's share."""
        write_json(self._part(comm.get_rank()), self._annotations)

    def merge(self, seen: Sequence[Sequence[Any]]) -> bool:
        """Join the shares into one JSON in the order of the data set, on the main process.

        Args:
            seen: the image ids of each process, in its order. A share that differs is of another
                evaluation, or (several machines without a common folder) not there.

        Returns:
            Whether all shares were there.
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
        return not absent

    def write_zip(self) -> Path:
        """Pack the JSON and the folder of PNGs as test servers take them, after `merge`.

        Returns:
            The archive, `<prefix>.zip`. The PNGs of other evaluations, should the folder hold some,
            stay outside.
        """
        listed = json.loads(self._json.read_text())["annotations"]
        archive = self._json.with_suffix(".zip")

        def pack(file: BinaryIO) -> None:
            with zipfile.ZipFile(file, "w") as packed:
                packed.write(self._json, self._json.name, zipfile.ZIP_DEFLATED)
                for name in (annotation["file_name"] for annotation in listed):
                    packed.write(self._folder / name, f"{self._folder.name}/{name}")

        write_atomically(archive, pack)
        logger.info("To be submitted: %s, with %d images", archive, len(listed))
        return archive


def _png_names(truth: PanopticTruth) -> dict[Any, str]:
    """Choose the name of the PNG of each image, below the folder of predictions; all differ.

    It is that of the true PNG below its root. Without truth it is the image's, below the folder of
    images only if two would be called alike. Of those that are alike even so, such as x.jpg and
    x.png, the later ones get a number.
    """
    metadata = MetadataCatalog.get(truth.dataset_name)
    names: dict[Any, str] = {}
    taken: set[str] = set()
    stems = Counter(Path(record["file_name"]).stem for record in truth.records.values())
    for image_id, record in truth.records.items():
        if "pan_seg_file_name" in record:
            path = record["pan_seg_file_name"]
            name = os.path.relpath(path, metadata.panoptic_root)
        else:
            path = str(Path(record["file_name"]).with_suffix(".png"))
            name = os.path.relpath(path, metadata.image_root)
            if stems[Path(path).stem] == 1:
                name = os.path.basename(path)
        if name.startswith(".."):
            name = os.path.basename(path)
        wanted = chosen = Path(name)
        number = 1
        while chosen.as_posix().casefold() in taken:  # as file systems are that know no case
            number += 1
            chosen = wanted.with_stem(f"{wanted.stem}_{number}")
        taken.add(chosen.as_posix().casefold())
        names[image_id] = chosen.as_posix()
    return names
