"""Write a split of a panoptic data set: images, id PNGs and JSON, whole or not at all.

What makes the maps is another matter (`instance_samples`, `annotated_images`). Everything is
written to a temporary folder and moved into place, the JSON last: where it is, the split is whole.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from panoptic_common.coco.annotations import build_class_table
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
        one_in_pieces: file of its only label, where that lies in several pieces; or None.
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
    one_in_pieces: Path | None = None

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
        in_pieces: files of an image's only label, where that lies in several pieces.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.images = self.instances = self.overlap_pixels = 0
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.in_pieces: list[Path] = []

    def add(self, sample: PreparedSample) -> None:
        """Count a sample that got in."""
        self.images += 1
        self.instances += sample.num_instances
        self.overlap_pixels += sample.overlap_pixels
        if sample.one_in_pieces is not None:
            self.in_pieces.append(sample.one_in_pieces)

    def lines(self) -> list[str]:
        """Say what was decided, what is wrong, and the counts."""
        pieces = [
            f"{len(self.in_pieces)} images have one label in several pieces, such as {first}: a"
            " mask of black and white is one instance; label its pieces first, e.g. by"
            " skimage.measure.label"
            for first in self.in_pieces[:1]
        ]
        return [
            *(f"note: {note}" for note in [*self.notes, *pieces]),
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


def open_output(
    out: Path,
    splits: Collection[str],
    categories: Sequence[Mapping[str, Any]],
    inputs: Iterable[Path],
    *,
    force: bool,
) -> None:
    """Make the folder of a data set, if training would take the classes and nothing gets lost.

    Args:
        out: folder of the data set.
        splits: that are to be written.
        categories: of the JSON.
        inputs: files and folders that are read.
        force: whether to make splits anew.

    Raises:
        ValueError: naming the class that is wrong.
        OSError: the folder cannot be made, or a split would replace something; naming it.
    """
    build_class_table(categories, "the classes")
    _refuse_inputs(out, splits, inputs)
    out.mkdir(parents=True, exist_ok=True)
    _refuse_existing(out, splits, force)


def _refuse_inputs(out: Path, splits: Iterable[str], inputs: Iterable[Path]) -> None:
    """Refuse to replace what is read.

    Files and folders are compared by what the system numbers them by, so links and other names of
    a folder do not hide it.
    """
    forms = ("{}", "panoptic_{}", "panoptic_{}.json")
    written = [out / form.format(split) for split in splits for form in forms]
    replaced = {_number_of(path): path for path in written}
    replaced.pop(None, None)  # what is not there
    seen: set[Path] = set()  # thousands of images lie in a few folders
    for given in inputs if replaced else ():
        linked = Path(os.path.realpath(given.parent)) / given.name
        for path in (linked, Path(os.path.realpath(given))):
            for place in (path, *path.parents):
                if place in seen:
                    break
                seen.add(place)
                if own := replaced.get(_number_of(place)):
                    raise FileExistsError(
                        f"{own} would be replaced, but {given} is read from it: choose another"
                        " --out"
                    )


def _number_of(path: Path) -> tuple[int, int] | None:
    """Return the device and the number of what a path leads to; None if that is nothing."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _refuse_existing(out: Path, splits: Iterable[str], force: bool) -> None:
    """Refuse to replace what is there, unless it is a split of ours and that is wanted."""
    for split in splits:
        json_file = out / f"panoptic_{split}.json"
        for path in (out / split, out / f"panoptic_{split}", json_file):
            folder = path.is_dir() and not path.is_symlink()
            made = json_file.is_file() and (folder or path == json_file)
            if os.path.lexists(path) and not (made and force):
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
