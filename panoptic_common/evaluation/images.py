"""Sheets of results written during an evaluation: image, truth if any, and the model's outputs.

Figures do not say *how* a model fails; a handful of sheets after each evaluation does.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.evaluation import DatasetEvaluator
from PIL import Image

from panoptic_common.coco.image_reading import read_image
from panoptic_common.drawing.overlays import draw_boxes, draw_panoptic, draw_semantic
from panoptic_common.drawing.sheets import contact_sheet, legend
from panoptic_common.drawing.strokes import ImageArray, legible_scale
from panoptic_common.evaluation.truth import PanopticTruth
from panoptic_common.files import write_atomically
from panoptic_common.modeling.semantic_map import semantic_map

logger = logging.getLogger(__name__)


class ImageWriter(DatasetEvaluator):
    """Writes a sheet of each of the first images of a data set; it measures nothing."""

    def __init__(
        self,
        truth: PanopticTruth,
        folder: Path,
        count: int,
        min_score: float = 0.3,
        panel_width: int = 512,
    ) -> None:
        """Prepare.

        Args:
            truth: of the data set.
            folder: for `<name of the image>.png`; made if absent, files are replaced.
            count: sheets to write: of the first `count` images, whichever process has them.
            min_score: boxes below it are left out.
            panel_width: of each image on a sheet, in pixels.
        """
        self._truth = truth
        self._folder = folder
        self._numbers = {key: n for n, key in enumerate(list(truth.records)[:count])}
        self._min_score = min_score
        self._panel_width = panel_width

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Write the sheets of some images."""
        for image, output in zip(inputs, outputs, strict=True):
            number = self._numbers.get(image["image_id"])
            if number is None:
                continue
            record = self._truth.record(image)
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"{number:03d}_{Path(record['file_name']).stem}.png"
            save = partial(Image.fromarray(self._sheet(record, output)).save, format="PNG")
            write_atomically(path, save, flush=False)

    def evaluate(self) -> dict[str, Any]:
        """Say where the sheets are; there are no results."""
        if self._numbers:
            logger.info("Images of results: %s", self._folder)
        return {}

    def _sheet(self, record: Mapping[str, Any], output: Mapping[str, Any]) -> ImageArray:
        table = self._truth.table
        image = read_image(record["file_name"])
        scale = legible_scale(image, self._panel_width)
        true_segments = record.get("segments_info", [])
        panels: dict[str, ImageArray | None] = {"image": image}
        if "pan_seg_file_name" in record:
            true_ids = self._truth.read(record)
            panels["truth"] = draw_panoptic(image, true_ids, true_segments, table, scale=scale)
        if "sem_seg" in output:
            classes = semantic_map(output).cpu().numpy()
            panels["semantic"] = draw_semantic(image, classes, table, scale=scale)
        if "instances" in output:
            panels["boxes"] = self._boxes(image, output["instances"], scale)
        maps = {}
        if "panoptic_seg" in output:
            maps["panoptic"] = output["panoptic_seg"]
        maps |= output.get("panoptic_variants", {})
        for name, (ids, segments) in maps.items():
            ids = torch.as_tensor(ids).cpu().numpy()
            panels[name] = draw_panoptic(image, ids, segments, table, scale=scale)
        shown = {s["category_id"] for s in true_segments}
        shown |= {s["category_id"] for _, segments in maps.values() for s in segments}
        titles = list(panels)
        columns = (len(titles) + 1) // 2 if len(titles) > 3 else len(titles)
        rows = [titles[start : start + columns] for start in range(0, len(titles), columns)]
        sheets = []
        for row in rows:
            blank = columns - len(row)
            tiles = [*(panels[title] for title in row), *([None] * blank)]
            sheets.append(
                contact_sheet([tiles], [*row, *([""] * blank)], panel_width=self._panel_width)
            )
        sheets.append(legend(table, sheets[0].shape[1], sorted(shown)))
        return np.concatenate(sheets)

    def _boxes(self, image: ImageArray, instances: Any, scale: int) -> ImageArray:
        instances = instances.to("cpu")
        keep = instances.scores >= self._min_score
        things = [k for k, thing in enumerate(self._truth.is_thing.tolist()) if thing]
        classes = [
            things[c] if c < len(things) else len(self._truth.table)
            for c in instances.pred_classes[keep].tolist()
        ]
        return draw_boxes(
            image,
            instances.pred_boxes.tensor[keep].detach().numpy(),
            classes,
            instances.scores[keep].tolist(),
            self._truth.table,
            scale=scale,
        )
