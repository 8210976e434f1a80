"""A trained model as Python programs want it: a path, an array or a tensor in, segments out.

`panoptic_common.load` is the way in; `docs/howto/python.md` shows it.

Shapes: H, W pixels of the image; K classes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from panoptic_common.compat.layout import lay_out

import numpy as np
import numpy.typing as npt
import torch

from panoptic_common.coco.image_inputs import as_rgb
from panoptic_common.coco.image_reading import RGBImage
from panoptic_common.coco.results import coco_segment
from panoptic_common.coco.segment_ids import update_segments, write_id_map
from panoptic_common.drawing.overlays import draw_panoptic
from panoptic_common.files import write_json
from panoptic_common.inference.media import write_image
from panoptic_common.inference.predictor import Prediction, Predictor

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class Segment:
    """One segment of a panoptic map.

    Attributes:
        id: in the map; positive.
        class_name: of its class.
        class_index: contiguous, as in `PanopticModel.classes`.
        category_id: of its class, in the data set's own numbers.
        is_thing: whether its class is one of countable things.
        score: 0..1; None for segments that have none, as stuff.
        area: in pixels.
        box: (left, top, width, height) in pixels, tight.
    """

    id: int
    class_name: str
    class_index: int
    category_id: int
    is_thing: bool
    score: float | None
    area: int
    box: tuple[int, int, int, int]
    _map: npt.NDArray[np.int32] = field(repr=False, compare=False)

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """(H, W) bool, made when it is asked for."""
        return self._map == self.id


class Result:
    """What a model makes of one image.

    Attributes:
        image: (H, W, 3) uint8 RGB, as the model saw it before resizing.
        panoptic: (H, W) int32 segment ids; 0 is void.
        semantic: (H, W) int32 classes, contiguous; void nowhere.
        prediction: all of it, with boxes and what a system gives beyond the panoptic map.
        name: of the image's file without its ending, or "image".
    """

    def __init__(
        self, image: RGBImage, prediction: Prediction, table: Sequence[dict], name: str
    ) -> None:
        """Keep what `PanopticModel` hands over."""
        self.image = image
        self.prediction = prediction
        self.panoptic = prediction.id_map
        self.semantic = prediction.semantic
        self.name = name
        self._table = table

    def __repr__(self) -> str:
        """Say what was found."""
        height, width = self.panoptic.shape
        return f"Result({self.name}: {len(self.segments)} segments, {height} x {width} pixels)"

    @cached_property
    def _measured(self) -> list[dict[str, Any]]:
        return update_segments(self.panoptic, self.prediction.segments_info)

    @cached_property
    def segments(self) -> list[Segment]:
        """The segments of the panoptic map, the largest first."""
        segments = []
        for entry in self._measured:
            index = int(entry["category_id"])
            row = self._table[index]
            left, top, width, height = entry["bbox"]
            segments.append(
                Segment(
                    id=int(entry["id"]),
                    class_name=row["name"],
                    class_index=index,
                    category_id=int(row["id"]),
                    is_thing=bool(row["isthing"]),
                    score=float(entry["score"]) if "score" in entry else None,
                    area=int(entry["area"]),
                    box=(int(left), int(top), int(width), int(height)),
                    _map=self.panoptic,
                )
            )
        return sorted(segments, key=lambda segment: -segment.area)

    def draw(self, scale: int = 1) -> npt.NDArray[np.uint8]:
        """Draw the segments over the image.

        Args:
            scale: whole factor by which the drawing is enlarged; names are legible on small images
                only then.

        Returns:
            (scale * H, scale * W, 3) uint8 RGB.
        """
        segments = self.prediction.segments_info
        return draw_panoptic(self.image, self.panoptic, segments, self._table, scale=scale)

    def to_coco(self, image_id: int | str | None = None) -> dict[str, Any]:
        """Return the annotation of COCO's panoptic results; its PNG is what `save` writes.

        Args:
            image_id: of the image in the data set; None takes the name.
        """
        return {
            "image_id": self.name if image_id is None else image_id,
            "file_name": f"{self.name}.png",
            "segments_info": [coco_segment(entry, self._table) for entry in self._measured],
        }

    def save(self, folder: str | os.PathLike[str], scale: int = 1) -> Path:
        """Write three files, named after the image.

        They are `<name>.png` with the ids in COCO's colours, `<name>.json` with its annotation and
        `<name>_panoptic.jpg`, the drawing. Files of the same names are replaced.

        Args:
            folder: made if missing.
            scale: of the drawing.

        Returns:
            The path of the PNG.
        """
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        png = path / f"{self.name}.png"
        write_id_map(png, self.panoptic)
        write_json(path / f"{self.name}.json", self.to_coco())
        write_image(path / f"{self.name}_panoptic.jpg", self.draw(scale))
        return png


class PanopticModel:
    """A trained model that takes images as Python programs have them.

    Attributes:
        predictor: the network, with the way from an image to its input.
        classes: K names, in contiguous order.
    """

    def __init__(self, predictor: Predictor, precision: str = "float32") -> None:
        """Wrap a predictor.

        Args:
            predictor: with its weights.
            precision: "float32", or "bfloat16" or "float16" for automatic mixed precision.

        Raises:
            ValueError: another precision.
        """
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}: use one of {sorted(PRECISIONS)}")
        self.predictor = predictor
        if PRECISIONS[precision] == torch.bfloat16:  # in single precision it would gain 2 to 5 %
            lay_out(predictor.model)
        self.classes = [row["name"] for row in predictor.class_table]
        self._precision = PRECISIONS[precision]

    @property
    def device(self) -> torch.device:
        """Where the network lies."""
        return next(self.predictor.model.parameters()).device

    def __call__(
        self, images: Any, *, order: str = "RGB", batch_size: int = 1
    ) -> Result | list[Result]:
        """Segment one image, or each image of a list.

        Args:
            images: a path, an image of Pillow, an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4),
                or a tensor (H, W) or (C, H, W); see `panoptic_common.coco.image_inputs.as_rgb` for
                the values that are understood. Or a list or tuple of these, or a tensor
                (N, C, H, W).
            order: "RGB" or "BGR", of the colours of arrays and tensors.
            batch_size: images of a list that pass the network together. Images of different sizes
                are padded then, which changes results near their borders.

        Returns:
            One result, or a list of them.

        Raises:
            FileNotFoundError, TypeError, ValueError: of `as_rgb`, naming which of several images.
        """
        if isinstance(images, torch.Tensor) and images.ndim == 4:
            images = list(images)
        if not isinstance(images, (list, tuple)):
            return self._predict([(_name_of(images), as_rgb(_as_array(images), order))])[0]
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: at least one image passes at a time")
        results: list[Result] = []
        for start in range(0, len(images), batch_size):
            batch = []
            for number, image in enumerate(images[start : start + batch_size], start):
                try:
                    batch.append((_name_of(image, number), as_rgb(_as_array(image), order)))
                except (TypeError, ValueError) as error:
                    raise type(error)(f"image {number} of the list: {error}") from error
            results += self._predict(batch)
        return results

    def _predict(self, batch: Sequence[tuple[str, RGBImage]]) -> list[Result]:
        """Segment named images in one pass of the network."""
        reduced = self._precision != torch.float32
        with torch.autocast(self.device.type, dtype=self._precision, enabled=reduced):
            predictions = self.predictor.predict_batch([image for _, image in batch])
        table = self.predictor.class_table
        return [
            Result(image, prediction, table, name)
            for (name, image), prediction in zip(batch, predictions, strict=True)
        ]


def _name_of(image: Any, number: int | None = None) -> str:
    """Return how the files of a result are called."""
    if isinstance(image, (str, os.PathLike)):
        return Path(image).stem
    return "image" if number is None else f"image_{number}"


def _as_array(image: Any) -> Any:
    """Turn a tensor, whose channels come first, into an array; leave the rest alone."""
    if not isinstance(image, torch.Tensor):
        return image
    if image.ndim == 3 and image.shape[0] not in (1, 3, 4):
        raise ValueError(
            f"a tensor of shape {tuple(image.shape)} is no image: the channels, 1, 3 or 4, come "
            "first in a tensor"
        )
    image = image.detach().cpu()
    if image.dtype == torch.bfloat16:
        image = image.float()
    return image.numpy() if image.ndim != 3 else image.permute(1, 2, 0).numpy()


def load(
    path: str | os.PathLike[str],
    *,
    device: str = "",
    precision: str = "float32",
    config_file: str | os.PathLike[str] = "",
    options: Sequence[str] = (),
    score_threshold: float | None = None,
) -> PanopticModel:
    """Load a trained model.

    Args:
        path: the name of a model that comes along, such as "nuclei". Or the path or address of a
            checkpoint of this project, which holds its config and classes. Other weights need
            `config_file` as well. See `panoptic_common.checkpoint.addresses`.
        device: "cpu", "cuda", ...; "" takes what the model was trained on, or the CPU if that is a
            GPU that is not there.
        precision: "float32", or "bfloat16" or "float16" for automatic mixed precision.
        config_file: used instead of the config inside the checkpoint.
        options: further settings, alternately key and value.
        score_threshold: least score of a detection in the panoptic map, for systems that have one.

    Raises:
        panoptic_common.checkpoint.files.CheckpointError: the file cannot be used; says why.
        ValueError: an unknown precision, system or option.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: use one of {sorted(PRECISIONS)}")
    predictor = Predictor.from_checkpoint(
        os.fspath(path),
        config_file=os.fspath(config_file),
        opts=options,
        device=device,
        score_threshold=score_threshold,
    )
    return PanopticModel(predictor, precision)
