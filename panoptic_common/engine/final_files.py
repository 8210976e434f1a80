"""What lies beside model_final.pth when a training ends: its model card, and `.safetensors`."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.engine import HookBase

from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.checkpoint.files import read_weights_file
from panoptic_common.checkpoint.model_card import UNSTATED, CardParts, write_card
from panoptic_common.checkpoint.weights_format import write_weights
from panoptic_common.coco.user_files import read_json
from panoptic_common.data.catalog import dataset_paths
from panoptic_common.engine.run_folder import FINAL
from panoptic_common.files import write_atomically

logger = logging.getLogger(__name__)


class FinalFiles(HookBase):
    """Write a model card, and a `.safetensors` file where it is wanted, beside the final model.

    The card is written with the model, and again with its figures after the evaluation, so that a
    run that is killed between has one. Must come after the hook that saves, in the main process.
    """

    def __init__(
        self, checkpointer: PanopticCheckpointer, datasets: Sequence[str], safetensors: bool
    ) -> None:
        """Prepare to write.

        Args:
            checkpointer: has written the final model.
            datasets: names of the training sets.
            safetensors: whether to write the weights in that format, too.
        """
        self.checkpointer = checkpointer
        self.datasets = tuple(datasets)
        self.safetensors = safetensors

    @classmethod
    def from_config(cls, cfg: CfgNode, checkpointer: PanopticCheckpointer) -> FinalFiles:
        """Read DATASETS.TRAIN and SOLVER.CHECKPOINT_SAFETENSORS."""
        return cls(checkpointer, cfg.DATASETS.TRAIN, cfg.SOLVER.CHECKPOINT_SAFETENSORS)

    def after_step(self) -> None:
        """Write what is known as soon as the final model is there."""
        if self.trainer.iter + 1 == self.trainer.max_iter:
            self._write({}, self.safetensors)

    def after_train(self) -> None:
        """Write the card again, with the figures of the last evaluation.

        Of a run that was ended early (`EarlyStop`) everything is written here.
        """
        results = getattr(self.trainer, "_last_eval_results", None) or {}
        if self.trainer.iter < self.trainer.max_iter:
            if self._was_ended_early():
                self._write(results, self.safetensors)
        elif results:
            self._write(results, False)

    @property
    def _path(self) -> Path:
        return Path(self.checkpointer.save_dir, f"{FINAL}.pth")

    def _was_ended_early(self) -> bool:
        """Tell whether the final model is of the step that was the last one."""
        if not self.checkpointer.save_to_disk or not self._path.is_file():
            return False
        return bool(read_weights_file(self._path).get("iteration") == self.trainer.iter)

    def _write(self, results: Mapping[str, Any], safetensors: bool) -> None:
        path = self._path
        if not self.checkpointer.save_to_disk or not path.is_file():
            return
        contents = read_weights_file(path)
        if safetensors:
            path = path.with_suffix(".safetensors")
            write_weights(path, contents)
            logger.info("Its weights alone are in %s", path)
        parts = CardParts(
            title=f"{FINAL} of {os.path.basename(os.path.normpath(self.checkpointer.save_dir))}",
            data=", ".join(self.datasets),
            licence=licence_of(self.datasets),
            command=shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]]),
            results=_flat(results),
        )
        text = write_card(contents, parts, path.name)
        write_atomically(path.with_suffix(".md"), lambda file: file.write(text.encode()))


def licence_of(datasets: Sequence[str]) -> str:
    """Return what the annotation files of data sets say about their licence.

    COCO's files list the licences of their images. Weights made from them may be bound by these.
    """
    named: dict[str, None] = {}
    for name in datasets:
        try:
            content = read_json(dataset_paths(name).panoptic_json)
        except (OSError, ValueError):  # removed since: the training is over
            continue
        licenses = content.get("licenses") if isinstance(content, dict) else None
        for entry in licenses if isinstance(licenses, list) else []:
            if isinstance(entry, dict) and entry.get("name"):
                named[str(entry["name"])] = None
    if not named:
        return f"{UNSTATED}: the annotation files name none"
    return f"of the images, as the annotation files say: {', '.join(named)}"


def _flat(results: Mapping[str, Any], above: str = "") -> dict[str, float]:
    """Return figures as {"task/figure": value}; of several data sets with their names before."""
    flat: dict[str, float] = {}
    for name, value in results.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{above}{name}/")
        elif isinstance(value, (int, float)):
            flat[f"{above}{name}"] = float(value)
    return flat
