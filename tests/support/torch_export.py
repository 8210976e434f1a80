"""An exported model whose parts torch runs, to test what lies around the ONNX networks."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from panoptic_common.inference.exporting import Export, image_preparation
from panoptic_common.inference.predictor import Predictor
from panoptic_common.runtime.forms import Form, form_problem


class TorchExport:
    """Offers what `panoptic_common.runtime.folder.ExportedModel` offers to the pipelines."""

    def __init__(self, export: Export, cfg: CfgNode, classes: list[dict]) -> None:
        self.parts, self.classes = export.parts, classes
        self.options = json.loads(json.dumps(export.options))  # as a folder has them
        self.preparation: dict[str, Any] = {
            **image_preparation(cfg),
            "divisibility": export.divisibility,
            "smallest": list(export.smallest),
        }

    def require_options(self, form: Form) -> None:
        """Hold what the system exports to the form that its pipeline wants."""
        assert form_problem(self.options, form, "options") is None

    def __contains__(self, part: str) -> bool:
        return part in self.parts

    def run(self, part: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a part by torch; what comes in must be what an ONNX network would take."""
        module = self.parts[part]
        assert set(inputs) == set(module.examples)
        assert all(array.dtype == np.float32 for array in inputs.values())
        tensors = [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in module.examples]
        with torch.no_grad():
            found = module.module(*tensors)
        found = found if isinstance(found, tuple) else (found,)
        return {name: tensor.numpy() for name, tensor in zip(module.outputs, found, strict=True)}


def predictor_of(cfg: CfgNode, model: torch.nn.Module, is_thing: tuple[bool, ...]) -> Predictor:
    """Wrap a model for images of any size."""
    table = [
        {"id": i + 1, "name": f"class {i}", "isthing": int(flag), "color": [9 * i, 9, 9]}
        for i, flag in enumerate(is_thing)
    ]
    return Predictor(cfg, model, table)


def noise_image(seed: int, size: tuple[int, int]) -> np.ndarray:
    """Blocks of 8 x 8 pixels of random colours, so that a network finds more than noise."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (-(-size[0] // 8), -(-size[1] // 8), 3), dtype=np.uint8)
    return np.ascontiguousarray(np.kron(blocks, np.ones((8, 8, 1), np.uint8))[: size[0], : size[1]])
