#!/usr/bin/env python3
r"""Train or evaluate a panoptic segmentation system.

    python tools/train_net.py --config-file configs/unified/scenes/D2.yaml
    python tools/train_net.py --config-file ... --resume
    python tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth
    python tools/train_net.py --config-file ... --num-gpus 8 SOLVER.MAX_ITER 1000
    python tools/train_net.py --config-file ... --num-processes 2 --resume

The config's MODEL.META_ARCHITECTURE says which system. Any other that is registered with Detectron2
is trained and evaluated in the same way; --import names the module that registers it:
    python tools/train_net.py --config-file configs/peers/scenes/panoptic_fpn.yaml
    python tools/train_net.py --import my_models --config-file my_model.yaml

A data set of one's own needs no code:
    python tools/train_net.py --config-file ... \
        --register my_train IMAGES TRAIN.json TRAIN_PNGS \
        --register my_val IMAGES VAL.json VAL_PNGS \
        DATASETS.TRAIN "('my_train',)" DATASETS.TEST "('my_val',)"

Images without truth are predicted on, for a test server (docs/howto/test_servers.md):
    python tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/model_final.pth \
        DATASETS.TEST "('coco_2017_test-dev',)"
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

# First, and at the top level: spawned processes import this file before anything else.
from panoptic_common.compat.devices import require_device
from panoptic_common.compat.launch import count_workers, launch, leads

from detectron2.config import CfgNode
from detectron2.evaluation import verify_results
from detectron2.utils import comm

from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.config import load_config
from panoptic_common.data.catalog import class_table
from panoptic_common.engine.endings import ending, refusing
from panoptic_common.engine.log_sharing import set_up_log
from panoptic_common.engine.result_names import require_best_metric, require_expected_results
from panoptic_common.engine.run_folder import hold_folder
from panoptic_common.engine.same_settings import require_same
from panoptic_common.engine.scaling import (
    require_trainable,
    scale_to_workers,
    scaling_sentence,
    use_cpu_without_cuda,
)
from panoptic_common.engine.trainer import PanopticTrainer
from panoptic_common.external.modules import import_modules
from panoptic_common.systems import OTHERS, SYSTEMS
from panoptic_tools.arguments import (
    add_images_option,
    add_import_options,
    add_register_option,
    add_unsafe_option,
    duration,
    orderly,
    refuse,
)
from panoptic_tools.detectron2_arguments import make_training_parser
from panoptic_tools.system_trainer import Trainer

logger = logging.getLogger("panoptic_common.train_net")


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line: Detectron2's arguments and ours."""
    parser = make_training_parser(__doc__)
    add = parser.add_argument
    add(
        "--num-processes",
        type=int,
        metavar="N",
        help="train with N processes on the CPU of each machine (gloo) instead of on GPUs",
    )
    add("--max-time", type=duration, metavar="TIME", help="save and end after TIME, such as 30m")
    add("--verbose", action="store_true", help="show all of the log file on the screen, too")
    add_unsafe_option(parser)
    add_register_option(parser)
    add_images_option(parser)
    add_import_options(parser)
    args = parser.parse_args(words)
    flags = [word for word in args.opts if word.startswith("--")]
    if flags or len(args.opts) % 2:
        parser.error(
            "after the first config option come pairs KEY VALUE only"
            + (f"; put {' '.join(flags)} before it" if flags else f", but there is {args.opts}")
        )
    return args


def build_config(args: argparse.Namespace, need_files: bool = False) -> CfgNode:
    """Load the config that the command line asks for.

    Args:
        args: the command line.
        need_files: look whether all files of the data sets are there.

    Raises:
        ValueError, FileNotFoundError: something about it is wrong; says what.
    """
    Trainer.imported = import_modules(args.imports, args.add_config)
    cfg = load_config(
        args.config_file,
        args.opts,
        datasets=args.register,
        images=args.register_images,
        need_train=not args.eval_only,
        only_test=args.eval_only,
        extensions=Trainer.imported.extensions,
        need_files=need_files,
    )
    if cfg.INPUT.MAPPER and not args.eval_only:
        Trainer.imported.mapper_class(cfg.INPUT.MAPPER)
    if args.num_processes:
        cfg.MODEL.DEVICE = "cpu"
    if not cfg.MODEL.DEVICE.startswith("cuda"):  # a GPU that is not there is replaced, in `setup`
        require_device(cfg.MODEL.DEVICE)
    return cfg


