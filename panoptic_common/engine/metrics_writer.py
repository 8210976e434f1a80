"""metrics.json, one JSON object per line, in a form that any program reads.

Detectron2's writer puts the word NaN for a figure that does not exist, such as the AP of a class
that no image holds. That is no JSON: jq and every strict parser stop there. Here it is null.
"""

from __future__ import annotations

import os
from collections import defaultdict
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils.events import EventWriter, get_event_storage

from panoptic_common.files import json_text


class MetricsWriter(EventWriter):
    """Append the scalars that are new to a file, a line per iteration that has any.

    Args:
        path: of the file; made if missing.
        window_size: values over which the median of a smoothed scalar is taken.
    """

    def __init__(self, path: str | os.PathLike[str], window_size: int = 20) -> None:
        self._path = path
        self._window_size = window_size
        self._last_write = -1

    def write(self) -> None:
        """Write what came since the last call, to the disk."""
        lines: dict[int, dict[str, Any]] = defaultdict(dict)
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        for name, (value, iteration) in latest.items():
            if iteration > self._last_write:
                lines[iteration][name] = value
        with open(self._path, "a", encoding="utf-8") as file:
            for iteration, scalars in lines.items():
                line = json_text({**scalars, "iteration": iteration}, sort_keys=True)
                file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._last_write = max(lines, default=self._last_write)


WRITER_PERIOD = 20  # iterations between two writes of Detectron2's hook


class WriteEvaluations(HookBase):
    """Writes after each evaluation, of which else only every 20th iteration's would be kept.

    Must come after the hook that evaluates. In every 20th iteration Detectron2's hook writes,
    which adds the remaining time before.

    Args:
        writer: of metrics.json.
        eval_period: in iterations; 0: there is none but the last, which is written anyway.
    """

    def __init__(self, writer: MetricsWriter, eval_period: int) -> None:
        self.writer = writer
        self.eval_period = eval_period

    def after_step(self) -> None:
        """Write if the model was evaluated."""
        done = self.trainer.iter + 1
        if self.eval_period > 0 and done % self.eval_period == 0 and done % WRITER_PERIOD:
            self.writer.write()
