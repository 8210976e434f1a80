"""What people of Detectron2 do with a model of ours: predict, train, draw, evaluate.

The data set "tiny" has things and stuff by turns: person 0, road 1, car 2, bus 3, sky 4. So a
thing's contiguous id and its place among the things differ: bus is class 3 and thing 2.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from documented_pages import blocks_of
from project import ROOT
from tiny_system import UNIFIED_OPTIONS

from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.coco.records import read_record_ids
from panoptic_common.config import load_config
from panoptic_common.data.catalog import class_table, load_panoptic
from panoptic_common.inference.predictor import Predictor
from unified_panoptic import add_unified_panoptic_config

D2 = str(ROOT / "configs/unified/scenes/D2.yaml")
OPTIONS = [
    *UNIFIED_OPTIONS,
    *("DATASETS.TRAIN", "('tiny',)", "DATASETS.TEST", "('tiny',)", "SEED", "3"),
    *("INPUT.TEST_SCALE", "1.5", "INPUT.INTENSITY.PERCENTILES", "(0.5, 99.8)"),
    *("MODEL.UNIFIED.INFERENCE.SCORE_THRESH", "0.0", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"),
]


def raw_config() -> CfgNode:
    """A config as Detectron2's projects make it: keys added, files merged, nothing completed."""
    cfg = get_cfg()
    add_unified_panoptic_config(cfg)
    cfg.merge_from_file(D2)
    cfg.merge_from_list(OPTIONS)
    return cfg


@pytest.fixture
def weights(tiny_root: Path) -> str:
    cfg = load_config(D2, OPTIONS)
    torch.manual_seed(0)
    checkpointer = PanopticCheckpointer(
        build_model(cfg), str(tiny_root), cfg=cfg, class_table=class_table("tiny")
    )
    checkpointer.save("model", iteration=0)
    return str(tiny_root / "model.pth")


def test_build_model_says_what_an_incomplete_config_lacks(tiny_root: Path) -> None:
    """Detectron2 would say "Trying to create tensor with negative dimension -1"."""
    with pytest.raises(ValueError, match="does not say which classes.*load_config"):
        build_model(raw_config())


def test_default_predictor_prepares_images_as_our_own_does(weights: str) -> None:
    """The scale of 1.5 and the percentiles are the config's; Detectron2 would resize to 48."""
    from detectron2.engine import DefaultPredictor

    cfg = raw_config()  # the class counts come from the weights
    cfg.MODEL.WEIGHTS = weights
    bgr = cv2.imread(load_panoptic("tiny")[0]["file_name"])
    found = DefaultPredictor(cfg)(bgr)
    own = Predictor.from_checkpoint(weights)(np.ascontiguousarray(bgr[:, :, ::-1]))
    assert len(own.boxes) > 0
    torch.testing.assert_close(found["instances"].pred_boxes.tensor, torch.from_numpy(own.boxes))
    assert np.array_equal(found["panoptic_seg"][0].numpy(), own.id_map)


def test_default_predictor_needs_whole_weights(tiny_root: Path) -> None:
    from detectron2.engine import DefaultPredictor

    cfg = load_config(D2, OPTIONS)
    torch.save({"model": {"backbone.x": torch.zeros(1)}}, tiny_root / "other.pth")
    cfg.MODEL.WEIGHTS = str(tiny_root / "other.pth")
    with pytest.raises(RuntimeError, match=r"other.pth does not fit the model: \d+ of its"):
        DefaultPredictor(cfg)


