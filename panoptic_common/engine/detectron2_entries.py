"""What people of Detectron2 call, made to fit our configs, models and data sets.

- `DefaultPredictor(cfg)` prepares images as the config says (INPUT.TEST_SCALE, INTENSITY), loads
  every kind of our weights, and fills class counts from them;
- `DefaultTrainer(cfg)` takes our mapper with the system's targets, our optimizer and schedules;
- `Visualizer.draw_instance_predictions` names detections by the thing classes;
- `COCOEvaluator(name)` scores detections against the things of a panoptic data set.

Detectron2 numbers detections among the things alone, but segments among all classes where a
panoptic data set has one table. Its metadata has one list `thing_classes` for both, which is right
if things come first, as in COCO. Here that list holds all classes, and the metadata has `things`
beside it, a metadata of the things alone.

Configs, models and data sets of others go their old ways. `apply` is called where a model of
ours registers itself. Nothing is imported by it: each part acts when its module is there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from panoptic_common.compat.importing import when_imported

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from panoptic_common.systems import SYSTEMS, system_package

_APPLIED: set[str] = set()


def apply() -> None:
    """Make the entries fit, now or when they are imported; safe to repeat."""
    for name, act in (
        ("detectron2.utils.visualizer", _fit_visualizer),
        ("detectron2.evaluation.coco_evaluation", _fit_evaluator),
        ("detectron2.solver.build", _fit_clipping),
        ("detectron2.engine.defaults", _fit_engine),
    ):
        if name not in _APPLIED:
            _APPLIED.add(name)
            when_imported(name, act)


def is_ours(cfg: Any) -> bool:
    """Tell whether a config is that of a system of this project."""
    return isinstance(cfg, CfgNode) and cfg.MODEL.META_ARCHITECTURE in SYSTEMS


# ---- drawing and scoring detections --------------------------------------------------------------


def _fit_visualizer(module: ModuleType) -> None:
    """Let `draw_instance_predictions` look names and colours up among the things."""
    original = module.Visualizer.draw_instance_predictions

    @functools.wraps(original)
    def draw_instance_predictions(self: Any, predictions: Any) -> Any:
        whole = self.metadata
        self.metadata = whole.get("things") or whole
        try:
            return original(self, predictions)
        finally:
            self.metadata = whole

    module.Visualizer.draw_instance_predictions = draw_instance_predictions


def _fit_evaluator(module: ModuleType) -> None:
    """Let `COCOEvaluator` take a panoptic data set for the instances in it."""
    original = module.COCOEvaluator.__init__

    @functools.wraps(original)
    def __init__(self: Any, dataset_name: str, *args: Any, **options: Any) -> None:
        original(self, register_things(dataset_name), *args, **options)

    module.COCOEvaluator.__init__ = __init__


def register_things(name: str) -> str:
    """Register the things of a panoptic data set as a data set of instances.

    Args:
        name: of a data set; one that is not ours, or has an instances JSON, is left alone.

    Returns:
        The name of the data set of instances, `name` itself if it is left alone.
    """
    from panoptic_common.data.catalog import class_table, is_registered

    if not is_registered(name) or hasattr(MetadataCatalog.get(name), "json_file"):
        return name
    class_table(name)  # fills the metadata
    things = MetadataCatalog.get(name).things
    for catalog in (DatasetCatalog, MetadataCatalog):  # the JSON may have been corrected
        catalog.pop(things.name, None)
    DatasetCatalog.register(things.name, functools.partial(_load_things, name))
    content = {key: value for key, value in things.as_dict().items() if key != "name"}
    MetadataCatalog.get(things.name).set(**content, evaluator_type="coco")
    return things.name


def _load_things(name: str) -> list[dict[str, Any]]:
    """Read a panoptic data set as records of instances, in Detectron2's form."""
    from panoptic_common.coco.records import read_record_ids
    from panoptic_common.data.catalog import class_table, load_panoptic
    from panoptic_common.evaluation.instances import derive_instances

    table = class_table(name)
    index = MetadataCatalog.get(name).things.thing_dataset_id_to_contiguous_id
    records = []
    for record in load_panoptic(name):
        id_map = read_record_ids(record, (record["height"], record["width"]))
        found = derive_instances(record, id_map, table)
        annotations = [
            {**a, "category_id": index[a["category_id"]], "bbox_mode": BoxMode.XYWH_ABS}
            for a in found
        ]
        keys = ("file_name", "image_id", "height", "width")
        records.append({**{key: record[key] for key in keys}, "annotations": annotations})
    return records


# ---- training ------------------------------------------------------------------------------------


