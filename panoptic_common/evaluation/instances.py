"""Box and mask AP of the detections, against instances of the panoptic truth or of a file.

COCO's AP needs an instances JSON, which a panoptic data set need not have. Where
DATASETS.INSTANCES_JSON names none, it follows from the panoptic PNG: every thing segment is an
instance, a crowd one stays crowd. So each process encodes the true masks of its images along with
the predicted ones. When all are done, the main process writes `instances_truth.json` and has
Detectron2's `COCOEvaluator` score the detections.

Run-length encodings are made here and not by Detectron2. Its conversion of torch masks relies on
numpy behaviour that numpy 2 warns about and will remove.

Shape shorthand: D detections of an image; H, W its size in pixels.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pycocotools.mask as mask_util
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator
from detectron2.structures import Instances
from detectron2.utils import comm

from panoptic_common.coco.segment_ids import segment_areas_and_boxes
from panoptic_common.evaluation.truth import PanopticTruth, coco_image, describe, gather_list
from panoptic_common.files import write_atomically, write_json

logger = logging.getLogger(__name__)

# COCO's size classes by area in pixels: small below 32^2, large above 96^2.
_AREAS = {
    "AP": (0, np.inf),
    "AP50": (0, np.inf),
    "AP75": (0, np.inf),
    "APs": (0, 32**2),
    "APm": (32**2, 96**2),
    "APl": (96**2, np.inf),
}


def encode_masks(masks: npt.NDArray[Any]) -> list[dict[str, Any]]:
    """Run-length encode masks in COCO's compressed form.

    Args:
        masks: (D, H, W) bool.

    Returns:
        D dicts ``{"size": [H, W], "counts": str}`` that fit into JSON.
    """
    columns = np.asfortranarray(np.asarray(masks).astype(np.uint8).transpose(1, 2, 0))
    encoded = mask_util.encode(columns) if columns.shape[2] else []
    return [{"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")} for rle in encoded]


def derive_instances(
    record: Mapping[str, Any], id_map: npt.NDArray[Any], table: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Turn the thing segments of an image into COCO annotations.

    Args:
        record: dataset dict.
        id_map: (H, W) its true ids.
        table: class table, K entries.

    Returns:
        Annotations with dataset category ids, areas and boxes (x, y, width, height) counted in the
        map, without `id`; segments without a pixel are left out.
    """
    ids, areas, boxes = segment_areas_and_boxes(id_map)
    position = {int(segment_id): k for k, segment_id in enumerate(ids)}
    annotations = []
    for segment in record["segments_info"]:
        entry = table[segment["category_id"]]
        k = position.get(segment["id"])
        if k is None or not entry["isthing"]:
            continue
        annotations.append(
            {
                "image_id": record["image_id"],
                "category_id": entry["id"],
                "iscrowd": int(segment["iscrowd"]),
                "area": int(areas[k]),
                "bbox": boxes[k].tolist(),
                "segmentation": encode_masks(id_map[None] == segment["id"])[0],
            }
        )
    return annotations


def detections_to_coco(
    record: Mapping[str, Any], instances: Instances, num_things: int
) -> list[dict[str, Any]]:
    """Turn the detections of an image into COCO results; `category_id` is the thing index.

    Args:
        record: dataset dict.
        instances: with `pred_boxes`, `scores`, `pred_classes` and, with a mask head, `pred_masks`
            (D, H, W) bool; on any device.
        num_things: classes are 0..num_things-1.

    Raises:
        ValueError: naming the image, for a class outside that range or masks of another size.
    """
    size = (record["height"], record["width"])
    if tuple(instances.image_size) != size:
        raise ValueError(
            f"{describe(record)}: the detections are for {tuple(instances.image_size)} pixels"
            f" (height, width), the image has {size}"
        )
    if len(instances) == 0:
        return []
    classes = instances.pred_classes.tolist()
    if min(classes) < 0 or max(classes) >= num_things:
        raise ValueError(
            f"{describe(record)}: detections of the classes {min(classes)}..{max(classes)}, but"
            f" the thing classes are numbered 0..{num_things - 1}"
        )
    boxes = instances.pred_boxes.tensor.detach().float().cpu()
    boxes = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
    scores = instances.scores.detach().float().tolist()
    results = [
        {"image_id": record["image_id"], "category_id": label, "bbox": box, "score": score}
        for label, box, score in zip(classes, boxes, scores, strict=True)
    ]
    if instances.has("pred_masks"):
        masks = instances.pred_masks.detach().cpu().numpy()
        for result, rle in zip(results, encode_masks(masks), strict=True):
            result["segmentation"] = rle
    return results


