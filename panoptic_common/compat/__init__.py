"""Detectron2 and its libraries as they are today: what they need to run, in one place.

Detectron2's last release dates from 2021, and torch, numpy and Pillow have moved on since.
Importing this package applies the work-arounds that must precede Detectron2's own import
(`shims`). If Detectron2 is missing, it says in one sentence what to do. Each folder whose modules
import Detectron2 imports this package in its ``__init__``.

`engine` holds the work-arounds inside Detectron2's engine, `launch` starts several processes with
or without a GPU, and `amp_trainer` is mixed precision by ``torch.amp``.

Two known faults of Detectron2 are not patched here. This project has its own class in the same
place: ``SemSegEvaluator`` (``np.array(copy=False)`` raises on numpy 2) is replaced by
``panoptic_common.evaluation.semantic.SemanticEvaluator``, and ``layers.DeformConv`` (needs a
compiled Detectron2) by ``torchvision.ops.DeformConv2d``.
"""

from panoptic_common.compat.shims import active_shims, apply, require_detectron2

__all__ = ["active_shims", "apply", "require_detectron2"]

# At the import, so that it is what a user without Detectron2 sees first.
require_detectron2()
apply()
