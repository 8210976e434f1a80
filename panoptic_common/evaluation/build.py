"""All evaluators that suit a data set, in one."""

from __future__ import annotations

import os
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from panoptic_common.data.catalog import has_truth
from panoptic_common.data.instance_truth import load_instances
from panoptic_common.evaluation.cityscapes import (
    CityscapesInstanceEvaluator,
    CityscapesSemanticEvaluator,
    cityscapes_evaluators,
)
from panoptic_common.evaluation.images import ImageWriter
from panoptic_common.evaluation.instances import InstanceEvaluator
from panoptic_common.evaluation.optional import OptionalEvaluator
from panoptic_common.evaluation.panoptic import PanopticEvaluator
from panoptic_common.evaluation.semantic import SemanticEvaluator
from panoptic_common.evaluation.submission import SubmissionWriter
from panoptic_common.evaluation.truth import PanopticTruth


def build_evaluator(
    cfg: CfgNode,
    dataset_name: str,
    output_dir: str | os.PathLike[str] | None = None,
    *,
    may_lack: bool = False,
) -> DatasetEvaluators:
    """Collect the evaluators of a data set.

    They are PQ and mIoU of the panoptic output and of each of TEST.PANOPTIC_VARIANTS, with boundary
    PQ if TEST.BOUNDARY_RATIO asks for it. Then mIoU of the semantic output, box and mask AP. On
    Cityscapes its own measures follow, where cityscapesscripts is installed. Last come the images
    that TEST.EVAL_VISUALIZE asks for. For images without truth there is the submission instead.

    Args:
        cfg: with the keys of `add_panoptic_config`.
        dataset_name: a registered panoptic data set.
        output_dir: for result files; by default `<OUTPUT_DIR>/inference`.
        may_lack: leave out what the model does not give, which is an error otherwise.

    Raises:
        ValueError, FileNotFoundError: if the data set is unknown, or wrong, or missing, or the
            ratio is negative.
    """
    if not cfg.TEST.BOUNDARY_RATIO >= 0:
        raise ValueError(
            f"TEST.BOUNDARY_RATIO is {cfg.TEST.BOUNDARY_RATIO}: it is a share of the image's "
            "diagonal such as 0.02, or 0.0 to leave boundary PQ out"
        )
    output_dir = Path(output_dir or os.path.join(cfg.OUTPUT_DIR, "inference"))
    truth = PanopticTruth(dataset_name)
    if not has_truth(dataset_name):
        writer = SubmissionWriter(truth, output_dir, cfg.MODEL.META_ARCHITECTURE)
        return DatasetEvaluators([writer, *_image_writers(cfg, truth)])
    evaluators: list[DatasetEvaluator] = [
        PanopticEvaluator(
            dataset_name,
            output_dir,
            variant=variant,
            boundary_ratio=cfg.TEST.BOUNDARY_RATIO or None,
            truth=truth,
        )
        for variant in (None, *cfg.TEST.PANOPTIC_VARIANTS)
    ]
    evaluators.append(SemanticEvaluator(dataset_name, output_dir, truth=truth))
    if may_lack:
        evaluators[0] = OptionalEvaluator(evaluators[0], "panoptic_seg")
        evaluators[-1] = OptionalEvaluator(evaluators[-1], "sem_seg")
    evaluators.append(
        InstanceEvaluator(
            dataset_name,
            output_dir,
            truth=truth,
            annotations=load_instances(cfg, dataset_name),
            max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
        )
    )
    if MetadataCatalog.get(dataset_name).evaluator_type == "cityscapes_panoptic":
        evaluators += cityscapes_evaluators(truth)
    return DatasetEvaluators([*evaluators, *_image_writers(cfg, truth)])


def result_tasks(cfg: CfgNode, dataset_name: str) -> list[str]:
    """List the tasks that results of `build_evaluator` may have; a model may give fewer."""
    if not has_truth(dataset_name):
        return []
    tasks = ["panoptic_seg", *(f"panoptic_seg_{name}" for name in cfg.TEST.PANOPTIC_VARIANTS)]
    tasks += ["sem_seg", "bbox", "segm"]
    if MetadataCatalog.get(dataset_name).evaluator_type == "cityscapes_panoptic":
        tasks += [CityscapesInstanceEvaluator.name, CityscapesSemanticEvaluator.name]
    return tasks


def _image_writers(cfg: CfgNode, truth: PanopticTruth) -> list[DatasetEvaluator]:
    """Make what writes the images that TEST.EVAL_VISUALIZE asks for, if any."""
    if cfg.TEST.EVAL_VISUALIZE <= 0:
        return []
    return [ImageWriter(truth, Path(cfg.OUTPUT_DIR) / "images", cfg.TEST.EVAL_VISUALIZE)]
