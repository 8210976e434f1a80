"""From a checkpoint to predictions on any image: what `tools/demo.py` and others share.

A checkpoint of this project holds its config and class table, so the file alone is enough to build
the model. For other weights (Detectron2's model zoo) the config file names the data set whose
classes are used.

Shapes: H, W pixels of the image; K classes; D boxes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from panoptic_common.compat.devices import require_device

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import transforms as T
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import nn

from panoptic_common.checkpoint.addresses import local_weights
from panoptic_common.checkpoint.checkpointer import PanopticCheckpointer
from panoptic_common.checkpoint.files import read_checkpoint_metadata, read_weights_file
from panoptic_common.checkpoint.own_format import is_own
from panoptic_common.config import Extension, common_class_table, load_config, stored_config
from panoptic_common.data.augmentations import build_augmentations
from panoptic_common.inference.exporting import image_preparation
from panoptic_common.modeling.resampling import resample_nearest
from panoptic_common.modeling.semantic_map import semantic_map
from panoptic_common.systems import SYSTEMS, adapt_model, system_panels

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model makes of one image, at the image's size, on the CPU.

    Attributes:
        semantic: (H, W) int32 contiguous classes; negative where the model gives none, or says no
            more than that it is a thing.
        id_map: (H, W) int32 segment ids, 0 = void.
        segments_info: one dict per segment: "id", "isthing", "category_id" (contiguous), and for
            things "score".
        boxes: (D, 4) float32 XYXY in pixels, by descending score.
        scores: (D,) float32.
        classes: (D,) contiguous classes.
        variants: further panoptic maps by name: (id_map, segments_info).
        extra_maps: (H, W) float32 by name: what else a system gives of each cell of its grid (its
            EXTRA_MAPS, see `panoptic_common.systems`).
    """

    semantic: np.ndarray
    id_map: np.ndarray
    segments_info: list[dict[str, Any]]
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    variants: dict[str, tuple[np.ndarray, list[dict]]] = field(default_factory=dict)
    extra_maps: dict[str, np.ndarray] = field(default_factory=dict)


