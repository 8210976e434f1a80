"""Detectron2's arguments of a training, described as `tools/train_net.py` takes them."""

from __future__ import annotations

import argparse

import panoptic_common.compat  # before Detectron2

from detectron2.engine import default_argument_parser

from panoptic_tools.arguments import Parser

# By name. Detectron2's own words speak of its LazyConfig and of its trainer's `resume_or_load`.
_HELP = {
    "config_file": "a config of this project, by its name, or a file of yours",
    "resume": "go on from the last checkpoint in OUTPUT_DIR (docs/howto/resume_and_clusters.md)",
    "eval_only": "evaluate MODEL.WEIGHTS on DATASETS.TEST, without training",
    "num_gpus": "of each machine (default: 1)",
    "num_machines": "that train together (default: 1)",
    "machine_rank": "number of this machine, from 0 (default: 0)",
    "dist_url": "where the processes meet, such as tcp://HOST:PORT (default: a free port)",
    "opts": "config keys and values by turns, such as SOLVER.MAX_ITER 1000; they come last",
}


def make_training_parser(document: str | None) -> Parser:
    """Return a parser with Detectron2's arguments, described by the docstring of a program."""
    inherited = default_argument_parser(epilog="")
    for action in inherited._actions:
        action.help = _HELP.get(action.dest, action.help)
    parser = Parser(
        parents=[inherited],
        add_help=False,
        description=document,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # Detectron2's is one port per user: the second run on a machine would die.
    parser.set_defaults(dist_url="auto")
    return parser
