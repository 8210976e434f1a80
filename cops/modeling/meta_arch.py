"""COPS as a Detectron2 meta-architecture: wiring only (Abbas, Swoboda, NeurIPS 2021, Fig. 2).

Three ways to train, by MODEL.COPS.TRAINING: the pre-training losses on the network's logits; the
surrogate of panoptic quality on the solver's labelling; the separate losses on its class and edge
labels (A.3). The last two go back through the solver, and may be mixed with the first.

Shapes: N images; K classes; D distances; H, W pixels of the padded batch; h = H / 4, w = W / 4.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import panoptic_common.compat  # noqa: F401  (before detectron2)

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage
from torch import nn

from cops.finetune import freeze_for_finetuning
from cops.layers.amwc import AmwcLayer
from cops.layers.amwc_labels import AmwcLabelsLayer
from cops.layers.cost_dropout import drop_costs
from cops.layers.perturbation import SolverSettings
from cops.losses.gradient_scale import scale_gradient
from cops.losses.panoptic_quality import PanopticQualityLoss, true_statistics
from cops.losses.separate import SeparateLosses
from cops.modeling.affinity_head import AffinityHead
from cops.modeling.backbone import build_cops_resnet_backbone  # noqa: F401  (registers itself)
from cops.modeling.cost_scale import CostScale
from cops.modeling.inference import VARIANTS, InferenceOptions, SolvedImage, area_limits_on_grid
from cops.modeling.pretraining import PretrainingLosses
from cops.modeling.semantic_head import SemanticHead
from cops.targets import CopsTarget
from panoptic_common.modeling.network_input import normalised_batch

STRIDE = 4
TRAININGS = ("pretrain", "surrogate", "separate")


class Maps(NamedTuple):
    """What the network makes of a batch."""

    class_logits: torch.Tensor  # (N, K, h, w)
    edge_logits: torch.Tensor  # (N, 2 D, h, w), positive for "cut"
    class_costs: torch.Tensor  # (N, K, h, w) c_V
    edge_costs: torch.Tensor  # (N, 2 D, h, w) c_E


@META_ARCH_REGISTRY.register()
class COPS(nn.Module):
    """Backbone, semantic branch, affinity branch, and the solver behind them."""

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        sem_seg_head: nn.Module,
        affinity_head: nn.Module,
        cost_scale: nn.Module,
        pretraining: PretrainingLosses,
        amwc: AmwcLayer | AmwcLabelsLayer | None,
        solver_loss: PanopticQualityLoss | SeparateLosses | None,
        mix: float,
        cost_dropout: float,
        freeze: bool,
        distances: Sequence[int],
        is_thing: Sequence[bool],
        options: InferenceOptions,
        variants: Sequence[str],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """Args:
        backbone: with features at stride 4 and above.
        sem_seg_head: features -> (N, K, h, w) logits.
        affinity_head: features, class logits -> (N, 2 D, h, w) logits.
        cost_scale: logits -> costs.
        pretraining: losses on the logits.
        amwc: the solver as a layer; None trains on the pre-training losses alone.
        solver_loss: what is asked of its labels; given with `amwc`.
        mix: weight of the pre-training losses beside the loss through the solver, both
            gradients at the costs scaled to an L1 norm of 1 first; 0 leaves them out.
        cost_dropout: share of the costs that are set to zero in training.
        freeze: train the last layers only (4.2).
        distances: D, in cells.
        is_thing: K flags.
        options: how panoptic maps are made.
        variants: further outputs, keys of `cops.modeling.inference.VARIANTS`.
        pixel_mean, pixel_std: per channel of the input.
        """
        super().__init__()
        unknown = [name for name in variants if name not in VARIANTS]
        if unknown:
            raise ValueError(f"unknown TEST.PANOPTIC_VARIANTS {unknown}: use {sorted(VARIANTS)}")
        if mix < 0:
            raise ValueError(f"MODEL.COPS.MIX is {mix}: give a weight of 0 or more")
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.affinity_head = affinity_head
        self.cost_scale = cost_scale
        self.pretraining = pretraining
        self.amwc = amwc
        self.solver_loss = solver_loss
        self.mix = mix
        self.cost_dropout = cost_dropout
        self.distances = tuple(distances)
        self.is_thing = tuple(bool(flag) for flag in is_thing)
        self.options = options
        self.variants = tuple(variants)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        if amwc is None:
            # Nothing depends on them yet; several processes would wait for their gradients.
            self.cost_scale.requires_grad_(False)
        if freeze:
            freeze_for_finetuning(self)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        backbone = build_backbone(cfg)
        shape = backbone.output_shape()
        node = cfg.MODEL.COPS
        is_thing = tuple(bool(flag) for flag in cfg.MODEL.PANOPTIC.IS_THING)
        amwc, solver_loss = _build_solver_training(cfg, is_thing)
        return {
            "backbone": backbone,
            "sem_seg_head": SemanticHead(cfg, shape),
            "affinity_head": AffinityHead(cfg, shape),
            "cost_scale": CostScale(cfg),
            "pretraining": PretrainingLosses(cfg),
            "amwc": amwc,
            "solver_loss": solver_loss,
            "mix": node.MIX,
            "cost_dropout": node.LOSS.COST_DROPOUT,
            "freeze": node.FREEZE,
            "distances": node.DISTANCES,
            "is_thing": is_thing,
            "options": InferenceOptions.from_cfg(cfg),
            "variants": tuple(cfg.TEST.PANOPTIC_VARIANTS),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """Losses in training, panoptic maps at inference.

        Args:
            batched_inputs: one dict per image: "image" (3, H_i, W_i) in the configured channel
                order, values 0 to 255; in training also the targets of `make_cops_targets`; at
                inference optionally "height" and "width" of the result, and "cops_target" for the
                semantic oracle.

        Returns:
            In training, scalar losses by name. At inference, one dict per image: "sem_seg"
            (K, height, width) probabilities, "instances", "panoptic_seg" (ids, segments_info),
            "panoptic_variants" {name: the same form}, and, to be drawn, "cut_edges" and
            "affinity_map", (h, w) each.
        """
        start = time.perf_counter()
        images = self.preprocess(batched_inputs)
        maps = self.predict_maps(images.tensor)
        if not self.training:
            return [
                self._infer_image(inputs, size, *(m[index] for m in maps))
                for index, (inputs, size) in enumerate(
                    zip(batched_inputs, images.image_sizes, strict=True)
                )
            ]
        storage = get_event_storage()
        storage.put_scalar("time/network_forward", time.perf_counter() - start)
        truths = [x["cops_target"].to(self.device) for x in batched_inputs]
        if self.amwc is None:
            return self.pretraining(maps.class_logits, maps.edge_logits, truths, batched_inputs)
        losses = {}
        class_costs, edge_costs = maps.class_costs, maps.edge_costs
        if self.mix:
            # Each loss sees the maps through its own copy, whose gradient is scaled on the way
            # back.
            logits = scale_gradient((maps.class_logits, maps.edge_logits), self.mix)
            losses.update(self.pretraining(*logits, truths, batched_inputs))
            class_costs, edge_costs = scale_gradient((class_costs, edge_costs), 1.0)
        losses.update(self._solver_losses(class_costs, edge_costs, truths))
        return losses

    def preprocess(self, batched_inputs: list[dict]) -> ImageList:
        """Normalised images, padded to one size that the backbone can divide."""
        divisibility = max(self.backbone.size_divisibility, STRIDE)
        return normalised_batch(batched_inputs, self.pixel_mean, self.pixel_std, divisibility)

    def predict_maps(self, images: torch.Tensor) -> Maps:
        """Logits and costs of a batch (N, 3, H, W)."""
        features = self.backbone(images)
        class_logits = self.sem_seg_head(features)
        class_costs = self.cost_scale.class_costs(class_logits)
        edge_logits = self.affinity_head(features, class_logits)  # detaches them (3.1)
        return Maps(class_logits, edge_logits, class_costs, self.cost_scale.edge_costs(edge_logits))

    def _solver_losses(
        self, class_costs: torch.Tensor, edge_costs: torch.Tensor, truths: list[CopsTarget]
    ) -> dict[str, torch.Tensor]:
        """The loss on what the solver makes of the costs."""
        storage = get_event_storage()
        for name, value in self.amwc.statistics.summary().items():  # of the last step
            storage.put_scalar(f"solver/{name}", value)
        # Drawn from the global generator, which is seeded for each step: a step can be repeated.
        seed = int(torch.randint(2**31 - 1, ()))
        generator = torch.Generator().manual_seed(seed)
        class_costs, edge_costs = drop_costs(
            class_costs.float(), edge_costs.float(), self.cost_dropout, generator
        )
        if isinstance(self.amwc, AmwcLabelsLayer):
            labels = self.amwc(class_costs, edge_costs, truths, generator)
            return self.solver_loss(*labels, truths)
        masks = self.amwc(class_costs, edge_costs, truths, generator)
        loss, details = self.solver_loss(masks, truths)
        quality = true_statistics(masks, truths, self.solver_loss.area_limits).quality(
            self.is_thing
        )
        storage.put_scalar("quality/surrogate", float(details.pq.nanmean()))
        storage.put_scalar("quality/true", quality.all.pq)
        storage.put_scalar("quality/true_positives", float(details.true_positives.sum()))
        storage.put_scalar("quality/false_positives", float(details.false_positives.sum()))
        storage.put_scalar("quality/false_negatives", float(details.false_negatives.sum()))
        return {"loss_panoptic_quality": loss}

    def _infer_image(
        self,
        inputs: dict,
        size: tuple[int, int],
        class_logits: torch.Tensor,
        edge_logits: torch.Tensor,
        class_costs: torch.Tensor,
        edge_costs: torch.Tensor,
    ) -> dict:
        """All outputs of one image."""
        image = SolvedImage(
            class_logits,
            class_costs,
            edge_costs,
            distances=self.distances,
            is_thing=self.is_thing,
            input_size=size,
            output_size=(inputs.get("height", size[0]), inputs.get("width", size[1])),
            truth=inputs.get("cops_target"),
        )
        output = image.outputs(self.options)
        output["panoptic_variants"] = {
            name: image.panoptic(self.options.changed(VARIANTS[name])) for name in self.variants
        }
        return output


def _build_solver_training(
    cfg: CfgNode, is_thing: Sequence[bool]
) -> tuple[AmwcLayer | AmwcLabelsLayer | None, PanopticQualityLoss | SeparateLosses | None]:
    """The layer around the solver and the loss behind it, by MODEL.COPS.TRAINING."""
    node = cfg.MODEL.COPS
    if node.TRAINING not in TRAININGS:
        raise ValueError(f"MODEL.COPS.TRAINING is {node.TRAINING!r}: use one of {TRAININGS}")
    if node.TRAINING == "pretrain":
        if node.MIX:
            raise ValueError('MODEL.COPS.MIX needs MODEL.COPS.TRAINING "surrogate" or "separate"')
        return None, None
    settings = SolverSettings(
        partitionable=tuple(is_thing),
        distances=tuple(node.DISTANCES),
        num_samples=node.BACKWARD.SAMPLES,
        lambda_range=tuple(node.BACKWARD.LAMBDA_RANGE),
        method=node.SOLVER.METHOD,
        num_threads=node.SOLVER.THREADS,
        warm_start=node.BACKWARD.WARM_START,
    )
    if node.TRAINING == "separate":
        loss = SeparateLosses(weight=node.LOSS.WEIGHT)
        return AmwcLabelsLayer(settings), loss
    limits = area_limits_on_grid(
        is_thing,
        node.INFERENCE.THING_AREA_LIMIT,
        node.INFERENCE.STUFF_AREA_LIMIT,
        node.INFERENCE.AREA_DIVISOR,
    )
    loss = PanopticQualityLoss(
        limits,
        weight=node.LOSS.WEIGHT,
        form=node.LOSS.FORM,
        linear_share=node.LOSS.LINEAR_SHARE,
    )
    return AmwcLayer(settings), loss