def _fit_clipping(module: ModuleType) -> None:
    """Let Detectron2's optimizers clip the norm over all parameters, as CLIP_TYPE may say."""
    original = module.maybe_add_gradient_clipping

    @functools.wraps(original)
    def maybe_add_gradient_clipping(cfg: CfgNode, optimizer: Any) -> Any:
        clip = cfg.SOLVER.CLIP_GRADIENTS
        if not clip.ENABLED or clip.CLIP_TYPE != "full_model":
            return original(cfg, optimizer)
        from panoptic_common.engine.optimizer import full_model_clipping

        if isinstance(optimizer, type):
            return full_model_clipping(optimizer, clip.CLIP_VALUE, clip.NORM_TYPE)
        # Detectron2 main makes its SGD first and gives it another class, too.
        optimizer.__class__ = full_model_clipping(type(optimizer), clip.CLIP_VALUE, clip.NORM_TYPE)
        return optimizer

    module.maybe_add_gradient_clipping = maybe_add_gradient_clipping


def _fit_engine(module: ModuleType) -> None:
    """Let `DefaultTrainer` and `DefaultPredictor` take our configs."""
    for name, ours in (
        ("build_optimizer", _build_optimizer),
        ("build_lr_scheduler", _build_lr_scheduler),
        ("build_detection_train_loader", _build_train_loader),
        ("build_detection_test_loader", _build_test_loader),
    ):
        setattr(module, name, _for_ours(getattr(module, name), ours))
    original = module.DefaultPredictor.__init__

    @functools.wraps(original)
    def __init__(self: Any, cfg: CfgNode) -> None:
        if is_ours(cfg):
            _prepare_predictor(self, cfg)
        else:
            original(self, cfg)

    module.DefaultPredictor.__init__ = __init__


def _for_ours(original: Callable[..., Any], ours: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does another thing for configs of ours."""

    @functools.wraps(original)
    def choose(*args: Any, **options: Any) -> Any:
        if args and is_ours(args[0]):
            return ours(original, *args, **options)
        return original(*args, **options)

    return choose


def _build_optimizer(original: Callable[..., Any], cfg: CfgNode, model: Any) -> Any:
    from panoptic_common.engine.optimizer import build_optimizer

    return build_optimizer(cfg, model)


def _build_lr_scheduler(original: Callable[..., Any], cfg: CfgNode, optimizer: Any) -> Any:
    from panoptic_common.engine.optimizer import build_poly_scheduler

    if cfg.SOLVER.LR_SCHEDULER_NAME == "WarmupPolyLR":
        return build_poly_scheduler(cfg, optimizer)
    return original(cfg, optimizer)


def _build_train_loader(original: Callable[..., Any], cfg: CfgNode, **options: Any) -> Any:
    """Map as the system needs it, unless the caller has a mapper."""
    from panoptic_common.data.mapper import PanopticDatasetMapper

    if options.get("mapper") is None:
        make_targets = system_package(cfg.MODEL.META_ARCHITECTURE).build_target_function(cfg)
        options["mapper"] = PanopticDatasetMapper.from_config(cfg, True, make_targets)
    return original(cfg, **options)


def _build_test_loader(
    original: Callable[..., Any], cfg: CfgNode, dataset_name: Any, **options: Any
) -> Any:
    """Prepare images as the config says, unless the caller has a mapper."""
    from panoptic_common.data.mapper import PanopticDatasetMapper

    if options.get("mapper") is None:
        options["mapper"] = PanopticDatasetMapper.from_config(cfg, False, None)
    return original(cfg, dataset_name, **options)


# ---- predicting ----------------------------------------------------------------------------------


class _Preparation:
    """What DefaultPredictor takes for one augmentation: all that the config names, in turn."""

    def __init__(self, cfg: CfgNode) -> None:
        from panoptic_common.data.augmentations import build_augmentations

        self._augmentations = build_augmentations(cfg, is_train=False)

    def get_transform(self, image: Any) -> Any:
        """Return the transform of one image."""
        from detectron2.data import transforms as T

        return T.AugmentationList(self._augmentations)(T.AugInput(image))


def _prepare_predictor(predictor: Any, cfg: CfgNode) -> None:
    """Do what DefaultPredictor's `__init__` does, for a model of ours.

    Raises:
        CheckpointError: MODEL.WEIGHTS cannot be used.
        ValueError: neither the config nor the weights say which classes there are.
    """
    from detectron2.modeling import build_model

    from panoptic_common.checkpoint.addresses import local_weights
    from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
    from panoptic_common.checkpoint.files import read_weights_file
    from panoptic_common.config import fill_classes

    predictor.cfg = cfg = cfg.clone()
    weights = local_weights(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else ""
    table = read_weights_file(weights).get("class_table", []) if weights else []
    if table:
        fill_classes(cfg, table)
    predictor.model = build_model(cfg).eval()
    if cfg.DATASETS.TEST:
        predictor.metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        if table and not hasattr(predictor.metadata, "class_table"):
            from panoptic_common.data.class_metadata import class_metadata

            vars(predictor.metadata).update(class_metadata(predictor.metadata.name, table))
    PanopticCheckpointer(predictor.model, cfg=cfg).load(
        weights, checkpointables=[], purpose="evaluate"
    )
    predictor.aug = _Preparation(cfg)
    predictor.input_format = cfg.INPUT.FORMAT
