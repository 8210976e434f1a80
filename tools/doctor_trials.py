"""Tiny problems with a known answer, for `doctor`: each raises if a part of the project fails.

A trial takes the device, "cpu" or "cuda", and imports what it needs itself: the doctor also runs
where much is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

# A config of each system for a CPU, with all its parts in use.
CONFIGS = {
    "UnifiedPanoptic": "configs/unified/scenes/D2.yaml",
    "COPS": "configs/cops/scenes/single_stage.yaml",
}


def try_solver(device: str) -> None:
    """Solve four nodes in a row by each method: cutting the edge of cost -1 is best."""
    from cops.solver import METHODS, solve_amwc

    for method in METHODS:
        result = solve_amwc(
            node_costs=[[0.0, 1.0]] * 4,
            edges=[[0, 1], [1, 2], [2, 3]],
            edge_costs=[2.0, -1.0, 2.0],
            partitionable=[True, False],
            method=method,
        )
        if result.energy != -1.0 or result.node_clusters.tolist() != [0, 0, 1, 1]:
            raise RuntimeError(f"{method} found energy {result.energy} instead of -1")


def try_deformable_convolution(device: str) -> None:
    """With zero offsets it is an ordinary convolution, forward and backward."""
    import torch
    from torchvision.ops import deform_conv2d

    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 4, 6, 7, generator=generator).to(device).requires_grad_()
    weight = torch.rand(5, 4, 3, 3, generator=generator).to(device)
    offset = torch.zeros(1, 18, 6, 7, device=device)
    result = deform_conv2d(image, offset, weight, padding=1)
    expected = torch.nn.functional.conv2d(image, weight, padding=1)
    torch.testing.assert_close(result, expected, atol=1e-2, rtol=1e-2)  # TF32 on CUDA
    result.sum().backward()


def try_nms(device: str) -> None:
    """Of two boxes with IoU 0.81 the better stays, a third elsewhere as well."""
    import torch
    from torchvision.ops import nms

    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 9, 9], [20, 20, 30, 30]], device=device)
    keep = nms(boxes, torch.tensor([0.5, 0.9, 0.1], device=device), 0.5)
    if keep.tolist() != [1, 2]:
        raise RuntimeError(f"kept boxes {keep.tolist()} instead of [1, 2]")


def try_roi_align(device: str) -> None:
    """On a ramp in x, a box centred at column 4 averages to 4."""
    import torch
    from torchvision.ops import roi_align

    ramp = torch.arange(9.0, device=device).expand(1, 1, 9, 9)
    box = torch.tensor([[0.0, 2.5, 2.5, 6.5, 6.5]], device=device)
    value = roi_align(ramp, box, output_size=1, sampling_ratio=2, aligned=True).item()
    if abs(value - 4.0) > 1e-4:
        raise RuntimeError(f"averaged to {value} instead of 4")


def try_system(config: str, device: str) -> None:
    """Build a system with random weights, run one step of training, and segment an image."""
    import numpy as np
    import torch
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    from panoptic_common.config import load_config
    from panoptic_common.systems import system_package

    table = [{"name": name, "isthing": int(name == "thing")} for name in ("ground", "sky", "thing")]
    cfg = load_config(config, {"MODEL.DEVICE": device}, table=table)
    torch.manual_seed(0)
    ids = np.repeat(np.array([1, 2], np.int32), 32)[:, None].repeat(96, axis=1)
    ids[20:44, 30:60] = 3
    segments = [{"id": i + 1, "category_id": i, "iscrowd": 0} for i in range(3)]
    targets = system_package(cfg.MODEL.META_ARCHITECTURE).build_target_function(cfg)
    image = torch.randint(0, 256, (3, *ids.shape), dtype=torch.uint8)
    sample = {"image": image, "height": 64, "width": 96, **targets(ids, segments)}
    model = build_model(cfg)
    with EventStorage():  # the models note figures in it
        loss = sum(model.train()([sample]).values())
    loss.backward()
    with torch.no_grad():
        panoptic, _ = model.eval()([sample])[0]["panoptic_seg"]
    if not torch.isfinite(loss) or panoptic.shape != ids.shape:
        raise RuntimeError(f"loss {loss}, output of shape {tuple(panoptic.shape)}")


TRIALS: dict[str, Callable[[str], None]] = {
    "deformable convolution": try_deformable_convolution,
    "NMS": try_nms,
    "ROIAlign": try_roi_align,
    **{name: partial(try_system, config) for name, config in CONFIGS.items()},
}
