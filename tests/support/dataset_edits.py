"""How a data set is spoiled: its JSON changed, its images and PNGs replaced."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from panoptic_common.coco.annotations import PanopticPaths

Json = dict[str, Any]
Plant = Callable[[PanopticPaths, random.Random], object]


def edit(change: Callable[[Json, random.Random], object]) -> Plant:
    """Change the JSON."""

    def plant(paths: PanopticPaths, draw: random.Random) -> None:
        path = Path(paths.panoptic_json)
        data = json.loads(path.read_text())
        change(data, draw)
        path.write_text(json.dumps(data))

    return plant


def one(key: str, **values: Any) -> Plant:
    """Set values of a drawn entry of `images`, `annotations` or `categories`."""
    return edit(lambda data, draw: draw.choice(data[key]).update(values))


def segment(**values: Any) -> Plant:
    """Set values of a drawn segment."""
    return edit(lambda data, draw: a_segment(data, draw).update(values))


def without(key: str, name: str) -> Plant:
    """Remove a key of a drawn entry; of all segments where `key` is "segments"."""

    def change(data: Json, draw: random.Random) -> None:
        if key == "segments":
            for annotation in data["annotations"]:
                for entry in annotation["segments_info"]:
                    entry.pop(name)
        else:
            draw.choice(data[key]).pop(name)

    return edit(change)


def on_file(folder: str, change: Callable[[Path], object]) -> Plant:
    """Do something to a drawn file, of "images" or "panoptic_png"."""

    def plant(paths: PanopticPaths, draw: random.Random) -> None:
        change(draw.choice(sorted(Path(getattr(paths, folder)).iterdir())))

    return plant


def image(change: Callable[[Path], object]) -> Plant:
    """Do something to a drawn image file."""
    return on_file("images", change)


def png(change: Callable[[Path], object]) -> Plant:
    """Do something to a drawn panoptic PNG."""
    return on_file("panoptic_png", change)


def text(change: Callable[[bytes], bytes]) -> Plant:
    """Change the bytes of the JSON."""

    def plant(paths: PanopticPaths, draw: random.Random) -> None:
        path = Path(paths.panoptic_json)
        path.write_bytes(change(path.read_bytes()))

    return plant


def a_segment(data: Json, draw: random.Random) -> Json:
    return draw.choice(draw.choice(data["annotations"])["segments_info"])
