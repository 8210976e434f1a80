"""COPS as a Detectron2 meta-architecture: wiring only (Abbas, Swoboda, NeurIPS 2021, Fig. 2).

Three ways to train, by MODEL.COPS.TRAINING. One is the pre-training losses on the logits, another
one the surrogate of panoptic quality on the solver's labelling. The third is the separate losses on
its class and edge labels (A.3). The last two go back through the solver, and may be mixed with the
first.

Shapes: N images; K classes; D distances; H, W pixels of the padded batch; h = H / 4, w = W / 4
(or / 2, by MODEL.COPS.STRIDE).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.structures import ImageList
from detectron2.utils.events import get_event_storage
from torch import nn

from cops.finetune import freeze_for_finetuning
from cops.layers.amwc import AmwcLayer
from cops.layers.amwc_labels import AmwcLabelsLayer
from cops.losses.batch_sums import BatchParts
from cops.losses.gradient_scale import scale_gradient
from cops.losses.loss_scale import LossScale
from cops.losses.panoptic_quality import PanopticQualityLoss
from cops.losses.processes import num_processes, sum_over_processes
from cops.losses.separate import SeparateLosses
from cops.modeling.affinity_head import AffinityHead
from cops.modeling.cost_scale import CostScale
from cops.modeling.inference import STRIDE, VARIANTS, InferenceOptions, SolvedImage
from cops.modeling.pretraining import PretrainingLosses
from cops.modeling.semantic_head import SemanticHead
from cops.modeling.solver_training import Ramp, SolverTraining
from cops.modeling.stopwatch import Stopwatch
from cops.targets import CopsTarget
from panoptic_common.checkpoint.finite import require_numbers
from panoptic_common.engine import detectron2_entries
from panoptic_common.modeling.batch_norm import keeping_statistics
from panoptic_common.modeling.network_input import (
    coarsest_stride,
    normalised_batch,
    require_classes,
    require_targets,
)

TRAININGS = ("pretrain", "surrogate", "separate")


class Maps(NamedTuple):
    """What the network makes of a batch."""

    class_logits: torch.Tensor  # (N, K, h, w)
    edge_logits: torch.Tensor  # (N, 2 D, h, w), positive for "cut"
    class_costs: torch.Tensor  # (N, K, h, w) c_V
    edge_costs: torch.Tensor  # (N, 2 D, h, w) c_E


detectron2_entries.apply()


@META_ARCH_REGISTRY.register()
class COPS(nn.Module):
    """Backbone, semantic branch, affinity branch, and the solver behind them.

    Args:
        backbone: with features at stride 4 and above.
        sem_seg_head: features -> (N, K, h, w) logits.
        affinity_head: features, class logits -> (N, 2 D, h, w) logits.
        cost_scale: logits -> costs.
        pretraining: losses on the logits.
        solver_training: losses on the solver's labels; None trains on the pre-training losses.
        mix: weight of the pre-training losses beside the loss through the solver, both gradients
            scaled to an L1 norm of 1 at the costs first. 0 leaves them out.
        ramp: when the loss through the solver comes in beside the pre-training losses; needs a mix.
        freeze: train the last layers only (4.2).
        stride: of the grid.
        size_divisibility: images are padded to multiples of it, and of what the backbone needs.
        distances: D, in cells.
        is_thing: K flags.
        options: how panoptic maps are made.
        variants: further outputs, keys of `cops.modeling.inference.VARIANTS`.
        pixel_mean: per channel of the input.
        pixel_std: per channel of the input.

    Raises:
        ValueError: an unknown variant, a negative mix or one without `solver_training`, or options
            that want a coarser grid than the network's.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        sem_seg_head: nn.Module,
        affinity_head: nn.Module,
        cost_scale: nn.Module,
        pretraining: PretrainingLosses,
        solver_training: SolverTraining | None,
        mix: float,
        freeze: bool,
        stride: int,
        distances: Sequence[int],
        is_thing: Sequence[bool],
        options: InferenceOptions,
        variants: Sequence[str],
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int = 0,
        ramp: Ramp | None = None,
    ) -> None:
        super().__init__()
        unknown = [name for name in variants if name not in VARIANTS]
        if unknown:
            raise ValueError(f"unknown variants {unknown}: use {sorted(VARIANTS)}")
        if mix < 0:
            raise ValueError(f"mix is {mix}: give a weight of 0 or more")
        if mix and solver_training is None:
            raise ValueError(f"mix is {mix}, but nothing is trained through the solver: use 0")
        if ramp is not None and not mix:
            raise ValueError(
                "a ramp needs MODEL.COPS.MIX: set it to the pre-training losses' weight"
            )
        self.ramp = ramp
        self.backbone = backbone
        self.sem_seg_head = sem_seg_head
        self.affinity_head = affinity_head
        self.cost_scale = cost_scale
        self.pretraining = pretraining
        self.solver_training = solver_training
        self.mix = mix
        if stride % options.stride:
            raise ValueError(
                f"options.stride is {options.stride}: it must divide the network's stride, {stride}"
            )
        self.stride = stride
        # Of 4 pixels at any stride, so that grid and features of a coarser one fit.
        least = max(backbone.size_divisibility, STRIDE)
        self.divisibility = math.lcm(least, size_divisibility or least)
        self.distances = tuple(distances)
        self.is_thing = tuple(bool(flag) for flag in is_thing)
        self.options = options
        self.variants = tuple(variants)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        if solver_training is None:
            # Nothing depends on them yet; several processes would wait for their gradients.
            self.cost_scale.requires_grad_(False)
        if freeze:
            freeze_for_finetuning(self)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build all parts, and read what belongs to none of them.

        Raises:
            ValueError: an unknown MODEL.COPS.TRAINING, a stride that the backbone does not have, or
                open class counts.
        """
        require_classes(cfg.MODEL.PANOPTIC.IS_THING)
        backbone = build_backbone(cfg)
        shape = backbone.output_shape()
        node = cfg.MODEL.COPS
        finest = min(feature.stride for feature in shape.values())
        if finest != node.STRIDE:
            raise ValueError(
                f"MODEL.COPS.STRIDE is {node.STRIDE}, but the finest of MODEL.RESNETS.OUT_FEATURES "
                f'has stride {finest}: "res1" has 2, "res2" has 4'
            )
        if node.TRAINING not in TRAININGS:
            raise ValueError(f"MODEL.COPS.TRAINING is {node.TRAINING!r}: use one of {TRAININGS}")
        return {
            "backbone": backbone,
            "sem_seg_head": SemanticHead(cfg, shape),
            "affinity_head": AffinityHead(cfg, shape),
            "cost_scale": CostScale(cfg),
            "pretraining": PretrainingLosses(cfg),
            "solver_training": None if node.TRAINING == "pretrain" else SolverTraining(cfg),
            "mix": node.MIX,
            "freeze": node.FREEZE,
            "stride": node.STRIDE,
            "distances": node.DISTANCES,
            "is_thing": cfg.MODEL.PANOPTIC.IS_THING,
            "options": InferenceOptions.from_config(cfg),
            "variants": tuple(cfg.TEST.PANOPTIC_VARIANTS),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "size_divisibility": node.SIZE_DIVISIBILITY,
            "ramp": Ramp(node.RAMP, cfg.SOLVER.MAX_ITER) if node.RAMP else None,
        }

    @property
    def device(self) -> torch.device:
        """Where the network lies, and inputs go."""
        return self.pixel_mean.device

    @property
    def amwc(self) -> AmwcLayer | AmwcLabelsLayer | None:
        """The solver as a layer, with its settings and statistics; None in pre-training."""
        return None if self.solver_training is None else self.solver_training.amwc

    @property
    def solver_loss(self) -> PanopticQualityLoss | SeparateLosses | None:
        """The loss on the labels of `amwc`; None in pre-training."""
        return None if self.solver_training is None else self.solver_training.loss

    def forward(self, batched_inputs: list[dict]) -> dict[str, torch.Tensor] | list[dict]:
        """Compute losses in training, panoptic maps at inference.

        Args:
            batched_inputs: one dict per image: "image" (3, H_i, W_i) in the configured channel
                order, values 0 to 255. In training also the targets of `make_cops_targets`. At
                inference optionally "height" and "width" of the result, and "cops_target" for the
                semantic oracle.

        Returns:
            In training, scalar losses by name. At inference, one dict per image: "sem_seg"
            (K, height, width) probabilities, "instances", "panoptic_seg" (ids, segments_info),
            "panoptic_variants" {name: the same form}. To be drawn also "cut_edges" and
            "affinity_map", (h, w) each.
        """
        if self.training:
            require_targets(batched_inputs, ("cops_target", *self._needed()))
        watch = Stopwatch(self.device)
        images = self.preprocess(batched_inputs)
        if not self.training:
            return [self._outputs(solved) for solved in self.solved_images(batched_inputs, images)]
        maps = self.predict_maps(images.tensor)
        watch.stop()
        losses = self._losses(maps, batched_inputs)
        # Read only now: the losses have waited for the maps anyway, the solver works on the CPU and
        # the others select by masks.
        get_event_storage().put_scalar("time/network_forward", watch.seconds())
        return losses

    def prepare_parts(self, parts: Sequence[list[dict]]) -> list[AbstractContextManager]:
        """Compute what the parts of a batch add to its panoptic quality, before any is trained.

        The trainer calls this with SOLVER.ACCUMULATE above 1. It draws random numbers as `forward`
        will for the same parts, and puts the generators back.

        Args:
            parts: as `forward` takes them, in the order in which they will be trained.

        Returns:
            A context for the forward pass of each part, in which its loss is that of the batch.
        """
        if self.solver_training is None or self.mix:  # a norm of gradients is not known before
            return [nullcontext() for _ in parts]
        sums = BatchParts(len(parts))
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices), keeping_statistics(self):
            for index, part in enumerate(parts):
                require_targets(part, ("cops_target",))
                maps = self.predict_maps(self.preprocess(part).tensor)
                truths = [x["cops_target"].to(self.device) for x in part]
                with sums.measuring(index):
                    self.solver_training.measure(maps.class_costs, maps.edge_costs, truths)
        return [sums.training(index) for index in range(len(parts))]

    def preprocess(self, batched_inputs: list[dict]) -> ImageList:
        """Normalise images, and pad them to one size that the backbone can divide."""
        stride = coarsest_stride(self.backbone) if self.training else None
        return normalised_batch(
            batched_inputs, self.pixel_mean, self.pixel_std, self.divisibility, stride
        )

    def predict_maps(self, images: torch.Tensor) -> Maps:
        """Compute logits and costs of a batch (N, 3, H, W)."""
        features = self.backbone(images)
        class_logits = self.sem_seg_head(features)
        class_costs = self.cost_scale.class_costs(class_logits)
        edge_logits = self.affinity_head(features, class_logits)  # detaches them (3.1)
        return Maps(class_logits, edge_logits, class_costs, self.cost_scale.edge_costs(edge_logits))

    def _needed(self) -> tuple[str, ...]:
        """Name what the pre-training losses read of the batched inputs, where they are trained."""
        return self.pretraining.needed if self.solver_training is None or self.mix else ()

    def _losses(self, maps: Maps, batched_inputs: list[dict]) -> dict[str, torch.Tensor]:
        """Compute the losses that are trained, by name."""
        truths = [x["cops_target"].to(self.device) for x in batched_inputs]
        if self.solver_training is None:
            return self.pretraining(maps.class_logits, maps.edge_logits, truths, batched_inputs)
        if self.ramp is not None:
            return self._ramped_losses(
                maps, truths, batched_inputs, self.ramp, self.solver_training
            )
        losses = {}
        # Neither the solver nor a norm of gradients may see a factor of the loss.
        scale = LossScale()
        costs = scale.enter((maps.class_costs, maps.edge_costs))
        if self.mix:
            # Each loss sees the maps through its own copy, whose gradient is scaled on the way
            # back.
            logits = scale.enter((maps.class_logits, maps.edge_logits))
            logits = scale_gradient(logits, self.mix)
            losses.update(self.pretraining(*logits, truths, batched_inputs))
            costs = scale_gradient(costs, 1.0)
        losses.update(self.solver_training(*costs, truths))
        return {name: scale.leave(loss) for name, loss in losses.items()}

    def _ramped_losses(
        self,
        maps: Maps,
        truths: list[CopsTarget],
        batched_inputs: list[dict],
        ramp: Ramp,
        solver_training: SolverTraining,
    ) -> dict[str, torch.Tensor]:
        """Compute the pre-training losses, and as much of the other as the ramp allows."""
        logits = (maps.class_logits, maps.edge_logits)
        losses = self.pretraining(*logits, truths, batched_inputs)
        total = torch.stack(list(losses.values())).sum()
        strength = ramp.strength(get_event_storage().iter)
        get_event_storage().put_scalar("solver/ramp", strength)
        costs = (maps.class_costs, maps.edge_costs)
        if strength == 0:
            # Several processes wait for a gradient of every parameter, the cost scales' too.
            nothing = 0 * (costs[0].sum() + costs[1].sum())
            return {**losses, "loss_affinity": losses["loss_affinity"] + nothing}
        # The size of their gradient at the logits, where the costs are made from.
        gradients = torch.autograd.grad(total, logits, retain_graph=True)
        size = torch.stack([g.abs().sum(dtype=torch.float64) for g in gradients]).sum()
        norm = float(sum_over_processes(size)) / num_processes()
        scale = LossScale()
        costs = scale_gradient(scale.enter(costs), strength * norm / self.mix)
        ramped = solver_training(*costs, truths)
        return {**losses, **{name: scale.leave(loss) for name, loss in ramped.items()}}

    def solved_images(self, batched_inputs: list[dict], images: ImageList) -> Iterator[SolvedImage]:
        """Yield the costs of each image, ready to be solved.

        Args:
            batched_inputs: as in `forward`.
            images: the same images, of `preprocess`.
        """
        maps = self.predict_maps(images.tensor)
        for index, (inputs, size) in enumerate(
            zip(batched_inputs, images.image_sizes, strict=True)
        ):
            require_numbers(maps.class_costs[index], inputs)
            require_numbers(maps.edge_costs[index], inputs)
            yield SolvedImage(
                maps.class_logits[index],
                maps.class_costs[index],
                maps.edge_costs[index],
                distances=self.distances,
                is_thing=self.is_thing,
                input_size=size,
                output_size=(inputs.get("height", size[0]), inputs.get("width", size[1])),
                grid_stride=self.stride,
                truth=inputs.get("cops_target"),
            )

    def _outputs(self, image: SolvedImage) -> dict:
        """Make all outputs of one image."""
        output = image.outputs(self.options)
        output["panoptic_variants"] = {
            name: image.panoptic(self.options.changed(VARIANTS[name])) for name in self.variants
        }
        return output
