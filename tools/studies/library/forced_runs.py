"""Runs of the Unified system in which some parts are given what they would have to find.

With random weights a model finds any number of objects. Here D detections are forced upon the mask
head and the panoptic submodule, R proposals upon the box head; all else is the model's own.

Shapes: H, W pixels of the input; R proposals; D detections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference
from detectron2.structures import Boxes, ImageList, Instances
from torch import nn

from panoptic_tools.studies.library.measure import Span
from panoptic_tools.studies.library.probes import instrumented
from panoptic_tools.studies.library.replacing import replaced
from panoptic_tools.studies.library.workload import Workload


def settle_frozen_norms(model: nn.Module) -> None:
    """Give every frozen batch normalisation the statistics that a noise image has there.

    Without any, as in a model without weights, a ResNet's features grow by orders of magnitude from
    block to block. The proposals and losses made from them are those of no trained model.
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


@contextmanager
def forced_detections(model: nn.Module, work: Workload) -> Iterator[None]:
    """While the context lasts, the model finds what the workload says, at the usual expense.

    The RPN and, over R proposals, the box head and its non-maximum suppression run, but their
    results are replaced. In training R is the number of the RPN's own proposals.

    Args:
        model: a `UnifiedPanoptic`; one image per batch.
        work: what to find.
    """
    proposals = Instances(work.size, proposal_boxes=Boxes(work.proposals))
    proposals.objectness_logits = work.proposals.new_zeros(len(proposals))

    def propose(module: nn.Module, _arguments: Any, output: tuple[Any, Any]) -> tuple[Any, Any]:
        return output if module.training else ([proposals], output[1])

    def suppress(boxes: list[torch.Tensor], *arguments: Any) -> tuple[list, list]:
        fast_rcnn_inference(boxes, *arguments)
        kept = torch.arange(len(work.found), device=work.proposals.device)
        return [work.detections()], [kept % len(boxes[0])]

    hook = model.proposal_generator.register_forward_hook(propose)
    detectron2 = fast_rcnn_inference.__module__
    try:
        with replaced(fast_rcnn_inference, suppress, detectron2):
            yield
    finally:
        hook.remove()


def panoptic_alone(
    model: nn.Module, semantic: torch.Tensor, query: torch.Tensor, found: Instances
) -> Callable[[Span], tuple[torch.Tensor, list[dict]]]:
    """Prepare a run of the panoptic submodule, from V, Q and detections to the panoptic map.

    The parts before it see a tiny image, and their results are replaced: what counts are the
    readings of "panoptic".

    Args:
        model: a `UnifiedPanoptic` in evaluation mode.
        semantic: (K, h, w) probabilities V at stride 4.
        query: (C, h, w) affinity features Q; unused by a model without the affinity.
        found: D detections in pixels of the input, whose size is that of the result.

    Returns:
        A function that does the work inside the spans of a meter.
    """
    size = tuple(found.image_size)
    logits = semantic.log()[None]
    tiny = model.preprocess([{"image": torch.zeros(3, 64, 64, dtype=torch.uint8)}])
    images = ImageList(tiny.tensor, [size])
    nothing = Instances(size, proposal_boxes=Boxes(semantic.new_tensor([[0, 0, 8, 8]])))
    nothing.objectness_logits = semantic.new_zeros(1)
    fields = found.get_fields()
    if not model.roi_heads.mask_on:
        fields = {name: value for name, value in fields.items() if name != "pred_masks"}
    given = [
        (model.proposal_generator, lambda: ([nothing], {})),
        (model.roi_heads, lambda: ([Instances(size, **fields)], {})),
        (model.sem_seg_head, lambda: logits),
    ]
    if model.affinity_head is not None:
        given.append((model.affinity_head, lambda: query[None]))
    with torch.no_grad():
        features = model.backbone(tiny.tensor)

    @torch.no_grad()
    def run(span: Span) -> tuple[torch.Tensor, list[dict]]:
        with ExitStack() as stack:
            for module, give in given:
                hook = module.register_forward_hook(lambda *_, give=give: give())
                stack.callback(hook.remove)
            # Masks of the instances are no part of the submodule, and would interrupt its span.
            stack.enter_context(replaced(detector_postprocess, lambda instances, *_: instances))
            stack.enter_context(instrumented(model, span))
            return model.inference(images, features, [{}])[0]["panoptic_seg"]

    return run