class InstanceEvaluator(DatasetEvaluator):
    """Box AP ("bbox") and, if the detections have masks, mask AP ("segm"), in percent.

    A model whose outputs have no "instances" at all is not an error. There is nothing to score, and
    a line in the log says so. Nor is one that leaves them out where its panoptic map has no thing,
    as some do. Without any detection AP is 0 (nan where there is no instance).
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | os.PathLike[str] | None = None,
        *,
        truth: PanopticTruth | None = None,
        annotations: Mapping[Any, list[dict[str, Any]]] | None = None,
        max_detections: int = 100,
    ) -> None:
        """Prepare an evaluation.

        Args:
            dataset_name: a registered panoptic data set.
            output_dir: receives truth and detections in COCO's form.
            truth: of that data set, if it has been read already.
            annotations: true instances by image, in COCO's form; None derives them from the maps.
            max_detections: how many of an image's best detections count; COCO's AP looks at 100,
                which is also the least.
        """
        self._truth = truth or PanopticTruth(dataset_name)
        self._max_detections = max(max_detections, 100)
        self._output_dir = output_dir
        self._given = annotations
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._seen: list[Any] = []
        self._annotations: list[dict[str, Any]] = []
        self._detections: list[dict[str, Any]] = []
        self._without = 0  # images whose output has no "instances"
        self._lacking: list[str] = []  # those of them whose panoptic map has things
        self._has_masks: set[bool] = set()
        self._truth.forget()

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Encode the detections and the true instances of some images.

        Args:
            inputs: the loader's dicts, with `image_id`.
            outputs: the model's, each with `instances`; not changed.

        Raises:
            ValueError: naming the image, if its detections do not fit the data set.
        """
        num_things = len(self._truth.thing_table)
        for image, output in zip(inputs, outputs, strict=True):
            record = self._truth.record(image)
            self._seen.append(record["image_id"])
            if "instances" in output:
                instances = output["instances"]
                self._detections += detections_to_coco(record, instances, num_things)
                if len(instances):
                    self._has_masks.add(instances.has("pred_masks"))
            else:
                self._without += 1
                _, segments = output.get("panoptic_seg", (None, None))
                if segments is None or any(segment["isthing"] for segment in segments):
                    self._lacking.append(describe(record))
            if self._given is None:
                id_map = self._truth.read(record)
                self._annotations += derive_instances(record, id_map, self._truth.table)
            else:
                self._annotations += self._given[record["image_id"]]

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Gather the encodings and score them; to be called on each process.

        Returns:
            ``{"bbox": {"AP": ..., "AP50": ..., ...}, "segm": ...}`` on the main process, else {}.

        Raises:
            ValueError: if an image is missing, or only some have detections or masks.
        """
        seen, lacking = gather_list(self._seen), gather_list(self._lacking)
        without = sum(comm.all_gather(self._without))
        has_masks = set(gather_list(sorted(self._has_masks)))
        self._truth.check_complete(seen)
        if without == len(seen) or not self._truth.thing_table:
            logger.info("No box and mask AP: the model has no instances, or the data no things.")
            return {}
        if lacking:
            raise ValueError(
                f"the outputs of {len(lacking)} images have no 'instances', the first is"
                f" {lacking[0]}; the others have them"
            )
        if len(has_masks) > 1:
            raise ValueError("some detections have masks and others do not")
        annotations = [item for part in comm.gather(self._annotations) for item in part]
        detections = [item for part in comm.gather(self._detections) for item in part]
        if not comm.is_main_process():
            return {}
        # Without any detection masks are unknown; the boxes' zeros then say it all.
        tasks = ("bbox", "segm") if has_masks == {True} else ("bbox",)
        if not detections:
            logger.warning("The model detected nothing at all: AP is 0.")
            return {task: _nothing_detected(annotations) for task in tasks}
        with contextlib.ExitStack() as stack:
            folder = self._output_dir or stack.enter_context(tempfile.TemporaryDirectory())
            return self._score(Path(folder), annotations, detections, tasks)

    def _score(
        self,
        folder: Path,
        annotations: list[dict[str, Any]],
        detections: list[dict[str, Any]],
        tasks: tuple[str, ...],
    ) -> dict[str, dict[str, float]]:
        """Have Detectron2's evaluator score the detections of all images."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "instances_truth.json"
        # Numbers from 1: COCO's code takes annotation 0 for "no match".
        numbered = [{**item, "id": n} for n, item in enumerate(annotations, start=1)]
        images = [coco_image(record) for record in self._truth.records.values()]
        things = self._truth.thing_table
        categories = [{"id": entry["id"], "name": entry["name"]} for entry in things]
        content = {"images": images, "annotations": numbered, "categories": categories, "info": {}}
        write_json(path, content)

        # COCOEvaluator wants metadata in which things alone are numbered 0..N_th-1, which those of
        # the panoptic data set are not. Made anew, as metadata cannot be changed.
        name = f"{self._truth.dataset_name}_instances"
        MetadataCatalog.pop(name, None)
        MetadataCatalog.get(name).set(
            json_file=str(path),
            thing_classes=[entry["name"] for entry in things],
            thing_dataset_id_to_contiguous_id={entry["id"]: k for k, entry in enumerate(things)},
        )
        by_image: dict[Any, list[dict[str, Any]]] = {key: [] for key in self._truth.records}
        for detection in detections:
            by_image[detection["image_id"]].append(detection)
        kept = [dict(detection) for detection in detections]  # the scorer changes what it gets
        predictions = [{"image_id": key, "instances": found} for key, found in by_image.items()]
        # Under the names of Detectron2, which would leave half a file where the disk gets full.
        path = folder / "instances_predictions.pth"
        write_atomically(path, lambda file: torch.save(predictions, file))
        scorer = _Scorer(name, tasks, distributed=False, max_dets_per_image=self._max_detections)
        with contextlib.redirect_stdout(io.StringIO()):  # COCO's code prints its progress
            results = scorer.score(predictions)
        listed = [{**d, "category_id": things[d["category_id"]]["id"]} for d in kept]
        write_json(folder / "coco_instances_results.json", listed)
        return {task: dict(results[task]) for task in tasks}


class _Scorer(COCOEvaluator):
    """Detectron2's evaluator, fed with encoded detections."""

    def score(self, predictions: list[dict[str, Any]]) -> Mapping[str, Mapping[str, float]]:
        """Score the detections of each image."""
        self.reset()
        self._predictions = predictions
        return self.evaluate()


def _nothing_detected(annotations: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the AP without detections: 0, or nan where no instance of a size is to be found."""
    areas = [item["area"] for item in annotations if not item["iscrowd"]]
    return {
        name: 0.0 if any(low <= area <= high for area in areas) else float("nan")
        for name, (low, high) in _AREAS.items()
    }
