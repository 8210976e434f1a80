"""What a run is about to do, in a screenful: data, classes, schedule, rates, device, places.

Whoever starts a training wants to see at once whether it is the one that was meant. Most of it
stands in the config, but not as it will be. A schedule is scaled to the number of processes, a seed
is drawn, class counts come from the data. Detectron2 tells all of that in hundreds of lines, which
`log_sharing.set_up_log` keeps for the log file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from tabulate import tabulate

from panoptic_common.data.catalog import class_table, count_segments

MOST_NAMES = 12  # of classes of a kind


def announce(
    cfg: CfgNode, *, asked: CfgNode, seed: int, start_iter: int, workers: int, train_images: int
) -> str:
    """Describe a training in a table of two columns.

    Args:
        cfg: as it trains, scaled to the number of processes.
        asked: the same before it was scaled.
        seed: of the run, also where SEED is -1.
        start_iter: the first iteration; more than 0 for a resumed run.
        workers: processes that train together.
        train_images: in all training sets together.
    """
    solver = cfg.SOLVER
    table = class_table(cfg.DATASETS.TRAIN[0])
    rows = [
        *(("train on", _data_set(name)) for name in cfg.DATASETS.TRAIN),
        *(("test on", _data_set(name)) for name in cfg.DATASETS.TEST),
        (f"{sum(entry['isthing'] for entry in table)} things", _names(table, 1)),
        (f"{sum(not entry['isthing'] for entry in table)} stuff", _names(table, 0)),
        ("iterations", _schedule(cfg, asked, start_iter, train_images)),
        ("batch", _batch(cfg, asked, workers)),
        ("learning rate", _rate(cfg, asked)),
        ("checkpoints", _period(solver.CHECKPOINT_PERIOD, "at the end only")),
        ("evaluation", _evaluation(cfg)),
        ("seed", f"{seed} (drawn)" if cfg.SEED < 0 else str(seed)),
        ("device", cfg.MODEL.DEVICE + (", mixed precision" if solver.AMP.ENABLED else "")),
        ("weights", _weights(cfg, start_iter)),
        ("OUTPUT_DIR", cfg.OUTPUT_DIR),
    ]
    return tabulate(rows, tablefmt="plain", disable_numparse=True)


def _data_set(name: str) -> str:
    """Say how large a data set is."""
    images, segments = count_segments(name)
    return f"{name}: {images} images, {segments} segments"


def _names(table: Sequence[Mapping[str, Any]], kind: int) -> str:
    """List the classes of a kind, a long list shortened."""
    names = [entry["name"] for entry in table if entry["isthing"] == kind]
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return (", ".join(names[:MOST_NAMES]) or "none") + more


def _asked(cfg: CfgNode, asked: CfgNode, key: str) -> str:
    """Say what the config had, where scaling has changed it."""
    before, now = asked.SOLVER[key], cfg.SOLVER[key]
    if before == now:
        return ""
    reference = asked.SOLVER.REFERENCE_WORLD_SIZE
    return f" (SOLVER.{key} {before}, scaled from {reference} processes)"


def _schedule(cfg: CfgNode, asked: CfgNode, start_iter: int, images: int) -> str:
    """Say how long the run is, in iterations and in epochs, and how the rate falls."""
    solver = cfg.SOLVER
    epochs = solver.MAX_ITER * solver.IMS_PER_BATCH / max(images, 1)
    parts = [f"{solver.MAX_ITER}{_asked(cfg, asked, 'MAX_ITER')}", f"{epochs:.3g} epochs"]
    if start_iter:
        parts.append(f"goes on after {start_iter}")
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = [step for step in solver.STEPS if step < solver.MAX_ITER]
        parts.append(f"rate falls at {', '.join(map(str, steps)) or 'none'}")
    else:
        parts.append(solver.LR_SCHEDULER_NAME)
    return "; ".join(parts)


def _batch(cfg: CfgNode, asked: CfgNode, workers: int) -> str:
    """Say how many images a step has, and who takes how many of them."""
    batch = cfg.SOLVER.IMS_PER_BATCH
    share = "1 process" if workers == 1 else f"{workers} processes, {batch // workers} each"
    parts = cfg.SOLVER.ACCUMULATE
    more = f"; {parts} parts of {batch // workers // parts}" if parts > 1 else ""
    return f"{batch} images{_asked(cfg, asked, 'IMS_PER_BATCH')}; {share}{more}"


def _rate(cfg: CfgNode, asked: CfgNode) -> str:
    """Say how fast the run learns, and by what."""
    solver = cfg.SOLVER
    warmup = f"{solver.WARMUP_ITERS} iterations of warm-up" if solver.WARMUP_ITERS else "no warm-up"
    return f"{solver.BASE_LR:g}{_asked(cfg, asked, 'BASE_LR')}; {solver.OPTIMIZER}, {warmup}"


def _period(period: int, never: str) -> str:
    return f"every {period} iterations" if period > 0 else never


def _evaluation(cfg: CfgNode) -> str:
    """Say when the model is evaluated, and what is done with the figures."""
    if not cfg.DATASETS.TEST:
        return "none: DATASETS.TEST is empty"
    text = _period(cfg.TEST.EVAL_PERIOD, "at the end only")
    metric = cfg.TEST.BEST_METRIC
    if metric:
        text += f"; the best by {metric} is kept"
    if cfg.TEST.EARLY_STOP:
        text += f"; ends after {cfg.TEST.EARLY_STOP} without a better one"
    return f"{text}; of averaged weights" if cfg.SOLVER.EMA_DECAY else text


def _weights(cfg: CfgNode, start_iter: int) -> str:
    """Say what the run starts from."""
    if start_iter:
        return "those of the last checkpoint in OUTPUT_DIR"
    return cfg.MODEL.WEIGHTS or "random"
