"""Both systems from loader to result on each device: trained, evaluated, stored, read, asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from trials.processes import SYSTEM_WORDS

from panoptic_common import load
from panoptic_common.config import load_config
from panoptic_tools.train_net import Trainer

OPTIONS = [
    *("DATASETS.TRAIN", "('tiny',)", "DATASETS.TEST", "('tiny',)", "MODEL.WEIGHTS", ""),
    *("SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()", "SOLVER.EMA_DECAY", "0.9", "SEED", "3"),
    *("TEST.EVAL_PERIOD", "2", "VIS_PERIOD", "2"),
]
# What a training and its evaluation do beside the plain run.
VARIANTS: dict[str, tuple[str, list[str]]] = {
    "unified": ("unified", []),
    "unified, two parts": ("unified", ["SOLVER.ACCUMULATE", "2"]),
    "unified, mixed precision, merger": (
        "unified",
        ["SOLVER.AMP.ENABLED", "True", "MODEL.UNIFIED.INFERENCE.METHOD", "heuristic"],
    ),
    "cops": ("cops", []),
    "cops, finer grid": ("cops", ["MODEL.COPS.INFERENCE.STRIDE", "2"]),
}


@pytest.fixture(params=VARIANTS)
def run(request: pytest.FixtureRequest, tiny_root: Path, device: str) -> CfgNode:
    """A config for two iterations on five images, on the device."""
    system, options = VARIANTS[request.param]
    _, file, *words = SYSTEM_WORDS[system]
    words = [*words, *OPTIONS, *options, "MODEL.DEVICE", device, "OUTPUT_DIR", str(tiny_root / "o")]
    return load_config(file, words)


def devices_of(tree: Any) -> set[str]:
    """The kinds of device of all tensors of more than one number in nested dicts and lists."""
    if isinstance(tree, torch.Tensor):
        return {tree.device.type} if tree.dim() else set()
    parts = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    return set().union(*map(devices_of, parts))


def test_a_training_its_evaluation_and_the_predictor(run: CfgNode, device: str) -> None:
    trainer = Trainer(run)
    trainer.resume_or_load(resume=False)
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert {value.device.type for value in after.values()} == {device}
    assert devices_of(trainer.optimizer.state_dict()["state"]) == {device}
    changed = [name for name, value in after.items() if not torch.equal(value, before[name])]
    assert len(changed) > len(after) / 2
    quality = trainer.test(run, trainer.model)["panoptic_seg"]
    assert np.isfinite(quality["PQ"])

    stored = Path(run.OUTPUT_DIR) / "model_final.pth"
    model = load(stored, device=device)
    assert model.device.type == device
    image = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    result = model(image)
    same = load(stored, device="cpu")(image)
    assert result.panoptic.shape == (40, 56)
    # Another order of sums may decide single pixels otherwise on a real GPU.
    assert (result.panoptic == same.panoptic).mean() > 0.9
