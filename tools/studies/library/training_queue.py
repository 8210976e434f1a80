"""Many trainings, some at a time: what tables over several configs and seeds are made from.

A key (config, seed) names a run. What is finished is not repeated, and a failure does not stop the
other runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from panoptic_common.engine.training_run import TrainingFailed, TrainingRun

# (config, seed) -> {"results": ..., "seconds": ...}
Finished = dict[tuple[str, int], dict[str, Any]]


def run_all(
    runs: dict[tuple[str, int], TrainingRun],
    jobs: int,
    say: Callable[[str], None],
    period: float = 30.0,
) -> Finished:
    """Train what is not finished yet, `jobs` at a time. A failure does not stop the others.

    Args:
        runs: by key.
        jobs: how many work side by side.
        say: called with lines for the user.
        period: seconds between two lines about progress.

    Raises:
        TrainingFailed: with all failures, after the others have ended.
    """
    finished: Finished = {key: done for key, run in runs.items() if (done := run.finished())}
    if finished:
        say(f"{len(finished)} of {len(runs)} runs are finished already")
    waiting = [key for key in runs if key not in finished]
    active: list[tuple[str, int]] = []
    failures: list[str] = []
    clock = _Clock(runs, waiting, say)
    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                active.append(waiting.pop(0))
                runs[active[-1]].start()
            time.sleep(0.2)
            for key in list(active):
                try:
                    if runs[key].running():
                        continue
                    finished[key] = runs[key].finished() or {}
                    pq = finished[key]["results"]["panoptic_seg/PQ"]
                    say(f"{run_label(key)}: PQ {pq:.1f}, {finished[key]['seconds']:.0f} s")
                except TrainingFailed as error:
                    failures.append(str(error))
                    say(str(error))
                active.remove(key)
            clock.tell(active, waiting, period)
    finally:
        for run in runs.values():
            run.stop()
    if failures:
        raise TrainingFailed(f"{len(failures)} of {len(runs)} runs failed:\n" + "\n".join(failures))
    return finished


class _Clock:
    """Says now and then how far the runs are, and when all will be done."""

    def __init__(
        self,
        runs: Mapping[tuple[str, int], TrainingRun],
        open_runs: Sequence[tuple[str, int]],
        say: Callable[[str], None],
    ) -> None:
        self._say = say
        self._runs = runs
        self._begin = self._last = time.monotonic()
        # What earlier calls of a resumed run have done does not count for this call's speed.
        self._done_before = {key: self._iteration(key) for key in open_runs}

    def _iteration(self, key: tuple[str, int]) -> float:
        return self._runs[key].progress().get("iteration", -1) + 1

    def tell(self, active: Sequence, waiting: Sequence, period: float) -> None:
        """Say one line if the last one is `period` seconds old."""
        now = time.monotonic()
        if now - self._last < period or not active:
            return
        self._last = now
        iterations = {key: self._iteration(key) for key in self._done_before}
        done = sum(iterations[key] - before for key, before in self._done_before.items())
        left = sum(self._runs[key].max_iter - iterations[key] for key in (*active, *waiting))
        states = [
            f"{run_label(key)} {iterations[key]:.0f}/{self._runs[key].max_iter}" for key in active
        ]
        eta = f"{(now - self._begin) / done * left / 60:.0f} min left" if done > 0 else "starting"
        self._say(f"  {', '.join(states)}; {len(waiting)} waiting; {eta}")


def run_label(key: tuple[str, int]) -> str:
    """Return how a run is called in print."""
    return f"{key[0]} seed {key[1]}"
