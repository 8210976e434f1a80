"""Spans around the submodules of the Unified system (Li, Qi, Torr, CVPR 2020, Fig. 2).

A part that is a module is watched by hooks. A step that is a public function is wrapped wherever a
module of the system refers to it. All that runs is the model's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import wraps
from typing import Any
from unittest import mock

from detectron2.modeling.postprocessing import detector_postprocess
from torch import nn

from panoptic_common.modeling.resampling import resample
from panoptic_tools.studies.library.measure import Span
from panoptic_tools.studies.library.replacing import replaced
from unified_panoptic import matching
from unified_panoptic.modeling import postprocess

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

# Public functions by the part that they are a step of.
STEPS: tuple[tuple[str, tuple[Callable, ...]], ...] = (
    (
        "panoptic",
        (
            matching.match_detections,
            matching.panoptic_target,
            matching.panoptic_cross_entropy,
            postprocess.uncovered_detections,
            postprocess.merge_heuristically,
            postprocess.argmax_of_resampled,
            postprocess.segments_from_channels,
            postprocess.trim_small_stuff,
        ),
    ),
    ("panoptic/potential and affinity at stride 4", (postprocess.factor_residual,)),
    ("panoptic/argmax at the size of the result", (postprocess.argmax_at_output,)),
    (SEMANTIC_MAP, (resample,)),
    (INSTANCE_MASKS, (detector_postprocess,)),
)


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count the parameters of each part of `MODULES`; 0 for a part that the model lacks."""
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


@contextmanager
def instrumented(model: nn.Module, span: Span) -> Iterator[None]:
    """While the context lasts, each part of the model runs inside a span of its name.

    A part that another one calls belongs to the caller. Resampling is a part of its own, and a step
    of the panoptic map at stride 4. What lies between two steps of the panoptic submodule belongs
    to it, too.

    Args:
        model: a `UnifiedPanoptic`.
        span: gives a context manager for a name.
    """
    tracer = _Tracer(span)
    heads, affinity = model.roi_heads, model.affinity_head
    with ExitStack() as stack:
        # Outermost, so that it closes what is open when the model has ended.
        stack.callback(tracer.close)
        for module, name in (
            (model.backbone, "backbone"),
            (model.proposal_generator, "detection/proposals"),
            (heads, "detection/heads"),
            (model.sem_seg_head, "semantic"),
            (model.panoptic, "panoptic/potential and affinity at stride 4"),
        ):
            stack.enter_context(_hooked((module,), tracer, name))
        if affinity is not None:
            stack.enter_context(_hooked((affinity,), tracer, "affinity features"))
            phi = (affinity.phi_0, affinity.phi_1)
            stack.enter_context(_hooked(phi, tracer, "panoptic/phi"))
        for owner, method, name in (
            (heads, "predict_detections", "detection/differentiable detections"),
            (model.sem_seg_head, "losses", "semantic"),
        ):
            wrapped = tracer.wrap(getattr(owner, method), name)
            stack.enter_context(mock.patch.object(owner, method, wrapped))
        for name, functions in STEPS:
            for function in functions:
                stack.enter_context(replaced(function, tracer.wrap(function, name)))
        ended = model.register_forward_hook(lambda *_: tracer.close(), always_call=True)
        stack.callback(ended.remove)
        yield


class _Tracer:
    """Opens and closes the spans of parts, none inside a span of another part."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._part = ""  # whose span is open
        self._whole: AbstractContextManager | None = None
        self._depth = 0  # steps of the part that run now
        self._running: list[AbstractContextManager | None] = []

    def enter(self, name: str) -> None:
        """Begin a step; `leave` ends it."""
        part = name.partition("/")[0]
        if self._depth and part != self._part:
            self._running.append(None)  # belongs to the caller
            return
        if part != self._part or part != "panoptic":
            self.close()
        if self._whole is None:
            self._part, self._whole = part, self._span(part)
            self._whole.__enter__()
        detail = self._span(name) if name != part else None
        if detail is not None:
            detail.__enter__()
        self._depth += 1
        self._running.append(nullcontext() if detail is None else detail)

    def leave(self) -> None:
        """End the step that was begun last."""
        detail = self._running.pop()
        if detail is None:
            return
        detail.__exit__(None, None, None)
        self._depth -= 1
        if not self._depth and self._part != "panoptic":
            self.close()

    def close(self) -> None:
        """Close the span of a part that has stayed open for what comes between its steps."""
        if self._depth or self._whole is None:
            return
        self._whole.__exit__(None, None, None)
        self._part, self._whole = "", None

    def wrap(self, function: Callable, name: str) -> Callable:
        """Return a function as a step."""

        @wraps(function)
        def run(*arguments: Any, **keywords: Any) -> Any:
            self.enter(name)
            try:
                return function(*arguments, **keywords)
            finally:
                self.leave()

        return run


@contextmanager
def _hooked(modules: Sequence[nn.Module], tracer: _Tracer, name: str) -> Iterator[None]:
    """While the context lasts, the forward passes of modules that run in turn are one step."""
    hooks = (
        modules[0].register_forward_pre_hook(lambda *_: tracer.enter(name)),
        modules[-1].register_forward_hook(lambda *_: tracer.leave(), always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