def setup(args: argparse.Namespace) -> tuple[CfgNode, CfgNode]:
    """Set up logging, OUTPUT_DIR and seeds as Detectron2 does.

    Returns:
        The complete config as it trains, and before it was scaled to the number of processes.
    """
    asked = build_config(args)
    # Scaled here, so that the config in the log and in OUTPUT_DIR is that which trains.
    cfg = scale_to_workers(asked, comm.get_world_size()).clone()
    changed = use_cpu_without_cuda(cfg)
    cfg.freeze()
    require_same({**cfg, "--resume": args.resume, "--eval-only": args.eval_only})
    set_up_log(cfg, args, ("panoptic_common", *SYSTEMS.values(), OTHERS), args.verbose)
    if changed:
        logger.warning("No GPU is available: MODEL.DEVICE is set to cpu.")
    return cfg, asked


def evaluate(cfg: CfgNode, args: argparse.Namespace) -> dict[str, Any]:
    """Evaluate MODEL.WEIGHTS, or with --resume the last checkpoint of OUTPUT_DIR."""
    with refusing():
        model = Trainer.build_model(cfg)
    checkpointer = PanopticCheckpointer(
        model,
        cfg.OUTPUT_DIR,
        cfg=cfg,
        class_table=class_table(cfg.DATASETS.TEST[0]),
        allow_unsafe=args.allow_unsafe_checkpoint,
    )
    path = checkpointer.get_checkpoint_file() if args.resume else cfg.MODEL.WEIGHTS
    if not path:
        raise CheckpointError(
            f"{cfg.OUTPUT_DIR} holds no checkpoint"
            if args.resume
            else "--eval-only needs weights: add MODEL.WEIGHTS FILE, or --resume to take the last "
            "checkpoint of OUTPUT_DIR"
        )
    checkpointer.load(path, checkpointables=[], purpose="evaluate")
    results = Trainer.test(cfg, model)
    if comm.is_main_process():
        verify_results(cfg, results)
    return results


def work(args: argparse.Namespace) -> dict[str, Any] | None:
    """Do what each process does: train, or evaluate."""
    cfg, asked = setup(args)
    if args.eval_only:
        return evaluate(cfg, args)
    with refusing():
        unsafe = args.allow_unsafe_checkpoint
        trainer = Trainer(cfg, unsafe, asked=asked, max_seconds=args.max_time)
        trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def check(args: argparse.Namespace) -> CfgNode:
    """Find what is wrong with a command line before anything starts or is written.

    Raises:
        ValueError, OSError: one sentence says what.
    """
    cfg = build_config(args, need_files=True)
    workers = count_workers(args.num_gpus, args.num_machines, args.num_processes)
    if not args.eval_only:
        scaled = scale_to_workers(cfg, workers)
        require_trainable(scaled, workers)
        if leads(args.machine_rank) and (sentence := scaling_sentence(cfg, scaled)):
            print(f"train_net.py: {sentence}", file=sys.stderr)
        require_best_metric(cfg, Trainer, PanopticTrainer)
    require_expected_results(cfg, Trainer, PanopticTrainer)
    return cfg


@orderly
def main(words: Sequence[str] | None = None) -> int:
    """Run `work` in as many processes as the command line asks for.

    Returns:
        The exit status: 0; 1 when weights became NaN, a file of a data set cannot be used, or the
            disk is full. 2 when the run is refused in a sentence.

    Raises:
        SystemExit: SIGTERM (143) or SIGINT (130) ended the run in good order.
    """
    args = parse_arguments(words)
    try:
        # In this process first: one sentence instead of a traceback per process.
        cfg = check(args)
    except (ValueError, OSError) as error:
        return refuse(__file__, error)
    try:
        with ExitStack() as held:
            if leads(args.machine_rank):
                held.enter_context(hold_folder(cfg.OUTPUT_DIR))
            launch(
                work,
                args.num_gpus,
                num_machines=args.num_machines,
                machine_rank=args.machine_rank,
                dist_url=args.dist_url,
                args=(args,),
                num_processes=args.num_processes,
            )
    except Exception as error:
        told = ending(error)
        if told is None:
            raise
        return refuse(__file__, told[1], told[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
