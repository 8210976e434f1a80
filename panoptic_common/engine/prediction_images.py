"""Images of what a model in training makes of a few test images, for TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase

from panoptic_common.coco.image_reading import read_image
from panoptic_common.data.catalog import class_table, load_panoptic
from panoptic_common.data.mapper import PanopticDatasetMapper
from panoptic_common.drawing.overlays import draw_panoptic

NUM_IMAGES = 3  # of the first test set, drawn every VIS_PERIOD iterations


class PredictionImages(HookBase):
    """Show in TensorBoard what the model makes of a few fixed images, every `period` steps.

    To be registered in the main process only; the other processes wait for it at the next step.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        make_samples: Callable[[], Iterable[dict]],
        draw: Callable[[dict, dict], np.ndarray],
        period: int,
    ) -> None:
        """Prepare to draw.

        Args:
            model: not wrapped for several processes.
            make_samples: gives the inputs of the images; called at the first use.
            draw: (input, output of the model) -> (H, W, 3) uint8 RGB.
            period: in iterations.
        """
        self.model = model
        self.make_samples = make_samples
        self.draw = draw
        self.period = period
        self._samples: Sequence[dict] | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode, model: torch.nn.Module) -> PredictionImages:
        """Take the first images of the first set in DATASETS.TEST, every VIS_PERIOD steps."""
        name = cfg.DATASETS.TEST[0]
        mapper = PanopticDatasetMapper.from_config(cfg, False, None)

        def make_samples() -> list[dict]:
            return [mapper(record) for record in load_panoptic(name)[:NUM_IMAGES]]

        return cls(model, make_samples, draw_prediction(class_table(name)), cfg.VIS_PERIOD)

    def after_step(self) -> None:
        """Draw if this iteration is one of those."""
        if (self.trainer.iter + 1) % self.period == 0:
            self.show(self.trainer.storage)

    def show(self, storage: Any) -> None:
        """Put one image per sample into an event storage."""
        if self._samples is None:
            self._samples = list(self.make_samples())
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                for number, sample in enumerate(self._samples):
                    image = self.draw(sample, self.model([sample])[0])
                    storage.put_image(f"prediction/{number}", image.transpose(2, 0, 1))
        finally:
            self.model.train(training)


def draw_prediction(table: list[dict]) -> Callable[[dict, dict], np.ndarray]:
    """Make the function (input, output of the model) -> image of `PredictionImages`.

    Args:
        table: class table.
    """

    def draw(sample: dict, output: dict) -> np.ndarray:
        image = read_image(sample["file_name"])
        if "panoptic_seg" not in output:  # a model that is semantic only, or detects only
            return image
        id_map, segments_info = output["panoptic_seg"]
        return draw_panoptic(image, id_map.cpu(), segments_info, table)

    return draw
