"""tools/studies/peers/mask2former.py: what is added to Mask2Former, around a stand-in."""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from detectron2.config import get_cfg
from project import ROOT

from panoptic_common.config import add_panoptic_config, read_config
from panoptic_common.config.files import read_yaml
from panoptic_common.values import flatten

ADAPTER = "panoptic_tools.studies.peers.mask2former"
# What the adapter imports of it. The package itself needs compiled parts, and says so.
FILES = {
    "__init__.py": "raise ImportError('compiled parts')",
    "maskformer_model.py": "import MultiScaleDeformableAttention as attention",
    "modeling/__init__.py": "",
    "config.py": "def add_maskformer2_config(cfg):\n cfg.MODEL.QUERIES = cfg.MODEL.OF_DEEPLAB + 1",
}


def add_deeplab_config(cfg):
    cfg.MODEL.OF_DEEPLAB = 99


@pytest.fixture
def adapter(monkeypatch, tmp_path):
    """The module, imported beside the stand-in."""
    write(tmp_path / "mask2former", FILES)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield import_adapter(monkeypatch)
    forget()


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def import_adapter(monkeypatch) -> ModuleType:
    deeplab = ModuleType("detectron2.projects.deeplab")
    vars(deeplab)["add_deeplab_config"] = add_deeplab_config
    monkeypatch.setitem(sys.modules, "detectron2.projects", ModuleType("detectron2.projects"))
    monkeypatch.setitem(sys.modules, "detectron2.projects.deeplab", deeplab)
    return importlib.import_module(ADAPTER)


def forget() -> None:
    for name in list(sys.modules):
        if name.split(".")[0] in ("mask2former", "MultiScaleDeformableAttention"):
            del sys.modules[name]
    sys.modules.pop(ADAPTER, None)


def test_the_network_is_imported_without_what_must_be_compiled(adapter):
    attention = sys.modules["mask2former.maskformer_model"].attention
    assert not hasattr(attention, "ms_deform_attn_forward")  # so that its form in torch is taken
    cfg = get_cfg()
    add_panoptic_config(cfg)
    adapter.add_mask2former_config(cfg)
    assert cfg.MODEL.QUERIES == 100
    # train_net.py takes the one function of such a name.
    assert [
        name for name in vars(adapter) if name.startswith("add_") and name.endswith("_config")
    ] == ["add_mask2former_config"]


def test_without_it_a_sentence_says_what_to_do(monkeypatch):
    with pytest.raises(ImportError, match="put a checkout of Mask2Former on PYTHONPATH"):
        import_adapter(monkeypatch)
    forget()


def test_segments_are_its_targets_and_crowds_are_not(adapter):
    id_map = np.array([[7, 7, 0], [3, 9, 9]], np.int32)
    segments = [
        {"id": 7, "category_id": 4, "iscrowd": 0},
        {"id": 3, "category_id": 1, "iscrowd": 0},
        {"id": 9, "category_id": 2, "iscrowd": 1},
    ]
    make_targets = pickle.loads(pickle.dumps(adapter.make_targets))
    found = make_targets(id_map, segments)["instances"]
    assert found.image_size == (2, 3) and found.gt_classes.tolist() == [4, 1]
    assert found.gt_masks.int().tolist() == [[[1, 1, 0], [0, 0, 0]], [[0, 0, 0], [1, 0, 0]]]
    empty = make_targets(id_map, [])["instances"]
    assert len(empty) == 0 and tuple(empty.gt_masks.shape) == (0, 2, 3)


def test_its_config_is_that_of_unified_where_both_have_the_keys():
    """Apart from names, the width of the head, and how it is regularised: its own settings."""
    own = flatten(read_yaml(str(ROOT / "tools/studies/peers/mask2former_scenes.yaml")))
    ours = flatten(read_config(ROOT / "configs/unified/scenes/D2.yaml"))
    its = {"MODEL.META_ARCHITECTURE", "MODEL.BACKBONE.NAME", "OUTPUT_DIR", "SOLVER.WEIGHT_DECAY"}
    its |= {"SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "MODEL.PANOPTIC.NUMBERING", "INPUT.MAPPER"}
    shared = {key for key in set(own) & set(ours) - its if "SEM_SEG_HEAD" not in key}
    assert {"SOLVER.BASE_LR", "SOLVER.MAX_ITER", "MODEL.RESNETS.RES2_OUT_CHANNELS"} <= shared
    # Tuples are texts in YAML.
    as_text = {key: (str(own[key]).replace('"', "'"), str(ours[key])) for key in shared}
    assert {key: texts for key, texts in as_text.items() if texts[0] != texts[1]} == {}
