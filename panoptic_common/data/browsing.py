"""Show a data set: as it is annotated, as a network gets it, and how much there is of what.

A sheet shows each image beside its annotation and beside what the training mapper makes of both,
with the augmentations of a config. Crops that cut everything away, colours that are wrong and
classes that are confused are seen there in a minute.

Shape shorthand: H, W image size in pixels; K classes.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tabulate import tabulate

from panoptic_common.coco.image_reading import read_image
from panoptic_common.coco.records import read_record_ids
from panoptic_common.coco.segment_ids import update_segments
from panoptic_common.data.mapper import PanopticDatasetMapper
from panoptic_common.data.train_loader import AUGMENTATION, derive_seed, scoped_seed
from panoptic_common.drawing.overlays import ClassTable, draw_boxes, draw_panoptic
from panoptic_common.drawing.sheets import contact_sheet, legend
from panoptic_common.drawing.strokes import ImageArray, TextStyle, enlarge, legible_scale

ROWS = 6  # images on a sheet
Record = Mapping[str, Any]


def keep_truth(id_map: np.ndarray, segments_info: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what targets are made of; a target function for the mapper of `draw_sheets`."""
    return {"id_map": id_map, "segments_info": segments_info}


def choose_records(records: Sequence[Record], count: int, num_classes: int) -> list[Record]:
    """Choose images that show every class, the rarest first, and then others evenly.

    Args:
        records: of `load_panoptic`.
        count: how many; fewer if there are fewer.
        num_classes: K.

    Returns:
        In the order of the data set.
    """
    holders: list[list[int]] = [[] for _ in range(num_classes)]
    for position, record in enumerate(records):
        for label in {segment["category_id"] for segment in record["segments_info"]}:
            holders[label].append(position)
    chosen: dict[int, None] = {}
    for positions in sorted(filter(None, holders), key=len):
        if len(chosen) < count and not chosen.keys() & set(positions):
            chosen[positions[0]] = None
    spread = np.linspace(0, len(records) - 1, min(count, len(records))).round().astype(int)
    for position in (*spread.tolist(), *range(len(records))):
        if len(chosen) < count:
            chosen[position] = None
    return [records[position] for position in sorted(chosen)]


def draw_sheets(
    records: Sequence[Record],
    table: ClassTable,
    mapper: PanopticDatasetMapper,
    *,
    draws: int = 2,
    seed: int = 0,
) -> Iterator[ImageArray]:
    """Draw sheets of `ROWS` images each.

    Args:
        records: dicts of `load_panoptic`.
        table: class table.
        mapper: of the training, with `keep_truth` for its targets.
        draws: how often each image is augmented.
        seed: of the augmentations.

    Yields:
        (H, W, 3) uint8 RGB: image, annotation, and per draw what the network gets, with its truth.

    Raises:
        DataFileError: as the mapper.
    """
    titles = ["image", "annotation"]
    for number in range(1, draws + 1):
        titles += [f"fed to the network, {number}", f"its truth, {number}"]
    for start in range(0, len(records), ROWS):
        rows = []
        shown: set[int] = set()
        for position, record in enumerate(records[start : start + ROWS], start=start):
            shown |= {segment["category_id"] for segment in record["segments_info"]}
            row = [*annotated(record, table)]
            for draw in range(draws):
                with scoped_seed(derive_seed(seed, AUGMENTATION, position * draws + draw)):
                    row += fed(mapper(dict(record)), mapper.image_format, table)
            rows.append(row)
        sheet = contact_sheet(rows, titles, panel_width=320)
        yield np.concatenate([sheet, legend(table, sheet.shape[1], sorted(shown))])


def annotated(record: Record, table: ClassTable) -> tuple[ImageArray, ImageArray]:
    """Return an image, and the same with its segments."""
    image = read_image(record["file_name"])
    ids = read_record_ids(dict(record), image.shape[:2])
    scale = legible_scale(image)
    drawn = draw_panoptic(image, ids, record["segments_info"], table, scale=scale)
    return _with_size(image, scale), drawn


