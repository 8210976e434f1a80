"""Evaluation of semantic outputs inside Detectron2's loop: mIoU.

Shape shorthand: H, W image size in pixels; K number of classes, numbered 0..K-1.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from tabulate import tabulate

from panoptic_common.coco.overlaps import class_confusion, class_iou, count_overlaps, mean_ious
from panoptic_common.evaluation.confusion import confusion_of_kinds, write_confusion
from panoptic_common.evaluation.truth import (
    PanopticTruth,
    describe,
    gather_list,
    output_of,
    segment_classes,
)
from panoptic_common.modeling.semantic_map import CHANNELS, SOME_THING, semantic_map

logger = logging.getLogger(__name__)

_KEY = "sem_seg"  # of the model's output, and of the results


class SemanticEvaluator(DatasetEvaluator):
    """mIoU of the semantic output against the classes of the panoptic truth.

    Void pixels of the truth are left out, crowd segments count as their class. The mean is over
    the classes that occur in the truth. Results, in percent: "mIoU", "mIoU_th", "mIoU_st", "pACC"
    (share of right pixels) and "IoU-<class>". Of an output that knows things only as one class
    there are "mIoU_st", "IoU-things" and the "IoU-<class>" of stuff.

    "things_as_things" and "stuff_as_stuff" tell how the two are confused (Li, Qi, Torr, CVPR 2020,
    Table G). It is the share of the pixels of a kind that get any class of that kind.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | os.PathLike[str] | None = None,
        *,
        truth: PanopticTruth | None = None,
    ) -> None:
        """Prepare an evaluation of the model's output "sem_seg".

        Args:
            dataset_name: a registered panoptic data set.
            output_dir: where `confusion.json` and `confusion.png` go; None writes neither.
            truth: that of `dataset_name`, to share it with other evaluators.
        """
        self._truth = truth or PanopticTruth(dataset_name)
        self._output_dir = None if output_dir is None else Path(output_dir)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        num_classes = self._truth.num_classes
        self._seen: list[Any] = []
        # The last column: void in the prediction, or a thing of unknown class.
        self._confusion = np.zeros((num_classes, num_classes + 1), np.int64)
        self._things_are_one = False
        self._truth.forget()

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Count the pixels of each (true class, predicted class).

        Args:
            inputs: the loader's dicts, with `image_id`.
            outputs: the model's, each with (K, H, W) class scores on any device.

        Raises:
            ValueError: naming the image, if the scores have another K, H or W than the truth.
        """
        num_classes = self._truth.num_classes
        for image, output in zip(inputs, outputs, strict=True):
            record = self._truth.record(image)
            scores = torch.as_tensor(output_of(image, output, _KEY))
            channels = output.get(CHANNELS, range(num_classes))
            if scores.dim() != 3 or scores.shape[0] != len(channels):
                raise ValueError(
                    f"{describe(record)}: {_KEY} has shape {tuple(scores.shape)}, not"
                    f" ({len(channels)} classes, height, width)"
                )
            self._things_are_one |= SOME_THING in channels
            predicted = semantic_map(output).cpu().numpy()
            predicted = np.where(predicted == SOME_THING, num_classes, predicted)
            try:
                overlaps = count_overlaps(self._truth.read(record), predicted)
            except ValueError as error:
                raise ValueError(f"{describe(record)}, {_KEY}: {error}") from error
            same = {k: k for k in range(num_classes)}
            self._confusion += class_confusion(overlaps, segment_classes(record), same, num_classes)
            self._seen.append(record["image_id"])

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Add up over all processes; to be called on each of them.

        Returns:
            ``{"sem_seg": {figure: percent}}`` on the main process, {} on the others.

        Raises:
            ValueError: if an image is missing or was predicted twice.
        """
        self._truth.check_complete(gather_list(self._seen))
        confusion = sum(comm.all_gather(self._confusion))
        things_are_one = any(comm.all_gather(self._things_are_one))
        if not comm.is_main_process():
            return {}
        iou = class_iou(confusion)
        results = mean_ious(iou, self._truth.is_thing)
        if things_are_one:
            results = {
                "mIoU_st": results["mIoU_st"],
                "IoU-things": 100 * iou_of_things(confusion, self._truth.is_thing),
            }
        else:
            pixels = int(confusion.sum())
            results["pACC"] = 100 * float(np.trace(confusion)) / pixels if pixels else float("nan")
        rows = [list(results.values())]
        table = tabulate(rows, list(results), tablefmt="pipe", floatfmt=".2f", numalign="right")
        logger.info("%s of %s:\n%s", _KEY, self._truth.dataset_name, table)
        kinds = confusion_of_kinds(confusion, self._truth.is_thing)
        results["things_as_things"], results["stuff_as_stuff"] = (100 * np.diagonal(kinds)).tolist()
        if self._output_dir is not None:
            write_confusion(self._output_dir, confusion, self._truth.table)
        for entry, value in zip(self._truth.table, iou.tolist(), strict=True):
            if not (things_are_one and entry["isthing"]):
                results[f"IoU-{entry['name']}"] = 100 * value
        return {_KEY: results}


def iou_of_things(confusion: np.ndarray, is_thing: np.ndarray) -> float:
    """Compute the IoU of all things as one class.

    Args:
        confusion: (K, K + 1) pixels of each (true class, predicted class); the last column is where
            a thing of unknown class was predicted.
        is_thing: (K,) bool.

    Returns:
        0 to 1; nan where no thing is.
    """
    found = int(confusion[is_thing, -1].sum())
    union = int(confusion[is_thing].sum() + confusion[~is_thing, -1].sum())
    return found / union if union else float("nan")
