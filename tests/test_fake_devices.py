"""Both networks at the sizes of the papers on a GPU that need not be there: shapes and devices.

Forward only: autograd asks the driver for its devices. What depends on values (proposals, NMS, the
solver, the levels that detections come from) has no shape before it runs, and is left out.
"""

from __future__ import annotations

import pytest
import torch
from fake_models import convolves_on_fake_gpus, fake_model
from project import ROOT
from torch import Tensor

from unified_panoptic.modeling.roi_heads import Detections

DEVICES = ("cuda:0", "cpu")


def placed(tensor: Tensor, device: str) -> tuple[int, ...]:
    """The shape of a tensor, which must lie on a device."""
    assert str(tensor.device) == device
    return tuple(tensor.shape)


@pytest.fixture(params=DEVICES)
def device(request) -> str:
    return request.param


def test_a_tensor_on_the_wrong_device_is_found(device) -> None:
    """As when code says `torch.zeros(n)` where it must say `x.new_zeros(n)`."""
    config = str(ROOT / "configs/cops/cityscapes/full.yaml")
    other = next(name for name in DEVICES if name != device)
    with fake_model(config, device, 19, 8) as model, torch.no_grad():
        model.pixel_mean = torch.empty(model.pixel_mean.shape, device=other)
        image = torch.empty(3, 64, 64, device=device)
        with pytest.raises(RuntimeError, match="device"):
            image - model.pixel_mean


@pytest.fixture
def convolving(device) -> str:
    """Each device on which this torch convolves fake tensors."""
    if device != "cpu" and not convolves_on_fake_gpus():
        pytest.skip(f"torch {torch.__version__} asks the driver when a fake GPU convolves")
    return device


def test_cops_on_cityscapes(convolving) -> None:
    """1024 x 2048 at stride 4: 256 x 512 nodes, 19 classes, 2 x 6 edges."""
    device, config = convolving, str(ROOT / "configs/cops/cityscapes/full.yaml")
    with fake_model(config, device, 19, 8) as model:
        maps = model.train().predict_maps(torch.empty(1, 3, 1024, 2048, device=device))
        assert placed(maps.class_costs, device) == (1, 19, 256, 512)
        assert placed(maps.edge_costs, device) == (1, 12, 256, 512)


def test_unified_on_coco(convolving) -> None:
    """800 x 1312 (1300 padded to 32): the grid has 200 x 325 cells; K = 133, N_st = 53, D = 100."""
    device, config = convolving, str(ROOT / "configs/unified/coco/R50.yaml")
    with fake_model(config, device, 133, 80) as model:
        features = model.train().backbone(torch.empty(1, 3, 800, 1312, device=device))
        assert placed(features["p2"], device) == (1, 256, 200, 328)
        boxes = torch.empty(100, 4, device=device)
        classes = torch.empty(100, dtype=torch.int64, device=device)
        masks = torch.empty(100, 28, 28, device=device)  # which level of the FPN is in the values
        semantic = model.sem_seg_head(features)[0, :, :, :325].softmax(dim=0)
        factors = model.affinity_head.factors(model.affinity_head(features)[0, :, :, :325])
        scores = torch.empty(100, device=device)
        psi, residual = model.panoptic(semantic, Detections(boxes, classes, scores, masks), factors)
        assert placed(psi, device) == placed(residual, device) == (153, 200, 325)