def fed(sample: Mapping[str, Any], image_format: str, table: ClassTable) -> list[ImageArray]:
    """Return what the mapper gives a network, and the same with segments and boxes of things.

    Args:
        sample: of a mapper with `keep_truth`.
        image_format: "BGR" or "RGB", that of the mapper.
        table: class table.
    """
    image = sample["image"].numpy().transpose(1, 2, 0)
    image = np.ascontiguousarray(image if image_format == "RGB" else image[:, :, ::-1])
    ids, segments = sample["id_map"], sample["segments_info"]
    scale = legible_scale(image)
    drawn = draw_panoptic(image, ids, segments, table, scale=scale, names=False)
    things = [s for s in segments if table[s["category_id"]]["isthing"] and not s.get("iscrowd")]
    corners = [(x, y, x + w, y + h) for x, y, w, h in (s["bbox"] for s in things)]
    boxes = np.array(corners, np.float64).reshape(-1, 4) * scale
    classes = [segment["category_id"] for segment in things]
    return [_with_size(image, scale), draw_boxes(drawn, boxes, classes, None, table)]


def _with_size(image: ImageArray, scale: int) -> ImageArray:
    """Write the size of an image into its lower left corner."""
    result = enlarge(image, scale).copy()
    text = f"{image.shape[1]} x {image.shape[0]}"
    style = TextStyle.for_image(result)
    width, height = style.size(text)
    style.write(result, text, (width // 2, result.shape[0] - height // 2), (0, 0, 0))
    return result


def describe(records: Sequence[Record], table: ClassTable) -> str:
    """Count classes, sizes of segments and of images, and name what is empty.

    Args:
        records: dicts of `load_panoptic`; areas that the JSON lacks are counted in the PNGs.
        table: class table.
    """
    images: Counter[int] = Counter()
    areas: list[list[int]] = [[] for _ in table]
    crowds: Counter[int] = Counter()
    for record in records:
        segments = _with_areas(record)
        images.update({segment["category_id"] for segment in segments})
        for segment in segments:
            crowds[segment["category_id"]] += bool(segment.get("iscrowd"))
            areas[segment["category_id"]].append(segment["area"])
    rows: list[list[Any]] = []
    for label, entry in enumerate(table):
        sizes = areas[label]
        if not sizes:
            continue
        extent = [min(sizes), round(statistics.median(sizes)), max(sizes)]
        kind = "thing" if entry["isthing"] else "stuff"
        rows.append([entry["name"], kind, images[label], len(sizes), crowds[label], *extent])
    headers = ["class", "kind", "images", "segments", "crowds", "smallest", "median", "largest"]
    lines = [tabulate(rows, headers, tablefmt="plain", disable_numparse=[0, 1])]
    lines.append("(sizes of segments in pixels)")
    lines += _image_lines(records)
    if empty := [entry["name"] for label, entry in enumerate(table) if not areas[label]]:
        lines.append(f"classes without a segment: {', '.join(empty)}")
    return "\n".join(lines)


def _with_areas(record: Record) -> Sequence[Mapping[str, Any]]:
    """Return the segments of an image with their areas."""
    segments = record["segments_info"]
    if all(segment.get("area") is not None for segment in segments):
        return list(segments)
    ids = read_record_ids(dict(record), (record["height"], record["width"]))
    return update_segments(ids, segments)


def _image_lines(records: Sequence[Record]) -> list[str]:
    """Tell sizes of images, and how many are empty."""
    sizes = Counter((record["width"], record["height"]) for record in records)
    short = [min(size) for size in sizes.elements()]
    (width, height), often = sizes.most_common(1)[0]
    lines = [
        f"{len(records)} images of {len(sizes)} sizes: {often} of {width} x {height}; shorter side "
        f"{min(short)} to {max(short)}, median {round(statistics.median(short))}"
    ]
    if empty := sum(not record["segments_info"] for record in records):
        lines.append(f"{empty} images without a segment")
    return lines
