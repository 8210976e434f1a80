"""Trainings of several configs of a folder with several seeds, as the ablations ask for them.

Each config differs from its base in what it is to show. The programs that compare configs take the
same options. By default they train on the synthetic scenes, and evaluate on `scenes_test`, which
neither training nor tuning saw. Here is what they share: the options, the trainings, and the course
of the program.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from panoptic_common.config import load_config
from panoptic_common.data.catalog import load_panoptic, register_scenes
from panoptic_common.engine.training_run import TrainingFailed, TrainingRun, with_packages
from panoptic_tools.arguments import (
    Parser,
    add_register_option,
    make_parser,
    require_at_least,
    require_pairs,
)
from panoptic_tools.studies.library.options import read_config
from panoptic_tools.studies.library.paths import ROOT, TRAIN_NET
from panoptic_tools.studies.library.seed_tables import write_tables
from panoptic_tools.studies.library.training_queue import Finished

SCENES_TEST = "scenes_test"


def study_parser(document: str | None, configs: str, names: Sequence[str], output: str) -> Parser:
    """Return a parser of the options that all studies have.

    Args:
        document: the program's docstring.
        configs: the folder of the configs, in the project.
        names: the configs to train unless others are named.
        output: the folder to write to.
    """
    parser = make_parser(document)
    add = parser.add_argument
    add("--names", nargs="+", default=list(names), help=f"of configs; default {' '.join(names)}")
    # The name of --names up to release 0.1; goes with the next.
    add("--leaves", nargs="+", dest="names", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default 0 1 2")
    add("--jobs", type=int, default=2, help="trainings side by side (default 2)")
    add("--output", default=output, metavar="FOLDER", help=f"default {output}")
    add("--train-set", metavar="NAME", help="data set to train on; default that of the configs")
    add("--test-set", default=SCENES_TEST, metavar="NAME", help=f"default {SCENES_TEST}")
    add_register_option(parser)
    add("--configs", default=str(ROOT / configs), metavar="FOLDER", help=f"default {configs}")
    add("opts", nargs="*", help="config keys and values for all runs, after --")
    return parser


def check_study(parser: Parser, parsed: argparse.Namespace, names: Sequence[str]) -> None:
    """End the program with a sentence if its options do not fit together.

    Args:
        parser: from `study_parser`.
        parsed: what it has read.
        names: all configs that are trained.
    """
    require_pairs(parser, parsed.opts)
    for option in ("names", "seeds"):
        if len(set(getattr(parsed, option))) != len(getattr(parsed, option)):
            parser.error(f"--{option} names one twice")
    require_at_least(parser, parsed, 1, "jobs")
    for name in names:
        if not config_file(parsed, name).is_file():
            parser.error(f"--names: there is no {name}.yaml in {parsed.configs}")
        words, register = config_words(parsed), parsed.register
        read_config(parser, config_file(parsed, name), words, datasets=register)


def config_file(arguments: argparse.Namespace, name: str) -> Path:
    """Return the file of a config by its name."""
    return Path(arguments.configs) / f"{name}.yaml"


def run_config(arguments: argparse.Namespace, name: str) -> CfgNode:
    """Return a config by its name, with the options for all runs."""
    file, words = config_file(arguments, name), config_words(arguments)
    return load_config(file, words, datasets=arguments.register)


def config_words(arguments: argparse.Namespace) -> list[str]:
    """Return the config options for all runs, as words by turns."""
    pairs = data_sets(arguments)
    return [*(word for pair in pairs.items() for word in pair), *arguments.opts]


def data_sets(arguments: argparse.Namespace) -> dict[str, str]:
    """Return the config options by which a run is trained and tested on the sets that are named."""
    chosen = {"DATASETS.TEST": f"({arguments.test_set!r},)"}
    if arguments.train_set:
        chosen["DATASETS.TRAIN"] = f"({arguments.train_set!r},)"
    return chosen


def run_folder(arguments: argparse.Namespace, name: str, seed: int) -> Path:
    """Return where the training of a config with a seed writes to."""
    return Path(arguments.output) / f"{name}_seed{seed}"


def threads_per_job(jobs: int) -> int:
    """Return the threads for each of several trainings side by side."""
    return max(1, (os.cpu_count() or 1) // jobs)


def training_run(
    arguments: argparse.Namespace,
    name: str,
    seed: int,
    max_iter: int,
    opts: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> TrainingRun:
    """Return the training of a config with a seed.

    Args:
        arguments: of the command line, with the options of `study_parser`.
        name: of the config.
        seed: SEED.
        max_iter: iterations.
        opts: what the program itself sets, also against `arguments.opts`.
        defaults: what it sets where `arguments.opts` do not.
    """
    file = config_file(arguments, name)
    pairs = zip(arguments.opts[::2], arguments.opts[1::2], strict=True)
    common = {"SEED": seed, **data_sets(arguments), **(defaults or {})}
    threads = str(threads_per_job(arguments.jobs))
    return TrainingRun(
        TRAIN_NET,
        file,
        run_folder(arguments, name, seed),
        max_iter,
        {**common, **dict(pairs), **opts},
        {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **with_packages(ROOT)},
        # A changed config must not be mixed with results of the old one.
        {"config": config_content(file)},
        [word for entry in arguments.register for word in ("--register", *entry)],
    )


def config_content(file: Path) -> dict[str, Any]:
    """Return what a config file and its _BASE_ hold: tells a run from one before a change."""
    return CfgNode.load_yaml_with_base(str(file))


def prepare_data(cfg: CfgNode) -> None:
    """Load the data sets once, before the runs ask for them together; it may make scenes.

    Args:
        cfg: of `run_config`, which has registered them.
    """
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        say(f"{name}: {len(load_panoptic(name))} images")


def prepare_scenes(settings: Mapping[str, Any]) -> None:
    """Make the scenes once, before the runs ask for them together.

    Args:
        settings: `cfg.DATASETS.SCENES`.
    """
    register_scenes(settings=settings)
    for name in ("scenes_train", SCENES_TEST):
        say(f"{name}: {len(load_panoptic(name))} scenes")


def say(text: str) -> None:
    """Print a line at once, also into a file."""
    print(text, flush=True)


def run_study(
    program: str,
    options: argparse.Namespace,
    train: Callable[[argparse.Namespace], Finished],
    make_tables: Callable[[Finished, Sequence[int]], dict[str, Any]],
    as_markdown: Callable[[Mapping[str, Any]], str],
) -> int:
    """Train, print the tables and write them; return the exit status.

    Args:
        program: its name.
        options: of the command line.
        train: gives the results of all trainings.
        make_tables: from the results and the seeds.
        as_markdown: from the tables.
    """
    try:
        tables = make_tables(train(options), options.seeds)
    except (ValueError, OSError, TrainingFailed) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from the last checkpoints.", file=sys.stderr)
        return 130
    say(write_tables(Path(options.output), tables, as_markdown(tables)))
    return 0
