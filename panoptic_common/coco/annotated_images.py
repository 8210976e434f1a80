"""Images with drawn regions, as annotation programs export them, to COCO's panoptic form.

A region is a mask with a class. Regions of a thing class are instances; those of a stuff class
become one segment per image. Of what several regions claim, stuff gets the least, then crowds, then
other things; of two alike the later one lies on top. What no region covers is void, which is
neither trained nor evaluated.

Shape shorthand: H, W image size in pixels.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from panoptic_common.coco.annotations import build_class_table, palette_colour
from panoptic_common.coco.image_reading import read_image, size_text
from panoptic_common.coco.segment_ids import update_segments
from panoptic_common.coco.shapes import BoolMap, Size
from panoptic_common.coco.splits import IntMap, PreparedSample
from panoptic_common.coco.user_files import error_text
from panoptic_common.values import is_whole


@dataclass(frozen=True)
class Region:
    """One drawn region.

    Attributes:
        label: name of its class.
        draw: gives its (H, W) mask; ValueError says what is wrong with it.
        instance: regions of one label and instance are one thing; None: a thing of its own.
        crowd: whether it covers several things that are not told apart.
    """

    label: str
    draw: Callable[[Size], BoolMap]
    instance: Hashable | None = None
    crowd: bool = False


@dataclass
class AnnotatedImage:
    """An image and what is drawn on it, from the lowest to the topmost.

    Attributes:
        name: unique in the data set, without suffix.
        image: its file.
        size: (H, W) of the image as the annotations have it; None: they do not say.
        regions: drawn on it.
        problems: one sentence per shape that is no region.
        source: where its annotations are, a file or an entry in it.
        faults: one sentence per thing that is wrong with all of it; it is left out then.
    """

    name: str
    image: Path
    size: Size | None
    regions: list[Region] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    source: str = ""
    faults: list[str] = field(default_factory=list)


def name_of(file_name: object) -> str:
    """Return the name of an image in the new data set: its path without ending, "/" become "_".

    Args:
        file_name: as a file of annotations has it; whatever it says, the name is no path.

    Raises:
        ValueError: it names no file.
    """
    path = PurePath(file_name) if isinstance(file_name, str) else PurePath()
    if not path.name or "\0" in str(path):
        raise ValueError(f"an image has the file name {file_name!r}, which names no file")
    return "_".join(part for part in path.with_suffix("").parts if part != path.anchor)


def stated_size(entry: Mapping[str, Any], height: str, width: str) -> Size | None:
    """Return the size that an entry states; 60.0 is 60.

    A size that cannot be read is no size that is not stated: who resized the images relies on it.

    Args:
        entry: of a file of annotations.
        height: its key.
        width: its key.

    Returns:
        (H, W), or None if it has neither key.

    Raises:
        ValueError: naming the key whose value is no positive whole number.
    """
    if height not in entry and width not in entry:
        return None
    for key in (height, width):
        value = entry.get(key)
        if key not in entry:
            raise ValueError(f"{key!r} is missing")
        if not is_whole(value) or value < 1:
            raise ValueError(f"{key!r} is {repr(value)[:60]}, no positive whole number")
    return int(entry[height]), int(entry[width])


def mark_shared_files(
    images: Iterable[AnnotatedImage], owns: Callable[[AnnotatedImage], bool] = lambda _: False
) -> None:
    """Give a fault to each image whose file is that of another one, too, by whatever path.

    Its pixels would be in the data set twice, with other annotations.

    Args:
        images: of a data set.
        owns: tells which image keeps the file nevertheless, if it is one alone.
    """
    groups: dict[str, list[AnnotatedImage]] = defaultdict(list)
    for image in images:
        groups[os.path.realpath(image.image)].append(image)
    for group in groups.values():
        owners = [image for image in group if owns(image)]
        for image in group if len(group) > 1 else ():
            if owners != [image]:
                other = next(other for other in [*owners, *group] if other is not image)
                image.faults.append(
                    f"{image.source}: its image {image.image} is that of {other.source}, too"
                )


@dataclass
class FoundImages:
    """What a reader of annotations found.

    Attributes:
        images: by name.
        labels: all class names, in the order in which the file lists them, if it does.
        problems: one sentence per entry that is no image.
    """

    images: list[AnnotatedImage]
    labels: list[str]
    problems: list[str] = field(default_factory=list)


def require_usable(found: FoundImages) -> None:
    """Refuse annotations without any class because of faults, and two images of one name.

    Raises:
        ValueError: naming the first fault, or both images.
    """
    faults = [fault for image in found.images for fault in [*image.faults, *image.problems]]
    if faults and not found.labels:
        raise ValueError(f"no region can be used, of {len(faults)} faults the first: {faults[0]}")
    first: dict[str, AnnotatedImage] = {}
    for image in found.images:
        other = first.setdefault(image.name, image)
        if other is not image:
            raise ValueError(
                f"two images are called {image.name}: rename one of them ({other.source},"
                f" {other.image}; {image.source}, {image.image})"
            )


@dataclass(frozen=True)
class Classes:
    """Which class names there are, and of which kind.

    Attributes:
        categories: of the JSON; ids are 1 to K.
        ignored: names whose regions are void.
    """

    categories: list[dict[str, Any]]
    ignored: frozenset[str]

    def category(self, label: str) -> dict[str, Any]:
        """Return the category of a name that is not ignored."""
        return next(entry for entry in self.categories if entry["name"] == label)


def make_classes(
    labels: Iterable[str],
    stuff: Collection[str],
    things: Collection[str] = (),
    ignored: Collection[str] = (),
) -> Classes:
    """Decide which names are things, and number the classes in the order of `labels`.

    Args:
        labels: that occur, or may.
        stuff: names of stuff.
        things: names of things; (): all that are neither stuff nor ignored.
        ignored: names that become void.

    Raises:
        ValueError: a name occurs nowhere, is of two kinds, or of none, or training would refuse
            it; or there are too many.
    """
    known = list(dict.fromkeys(labels))
    wanted = [*stuff, *things, *ignored]
    shown = ", ".join(known) or "none"
    if twice := sorted({name for name in wanted if wanted.count(name) > 1}):
        raise ValueError(f"the class {twice[0]!r} is named twice among things, stuff and ignored")
    if not things and (absent := [name for name in wanted if name not in known]):
        raise ValueError(f"no region is called {absent[0]!r}; the labels are: {shown}")
    if things and (left := [name for name in known if name not in wanted]):
        raise ValueError(
            f"the label {left[0]!r} is neither thing nor stuff: name it, or ignore it; the labels "
            f"are: {shown}"
        )
    # Fixed names give several splits the same classes, whatever occurs in each.
    names = [*things, *stuff] if things else [name for name in known if name not in ignored]
    if not names:
        raise ValueError("no class is left: there is no region, or all labels are ignored")
    categories = [
        {
            "id": number,
            "name": name,
            "isthing": int(name not in stuff),
            "color": palette_colour(number - 1),
        }
        for number, name in enumerate(names, start=1)
    ]
    return Classes(build_class_table(categories, "the classes"), frozenset(ignored))


def prepare_image(annotated: AnnotatedImage, image_id: int, classes: Classes) -> PreparedSample:
    """Make the id map of one image; what is wrong with it becomes sentences, never an exception.

    Args:
        annotated: the image and its regions.
        image_id: its id in the JSON.
        classes: all labels of it are among them.
    """
    problems = [*annotated.faults, *annotated.problems]
    result = PreparedSample(annotated.name, annotated.image, problems=problems)
    if annotated.faults:
        return result
    try:
        size = read_image(annotated.image).shape[:2]  # decoded: damage inside shows now
    except FileNotFoundError:
        result.problems.append(f"there is no image {annotated.image}")
        return result
    except (OSError, ValueError) as error:
        result.problems.append(error_text(error))
        return result
    if annotated.size is not None and annotated.size != size:
        result.problems.append(
            f"{annotated.image} has {size_text(size)}, its annotations are for "
            f"{size_text(annotated.size)}"
        )
        return result
    id_map, segments = _compose(annotated, (size[0], size[1]), classes, result)
    result.num_instances = sum(
        bool(classes.categories[segment["category_id"] - 1]["isthing"]) for segment in segments
    )
    if not segments:
        result.notes.append(f"{annotated.image}: nothing is drawn on it")
    result.describe(image_id, id_map, segments, annotated.name + annotated.image.suffix)
    return result


def _compose(
    annotated: AnnotatedImage, size: Size, classes: Classes, result: PreparedSample
) -> tuple[IntMap, list[dict[str, Any]]]:
    """Paint the regions from the lowest to the topmost; returns map and segments."""
    id_map: IntMap = np.zeros(size, np.int32)
    segments: dict[Hashable, dict[str, Any]] = {}
    painted: dict[int, str] = {}
    for number, region in _bottom_up(annotated.regions, classes):
        category = classes.category(region.label)
        name = f"{annotated.image}, shape {number} ({region.label})"
        try:
            mask = region.draw(size)
        except ValueError as error:
            result.problems.append(f"{name}: {error}")
            continue
        key: Hashable = category["id"]
        if category["isthing"]:
            own = ("shape", number) if region.instance is None else region.instance
            key = (category["id"], region.crowd, own)
        segment = segments.setdefault(
            key,
            {
                "id": len(segments) + 1,
                "category_id": category["id"],
                "iscrowd": int(region.crowd and bool(category["isthing"])),
            },
        )
        painted.setdefault(segment["id"], name)
        if category["isthing"]:
            result.overlap_pixels += _things_below(id_map[mask], segment["id"], segments, classes)
        id_map[mask] = segment["id"]
    kept = update_segments(id_map, list(segments.values()))
    for hidden in painted.keys() - {segment["id"] for segment in kept}:
        result.notes.append(f"{painted[hidden]}: no pixel of it is left, others cover it")
    return id_map, kept


def _bottom_up(regions: Sequence[Region], classes: Classes) -> list[tuple[int, Region]]:
    """Order the regions for painting, each with its number, and leave out what is ignored."""

    def height(numbered: tuple[int, Region]) -> int:
        region = numbered[1]
        return 0 if not classes.category(region.label)["isthing"] else 1 if region.crowd else 2

    known = [
        (number, region)
        for number, region in enumerate(regions, start=1)
        if region.label not in classes.ignored
    ]
    return sorted(known, key=height)  # stable: later ones of a kind stay on top


def _things_below(
    covered: IntMap, segment_id: int, segments: dict[Hashable, dict[str, Any]], classes: Classes
) -> int:
    """Count the pixels that other things lose."""
    things = [
        segment["id"]
        for segment in segments.values()
        if classes.categories[segment["category_id"] - 1]["isthing"] and segment["id"] != segment_id
    ]
    return int(np.isin(covered, things).sum())
