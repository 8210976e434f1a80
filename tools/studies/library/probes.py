"""Which part of a run of the model takes how long: a workload of known size, and spans around the
submodules (Li, Qi, Torr, CVPR 2020, Fig. 2), for benchmarks.

With random weights a model finds any number of objects. A benchmark needs a number that it knows:
D detections are forced upon the mask head and the panoptic submodule, R proposals upon the box
head. All else is the model's own code, whose methods are wrapped while it runs.

Shapes: H, W pixels of the input; R proposals; D detections; m x m raw masks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from unittest import mock

import panoptic_common.compat  # noqa: F401  (before detectron2)

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.structures import Boxes, Instances
from torch import nn

from panoptic_tools.studies.library.measure import Span
from unified_panoptic.modeling import meta_arch

# Modules whose parameters belong to each part.
MODULES = {
    "backbone": ("backbone",),
    "detection": ("proposal_generator", "roi_heads"),
    "semantic": ("sem_seg_head",),
    "affinity features": ("affinity_head.decoder", "affinity_head.query"),
    "panoptic": ("affinity_head.phi_0", "affinity_head.phi_1", "panoptic"),
}
SEMANTIC_MAP = "semantic map of the result"
INSTANCE_MASKS = "instance masks of the result"
# All parts, in the order of a report; a slash marks a share of the part before the slash.
PARTS = (
    "backbone",
    "detection",
    "detection/proposals",
    "detection/heads",
    "detection/differentiable detections",
    "semantic",
    "affinity features",
    "panoptic",
    "panoptic/phi",
    "panoptic/potential and affinity at stride 4",
    "panoptic/argmax at the size of the result",
    SEMANTIC_MAP,
    INSTANCE_MASKS,
)


@dataclass(frozen=True)
class Workload:
    """One image, and what is forced upon the model for it.

    Attributes:
        size: (H, W).
        image: (3, H, W) uint8.
        proposals: (R, 4) XYXY in pixels.
        found: D detections with pred_boxes, scores and pred_classes.
    """

    size: tuple[int, int]
    image: torch.Tensor
    proposals: torch.Tensor
    found: Instances

    def detections(self, mask_side: int | None = None) -> Instances:
        """The detections; with "pred_masks" (D, 1, m, m), random, if m = `mask_side` is given."""
        found = Instances(self.size, **self.found.get_fields())
        if mask_side is not None:
            generator = torch.Generator().manual_seed(1)
            masks = torch.rand(len(found), 1, mask_side, mask_side, generator=generator)
            found.pred_masks = masks.to(self.proposals.device)
        return found


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the grid at stride 4 that covers an image of (H, W)."""
    return math.ceil(size[0] / meta_arch.STRIDE), math.ceil(size[1] / meta_arch.STRIDE)


