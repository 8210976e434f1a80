"""tools/studies/peers: what is added to Panoptic-DeepLab, around a stand-in for its code.

Detectron2's projects are in no wheel. The stand-in has the names that are used of them.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from dataset_factory import make_coco_panoptic
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY
from project import ROOT
from torch import nn

from panoptic_common.config import add_panoptic_config, read_config
from panoptic_common.config.files import read_yaml
from panoptic_common.data.catalog import load_panoptic, register_panoptic
from panoptic_common.values import flatten

ADAPTER = "panoptic_tools.studies.peers.panoptic_deeplab"


class Head(nn.Module):
    def forward(self, features):
        return torch.ones(1, 1, 2, 2), torch.full((1, 2, 2, 2), 6.0), {"a": 1}, {"b": 2}


class PanopticDeepLab(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.ins_embed_head = Head()


class Generator:
    """Takes the arguments of the real one, and marks the pixels of things as centres."""

    def __init__(self, ignore_label, thing_ids, sigma, **others):
        self.thing_ids = thing_ids
        assert sigma == 3 and ignore_label == 255 and len(others) == 4

    def __call__(self, panoptic, segments_info):
        things = [s["id"] for s in segments_info if s["category_id"] in self.thing_ids]
        center = torch.from_numpy(np.isin(panoptic, things).astype(np.float32))
        return {"center": center, "center_points": [[0, 0]]}


def add_keys(cfg):
    cfg.INPUT.GAUSSIAN_SIGMA = 3
    cfg.INPUT.IGNORE_STUFF_IN_OFFSET = True
    cfg.INPUT.SMALL_INSTANCE_AREA = 4096
    cfg.INPUT.SMALL_INSTANCE_WEIGHT = 3
    cfg.INPUT.IGNORE_CROWD_IN_SEMANTIC = False


@pytest.fixture
def adapter(monkeypatch):
    """The module, imported beside the stand-in."""
    names = {
        "detectron2.projects": {},
        "detectron2.projects.panoptic_deeplab": {
            "PanopticDeepLab": PanopticDeepLab,
            "add_panoptic_deeplab_config": add_keys,
        },
        "detectron2.projects.panoptic_deeplab.target_generator": {
            "PanopticDeepLabTargetGenerator": Generator
        },
    }
    for name, content in names.items():
        stand_in = ModuleType(name)
        vars(stand_in).update(content)
        monkeypatch.setitem(sys.modules, name, stand_in)
    yield importlib.import_module(ADAPTER)
    del sys.modules[ADAPTER]
    del META_ARCH_REGISTRY._obj_map["ScaledPanopticDeepLab"]


@pytest.fixture
def cfg(adapter):
    cfg = get_cfg()
    add_panoptic_config(cfg)
    adapter.add_panoptic_deeplab_config(cfg)
    return cfg


def test_offsets_are_shortened_at_inference_only(adapter, cfg):
    cfg.INPUT.TEST_SCALE = 1.5
    model = adapter.ScaledPanopticDeepLab(cfg)
    centers, offsets, *losses = model.eval().ins_embed_head(None)
    assert offsets.unique().tolist() == [4.0] and centers.unique().tolist() == [1.0]
    assert losses == [{"a": 1}, {"b": 2}]
    assert model.train().ins_embed_head(None)[1].unique().tolist() == [6.0]


def test_targets_are_made_behind_our_augmentations(adapter, cfg, tmp_path):
    paths = make_coco_panoptic(tmp_path, num_images=1)
    register_panoptic("peers", paths.images, paths.panoptic_json, paths.panoptic_png)
    try:
        record, *_ = load_panoptic("peers")
        cfg.DATASETS.TRAIN = ("peers",)
        cfg.INPUT.RANDOM_SCALE, cfg.INPUT.RANDOM_FLIP = (2.0, 2.0), "none"
        mapper = pickle.loads(pickle.dumps(adapter.Mapper(cfg)))
        sample = mapper(record)
    finally:
        DatasetCatalog.pop("peers")
        MetadataCatalog.pop("peers")
    size = (2 * record["height"], 2 * record["width"])
    assert tuple(sample["image"].shape[1:]) == size == tuple(sample["center"].shape)
    assert 0 < sample["center"].mean() < 1 and "center_points" not in sample


def test_its_config_is_that_of_cops_where_both_have_the_keys():
    """Apart from names, and from the semantic head, whose keys mean another one there."""
    own = flatten(read_yaml(str(ROOT / "tools/studies/peers/panoptic_deeplab_nuclei.yaml")))
    cops = flatten(read_config(ROOT / "configs/cops/nuclei/pretrain.yaml"))
    names = {"MODEL.META_ARCHITECTURE", "MODEL.PANOPTIC.NUMBERING", "INPUT.MAPPER", "OUTPUT_DIR"}
    shared = {key for key in set(own) & set(cops) - names if "SEM_SEG_HEAD" not in key}
    assert {"SOLVER.BASE_LR", "INPUT.RANDOM_SCALE", "MODEL.RESNETS.DEPTH"} <= shared
    # Tuples are texts in YAML, and lists of one type are as good as tuples.
    as_text = {key: (str(own[key]), str(cops[key])) for key in shared}
    for old, new in (('"', "'"), ("[", "("), ("]", ")")):
        as_text = {k: tuple(text.replace(old, new) for text in t) for k, t in as_text.items()}
    assert {key: texts for key, texts in as_text.items() if texts[0] != texts[1]} == {}
