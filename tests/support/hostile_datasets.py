"""Small data sets with one thing wrong, or unusual: what a check says, and what training does.

`MUTATIONS` is the table. `hostile_datasets` yields as many data sets as wanted, of its rows and of
`drawn_faults`, by a seed. `dataset_parity` and `trials.datasets` judge them.
"""

from __future__ import annotations

import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from dataset_edits import Json, Plant, edit, image, one, png, segment, text, without
from dataset_factory import make_coco_panoptic
from drawn_faults import IN_FILES, IN_JSON
from PIL import Image

from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.segment_ids import read_id_map, write_id_map

# What the check says.
NOTHING, NOTE, FAULT = "nothing", "note", "fault"
# What training does. It refuses when the JSON is loaded, when a few files are tried before the
# start, or when a file is read. It derives or drops what is wrong, as documented; or it trains.
LOAD, TRY, READ, TREATED, TRAINS = "load", "try", "read", "treated", "trains"


class Mutation(NamedTuple):
    """What is done to a data set, what the check says, and what training does."""

    plant: Plant
    check: str
    training: str


def _replace(make: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda path: (path.unlink(), make(path))


def _resave(mode: str, **options: Any) -> Callable[[Path], object]:
    return lambda path: Image.open(path).convert(mode).save(path, **options)


def _grey16(path: Path) -> None:
    grey = np.asarray(Image.open(path).convert("L")).astype(np.uint16) * 257
    Image.fromarray(grey).save(path, format="PNG")


def _turn(path: Path) -> None:
    """Store an image on its side, with the EXIF data that puts it upright."""
    exif = Image.Exif()
    exif[274] = 6
    Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-150])


def _flip(path: Path) -> None:
    """Flip a bit of the pixels; only the checksum tells."""
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 1
    path.write_bytes(bytes(data))