def random_boxes(count: int, size: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """Boxes inside an image, their sides log-uniform from 1/40 to 1/2 of the image's.

    Args:
        count: how many.
        size: (H, W).
        generator: randomness.

    Returns:
        (count, 4) XYXY in pixels; on average a box covers 2.5 % of the image.
    """
    sides = torch.tensor([size[1], size[0]], dtype=torch.float32)
    extent = sides / 40 * torch.exp(torch.rand(count, 2, generator=generator) * math.log(20))
    corner = torch.rand(count, 2, generator=generator) * (sides - extent)
    return torch.cat([corner, corner + extent], dim=1)


def make_workload(
    size: tuple[int, int],
    *,
    num_detections: int,
    num_proposals: int,
    num_things: int,
    least_score: float,
    seed: int,
    device: torch.device,
) -> Workload:
    """A workload that depends on its arguments alone.

    Args:
        size: (H, W).
        num_detections: D.
        num_proposals: R.
        num_things: thing classes to draw from.
        least_score: all scores lie above it.
        seed: of everything random.
        device: where the boxes lie; the image stays on the CPU, as a data loader leaves it.
    """
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    proposals = random_boxes(num_proposals, size, generator)
    uniform = torch.rand(num_detections, generator=generator)
    found = Instances(
        size,
        pred_boxes=Boxes(random_boxes(num_detections, size, generator)),
        scores=1 - 0.9 * (1 - least_score) * uniform,
        pred_classes=torch.randint(0, num_things, (num_detections,), generator=generator),
    )
    return Workload(size, image, proposals.to(device), found.to(device))


def training_sample(
    work: Workload, is_thing: Sequence[bool], make_targets: Callable[..., dict]
) -> dict:
    """The workload's image with a truth: 20 rectangular things on four bands of stuff.

    Args:
        work: gives the image.
        is_thing: K flags.
        make_targets: (id_map, segments_info) -> targets of the model.
    """
    stuff = [index for index, thing in enumerate(is_thing) if not thing][:4]
    things = [index for index, thing in enumerate(is_thing) if thing]
    height, width = work.size
    bands = torch.arange(height) * len(stuff) // height
    id_map = (bands + 1).int()[:, None].repeat(1, width)
    categories = {number + 1: category for number, category in enumerate(stuff)}
    boxes = random_boxes(20, work.size, torch.Generator().manual_seed(1)).int().tolist()
    for number, (left, top, right, bottom) in enumerate(boxes):
        id_map[top : bottom + 1, left : right + 1] = 100 + number
        categories[100 + number] = things[number % len(things)]
    segments_info = [
        {"id": segment_id, "category_id": categories[segment_id], "iscrowd": 0}
        for segment_id in id_map.unique().tolist()
    ]
    return {"image": work.image, **make_targets(id_map.numpy(), segments_info)}


def settle_frozen_norms(model: nn.Module) -> None:
    """Give every frozen batch normalisation the statistics that a noise image has there.

    Without any, as in a model without weights, a ResNet's features grow by orders of magnitude from
    block to block, and the proposals and losses made from them are those of no trained model.
    """

    def settle(module: FrozenBatchNorm2d, arguments: tuple[torch.Tensor]) -> None:
        module.running_mean.copy_(arguments[0].mean((0, 2, 3)))
        module.running_var.copy_(arguments[0].var((0, 2, 3)))

    norms = [module for module in model.modules() if isinstance(module, FrozenBatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (3, 256, 256), dtype=torch.uint8, generator=generator)
    try:
        with torch.no_grad():
            model.backbone(model.preprocess([{"image": noise}]).tensor)
    finally:
        for hook in hooks:
            hook.remove()


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters of each part of `MODULES`; 0 for a part that the model lacks."""
    counts = {}
    for part, names in MODULES.items():
        counts[part] = 0
        for name in names:
            module = model
            for step in name.split("."):
                module = getattr(module, step, None)
            if module is not None:
                counts[part] += sum(p.numel() for p in module.parameters())
    return counts


def _probes(model: nn.Module) -> Iterator[tuple[object, str, str]]:
    """(owner, method, part) of all that is measured; a part may be several methods."""
    heads = model.roi_heads
    yield model.backbone, "forward", "backbone"
    for owner, method, part in (
        (model.proposal_generator, "forward", "proposals"),
        (heads, "forward", "heads"),
        (heads, "predict_detections", "differentiable detections"),
    ):
        yield owner, method, f"detection/{part}"
        yield owner, method, "detection"
    yield model.sem_seg_head, "forward", "semantic"
    yield model.sem_seg_head, "losses", "semantic"
    if model.affinity_head is not None:
        yield model.affinity_head, "forward", "affinity features"
        yield model.affinity_head, "factors", "panoptic/phi"
        yield model.affinity_head, "factors", "panoptic"
    yield model.panoptic, "loss_of_image", "panoptic"
    yield meta_arch._PanopticMaker, "__call__", "panoptic"
    yield model.panoptic, "forward", "panoptic/potential and affinity at stride 4"
    yield meta_arch, "argmax_at_output", "panoptic/argmax at the size of the result"
    yield meta_arch, "resample", SEMANTIC_MAP
    yield meta_arch, "detector_postprocess", INSTANCE_MASKS


@contextmanager
def instrumented(model: nn.Module, span: Span) -> Iterator[None]:
    """While the context lasts, each part of the model runs inside a span of its name.

    A part that another one calls (resampling is a part of its own, and a step of the panoptic map
    at stride 4) belongs to the caller.

    Args:
        model: a `UnifiedPanoptic`.
        span: gives a context manager for a name.
    """
    running: list[str] = []

    def spanned(function: Callable, name: str) -> Callable:
        part = name.partition("/")[0]

        @wraps(function)
        def run(*arguments, **keywords):
            if any(other != part for other in running):
                return function(*arguments, **keywords)
            running.append(part)
            try:
                with span(name):
                    return function(*arguments, **keywords)
            finally:
                running.pop()

        return run

    with ExitStack() as stack:
        for owner, attribute, name in _probes(model):
            replacement = spanned(getattr(owner, attribute), name)
            stack.enter_context(mock.patch.object(owner, attribute, replacement))
        yield


@contextmanager
def forced_detections(model: nn.Module, work: Workload) -> Iterator[None]:
    """While the context lasts, the model finds what the workload says, at the usual expense.

    The RPN and, over R proposals, the box head and its non-maximum suppression run, but their
    results are replaced. In training R is the number of the RPN's own proposals.

    Args:
        model: a `UnifiedPanoptic`; one image a batch.
        work: what to find.
    """
    heads = model.roi_heads
    proposals = Instances(work.size, proposal_boxes=Boxes(work.proposals))
    proposals.objectness_logits = work.proposals.new_zeros(len(proposals))
    select = heads._select

    def forward(images, features, _proposals, _targets=None):
        heads._forward_box(features, [proposals])
        return heads.forward_with_given_boxes(features, [work.detections()]), {}

    def select_given(features, predicted):
        select(features, predicted)
        boxes = work.found.pred_boxes.tensor
        index = torch.arange(len(boxes), device=boxes.device) % len(predicted[0])
        return [index], [work.found.pred_classes], [boxes]

    method, replacement = ("_select", select_given) if model.training else ("forward", forward)
    with mock.patch.object(heads, method, replacement):
        yield


def panoptic_alone(
    model: nn.Module, semantic: torch.Tensor, query: torch.Tensor, found: Instances
) -> Callable[[], tuple[torch.Tensor, list[dict]]]:
    """The panoptic submodule by itself, from V, Q and detections to the panoptic map.

    Args:
        model: a `UnifiedPanoptic` in evaluation mode.
        semantic: (K, h, w) probabilities V at stride 4.
        query: (C, h, w) affinity features Q; unused by a model without the affinity.
        found: D detections in pixels of the input, whose size is that of the result.

    Returns:
        A function that does the work; what it starts from is at hand when it is called.
    """
    size = tuple(found.image_size)
    semantic_map = meta_arch.resample(semantic, size, size, meta_arch.STRIDE)

    @torch.no_grad()
    def run() -> tuple[torch.Tensor, list[dict]]:
        factors = None if model.affinity_head is None else model.affinity_head.factors(query)
        make = meta_arch._PanopticMaker(model, semantic, semantic_map, found, factors, size)
        return make(model.options)

    return run
