"""Saving and loading of models: our checkpoints, Detectron2's model zoo, Caffe2 and torchvision.

Detectron2 loads whatever matches and warns about the rest. A raw torchvision ResNet therefore
loads nothing at all, and the training starts, without an error, from random weights. Here loading
has a purpose, and what the purpose needs must be there:

- "resume": our own checkpoint, every parameter, with optimizer and schedule;
- "evaluate": every parameter, and the class table of the data set;
- "initialise": at least 90 % of the backbone. Layers of other shapes start afresh as a whole, and
  so do those that depend on the classes when the class tables differ.

Parameters that depend on the classes are recognised by their shapes. If two tables of one size
differ, they are recognised by their names: a module called ...predictor or ...classifier.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from panoptic_common.checkpoint.addresses import local_weights
from panoptic_common.checkpoint.files import (
    CheckpointError,
    advice_on_neighbours,
    as_tensor,
    plain,
    read_weights_file,
)
from panoptic_common.checkpoint.finite import (
    NotFiniteError,
    damage_in,
    first_not_finite,
    named_tensors,
)
from panoptic_common.checkpoint.fresh_layers import pop_orphans
from panoptic_common.checkpoint.kinds import require_kinds
from panoptic_common.checkpoint.own_format import is_own
from panoptic_common.checkpoint.stored_state import state_problem
from panoptic_common.checkpoint.weight_names import (
    backbone_prefix,
    class_table_difference,
    is_counter,
    is_torchvision_resnet,
    listed,
    rename_torchvision_resnet,
    torchvision_settings,
)
from panoptic_common.files import remove_temporary_files, write_atomically

logger = logging.getLogger(__name__)

BACKBONE_SHARE = 0.9  # least share of the backbone's entries that initial weights must fill
_CLASS_LAYER = re.compile(r"(predictor|classifier)\.")


class PanopticCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with safe files, atomic writes and strict loading."""

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        cfg: CfgNode,
        class_table: Sequence[dict] = (),
        seed: int = 0,
        allow_unsafe: bool = False,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        """Prepare to save and load a model.

        Args:
            model: the model, wrapped for several processes or not.
            save_dir: folder on a local disk; "" saves nothing.
            cfg: the full config; stored in each checkpoint, and compared with what the weights of
                torchvision expect.
            class_table: of the data set that the model is made for; () compares nothing.
            seed: of the run; stored. May be changed until the first `save`.
            allow_unsafe: read pickles that could run code.
            save_to_disk: default: only the main process does.
            checkpointables: objects with `state_dict` and `load_state_dict`, by their key in the
                file: optimizer, scheduler.
        """
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.logger = logger
        self.cfg = cfg
        self._config_text = cfg.dump()  # once: it takes longer than a small model's training step
        self.class_table = list(class_table)
        self.seed = seed
        self.allow_unsafe = allow_unsafe

    # ---- saving ---------------------------------------------------------------------------------

    def save(self, name: str, *, tag: bool = True, **kwargs: Any) -> None:
        """Write `save_dir/name.pth`, then the pointer `last_checkpoint`, each atomically.

        Args:
            name: file name without ending.
            tag: whether the pointer shall name this file.
            kwargs: further entries, such as `iteration`.

        Raises:
            TypeError: an entry is not made of tensors and plain values.
            NotFiniteError: an entry holds a NaN or an infinity; nothing was written.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        contents = {
            "model": self.model.state_dict(),
            "class_table": self.class_table,
            "config": self._config_text,
            "seed": self.seed,
            **{key: item.state_dict() for key, item in self.checkpointables.items()},
            **kwargs,
        }
        contents = plain(contents)
        if part := first_not_finite(named_tensors(contents)):
            raise NotFiniteError(f"{part.removeprefix('model.')} is not finite")
        os.makedirs(self.save_dir, exist_ok=True)
        remove_temporary_files(self.save_dir, "*.pth", "last_checkpoint")
        path = os.path.join(self.save_dir, f"{name}.pth")
        logger.info("Saving checkpoint to %s", path)
        write_atomically(path, lambda file: torch.save(contents, file))
        if tag:
            self.tag_last_checkpoint(os.path.basename(path))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make `last_checkpoint` name a file; a kill leaves the old name or the new one."""
        pointer = os.path.join(self.save_dir, "last_checkpoint")
        write_atomically(pointer, lambda file: file.write(last_filename_basename.encode()))

    def get_checkpoint_file(self) -> str:
        """Return the path of the newest checkpoint in `save_dir`, "" if there is none.

        Raises:
            CheckpointError: the pointer names no file of `save_dir`.
        """
        if not self.has_checkpoint():
            return ""
        pointer = os.path.join(self.save_dir, "last_checkpoint")
        with open(pointer, encoding="utf-8", errors="replace") as file:
            name = file.read().strip()
        path = os.path.join(self.save_dir, name)
        if not name or os.path.basename(name) != name or not os.path.isfile(path):
            files = sorted(f for f in os.listdir(self.save_dir) if f.endswith(".pth"))
            raise CheckpointError(
                f"{pointer} names {name!r}, which is no file beside it: write the name of one of "
                f"{files} into it, or delete it to start again"
            )
        return path

    # ---- loading --------------------------------------------------------------------------------

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """Go on from the last checkpoint of `save_dir`, or else initialise from `path`.

        Args:
            path: file or address of initial weights; "" for none.
            resume: whether to look for a last checkpoint.

        Returns:
            What the file holds beside the model and the checkpointables.
        """
        if resume and (last := self.get_checkpoint_file()):
            return self.load(last)
        return self.load(path, checkpointables=[])

    def load(
        self, path: str, checkpointables: list[str] | None = None, purpose: str | None = None
    ) -> dict[str, Any]:
        """Load a file into the model, and into the checkpointables if they are wanted.

        Args:
            path: what `local_weights` understands: file, address, shipped model; "" does nothing.
            checkpointables: keys to load; None: all.
            purpose: "resume", "evaluate" or "initialise" (see the top of this module); default:
                "resume" with checkpointables, "initialise" without.

        Returns:
            What the file holds beside the model and the checkpointables.

        Raises:
            CheckpointError: the file cannot be used for that purpose; says why.
        """
        if not path:
            logger.info("No weights given: the model starts from random weights.")
            return {}
        purpose = purpose or ("initialise" if checkpointables == [] else "resume")
        logger.info("Loading %s to %s.", path, purpose)
        contents = read_weights_file(self._local_path(path), self.allow_unsafe)
        if purpose == "resume" and not is_own(contents):
            raise CheckpointError(
                f"{path} is not a checkpoint of this project, so training cannot go on from it: "
                "give it as MODEL.WEIGHTS, without --resume, to start from its weights"
            )
        self._load_weights(contents, path, purpose)
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key in contents:
                self._load_checkpointable(key, contents.pop(key), path)
            elif key == "grad_scaler":
                logger.warning("%s was written without loss scaling: it starts afresh.", path)
            else:
                raise CheckpointError(f"{path} has no {key!r}, which going on from it needs")
        return contents

    def _load_checkpointable(self, key: str, state: dict, path: str) -> None:
        """Load the optimizer's state, say, or explain why it does not fit."""
        if problem := state_problem(state, self.checkpointables[key]):
            advice = advice_on_neighbours(path)
            raise CheckpointError(f"the {key} of {path} is damaged or forged: {problem}{advice}")
        self._require_finite({key: state}, path)
        try:
            self.checkpointables[key].load_state_dict(state)
        except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"the {key} of {path} does not fit this config ({error}): go on with the config "
                "of that run, or start from its weights by MODEL.WEIGHTS without --resume"
            ) from error

    def _local_path(self, path: str) -> str:
        """Fetch an address to a local file, and check that every process can read it."""
        local = local_weights(path)
        readable = comm.all_gather(os.path.isfile(local))
        if any(readable) and not all(readable):
            ranks = [rank for rank, found in enumerate(readable) if not found]
            raise CheckpointError(
                f"process(es) {ranks} cannot read {path}, the others can: machines that train "
                "together need it, and OUTPUT_DIR, on a common disk"
            )
        return local

    def _load_weights(self, contents: dict[str, Any], path: str, purpose: str) -> None:
        """Match names, check what the purpose needs, and only then change the model."""
        weights = self._converted_weights(contents, path)
        self._compare_class_tables(contents, weights, path, purpose)
        own = self.model.state_dict()
        misfits = {
            name: (tuple(value.shape), tuple(own[name].shape))
            for name, value in weights.items()
            if name in own and value.shape != own[name].shape
        }
        fitting = {k: v for k, v in weights.items() if k in own and k not in misfits}
        if purpose == "initialise":
            pop_orphans(self.model, fitting, misfits)
        unused = [k for k in weights if k not in own and "anchor_generator.cell_anchors" not in k]
        missing = [name for name in own if name not in fitting and not is_counter(name)]
        if purpose == "initialise":
            missing = self._without_implied(missing)
            self._require_backbone(missing, misfits, unused, path)
            self._report(len(own), fitting, missing, misfits, unused, path)
        elif missing:
            raise CheckpointError(
                f"{path} does not fit the model: {len(missing)} of its {len(own)} entries are "
                f"missing or of another shape:\n{listed(missing, misfits)}\n"
                "Use the config that it was trained with."
            )
        elif unused:
            logger.warning("Not used of %s: %s", path, listed(unused))
        require_kinds(fitting, own, path)
        self._require_finite(fitting, path)
        self.model.load_state_dict(fitting, strict=False)

    def _require_finite(self, entries: dict[str, Any], path: str) -> None:
        """Raise if a tensor holds a NaN, say: nothing good comes from such a file."""
        if damage := damage_in(named_tensors(entries)):
            raise CheckpointError(f"{path} holds {damage}" + advice_on_neighbours(path))

    def _converted_weights(self, contents: dict[str, Any], path: str) -> dict[str, torch.Tensor]:
        """Turn the file's weights into tensors, under the model's names where they match."""
        weights = {name: as_tensor(name, v, path) for name, v in contents["model"].items()}
        if weights and all(name.startswith("module.") for name in weights):
            weights = {name.removeprefix("module."): value for name, value in weights.items()}
        if is_torchvision_resnet(weights):
            self._require_torchvision_input(path)
            return {
                f"{backbone_prefix(self.model.state_dict())}{name}": value
                for name, value in rename_torchvision_resnet(weights).items()
            }
        if contents.get("__author__") == "torchvision":
            self._require_torchvision_input(path)
        if not contents.get("matching_heuristics", False):
            return weights
        caffe2 = contents.get("__author__") == "Caffe2"
        try:
            return align_and_update_state_dicts(
                self.model.state_dict(), weights, c2_conversion=caffe2
            )
        except ValueError as error:
            raise CheckpointError(
                f"the names in {path} cannot be matched with the model's: {error}"
            ) from error

    def _compare_class_tables(
        self, contents: dict[str, Any], weights: dict[str, Any], path: str, purpose: str
    ) -> None:
        """Refuse, or for initial weights drop the class layers, if the class tables differ."""
        theirs = contents.get("class_table")
        if not self.class_table:
            return
        if not theirs:
            logger.info("%s has no class table: its classes are taken to be the data set's.", path)
            return
        difference = class_table_difference(theirs, self.class_table)
        if difference is None:
            return
        if purpose != "initialise":
            raise CheckpointError(
                f"{path} was trained on other classes than those of the data set ({difference}): "
                "name the data set that it was trained on, or start a training from it by "
                "MODEL.WEIGHTS"
            )
        dropped = [name for name in weights if _CLASS_LAYER.search(name)]
        for name in dropped:
            del weights[name]
        logger.warning(
            "%s was trained on other classes (%s): the layers that depend on them start afresh: %s",
            path,
            difference,
            listed(dropped),
        )

    def _without_implied(self, missing: list[str]) -> list[str]:
        """Drop the statistics of frozen batch norm whose scale is there.

        Detectron1's files fold the statistics into scale and shift, and Detectron2's frozen layer
        then takes mean 0 and variance 1. A normal batch norm cannot be filled that way.
        """
        named = self.model.named_modules()
        frozen = {name for name, m in named if type(m).__name__ == "FrozenBatchNorm2d"}
        gone = set(missing)

        def implied(name: str) -> bool:
            layer, _, leaf = name.rpartition(".")
            statistics = leaf in ("running_mean", "running_var")
            return statistics and layer in frozen and f"{layer}.weight" not in gone

        return [name for name in missing if not implied(name)]

    def _require_backbone(
        self,
        missing: list[str],
        misfits: dict[str, Any],
        unused: list[str],
        path: str,
    ) -> None:
        """Raise unless the weights fill `BACKBONE_SHARE` of the backbone."""
        own = self.model.state_dict()
        prefix = backbone_prefix(own)
        needed = [name for name in own if name.startswith(prefix) and not is_counter(name)]
        lacking = [name for name in missing if name.startswith(prefix)]
        share = 1 - len(lacking) / max(len(needed), 1)
        if share >= BACKBONE_SHARE:
            return
        hint = ""
        if any(re.search(r"\.running_(mean|var)$", name) for name in lacking):
            hint = (
                "\nA file without batch-norm statistics (Detectron1, MSRA) needs "
                'MODEL.RESNETS.NORM "FrozenBN".'
            )
        raise CheckpointError(
            f"{path} fills only {share:.0%} of the backbone ({prefix}*), less than "
            f"{BACKBONE_SHARE:.0%}: the training would start from random weights. Is it another "
            f"network, or another depth (MODEL.RESNETS.DEPTH)?{hint}\nNot filled:\n"
            f"{listed(lacking, misfits)}\nNot used of the file:\n{listed(unused)}"
        )

    def _report(
        self,
        total: int,
        fitting: dict[str, Any],
        missing: list[str],
        misfits: dict[str, Any],
        unused: list[str],
        path: str,
    ) -> None:
        """Log what initial weights fill, what starts afresh, and what nothing uses."""
        logger.info("%d of the model's %d entries are taken from %s.", len(fitting), total, path)
        if missing:
            logger.info("These start afresh:\n%s", listed(missing, misfits))
        if unused:
            logger.info("Not used of %s:\n%s", path, listed(unused))

    def _require_torchvision_input(self, path: str) -> None:
        """Raise unless the config prepares images and strides as torchvision's ResNets expect."""
        if wrong := torchvision_settings(self.cfg):
            raise CheckpointError(
                f"{path} holds weights of torchvision, which expect another input than the config "
                f"gives; set {', '.join(wrong)}"
            )
