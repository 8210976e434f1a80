"""Models that are none of ours, trained, evaluated and shown by our programs: Detectron2's own
PanopticFPN, and meta-architectures of modules that only these tests have."""

from __future__ import annotations

import importlib
import json
import logging

import numpy as np
import pytest
import torch
from dataset_factory import make_coco_panoptic
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils import logger as detectron2_logger
from PIL import Image
from project import ROOT

from panoptic_tools import demo, train_net

# Thin, on images of 48 x 64: it learns nothing, but runs all parts.
TINY = [
    *("DATASETS.TRAIN", "('others',)", "DATASETS.TEST", "('others',)", "MODEL.DEVICE", "cpu"),
    *("INPUT.MIN_SIZE_TRAIN", "(48,)", "INPUT.MIN_SIZE_TEST", "48", "SOLVER.IMS_PER_BATCH", "2"),
    *("SOLVER.WARMUP_ITERS", "0", "DATALOADER.NUM_WORKERS", "0", "SOLVER.MAX_ITER", "3"),
]
TINY_FPN = [
    *("MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "8"),
    *("MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", "16", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1"),
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", "32"),
]
PANOPTIC_FPN = str(ROOT / "configs/peers/scenes/panoptic_fpn.yaml")


@pytest.fixture
def data(tmp_path):
    """The arguments that register a data set of 4 images."""
    paths = make_coco_panoptic(tmp_path, num_images=4)
    yield ["--register", "others", paths.images, paths.panoptic_json, paths.panoptic_png]
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.pop("others", None)
    detectron2_logger.setup_logger.cache_clear()
    for name in ("detectron2", "fvcore", "panoptic_common"):
        logging.getLogger(name).handlers.clear()


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A function that makes a module, and forgets what it registered."""
    monkeypatch.syspath_prepend(tmp_path)
    known = set(dict(META_ARCH_REGISTRY))

    def make(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return name

    yield make
    for name in set(dict(META_ARCH_REGISTRY)) - known:
        del META_ARCH_REGISTRY._obj_map[name]


def results(folder) -> dict[str, float]:
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    return {name: value for line in lines for name, value in line.items()}


def test_panoptic_fpn_is_trained_evaluated_and_shown(data, tmp_path, capsys):
    out = tmp_path / "out"
    words = [*data, "--config-file", PANOPTIC_FPN]
    options = [*TINY, *TINY_FPN, "OUTPUT_DIR", str(out), "TEST.EVAL_VISUALIZE", "1"]
    assert train_net.main([*words, *options]) == 0
    found = results(out)
    assert {"panoptic_seg/PQ", "sem_seg/mIoU_st", "sem_seg/IoU-things", "bbox/AP"} <= set(found)
    assert found["loss_sem_seg"] > 0 and found["loss_mask"] > 0 and "sem_seg/mIoU" not in found
    assert len(list((out / "images").iterdir())) == 1
    model = torch.load(out / "model_final.pth", weights_only=True)
    # Of the 5 classes 3 are things: one channel for them, and two for stuff.
    assert model["model"]["sem_seg_head.predictor.weight"].shape[0] == 3
    assert model["model"]["roi_heads.box_predictor.cls_score.weight"].shape[0] == 4

    weights = ["MODEL.WEIGHTS", str(out / "model_final.pth")]
    assert (
        train_net.main([*data, "--config-file", PANOPTIC_FPN, "--eval-only", *options, *weights])
        == 0
    )
    picture = tmp_path / "image.png"
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(picture)
    shown = ["--checkpoint", str(out / "model_final.pth"), "--output", str(tmp_path / "shown")]
    assert demo.main([*shown, "--panels", "panoptic,semantic,boxes", str(picture)]) == 0
    assert len(list((tmp_path / "shown").glob("image_*.png"))) == 3


LABELS = '''
"""A model that gives labels class * 1000 + instance, with keys and a mapper of its own."""
import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import detection_utils
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn


def add_labels_config(cfg):
    cfg.MODEL.LABELS_WIDTH = 4


class LabelsMapper:
    def __init__(self, cfg, is_train):
        assert is_train
        self.image_format = cfg.INPUT.FORMAT

    def __call__(self, record):
        image = detection_utils.read_image(record["file_name"], self.image_format)
        truth = detection_utils.read_image(record["pan_seg_file_name"], "RGB").astype(int)
        ids = truth @ [1, 256, 65536]
        classes = np.zeros(ids.shape, int)
        for segment in record["segments_info"]:
            classes[ids == segment["id"]] = segment["category_id"]
        image = np.ascontiguousarray(image.transpose(2, 0, 1))
        return {**record, "image": torch.from_numpy(image), "my_classes": torch.from_numpy(classes)}


@META_ARCH_REGISTRY.register()
class Labels(nn.Module):
    @configurable
    def __init__(self, *, width, num_classes, num_detected):
        super().__init__()
        assert num_classes == num_detected  # one table
        self.layers = nn.Sequential(nn.Conv2d(3, width, 1), nn.Conv2d(width, num_classes, 1))

    @classmethod
    def from_config(cls, cfg):
        return {
            "width": cfg.MODEL.LABELS_WIDTH,
            "num_classes": cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES,
            "num_detected": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
        }

    def forward(self, batch):
        scores = self.layers(torch.stack([x["image"] for x in batch]).float() / 255)
        if self.training:
            truth = torch.stack([x["my_classes"] for x in batch])
            return {"loss_mine": nn.functional.cross_entropy(scores, truth)}
        return [{"sem_seg": s, "panoptic_seg": (s.argmax(dim=0) * 1000, None)} for s in scores]
'''


def test_a_model_mapper_and_keys_of_an_imported_module(data, module, tmp_path, capsys):
    name, out = module("labels_of_a_user", LABELS), tmp_path / "out"
    options = [
        *(*TINY, "OUTPUT_DIR", str(out), "MODEL.META_ARCHITECTURE", "Labels", "SOLVER.STEPS", "()"),
        *("MODEL.PANOPTIC.NUMBERING", "joint", "MODEL.LABELS_WIDTH", "6", "MODEL.WEIGHTS", ""),
        *("INPUT.MAPPER", "LabelsMapper"),
    ]
    assert train_net.main([*data, *options]) == 2
    assert "'Labels', which is none of" in capsys.readouterr().err
    assert train_net.main([*data, "--import", name, *options]) == 0
    found = results(out)
    assert {"panoptic_seg/PQ", "sem_seg/mIoU"} <= set(found) and found["total_loss"] > 0
    assert not [key for key in found if key.startswith("bbox")]  # it detects nothing
    assert torch.load(out / "model_final.pth", weights_only=True)["model"][
        "layers.0.bias"
    ].shape == (6,)
    # The checkpoint alone does not import anything; the command line does.
    picture = tmp_path / "image.png"
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(picture)
    del META_ARCH_REGISTRY._obj_map["Labels"]
    shown = ["--checkpoint", str(out / "model_final.pth"), "--output", str(tmp_path / "shown")]
    assert demo.main([*shown, str(picture)]) == 2
    assert "name the module that registers it by --import" in capsys.readouterr().err
    # As a new process would: this one has imported it, and registered its model, before.
    importlib.reload(importlib.import_module(name))
    assert demo.main([*shown, "--import", name, "--panels", "panoptic", str(picture)]) == 0


SEMANTIC_ONLY = [
    *("MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.PANOPTIC.NUMBERING", "joint"),
]


def test_a_semantic_model_has_semantic_figures_alone(data, tmp_path):
    """Detectron2's SemanticSegmentor with the config of PanopticFPN: no PQ, no AP, and no error."""
    out = tmp_path / "out"
    options = [*TINY, *TINY_FPN, *SEMANTIC_ONLY, "OUTPUT_DIR", str(out), "VIS_PERIOD", "3"]
    assert train_net.main([*data, "--config-file", PANOPTIC_FPN, *options]) == 0
    found = results(out)
    assert "sem_seg/mIoU" in found and "panoptic_seg/PQ" not in found and "bbox/AP" not in found
    picture = tmp_path / "image.png"
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(picture)
    shown = ["--checkpoint", str(out / "model_final.pth"), "--output", str(tmp_path / "shown")]
    assert demo.main([*shown, "--panels", "semantic,panoptic", str(picture)]) == 0
    assert "The model gives no panoptic_seg: it is not evaluated" in (out / "log.txt").read_text()
