"""Evaluation of panoptic outputs inside Detectron2's loop: PQ and mIoU.

Detectron2's own panoptic evaluator collects the PNGs of all processes on one and calls panopticapi
when the last is there. Here every image is compared with its truth as soon as it is predicted, on
the process that predicted it. What travels between processes are sums per class
(`panoptic_common.coco.quality`). The official files are written all the same by `prediction_files`:
`predictions.json` and the folder `predictions/` of PNGs.

`build.build_evaluator` puts everything together that suits a data set.

Shape shorthand: H, W image size in pixels; K number of classes, numbered 0..K-1, things and stuff
in one table.
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

from panoptic_common.coco.overlaps import (
    Overlaps,
    class_confusion,
    class_iou,
    count_overlaps,
    mean_ious,
)
from panoptic_common.coco.quality import (
    GroupQuality,
    PanopticQuality,
    PanopticStatistics,
    match_segments,
)
from panoptic_common.evaluation.prediction_files import PredictionFiles
from panoptic_common.evaluation.truth import (
    PanopticTruth,
    describe,
    output_of,
    segment_classes,
)

logger = logging.getLogger(__name__)

_KEY = "panoptic_seg"  # of the model's output, and of the results


class PanopticEvaluator(DatasetEvaluator):
    """PQ, SQ, RQ, boundary PQ and mIoU of a panoptic output, with the official files.

    The results are in percent: "PQ", "SQ", "RQ", "PQ_boundary", "SQ_boundary", "RQ_boundary" and
    "mIoU" over all classes. The same with "_th" and "_st" for things and stuff, and "PQ-<class>"
    per class; nan where no class of a group occurs. In the mIoU of the final map, void in the
    prediction counts as a miss.
    """

    def __init__(
        self,
        dataset_name: str,
        output_dir: str | os.PathLike[str] | None = None,
        *,
        variant: str | None = None,
        boundary_ratio: float | None = 0.02,
        truth: PanopticTruth | None = None,
    ) -> None:
        """Prepare an evaluation.

        Args:
            dataset_name: a registered panoptic data set.
            output_dir: where the official files go; None writes nothing.
            variant: evaluate ``output["panoptic_variants"][variant]`` instead of
                ``output["panoptic_seg"]``. The results are called ``panoptic_seg_<variant>``,
                the files `predictions_<variant>` instead of `predictions`.
            boundary_ratio: band of boundary PQ over the image's diagonal; None leaves it out.
            truth: that of `dataset_name`, to share it with other evaluators.
        """
        self._truth = truth or PanopticTruth(dataset_name)
        self._variant = variant
        suffix = "" if variant is None else f"_{variant}"
        self._name = f"{_KEY}{suffix}"
        self._boundary_ratio = boundary_ratio
        self._files: PredictionFiles | None = None
        if output_dir is not None:
            self._files = PredictionFiles(self._truth, Path(output_dir), f"predictions{suffix}")
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        num_classes = self._truth.num_classes
        self._seen: list[Any] = []
        self._statistics = PanopticStatistics.zeros(num_classes)
        self._boundary = PanopticStatistics.zeros(num_classes)
        self._confusion = np.zeros((num_classes, num_classes + 1), np.int64)
        self._warned = False
        self._truth.forget()
        if self._files is not None:
            self._files.reset()

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Compare predictions with their truth.

        Args:
            inputs: the loader's dicts, with `image_id` and `file_name`.
            outputs: the model's; each with ``(id_map (H, W) integer tensor on any device,
                segments_info)`` under "panoptic_seg". They are not changed.

        Raises:
            ValueError: naming the image, if map and list disagree, or map and truth in size.
        """
        for image, output in zip(inputs, outputs, strict=True):
            record = self._truth.record(image)
            ids, segments = self._prediction(image, output)
            true_ids = self._truth.read(record)
            try:
                overlaps = count_overlaps(true_ids, ids)
                self._add(record, true_ids, ids, segments, overlaps)
            except ValueError as error:
                raise ValueError(f"{describe(record)}, {self._name}: {error}") from error
            self._seen.append(record["image_id"])
            if self._files is not None:
                self._files.add(record, ids, segments)

    def _prediction(
        self, image: Mapping[str, Any], output: Mapping[str, Any]
    ) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Return the (H, W) map and the segments of one output."""
        if self._variant is None:
            value = output_of(image, output, _KEY)
        else:
            value = output_of(image, output_of(image, output, "panoptic_variants"), self._variant)
        id_map, segments = value
        if segments is None:
            raise ValueError(
                f"{describe(image)}: {self._name} has no segments_info; a map of (class * divisor +"
                " instance) must be turned into ids and a list of segments first"
            )
        return torch.as_tensor(id_map).detach().cpu().numpy(), segments

    def _add(
        self,
        record: Mapping[str, Any],
        true_ids: np.ndarray,
        ids: np.ndarray,
        segments: list[dict[str, Any]],
        overlaps: Overlaps,
    ) -> None:
        """Add one image to the sums."""
        num_classes = self._truth.num_classes
        true_segments = record["segments_info"]
        self._compare_areas(record, overlaps)
        arguments = (true_ids, true_segments, ids, segments, num_classes)
        matches = match_segments(*arguments, overlaps=overlaps)
        self._statistics += matches.statistics(num_classes)
        if self._boundary_ratio is not None:
            matches = match_segments(
                *arguments, overlaps=overlaps, boundary_ratio=self._boundary_ratio
            )
            self._boundary += matches.statistics(num_classes)
        predicted = {segment["id"]: segment["category_id"] for segment in segments}
        self._confusion += class_confusion(
            overlaps, segment_classes(record), predicted, num_classes
        )

    def _compare_areas(self, record: Mapping[str, Any], overlaps: Overlaps) -> None:
        """Warn, once, of a truth for which panopticapi computes other figures."""
        counted = overlaps.areas()[0]
        for segment in record["segments_info"]:
            pixels = counted.get(segment["id"], 0)
            if not self._warned and segment.get("area", pixels) != pixels:
                self._warned = True
                logger.warning(
                    "%s: the JSON gives segment %s an area of %s, its PNG has %d pixels. Pixels"
                    " are counted here; panopticapi would take the JSON's number"
                    " (panoptic-check lists all such segments).",
                    describe(record),
                    segment["id"],
                    segment["area"],
                    pixels,
                )

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Add up over all processes; to be called on each of them.

        Returns:
            ``{name: {figure: percent}}`` on the main process, {} on the others.

        Raises:
            ValueError: if an image is missing or was predicted twice.
        """
        if self._files is not None:
            self._files.write_part()
        comm.synchronize()  # the parts of all processes are on disk
        sums = (self._seen, self._statistics, self._boundary, self._confusion)
        parts = comm.all_gather(sums)
        self._truth.check_complete(image_id for part in parts for image_id in part[0])
        if not comm.is_main_process():
            return {}
        if self._files is not None:
            self._files.merge([part[0] for part in parts])
        total = PanopticStatistics.zeros(self._truth.num_classes)
        boundary = PanopticStatistics.zeros(self._truth.num_classes)
        for _, statistics, boundary_statistics, _ in parts:
            total += statistics
            boundary += boundary_statistics
        iou = class_iou(sum(part[3] for part in parts))
        return {self._name: self._report(total, boundary, iou)}

    def _report(
        self, total: PanopticStatistics, boundary: PanopticStatistics, iou: np.ndarray
    ) -> dict[str, float]:
        """Log the tables and collect the results."""
        is_thing = self._truth.is_thing
        quality = total.quality(is_thing)
        results: dict[str, float] = {}
        for suffix, group in _groups(quality):
            results |= {
                f"PQ{suffix}": 100 * group.pq,
                f"SQ{suffix}": 100 * group.sq,
                f"RQ{suffix}": 100 * group.rq,
            }
        if self._boundary_ratio is not None:
            for suffix, group in _groups(boundary.quality(is_thing)):
                results |= {
                    f"PQ_boundary{suffix}": 100 * group.pq,
                    f"SQ_boundary{suffix}": 100 * group.sq,
                    f"RQ_boundary{suffix}": 100 * group.rq,
                }
        results |= mean_ious(iou, is_thing)
        logger.info(
            "%s of %s:\n%s", self._name, self._truth.dataset_name, self._summary(quality, results)
        )
        logger.info("%s per class:\n%s", self._name, self._class_table(total, quality, iou))
        for entry, pq in zip(self._truth.table, quality.pq.tolist(), strict=True):
            results[f"PQ-{entry['name']}"] = 100 * pq
        return results

    def _summary(self, quality: PanopticQuality, results: Mapping[str, float]) -> str:
        headers = ["", "PQ", "SQ", "RQ", "mIoU", "classes"]
        columns = ["PQ", "SQ", "RQ", "mIoU"]
        if self._boundary_ratio is not None:
            headers[4:4] = [f"PQ boundary ({self._boundary_ratio:g})", "SQ b.", "RQ b."]
            columns[3:3] = ["PQ_boundary", "SQ_boundary", "RQ_boundary"]
        rows = []
        for name, (suffix, group) in zip(("All", "Things", "Stuff"), _groups(quality), strict=True):
            figures = [results[column + suffix] for column in columns]
            rows.append([name, *figures, group.num_classes])
        text = tabulate(rows, headers, tablefmt="pipe", floatfmt=".2f", numalign="right")
        if any(row[-1] == 0 for row in rows):
            text += "\n(nan: no class of that group occurs in the truth or the predictions)"
        return text

    def _class_table(
        self, total: PanopticStatistics, quality: PanopticQuality, iou: np.ndarray
    ) -> str:
        rows = []
        for k, entry in enumerate(self._truth.table):
            kind = "thing" if entry["isthing"] else "stuff"
            figures = [100 * float(x[k]) for x in (quality.pq, quality.sq, quality.rq, iou)]
            counts = [int(x[k]) for x in (total.tp, total.fp, total.fn)]
            rows.append([entry["name"], kind, *figures, *counts])
        headers = ["class", "kind", "PQ", "SQ", "RQ", "IoU", "TP", "FP", "FN"]
        return tabulate(rows, headers, tablefmt="pipe", floatfmt=".2f", numalign="right")


def _groups(quality: PanopticQuality) -> list[tuple[str, GroupQuality]]:
    return [("", quality.all), ("_th", quality.things), ("_st", quality.stuff)]
