"""Trainings of several leaves of a config folder with several seeds, as the ablations ask for them.

A leaf is a config file that differs from its base in what it is to show. The programs that compare
leaves take the same words, train on the synthetic scenes, and evaluate on `scenes_test`, which
neither training nor tuning saw; here is what they share before the first training starts.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import panoptic_common.compat  # noqa: F401  (before detectron2)

from detectron2.config import CfgNode

from panoptic_common.config import load_config
from panoptic_common.data.catalog import load_panoptic, register_scenes
from panoptic_common.engine.training_run import TrainingRun, with_packages


def check_leaf_arguments(
    parser: argparse.ArgumentParser,
    parsed: argparse.Namespace,
    leaves: Sequence[str],
    counts: Sequence[str],
) -> None:
    """End the program with a message if the words do not fit together.

    Args:
        parser: of the program.
        parsed: what it has read: `leaves`, `seeds`, `configs`, `opts` and `counts`.
        leaves: which must be in the folder `configs`.
        counts: names of numbers that are at least 1 where they are given.
    """
    if len(parsed.opts) % 2:
        parser.error("opts are pairs of key and value")
    for name in ("leaves", "seeds"):
        if len(set(getattr(parsed, name))) != len(getattr(parsed, name)):
            parser.error(f"--{name} names one twice")
    for leaf in leaves:
        if not leaf_file(parsed, leaf).is_file():
            parser.error(f"--leaves: there is no {leaf}.yaml in {parsed.configs}")
    given = [getattr(parsed, name) for name in counts]
    if any(number is not None and number < 1 for number in given):
        words = [f"--{name.replace('_', '-')}" for name in counts]
        parser.error(f"{' and '.join(words)} must be at least 1")


def leaf_file(arguments: argparse.Namespace, leaf: str) -> Path:
    """The config file of a leaf."""
    return Path(arguments.configs) / f"{leaf}.yaml"


def leaf_config(arguments: argparse.Namespace, leaf: str) -> CfgNode:
    """The config of a leaf with the options for all runs."""
    return load_config(leaf_file(arguments, leaf), arguments.opts)


def run_folder(arguments: argparse.Namespace, leaf: str, seed: int) -> Path:
    """Where the training of a leaf with a seed writes to."""
    return Path(arguments.output) / f"{leaf}_seed{seed}"


def cores_each(jobs: int) -> int:
    """Threads for each of several trainings side by side."""
    return max(1, (os.cpu_count() or 1) // jobs)


def leaf_run(
    program: Path,
    packages: Path,
    arguments: argparse.Namespace,
    leaf: str,
    seed: int,
    max_iter: int,
    opts: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> TrainingRun:
    """The training of a leaf with a seed.

    Args:
        program: path of train_net.py.
        packages: folder of the packages, which need not be installed.
        arguments: `configs`, `output`, `jobs` and `opts` of the command line.
        leaf: its name.
        seed: SEED.
        max_iter: iterations.
        opts: what the program itself sets, also against `arguments.opts`.
        defaults: what it sets where `arguments.opts` do not.
    """
    file = leaf_file(arguments, leaf)
    pairs = zip(arguments.opts[::2], arguments.opts[1::2], strict=True)
    common = {"SEED": seed, "DATASETS.TEST": "('scenes_test',)", **(defaults or {})}
    threads = str(cores_each(arguments.jobs))
    return TrainingRun(
        program,
        file,
        run_folder(arguments, leaf, seed),
        max_iter,
        {**common, **dict(pairs), **opts},
        {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **with_packages(packages)},
        # A changed config must not be mixed with results of the old one.
        {"config": CfgNode.load_yaml_with_base(str(file))},
    )


def prepare_scenes(settings: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Make the scenes once, before the runs ask for them together.

    Args:
        settings: `cfg.DATASETS.SCENES`.
        say: called with lines for the user.
    """
    register_scenes(settings=settings)
    for name in ("scenes_train", "scenes_test"):
        say(f"{name}: {len(load_panoptic(name))} scenes")
