"""Evaluation of outputs that a model may or may not have."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

logger = logging.getLogger(__name__)


class OptionalEvaluator(DatasetEvaluator):
    """Leaves an evaluation out if the model does not give what it evaluates.

    A model that gives an output for some images only is as wrong as without this class. The inner
    evaluator says so: of an image that lacks it, or that it has not seen.
    """

    def __init__(self, evaluator: DatasetEvaluator, key: str) -> None:
        """Wrap an evaluator.

        Args:
            evaluator: of one output.
            key: that output's name.
        """
        self._evaluator = evaluator
        self._key = key
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._given = False
        self._evaluator.reset()

    def process(self, inputs: Sequence[Mapping], outputs: Sequence[Mapping]) -> None:
        """Pass images on from the first one that has the output."""
        self._given |= any(self._key in output for output in outputs)
        if self._given:
            self._evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        """Evaluate; to be called on each process.

        Returns:
            What the inner evaluator returns, or {} if the model does not have the output.
        """
        if not any(comm.all_gather(self._given)):
            logger.info("The model gives no %s: it is not evaluated.", self._key)
            return {}
        return self._evaluator.evaluate()