def test_default_trainer_trains(tiny_root: Path) -> None:
    """With clipping over the whole model, the system's targets, and AdamW."""
    from detectron2.engine import DefaultTrainer

    options = ["SOLVER.MAX_ITER", "2", "OUTPUT_DIR", str(tiny_root / "out")]
    options += ["SOLVER.OPTIMIZER", "ADAMW", "SOLVER.CLIP_GRADIENTS.ENABLED", "True"]
    options += ["SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model", "SOLVER.STEPS", "()"]
    cfg = load_config(D2, [*OPTIONS, *options])
    (tiny_root / "out").mkdir()
    trainer = DefaultTrainer(cfg)
    assert isinstance(trainer._trainer.optimizer, torch.optim.AdamW)
    before = trainer.model.backbone.bottom_up.stem.conv1.weight.detach().clone()
    trainer.train()
    assert not torch.equal(before, trainer.model.backbone.bottom_up.stem.conv1.weight)
    lines = (tiny_root / "out/metrics.json").read_text().splitlines()
    losses = [value for key, value in json.loads(lines[-1]).items() if key.startswith("loss_")]
    assert len(losses) >= 6 and all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("made_first", [False, True])
def test_detectron2s_optimizer_clips_the_whole_gradient(made_first: bool) -> None:
    """A gradient of (3, 4) has norm 5: clipped to 1, a step of rate 1 goes to (-0.6, -0.8).

    Detectron2's versions clip by a subclass of the optimizer, or of one that is made already.
    """
    from detectron2.solver.build import build_optimizer, maybe_add_gradient_clipping

    cfg = raw_config()
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 1.0
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.MOMENTUM = 1.0, 0.0, 0.0
    model = torch.nn.ModuleList(torch.nn.Linear(1, 1, bias=False) for _ in range(2))
    if made_first:
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        assert maybe_add_gradient_clipping(cfg, optimizer) is optimizer
    else:
        optimizer = build_optimizer(cfg, model)
    for layer, slope in zip(model, (3.0, 4.0), strict=True):
        torch.nn.init.zeros_(layer.weight)
        layer.weight.grad = torch.tensor([[slope]])
    optimizer.step()
    found = torch.cat([layer.weight.detach().flatten() for layer in model])
    torch.testing.assert_close(found, torch.tensor([-0.6, -0.8]), rtol=1e-5, atol=1e-6)


def test_a_batch_without_targets_says_which_mapper_makes_them(tiny_root: Path) -> None:
    model = build_model(load_config(D2, OPTIONS)).train()
    with pytest.raises(ValueError, match="no 'instances'.*PanopticDatasetMapper"):
        model([{"image": torch.zeros(3, 48, 64)}])
    # What Detectron2's own mapper makes for a network with a semantic branch.
    empty = Instances((48, 64), gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0).long())
    inputs = {"image": torch.zeros(3, 48, 64), "instances": empty}
    inputs["sem_seg"] = torch.zeros(48, 64, dtype=torch.int64)
    with pytest.raises(ValueError, match="no 'panoptic_target'.*PanopticDatasetMapper"):
        model([inputs])


def detections(classes: list[int], masks: np.ndarray) -> Instances:
    found = Instances(masks.shape[1:])
    found.pred_masks = torch.from_numpy(masks)
    found.pred_boxes = BitMasks(found.pred_masks).get_bounding_boxes()
    found.pred_classes = torch.tensor(classes)
    found.scores = torch.full((len(classes),), 0.9)
    return found


def test_visualizer_names_detections_and_segments(tiny_root: Path, monkeypatch) -> None:
    """A detected bus is thing 2, which is class 3: Detectron2 alone would say "car"."""
    import detectron2.utils.visualizer as visualizer

    told: list[str] = []
    draw_text = visualizer.Visualizer.draw_text
    monkeypatch.setattr(
        visualizer.Visualizer,
        "draw_text",
        lambda self, text, *a, **k: (told.append(text), draw_text(self, text, *a, **k))[1],
    )
    class_table("tiny")
    metadata = MetadataCatalog.get("tiny")
    image = np.zeros((48, 64, 3), np.uint8)
    mask = np.zeros((1, 48, 64), bool)
    mask[0, 8:40, 8:56] = True
    drawn = visualizer.Visualizer(image, metadata)
    drawn.draw_instance_predictions(detections([2], mask))
    assert told == ["bus 90%"] and drawn.metadata is metadata
    told.clear()
    segments = [
        {"id": 1, "category_id": 3, "isthing": True, "score": 0.8},
        {"id": 2, "category_id": 4, "isthing": False},
    ]
    ids = torch.from_numpy(np.where(mask[0], 1, 2))
    visualizer.Visualizer(image, metadata).draw_panoptic_seg(ids, segments)
    assert {"sky"} <= set(told) and any(text.startswith("bus") for text in told)


