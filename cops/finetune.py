"""What is trained through the solver, and what stays as pre-training left it.

Abbas, Swoboda, NeurIPS 2021, 4.2: fine-tuning trains the semantic and the affinity classifiers and
the last layer of each decoder. The backbone and all batch norm are frozen. A batch through the
solver is small and its loss noisy, so statistics of such batches would be worse than those at hand.
The cost scales, which the paper does not mention, are trained (the authors' code does so).
"""

from __future__ import annotations

import logging

from torch import nn

logger = logging.getLogger(__name__)

BRANCHES = ("sem_seg_head", "affinity_head")


def freeze_for_finetuning(model: nn.Module) -> list[str]:
    """Freeze, in place, the backbone, the decoders but for their last layers, and all batch norm.

    Frozen parameters get no gradient, so an optimizer that is built afterwards leaves them out.
    Frozen batch norm also keeps its running statistics, whatever `model.train()` says. Parameters
    that were frozen before stay so. Names and values do not change: a checkpoint of pre-training
    loads into the frozen model, and one of fine-tuning into a model that is not.

    Args:
        model: has `backbone` and the branches `sem_seg_head` and `affinity_head`, each with a
            `decoder` whose fusions are the `nn.ModuleDict` `decoder.fuse`, in the order in which
            they run.

    Returns:
        Names of the parameters that are still trained.

    Raises:
        ValueError: a part is missing, so that something that must be frozen would be trained; or
            nothing is left to train.
    """
    backbone = _part(model, "backbone")
    last_layers = {}
    decoders = {}
    for branch in BRANCHES:
        decoder = _part(model, f"{branch}.decoder")
        fusions = _part(model, f"{branch}.decoder.fuse")
        if not isinstance(fusions, nn.ModuleDict) or len(fusions) == 0:
            raise ValueError(
                f"{branch}.decoder has no fusion, so no last layer to train: give it at least two "
                "maps of the backbone, or do not freeze"
            )
        decoders[branch] = decoder
        last_layers[branch] = list(fusions.values())[-1]

    trained = {p for layer in last_layers.values() for p in layer.parameters() if p.requires_grad}
    for part in (backbone, *decoders.values()):
        for parameter in part.parameters():
            parameter.requires_grad_(parameter in trained)
    freeze_batch_norm(model)

    names = [name for name, p in model.named_parameters() if p.requires_grad]
    if not names:
        raise ValueError("nothing is left to train: were the heads frozen before?")
    logger.info("Fine-tuning trains %s", _summary(model))
    logger.debug("Trained parameters: %s", ", ".join(names))
    return names


def freeze_batch_norm(model: nn.Module) -> None:
    """Freeze scale, shift and running statistics of all batch norm of a model, in place.

    `model.train()` puts each layer back into training mode, so a hook undoes that before each use.
    The alternatives change more. Detectron2's `FrozenBatchNorm2d.convert_frozen_batchnorm` puts
    other modules in place. They have no parameters and no `num_batches_tracked`, so checkpoints of
    the two stages would differ. Overriding `train` must be done in every model.

    Args:
        model: any; layers of `FrozenBatchNorm2d` are frozen as they are.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # also SyncBatchNorm
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
            module.eval()
            module.register_forward_pre_hook(_evaluate)


def _evaluate(module: nn.Module, inputs: tuple) -> None:
    """Keep a layer in evaluation mode.

    It is a function of the module, not a closure, so that models can be pickled and copied.
    """
    module.training = False


def _part(model: nn.Module, name: str) -> nn.Module:
    """Return the part of the model with a dotted name."""
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        raise ValueError(
            f"{type(model).__name__} has no {name}, so it is not known what to freeze"
        ) from error


def _summary(model: nn.Module) -> str:
    """Count trained parameters by part, such as "sem_seg_head 1 of 3, cost_scale 12 of 12"."""
    parts = []
    for name, part in model.named_children():
        total = sum(p.numel() for p in part.parameters())
        trained = sum(p.numel() for p in part.parameters() if p.requires_grad)
        if total:
            parts.append(f"{name} {trained:,} of {total:,}")
    return ", ".join(parts) + " parameters"
