"""Following a `TrainingRun` to its end with a bar, and making room for one with other settings."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

from tqdm import tqdm

from panoptic_common.engine.training_run import TrainingRun
from panoptic_common.files import first_free

PERIOD = 10.0  # seconds between two reports; a training that is over sooner shows none


def follow(
    run: TrainingRun, when_trained: Callable[[], None], poll: float = 0.5
) -> tuple[float, float]:
    """Train and evaluate in a process of its own, and show how far it is.

    Args:
        run: not started; it goes on from its last checkpoint.
        when_trained: called once, when the last iteration is over and the evaluation begins.
        poll: seconds between two looks at the process.

    Returns:
        Seconds of the training and of the evaluation.

    Raises:
        TrainingFailed: with the end of its log.
        ValueError: the folder holds a run with other settings, or one that still works.
    """
    start, trained = time.monotonic(), 0.0
    bar = tqdm(
        total=run.max_iter,
        initial=int(run.progress().get("iteration", -1)) + 1,
        unit="iteration",
        miniters=1,
        mininterval=PERIOD,
        delay=PERIOD,
    )
    run.start()
    try:
        while run.running():
            time.sleep(poll)
            state = run.progress()
            if state and not trained:
                bar.set_postfix(loss=f"{state['total_loss']:.2f}", refresh=False)
                bar.update(max(0, int(state["iteration"]) + 1 - bar.n))
            if not trained and run.trained():
                trained = time.monotonic() - start
                bar.close()
                when_trained()
    finally:
        bar.close()
        run.stop()
    total = time.monotonic() - start
    return trained or total, total - (trained or total)


def make_room(run: TrainingRun, restart: bool = False) -> str:
    """Move a training with other settings out of the way of a run; one with the same is kept.

    Args:
        run: that is about to start.
        restart: move one with the same settings, too.

    Returns:
        What was done, as a sentence; "" where nothing was in the way.
    """
    reason = "Restart" if restart else ""
    try:
        run.check_settings()
    except ValueError:
        reason = "Its settings differ"
    folder = run.output_dir
    if not reason or not folder.exists():
        return ""
    place = first_free(folder)
    shutil.move(folder, place)
    return f"{reason}: the training that was in {folder} is now in {place}"
