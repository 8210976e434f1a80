"""Predictions on images without truth: nothing is measured, files for a test server are written.

The papers report on test sets whose truth only the servers of COCO and Cityscapes have. Those are
Tables 4 and 5 of Li, Qi and Torr (CVPR 2020), and Table 1 of Abbas and Swoboda (NeurIPS 2021). Both
servers take a zip archive of a JSON and a folder of PNGs named like it. Image and category ids are
those of the data set.

Shape shorthand: H, W image size in pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from panoptic_common.coco.segment_ids import present_ids
from panoptic_common.evaluation.prediction_files import PredictionFiles
from panoptic_common.evaluation.truth import PanopticTruth, describe, output_of

logger = logging.getLogger(__name__)


class SubmissionWriter(DatasetEvaluator):
    """Writes `<name>.json`, the folder `<name>` of PNGs, and `<name>.zip` of both."""

    def __init__(self, truth: PanopticTruth, output_dir: Path, method: str) -> None:
        """Prepare.

        Args:
            truth: of a data set without truth.
            output_dir: for the files.
            method: stands in their name where the server wants the name of a method.
        """
        self._truth = truth
        self.name = str(MetadataCatalog.get(truth.dataset_name).submission).format(method)
        self._files = PredictionFiles(truth, output_dir, self.name)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._seen: list[Any] = []
        self._files.reset()

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Write the PNGs of some images.

        Args:
            inputs: the loader's dicts, with `image_id`.
            outputs: the model's, each with ``(id_map (H, W), segments_info)`` as "panoptic_seg".

        Raises:
            ValueError: naming the image, if its map has another size, or if map and list disagree.
        """
        for image, output in zip(inputs, outputs, strict=True):
            record = self._truth.record(image)
            id_map, segments = output_of(image, output, "panoptic_seg")
            ids = torch.as_tensor(id_map).detach().cpu().numpy()
            _require_valid(record, ids, segments)
            self._files.add(record, ids, segments)
            self._seen.append(record["image_id"])

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Join the files of all processes and pack them; to be called on each process.

        Returns:
            {}: only the server can tell.

        Raises:
            ValueError: if an image is missing or was predicted twice.
        """
        self._files.write_part()
        comm.synchronize()  # the parts of all processes are on disk
        seen = comm.all_gather(self._seen)
        self._truth.check_complete(image_id for part in seen for image_id in part)
        if comm.is_main_process() and self._files.merge(seen):
            self._files.write_zip()
        return {}


def _require_valid(
    record: Mapping[str, Any], ids: np.ndarray, segments: Sequence[Mapping[str, Any]] | None
) -> None:
    """Refuse what a server would refuse: another size, and ids that map or list lack."""
    size = (record["height"], record["width"])
    if ids.shape != size:
        raise ValueError(f"{describe(record)}: a map of {ids.shape} pixels, the image has {size}")
    if segments is None:
        raise ValueError(f"{describe(record)}: the panoptic map has no segments_info")
    listed = [int(segment["id"]) for segment in segments]
    found = sorted(set(present_ids(ids).tolist()) - {0})
    if sorted(listed) != found:
        difference = sorted(set(listed) ^ set(found))
        raise ValueError(
            f"{describe(record)}: map and segments_info disagree on the ids {difference[:5]}"
        )