def _huge(path: Path) -> None:
    """Claim 13,000 x 13,000 pixels in a file of a few bytes."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 13000, 13000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)


def _blacken(path: Path) -> None:
    write_id_map(path, np.zeros_like(read_id_map(path)))


def _black_everywhere(paths: PanopticPaths, draw: random.Random) -> None:
    for path in Path(paths.panoptic_png).iterdir():
        _blacken(path)


def _add_pixels(path: Path) -> None:
    id_map = read_id_map(path)
    id_map[-1, :3] = 99  # in the void frame
    write_id_map(path, id_map)


def _second_of(key: str, name: str) -> Plant:
    """Give a second entry the value of the first."""

    def change(data: Json, draw: random.Random) -> None:
        first, second = draw.sample(data[key], 2)
        second[name] = first[name]

    return edit(change)


def _repeat(key: str) -> Plant:
    return edit(lambda data, draw: data[key].append(draw.choice(data[key])))


def _texts(keys: tuple[str, ...]) -> Plant:
    def change(data: Json, draw: random.Random) -> None:
        for key in keys:
            for entry in data[key]:
                name = "image_id" if key == "annotations" else "id"
                entry[name] = str(entry[name])

    return edit(change)


def _move_below(path: Path) -> None:
    (path.parent / "deep").mkdir(exist_ok=True)
    path.rename(path.parent / "deep" / path.name)


def _double_below(path: Path) -> None:
    """Two files fit, neither where the JSON says."""
    for folder in ("x", "y"):
        (path.parent / folder).mkdir(exist_ok=True)
        (path.parent / folder / path.name).write_bytes(path.read_bytes())
    path.unlink()


def _many_classes(data: Json, draw: random.Random) -> None:
    data["categories"] += [{"id": 1000 + k, "name": f"c{k}", "isthing": 1} for k in range(251)]


def _empty_one(paths: PanopticPaths, draw: random.Random) -> None:
    """An image in which nothing is labelled, in its PNG and in the JSON."""
    path = draw.choice(sorted(Path(paths.panoptic_png).iterdir()))
    _blacken(path)

    def change(data: Json, draw: random.Random) -> None:
        for annotation in data["annotations"]:
            if annotation["file_name"] == path.name:
                annotation["segments_info"] = []

    edit(change)(paths, draw)


def _empty_all(paths: PanopticPaths, draw: random.Random) -> None:
    _black_everywhere(paths, draw)
    edit(lambda d, _: [a.update(segments_info=[]) for a in d["annotations"]])(paths, draw)


def _repeat_stuff(data: Json, draw: random.Random) -> None:
    """The sky (65536) becomes a second road."""
    for entry in draw.choice(data["annotations"])["segments_info"]:
        if entry["id"] == 65536:
            entry["category_id"] = 4


def _all_crowd(data: Json, draw: random.Random) -> None:
    for entry in draw.choice(data["annotations"])["segments_info"]:
        entry["iscrowd"] = 1


def _unlisted(data: Json, draw: random.Random) -> None:
    segments = draw.choice(data["annotations"])["segments_info"]
    segments.remove(draw.choice(segments))


def _additional(data: Json, draw: random.Random) -> None:
    """A segment is listed of which no pixel is there."""
    entry = {"id": 424242, "category_id": 7, "iscrowd": 0}
    draw.choice(data["annotations"])["segments_info"].append(entry)


def _link(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}.store"))
    path.symlink_to(path.with_name(f"{path.name}.store"))


# ---- the table -----------------------------------------------------------------------------------

_NAN, _INFINITY = float("nan"), float("inf")

MUTATIONS: dict[str, Mutation] = {
    "nothing at all": Mutation(lambda paths, draw: None, NOTHING, TRAINS),
    # The JSON as a file.
    "byte order mark": Mutation(text(lambda b: b"\xef\xbb\xbf" + b), NOTHING, TRAINS),
    "nested 10,000 deep": Mutation(
        text(lambda b: b[:-1] + b', "x": ' + b"[" * 10000 + b"]" * 10000 + b"}"), FAULT, LOAD
    ),
    "cut JSON": Mutation(text(lambda b: b[:-20]), FAULT, LOAD),
    "no UTF-8": Mutation(text(lambda b: b.replace(b"road", b"stra\xdfe")), FAULT, LOAD),
    "a list": Mutation(text(lambda b: b"[" + b + b"]"), FAULT, LOAD),
    "no categories": Mutation(edit(lambda d, _: d.pop("categories")), FAULT, LOAD),
    "categories null": Mutation(edit(lambda d, _: d.update(categories=None)), FAULT, LOAD),
    "entry null": Mutation(edit(lambda d, _: d["annotations"].append(None)), FAULT, LOAD),
    "zero images": Mutation(
        edit(lambda d, _: (d["images"].clear(), d["annotations"].clear())), FAULT, LOAD
    ),
    # images[]
    "image id twice": Mutation(_second_of("images", "id"), FAULT, LOAD),
    "image twice": Mutation(_repeat("images"), FAULT, LOAD),
    "image file twice": Mutation(_second_of("images", "file_name"), FAULT, LOAD),
    "image not annotated": Mutation(edit(lambda d, _: d["annotations"].pop()), NOTE, TRAINS),
    "sizes 48.0": Mutation(one("images", height=48.0, width=64.0), NOTHING, TRAINS),
    "height null": Mutation(one("images", height=None), FAULT, LOAD),
    "height text": Mutation(one("images", height="48"), FAULT, LOAD),
    "height NaN": Mutation(one("images", height=_NAN), FAULT, LOAD),
    "height 0": Mutation(one("images", height=0), FAULT, LOAD),
    "image id null": Mutation(one("images", id=None), FAULT, LOAD),
    "image id missing": Mutation(without("images", "id"), FAULT, LOAD),
    "ids text in images": Mutation(_texts(("images",)), FAULT, LOAD),
    "ids text everywhere": Mutation(_texts(("images", "annotations")), NOTHING, TRAINS),
    "half a surrogate pair": Mutation(one("images", file_name="a\ud800.jpg"), FAULT, LOAD),
    "NUL in a PNG's folder": Mutation(one("annotations", file_name="a\0b/c.png"), FAULT, LOAD),
    "PNG name too long": Mutation(one("annotations", file_name="x" * 300 + "/a"), FAULT, LOAD),
    "image found by stem": Mutation(one("images", file_name="gone.jpg"), NOTHING, TRAINS),
    "sizes exchanged": Mutation(one("images", height=64, width=48), FAULT, READ),
    # annotations[]
    "annotated twice": Mutation(_repeat("annotations"), FAULT, LOAD),
    "image_id twice": Mutation(_second_of("annotations", "image_id"), FAULT, LOAD),
    "one PNG for two": Mutation(_second_of("annotations", "file_name"), FAULT, LOAD),
    "unknown image": Mutation(one("annotations", image_id=9), FAULT, LOAD),
    "image_id missing": Mutation(without("annotations", "image_id"), FAULT, LOAD),
    "PNG name missing": Mutation(without("annotations", "file_name"), FAULT, LOAD),
    "segments null": Mutation(one("annotations", segments_info=None), FAULT, LOAD),
    "segment null": Mutation(one("annotations", segments_info=[None]), FAULT, LOAD),
    "nothing in an image": Mutation(_empty_one, NOTHING, TRAINS),
    "nothing in any image": Mutation(_empty_all, FAULT, LOAD),
    # segments_info[]
    "segment twice": Mutation(
        edit(lambda d, r: (s := r.choice(d["annotations"])["segments_info"]).append(s[0])),
        *(FAULT, LOAD),
    ),
    "segment id 0": Mutation(segment(id=0), FAULT, LOAD),
    "segment id 2^24": Mutation(segment(id=2**24), FAULT, LOAD),
    "segment id text": Mutation(segment(id="3"), FAULT, LOAD),
    "segment id 3.0": Mutation(segment(id=3.0), FAULT, LOAD),
    "category unknown": Mutation(segment(category_id=99), FAULT, LOAD),
    "category text": Mutation(segment(category_id="7"), FAULT, LOAD),
    "category null": Mutation(segment(category_id=None), FAULT, LOAD),
    "stuff twice": Mutation(edit(_repeat_stuff), FAULT, LOAD),
    "iscrowd null": Mutation(segment(iscrowd=None), NOTHING, TRAINS),
    "iscrowd true": Mutation(segment(iscrowd=True), NOTHING, TRAINS),
    "iscrowd 2": Mutation(segment(iscrowd=2), FAULT, LOAD),
    "iscrowd text": Mutation(segment(iscrowd="0"), FAULT, LOAD),
    "all crowd": Mutation(edit(_all_crowd), NOTHING, TRAINS),
    "no area": Mutation(without("segments", "area"), NOTHING, TRAINS),
    "no bbox": Mutation(without("segments", "bbox"), NOTHING, TRAINS),
    "bbox []": Mutation(segment(bbox=[]), NOTHING, TRAINS),
    "area null": Mutation(segment(area=None), NOTHING, TRAINS),
    "area wrong": Mutation(segment(area=7777), FAULT, TREATED),
    "area 0.5": Mutation(segment(area=0.5), FAULT, TREATED),
    "area NaN": Mutation(segment(area=_NAN), FAULT, LOAD),
    "area infinite": Mutation(segment(area=_INFINITY), FAULT, LOAD),
    "area text": Mutation(segment(area="12"), FAULT, LOAD),
    "bbox wrong": Mutation(segment(bbox=[0, 0, 1000, 1]), FAULT, TREATED),
    "bbox of three": Mutation(segment(bbox=[0, 0, 9]), FAULT, LOAD),
    "bbox NaN": Mutation(segment(bbox=[0, 0, _NAN, 1]), FAULT, LOAD),
    "listed without a pixel": Mutation(edit(_additional), FAULT, TREATED),
    "pixels not listed": Mutation(edit(_unlisted), FAULT, READ),
    # categories[]
    "category id twice": Mutation(_second_of("categories", "id"), FAULT, LOAD),
    "category name twice": Mutation(_second_of("categories", "name"), FAULT, LOAD),
    "category twice": Mutation(_repeat("categories"), FAULT, LOAD),
    "isthing missing": Mutation(without("categories", "isthing"), FAULT, LOAD),
    "isthing 2": Mutation(one("categories", isthing=2), FAULT, LOAD),
    "category name null": Mutation(one("categories", name=None), FAULT, LOAD),
    "category id text": Mutation(one("categories", id="7"), FAULT, LOAD),
    "colour of two": Mutation(one("categories", color=[1, 2]), FAULT, LOAD),
    "no colour": Mutation(without("categories", "color"), NOTHING, TRAINS),
    "class without segment": Mutation(
        edit(lambda d, _: d["categories"].append({"id": -3, "name": "unicorn", "isthing": 1})),
        *(NOTHING, TRAINS),
    ),
    "256 classes": Mutation(edit(_many_classes), FAULT, LOAD),
    # Image files.
    "image missing": Mutation(image(os.unlink), FAULT, LOAD),
    "image a folder": Mutation(image(_replace(os.mkdir)), FAULT, LOAD),
    "image a pipe": Mutation(image(_replace(os.mkfifo)), FAULT, LOAD),
    "image cut": Mutation(image(_cut), FAULT, READ),
    "image a text": Mutation(image(lambda p: p.write_text("no image")), FAULT, READ),
    "image empty": Mutation(image(lambda p: p.write_bytes(b"")), FAULT, READ),
    "image of another size": Mutation(
        image(lambda p: Image.new("RGB", (32, 24)).save(p)), FAULT, READ
    ),
    "image grey": Mutation(image(_resave("L")), NOTHING, TRAINS),
    "image of 16 bits": Mutation(image(_grey16), NOTHING, TRAINS),
    "image palette": Mutation(image(_resave("P", format="PNG")), NOTHING, TRAINS),
    "image transparent": Mutation(image(_resave("RGBA", format="PNG")), NOTHING, TRAINS),
    "image turned by EXIF": Mutation(image(_turn), NOTHING, TRAINS),
    "image in a subfolder": Mutation(image(_move_below), NOTHING, TRAINS),
    "image in two subfolders": Mutation(image(_double_below), FAULT, LOAD),
    "image a link": Mutation(image(_link), NOTHING, TRAINS),
    # PNG files.
    "PNG missing": Mutation(png(os.unlink), FAULT, LOAD),
    "PNG a folder": Mutation(png(_replace(os.mkdir)), FAULT, LOAD),
    "PNG a pipe": Mutation(png(_replace(os.mkfifo)), FAULT, LOAD),
    "PNG a dead link": Mutation(png(_replace(lambda p: p.symlink_to("gone"))), FAULT, LOAD),
    "PNG cut": Mutation(png(_cut), FAULT, READ),
    "PNG flipped bit": Mutation(png(_flip), FAULT, READ),
    "PNG huge": Mutation(png(_huge), FAULT, READ),
    "PNG a JPEG": Mutation(png(lambda p: Image.open(p).save(p, format="JPEG")), FAULT, READ),
    "PNG of 16 bits": Mutation(png(_grey16), FAULT, READ),
    "PNG grey": Mutation(png(_resave("L")), FAULT, READ),
    "PNG palette": Mutation(png(_resave("P")), FAULT, READ),
    "PNG transparent": Mutation(png(_resave("RGBA")), FAULT, READ),
    "PNG of another size": Mutation(
        png(lambda p: write_id_map(p, read_id_map(p)[:-1])), FAULT, READ
    ),
    "PNG black": Mutation(png(_blacken), FAULT, TREATED),
    "all PNGs black": Mutation(_black_everywhere, FAULT, TRY),
    "PNG with further pixels": Mutation(png(_add_pixels), FAULT, READ),
    "PNG nobody names": Mutation(
        lambda paths, draw: write_id_map(
            Path(paths.panoptic_png) / "extra.png", np.zeros((2, 2), np.int32)
        ),
        *(NOTE, TRAINS),
    ),
}


# ---- many ----------------------------------------------------------------------------------------

Builder = Callable[[Path], PanopticPaths]


def hostile_datasets(seed: int, count: int = 400) -> Iterator[tuple[str, Builder]]:
    """Yield data sets with one to three things wrong each.

    The first ones have a row of the table each, in its order. Then rows and drawn faults take
    turns; a set of drawn faults has one or two.

    Args:
        seed: of everything drawn.
        count: how many.

    Yields:
        The number of the set with the names of what is wrong, and a function that builds it in an
        empty folder.
    """
    names = list(MUTATIONS)
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        if number < len(names):
            chosen = [(names[number], MUTATIONS[names[number]].plant)]
        elif number % 2:
            drawn = draw.sample(names, draw.randint(1, 3))
            chosen = [(name, MUTATIONS[name].plant) for name in drawn]
        else:
            chosen = _drawn(draw)
        yield f"{number} " + " + ".join(name for name, _ in chosen), _builder(chosen, draw, number)


def _drawn(draw: random.Random) -> list[tuple[str, Plant]]:
    """Draw one or two faults; what changes the JSON comes first, while it can be read."""
    first = draw.choice(draw.choice((IN_JSON, IN_FILES)))
    if draw.random() < 0.25:
        return [draw.choice(IN_JSON), first]
    return [first]


def _builder(chosen: list[tuple[str, Plant]], draw: random.Random, number: int) -> Builder:
    def build(root: Path) -> PanopticPaths:
        suffix = draw.choice((".jpg", ".png"))
        paths = make_coco_panoptic(root, num_images=draw.randint(2, 4), suffix=suffix, seed=number)
        for _, plant in chosen:
            try:
                plant(paths, draw)
            except (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError):
                continue  # what was done before has left nothing to change
        return paths

    return build
