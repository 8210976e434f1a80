"""What goes wrong in data sets that people make, each time in another place or by another value.

The rows of `hostile_datasets.MUTATIONS` tell what a check and a training must say; these do not.
`trials.datasets` compares what is read with what is in the files.
"""

from __future__ import annotations

import io
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
from dataset_edits import Json, Plant, edit
from PIL import Image

from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.segment_ids import read_id_map, write_id_map

NONSENSE: list[Any] = [
    *(None, "x", "", "1", -1, 0, 1, 1.5, 96.0, float("nan"), float("inf"), 2**40, 10**400),
    *([], {}, [1, 2], True, False, "\ud800", "\0", "a/../b", "ü", [0, 0, 1e300, 1]),
]


# ---- the JSON -----------------------------------------------------------------------------------


def _entry(data: Json, draw: random.Random) -> Json:
    """Some object of the file: an image, a category, an annotation or a segment."""
    kind = draw.choice(("images", "annotations", "categories", "segments"))
    if kind != "segments":
        return draw.choice(data[kind])
    return draw.choice(draw.choice(data["annotations"])["segments_info"])


def set_nonsense(data: Json, draw: random.Random) -> None:
    entry = _entry(data, draw)
    entry[draw.choice(sorted(entry))] = draw.choice(NONSENSE)


def drop_key(data: Json, draw: random.Random) -> None:
    entry = _entry(data, draw)
    entry.pop(draw.choice(sorted(entry)))


def repeat_entry(data: Json, draw: random.Random) -> None:
    name = draw.choice(("images", "annotations", "categories"))
    data[name].append(dict(draw.choice(data[name])))


def repeat_segment(data: Json, draw: random.Random) -> None:
    segments = draw.choice(data["annotations"])["segments_info"]
    segments.append(dict(draw.choice(segments)))


def drop_entry(data: Json, draw: random.Random) -> None:
    name = draw.choice(("images", "annotations", "categories"))
    data[name].remove(draw.choice(data[name]))


def drop_segment(data: Json, draw: random.Random) -> None:
    segments = draw.choice(data["annotations"])["segments_info"]
    segments.remove(draw.choice(segments))


def replace_list(data: Json, draw: random.Random) -> None:
    data[draw.choice(("images", "annotations", "categories"))] = draw.choice(NONSENSE)


def replace_segments(data: Json, draw: random.Random) -> None:
    draw.choice(data["annotations"])["segments_info"] = draw.choice([*NONSENSE, [None], [[]]])


def text_ids(data: Json, draw: random.Random) -> None:
    for entry in data[draw.choice(("images", "annotations"))]:
        for key in entry.keys() & {"id", "image_id"}:
            entry[key] = str(entry[key])


def swap_pngs(data: Json, draw: random.Random) -> None:
    first, *_, last = data["annotations"]
    first["file_name"], last["file_name"] = last["file_name"], first["file_name"]


def swap_classes(data: Json, draw: random.Random) -> None:
    first, second = draw.sample(draw.choice(data["annotations"])["segments_info"], 2)
    first["category_id"], second["category_id"] = second["category_id"], first["category_id"]


def one_kind_of_class(data: Json, draw: random.Random) -> None:
    kind = draw.randrange(2)
    for category in data["categories"]:
        category["isthing"] = kind


# ---- files --------------------------------------------------------------------------------------


def _some_png(paths: PanopticPaths, draw: random.Random) -> Path:
    return draw.choice(sorted(Path(paths.panoptic_png).iterdir()))


def _some_image(paths: PanopticPaths, draw: random.Random) -> Path:
    return draw.choice(sorted(Path(paths.images).iterdir()))


def _some_file(paths: PanopticPaths, draw: random.Random) -> Path:
    return draw.choice((_some_png, _some_image, lambda *_: Path(paths.panoptic_json)))(paths, draw)


def recolour(paths: PanopticPaths, draw: random.Random) -> None:
    path = _some_png(paths, draw)
    id_map = read_id_map(path)
    id_map[id_map == draw.choice(np.unique(id_map).tolist())] = draw.choice(
        (0, 1, 3, 256, 2**24 - 1)
    )
    write_id_map(path, id_map)