class Predictor:
    """A model in evaluation mode, with the way from an image to its input.

    Attributes:
        model: the model.
        class_table: K entries in contiguous order.
        meta_architecture: the name by which `panoptic_common.systems` finds its system.
        systems: package of each known meta-architecture.
        image_options: see `panoptic_common.inference.exporting.image_preparation`.
    """

    @configurable
    def __init__(
        self,
        model: nn.Module,
        class_table: Sequence[dict],
        *,
        image_format: str,
        augmentations: Sequence[T.Augmentation],
        meta_architecture: str,
        systems: Mapping[str, str] = SYSTEMS,
        extra_maps: Sequence[str] = (),
        image_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Take what a config says, or ``Predictor(cfg, model, class_table)``.

        Args:
            model: with its weights.
            class_table: K entries with at least "isthing".
            image_format: "RGB" or "BGR", the order of channels that the model expects.
            augmentations: that prepare an image, such as its resizing.
            meta_architecture: class name of the model.
            systems: package of each known meta-architecture.
            extra_maps: names of further (h, w) outputs of the model to keep.
            image_options: what `augmentations` do, in numbers; an export stores them.
        """
        self.model = model.eval()
        self.class_table = list(class_table)
        self.meta_architecture = meta_architecture
        self.systems = systems
        things = [i for i, entry in enumerate(class_table) if entry["isthing"]]
        self._thing_ids = np.array(things, dtype=np.int64)
        self._image_format = image_format
        self._augmentations = T.AugmentationList(list(augmentations))
        self._extra_maps = tuple(extra_maps)
        self.image_options = dict(image_options or {})

    @classmethod
    def from_config(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        class_table: Sequence[dict],
        systems: Mapping[str, str] = SYSTEMS,
    ) -> dict[str, Any]:
        """Return the arguments of `__init__` that a config implies."""
        panels = system_panels(cfg.MODEL.META_ARCHITECTURE, systems)
        return {
            "model": model,
            "class_table": class_table,
            "image_format": cfg.INPUT.FORMAT,
            "augmentations": build_augmentations(cfg, is_train=False),
            "meta_architecture": cfg.MODEL.META_ARCHITECTURE,
            "systems": systems,
            "extra_maps": getattr(panels, "EXTRA_MAPS", ()),
            "image_options": image_preparation(cfg),
        }

    @classmethod
    def from_checkpoint(
        cls,
        path: str,
        systems: Mapping[str, str] = SYSTEMS,
        *,
        config_file: str = "",
        opts: Sequence[str] = (),
        datasets: Sequence[Sequence[str]] = (),
        device: str = "",
        score_threshold: float | None = None,
        allow_unsafe: bool = False,
        extensions: Sequence[Extension] = (),
    ) -> Predictor:
        """Build the model that a file of weights belongs to, and load it.

        Args:
            path: one of our checkpoints, or other weights together with `config_file`; whatever
                `panoptic_common.checkpoint.addresses.local_weights` understands.
            systems: package of each known MODEL.META_ARCHITECTURE.
            config_file: used instead of the config inside the checkpoint. The data sets that it
                names must be there for other weights only: ours bring their classes along.
            opts: further settings, alternately key and value.
            datasets: further data sets, each (name, images, panoptic JSON, folder of PNGs).
            device: "cpu", "cuda", ...; "" takes MODEL.DEVICE, or the CPU if that is a GPU that is
                not there.
            score_threshold: least score of a detection in the panoptic map, for systems that have
                one; None: the config's.
            allow_unsafe: read pickles that could run code.
            extensions: that add the keys of a model which is none of `systems`.

        Raises:
            CheckpointError: the file cannot be used; says why.
            ValueError: an unknown system, opts that do not fit, or a device that is not there.
        """
        path = local_weights(path, systems)
        if config_file:
            table = _own_class_table(path, allow_unsafe)
            cfg = load_config(
                config_file,
                opts,
                datasets=datasets,
                table=table,
                only_test=table is None,
                systems=systems,
                extensions=extensions,
            )
            table = table or common_class_table(cfg.DATASETS.TEST)
        else:
            metadata = read_checkpoint_metadata(path, allow_unsafe)
            table = metadata.class_table
            settings = stored_config(metadata.config)
            try:
                cfg = load_config(
                    settings, opts, table=table, systems=systems, extensions=extensions
                )
            except ValueError as error:
                raise ValueError(f"{path}, with the config in it: {error}") from error
        panels = system_panels(cfg.MODEL.META_ARCHITECTURE, systems)
        if score_threshold is not None and hasattr(panels, "set_score_threshold"):
            panels.set_score_threshold(cfg, score_threshold)
        cfg.MODEL.DEVICE = device or cfg.MODEL.DEVICE
        if not device and cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
            logger.info("No GPU is available: using the CPU.")
            cfg.MODEL.DEVICE = "cpu"
        require_device(cfg.MODEL.DEVICE)
        model = build_model(cfg)
        adapt_model(model, cfg, systems)
        checkpointer = PanopticCheckpointer(
            model, cfg=cfg, class_table=table, allow_unsafe=allow_unsafe
        )
        checkpointer.load(path, checkpointables=[], purpose="evaluate")
        return cls(cfg, model, table, systems)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> Prediction:
        """Predict on one image.

        Args:
            image: (H, W, 3) uint8 RGB.
        """
        return self.predict_batch([image])[0]

    @torch.no_grad()
    def predict_batch(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Predict on several images in one pass of the network.

        Images of different sizes are padded to one. That changes what the network makes of them
        near their right and lower borders.

        Args:
            images: (H, W, 3) uint8 RGB each.
        """
        inputs = [self.prepare(image) for image in images]
        outputs = self.model(inputs) if inputs else []
        return [self.prediction(*parts) for parts in zip(images, inputs, outputs, strict=True)]

    def prediction(
        self, image: np.ndarray, inputs: Mapping[str, Any], output: Mapping[str, Any]
    ) -> Prediction:
        """Bring what the model makes of one image to the CPU and to the image's size.

        Args:
            image: (H, W, 3) uint8 RGB.
            inputs: of `prepare`.
            output: of the model in evaluation mode.
        """
        instances = self._detections(output, image.shape[:2])
        input_size = (inputs["image"].shape[1], inputs["image"].shape[2])
        # A model that does not give one of them says nothing about any pixel.
        nothing = torch.zeros(image.shape[:2], dtype=torch.int32)
        id_map, segments_info = output.get("panoptic_seg", (nothing, []))
        semantic = semantic_map(output) if "sem_seg" in output else nothing - 1
        return Prediction(
            semantic=semantic.to(torch.int32).cpu().numpy(),
            id_map=id_map.cpu().numpy(),
            segments_info=segments_info,
            boxes=instances.pred_boxes.tensor.float().numpy(),
            scores=instances.scores.float().numpy(),
            classes=self._thing_ids[instances.pred_classes.numpy()],
            variants={
                name: (ids.cpu().numpy(), info)
                for name, (ids, info) in output.get("panoptic_variants", {}).items()
            },
            extra_maps={
                name: _grid_to_image(output[name], input_size, image.shape[:2])
                for name in self._extra_maps
                if name in output
            },
        )

    @staticmethod
    def _detections(output: Mapping[str, Any], size: tuple[int, int]) -> Instances:
        """Return the detections of an output, none for a system without a detector."""
        if "instances" in output:
            return output["instances"].to("cpu")
        none = Instances(size)
        none.pred_boxes, none.scores = Boxes(torch.zeros(0, 4)), torch.zeros(0)
        none.pred_classes = torch.zeros(0, dtype=torch.int64)
        return none

    def prepare(self, image: np.ndarray) -> dict[str, Any]:
        """Make the model's input of an image.

        Args:
            image: (H, W, 3) uint8 RGB.

        Returns:
            {"image": (3, H_in, W_in) uint8 in the order of channels that the model expects,
            "height": H, "width": W}.
        """
        ordered = image if self._image_format == "RGB" else image[:, :, ::-1]
        inputs = T.AugInput(np.ascontiguousarray(ordered))
        self._augmentations(inputs)
        tensor = torch.from_numpy(np.ascontiguousarray(inputs.image.transpose(2, 0, 1)))
        return {"image": tensor, "height": image.shape[0], "width": image.shape[1]}


def _own_class_table(path: str, allow_unsafe: bool) -> list[dict] | None:
    """Return the class table of one of our checkpoints, None for other weights."""
    if not os.path.isfile(path):  # the checkpointer tells it
        return None
    contents = read_weights_file(path, allow_unsafe)
    return contents["class_table"] if is_own(contents) else None


def _grid_to_image(
    maps: torch.Tensor, input_size: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Stretch an (h, w) map of a model's grid to the image's (H, W): cells stay squares.

    The stride of the grid, a power of two, follows from its size.

    Raises:
        ValueError: the map is that of no such grid.
    """
    for stride in (1, 2, 4, 8, 16, 32):
        if tuple(maps.shape) == tuple(-(-length // stride) for length in input_size):
            return resample_nearest(maps.float().cpu(), input_size, size, stride).numpy()
    raise ValueError(
        f"a map of {tuple(maps.shape)} cells is that of no grid of the network's input, "
        f"{input_size[0]} x {input_size[1]} pixels (height x width)"
    )
