"""Write a split of a panoptic data set: images, id PNGs and JSON, whole or not at all.

What makes the maps is another matter (`instance_samples`, `annotated_images`). Everything is
written to a temporary folder and moved into place, the JSON last: where it is, the split is whole.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from panoptic_common.coco.segment_ids import write_id_map
from panoptic_common.files import write_json
from panoptic_common.processes.scratch import scratch_folder

IntMap = npt.NDArray[np.int32]


@dataclass(eq=False)
class PreparedSample:
    """What became of an image and its annotations.

    Attributes:
        name: unique in the data set; that of its PNG, without suffix.
        image: file of the image.
        id_map: (H, W) int32 segment ids; None if image or annotations cannot be used.
        image_entry: its entry in the `images` of the JSON.
        annotation: its entry in the `annotations`.
        num_instances: how many instances the map holds.
        overlap_pixels: pixels that more than one mask claimed, counted per mask that lost them.
        problems: one sentence per file or shape that could not be used.
        notes: one sentence per thing that was decided.
        pixels: (H, W) uint8, what is written instead of an image of more than 8 bits.
    """

    name: str
    image: Path
    id_map: IntMap | None = None
    image_entry: dict[str, Any] = field(default_factory=dict)
    annotation: dict[str, Any] = field(default_factory=dict)
    num_instances: int = 0
    overlap_pixels: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pixels: npt.NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        """Refuse a name that would lead out of the folder that is written."""
        if self.name in ("", ".", "..") or set(self.name) & {"/", os.sep, "\0"}:
            raise ValueError(f"{self.image}: {self.name!r} is no name of an image")

    def describe(
        self, image_id: int, id_map: IntMap, segments: list[dict[str, Any]], file_name: str
    ) -> None:
        """Fill the map and both entries of the JSON.

        Args:
            image_id: its id in the JSON.
            id_map: (H, W) int32.
            segments: `segments_info`.
            file_name: of the image in the split.
        """
        height, width = id_map.shape
        self.id_map = id_map
        entry = {"id": image_id, "file_name": file_name, "height": height, "width": width}
        self.image_entry = entry
        self.annotation = {
            "image_id": image_id,
            "file_name": f"{self.name}.png",
            "segments_info": segments,
        }

    def write_image(self, folder: Path) -> None:
        """Copy the image byte for byte, or write the 8-bit version of a deep one."""
        target = folder / self.image_entry["file_name"]
        if self.pixels is None:
            shutil.copyfile(self.image, target)
        else:
            Image.fromarray(self.pixels).save(target)


class Totals:
    """What was found and what got in, over all splits.

    Attributes:
        images: that got in.
        instances: in these.
        overlap_pixels: that several masks claimed.
        problems: a sentence each.
        notes: a sentence each.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.images = self.instances = self.overlap_pixels = 0
        self.problems: list[str] = []
        self.notes: list[str] = []

    def add(self, sample: PreparedSample) -> None:
        """Count a sample that got in."""
        self.images += 1
        self.instances += sample.num_instances
        self.overlap_pixels += sample.overlap_pixels

    def lines(self) -> list[str]:
        """Say what was decided, what is wrong, and the counts."""
        return [
            *(f"note: {note}" for note in self.notes),
            *(f"problem: {problem}" for problem in self.problems),
            f"{self.images} images with {self.instances} instances;"
            f" {self.overlap_pixels} pixels were claimed more than once;"
            f" {len(self.problems)} problems",
        ]


def split_of(name: str, val_share: float) -> str:
    """Return "train" or "val", the same for a name in every run and on every machine.

    Args:
        name: of the image.
        val_share: share of all names that become val, 0..1.
    """
    return "val" if zlib.crc32(name.encode()) / 2**32 < val_share else "train"


def refuse_existing(out: Path, splits: Iterable[str], force: bool) -> None:
    """Refuse to replace what is there, unless it is a split of ours and that is wanted.

    Args:
        out: folder of the data set.
        splits: that are to be written.
        force: whether to make splits anew.

    Raises:
        FileExistsError: naming it.
    """
    for split in splits:
        made = (out / f"panoptic_{split}.json").is_file()
        for path in (out / split, out / f"panoptic_{split}"):
            if path.exists() and not (made and force):
                raise FileExistsError(
                    f"{path} exists already; --force makes it anew"
                    if made
                    else f"{path} exists, but not as a split of this program: choose another --out"
                )


def write_split(
    out: Path,
    split: str,
    samples: Iterable[PreparedSample],
    categories: Sequence[dict[str, Any]],
    total: Totals,
    *,
    keep_incomplete: bool = False,
) -> int:
    """Write one split into a temporary folder, and move it into place when it is whole.

    Args:
        out: folder of the data set; exists.
        split: its name.
        samples: made one by one, as they are written.
        categories: of the JSON.
        total: what is found is added to it.
        keep_incomplete: take images of which a shape cannot be used, without that shape.

    Returns:
        How many images got in; with 0 nothing is written.
    """
    records: list[PreparedSample] = []
    with scratch_folder(out) as temporary:
        images, pngs = temporary / split, temporary / f"panoptic_{split}"
        images.mkdir()
        pngs.mkdir()
        for prepared in samples:
            total.notes += prepared.notes
            total.problems += prepared.problems
            if prepared.id_map is None or (prepared.problems and not keep_incomplete):
                total.problems.append(f"{prepared.image}: left out")
                continue
            prepared.write_image(images)
            write_id_map(pngs / f"{prepared.name}.png", prepared.id_map)
            prepared.id_map = None  # 400 maps of a megapixel need not stay in memory
            total.add(prepared)
            records.append(prepared)
        if records:
            content = {
                "images": [record.image_entry for record in records],
                "annotations": [record.annotation for record in records],
                "categories": list(categories),
            }
            _publish(out, split, temporary, content)
    return len(records)


def _publish(out: Path, split: str, temporary: Path, content: dict[str, Any]) -> None:
    """Move a finished split into place."""
    json_file = out / f"panoptic_{split}.json"
    json_file.unlink(missing_ok=True)
    for name in (split, f"panoptic_{split}"):
        if (out / name).exists():
            shutil.rmtree(out / name)
        os.replace(temporary / name, out / name)
    write_json(json_file, content)