def test_coco_evaluator_scores_the_truth_as_perfect(tiny_root: Path) -> None:
    """Every thing that is no crowd, detected as it is: AP of boxes and masks is 100."""
    from detectron2.evaluation import COCOEvaluator

    things = [k for k, row in enumerate(class_table("tiny")) if row["isthing"]]
    evaluator = COCOEvaluator("tiny", output_dir=str(tiny_root / "eval"))
    evaluator.reset()
    for record in load_panoptic("tiny"):
        id_map = read_record_ids(record, (record["height"], record["width"]))
        segments = [s for s in record["segments_info"] if s["isthing"] and not s["iscrowd"]]
        masks = np.stack([id_map == s["id"] for s in segments])
        found = detections([things.index(s["category_id"]) for s in segments], masks)
        found.pred_boxes = Boxes(BitMasks(found.pred_masks).get_bounding_boxes().tensor)
        evaluator.process([record], [{"instances": found}])
    results = evaluator.evaluate()
    assert results["segm"]["AP"] == pytest.approx(100) and results["bbox"]["AP"] > 99
    assert "AP-bus" in results["segm"] and "AP-sky" not in results["segm"]


def test_augmentation_at_test_time_is_refused() -> None:
    with pytest.raises(ValueError, match=r"TEST.AUG.ENABLED is True.*INPUT.TEST_SCALE"):
        load_config(D2, ["TEST.AUG.ENABLED", "True"])


def test_configs_of_others_go_their_own_way() -> None:
    """Detectron2's own refusal stays Detectron2's."""
    import detectron2.engine.defaults as defaults

    cfg = get_cfg()
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupPolyLR"
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    with pytest.raises(ValueError, match="Unknown LR scheduler"):
        defaults.build_lr_scheduler(cfg, optimizer)


ORDERS = {
    "ours first": "import unified_panoptic; unified_panoptic.UnifiedPanoptic; import torch",
    "torch first": "import torch; from unified_panoptic import UnifiedPanoptic",
    "Detectron2 first": "import detectron2, torch; from unified_panoptic import UnifiedPanoptic",
    "load first": "from panoptic_common import load; load",
    "config first": "from cops import add_cops_config",
    "everything of Detectron2 after": "import panoptic_common.compat",
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_order_of_imports_does_not_matter(order: str) -> None:
    """In each order a config is read, and the patched entries are Detectron2's."""
    code = f"""
{ORDERS[order]}
from detectron2.modeling import build_model
from detectron2.engine import DefaultPredictor
from detectron2.utils.visualizer import Visualizer
from detectron2.config import get_cfg
from unified_panoptic import add_unified_panoptic_config
cfg = get_cfg()
add_unified_panoptic_config(cfg)
cfg.merge_from_file({D2!r})
try:
    build_model(cfg)
except ValueError as error:
    print(str(error)[:50])
print(all(hasattr(f, "__wrapped__") for f in (
    DefaultPredictor.__init__, Visualizer.draw_instance_predictions)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert re.match("the config does not say which classes", first) and second == "True"


def test_the_page_builds_a_model_by_hand(tmp_path: Path) -> None:
    """In a process of its own, where nothing is registered yet."""
    language, code = blocks_of(ROOT / "docs/howto/from_detectron2.md")[0]
    assert language == "python" and "build_model(cfg)" in code
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