def all_void(paths: PanopticPaths, draw: random.Random) -> None:
    for path in sorted(Path(paths.panoptic_png).iterdir())[draw.randrange(2) :]:
        write_id_map(path, np.zeros((48, 64), np.int32))


def other_size(paths: PanopticPaths, draw: random.Random) -> None:
    path = draw.choice((_some_png, _some_image))(paths, draw)
    size = draw.choice(((1, 1), (64, 47), (63, 48), (48, 64), (640, 480)))
    Image.open(path).resize(size, Image.Resampling.NEAREST).save(path)


def other_mode(paths: PanopticPaths, draw: random.Random) -> None:
    path = draw.choice((_some_png, _some_image))(paths, draw)
    mode = draw.choice(("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F", "HSV"))
    with Image.open(path) as image:
        grey = mode in ("I", "I;16", "F")
        changed = image.convert("L").convert(mode) if grey else image.convert(mode)
    form = "TIFF" if mode in ("I", "F", "CMYK", "YCbCr", "HSV") else "PNG"
    changed = changed.convert("RGB") if mode == "HSV" else changed
    stream = io.BytesIO()
    changed.save(stream, form)
    path.write_bytes(stream.getvalue())


def turned_by_exif(paths: PanopticPaths, draw: random.Random) -> None:
    path, exif = _some_image(paths, draw), Image.Exif()
    exif[274] = draw.choice((1, 3, 6, 9, 0))
    with Image.open(path) as image:
        image.copy().save(path, exif=exif)


def truncate(paths: PanopticPaths, draw: random.Random) -> None:
    path = _some_file(paths, draw)
    data = path.read_bytes()
    path.write_bytes(data[: draw.choice((0, 1, 8, 30, len(data) // 2, len(data) - 3))])


def flip_bits(paths: PanopticPaths, draw: random.Random) -> None:
    path = _some_file(paths, draw)
    data = bytearray(path.read_bytes())
    for _ in range(draw.choice((1, 3))):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def no_file(paths: PanopticPaths, draw: random.Random) -> None:
    _some_file(paths, draw).unlink()


def special_file(paths: PanopticPaths, draw: random.Random) -> None:
    path, kind = _some_file(paths, draw), draw.randrange(4)
    path.unlink()
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    else:
        path.symlink_to(("/dev/zero", path)[kind - 2])


def bomb(paths: PanopticPaths, draw: random.Random) -> None:
    """A header that promises 13,000 x 13,000 pixels before the data of a small image."""
    stream = io.BytesIO()
    Image.new("RGB", (13000, 13000)).crop((0, 0, 64, 48)).save(stream, "PNG")
    data = bytearray(stream.getvalue())
    data[16:24] = (13000).to_bytes(4, "big") * 2
    draw.choice((_some_png, _some_image))(paths, draw).write_bytes(data)


def odd_json(paths: PanopticPaths, draw: random.Random) -> None:
    path = Path(paths.panoptic_json)
    text = path.read_text()
    odd = draw.choice(("bom", "utf-16", "deep", "latin", "list", "number", "twice"))
    path.write_bytes(
        {
            "bom": b"\xef\xbb\xbf" + text.encode(),
            "utf-16": text.encode("utf-16"),
            "deep": b"[" * 10000 + b"]" * 10000,
            "latin": text.replace("road", "stra\xdfe").encode("latin-1"),
            "list": f"[{text}]".encode(),
            "number": b"7",
            "twice": (text + text).encode(),
        }[odd]
    )


# The more often a fault stands here, the more often it is drawn.
_IN_JSON = (
    *(set_nonsense, set_nonsense, set_nonsense, drop_key, drop_key, repeat_entry, repeat_segment),
    *(drop_entry, drop_segment, replace_list, replace_segments, text_ids, swap_pngs, swap_classes),
    one_kind_of_class,
)
IN_JSON: tuple[tuple[str, Plant], ...] = tuple((f.__name__, edit(f)) for f in _IN_JSON)
IN_FILES: tuple[tuple[str, Plant], ...] = tuple(
    (fault.__name__, fault)
    for fault in (
        *(recolour, all_void, other_size, other_mode, other_mode, turned_by_exif, truncate),
        *(flip_bits, no_file, special_file, bomb, odd_json),
    )
)
