"""Images in and out, and the files that a user means, for programs that show results.

Problem: users have images of every kind: grey, with transparency, 16 bits deep, turned by their
EXIF data, damaged. All of them arrive here as one kind of `Frame`. What cannot be read is an error
that names the file, so that a long list can go on with the next one. Videos are in `video`.

Shape shorthand: H, W image size in pixels; colours are RGB throughout.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from panoptic_common.coco import image_reading
from panoptic_common.files import write_atomically

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".gif")


class MediaError(ValueError):
    """An image or video cannot be read or written; the message names it and says why."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One image to work on.

    Attributes:
        name: unique among all frames of a run; without folder and ending.
        source: where it comes from, as messages call it.
        image: (H, W, 3) uint8 RGB.
    """

    name: str
    source: str
    image: np.ndarray


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image of any mode as 8-bit RGB, by the rules of `coco.image_reading`.

    Args:
        path: any file that Pillow reads.

    Returns:
        (H, W, 3) uint8.

    Raises:
        MediaError: the file is missing, damaged, too large, no image or no regular file.
    """
    path = os.fspath(path)
    try:
        return image_reading.read_image(path)
    except FileNotFoundError:
        raise MediaError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise MediaError(f"{path}: cannot be read as an image ({reason})") from error


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an (H, W, 3) uint8 RGB image, whole or not at all; the ending names the format.

    Raises:
        OSError: naming the file, if the disk is full, say.
        ValueError: the ending is that of no format.
    """
    ending = Path(path).suffix.lower()
    image_format = Image.registered_extensions().get(ending)
    if image_format is None:
        raise ValueError(f"{os.fspath(path)}: {ending!r} is the ending of no image format")
    content = Image.fromarray(np.ascontiguousarray(image))
    write_atomically(path, lambda file: content.save(file, format=image_format), flush=False)


def limit_size(image: np.ndarray, longest_side: int) -> np.ndarray:
    """Reduce an image whose longer side exceeds a limit.

    Args:
        image: (H, W, 3) uint8.
        longest_side: in pixels; 0 never reduces.

    Returns:
        The image itself, or a smaller one of the same shape.
    """
    height, width = image.shape[:2]
    factor = longest_side / max(height, width)
    if longest_side <= 0 or factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def find_media(inputs: Iterable[str]) -> tuple[list[Path], list[Path]]:
    """Resolve what a user names: files, folders (the images and videos in them) and globs.

    Args:
        inputs: paths and patterns, such as ``street.jpg``, ``holiday/`` or ``frames/*.png``.

    Returns:
        Images and videos, each in the order given, folders and patterns sorted by name, none
        twice. A file of unknown ending counts as an image.

    Raises:
        MediaError: an input names nothing.
    """
    found: dict[Path, None] = {}
    for name in inputs:
        path = Path(name).expanduser()
        if path.is_dir():
            endings = IMAGE_ENDINGS + VIDEO_ENDINGS
            entries = [p for p in sorted(path.iterdir()) if p.suffix.lower() in endings]
            if not entries:
                raise MediaError(f"{name}: no image or video in this folder ({list(endings)})")
        elif path.is_file():
            entries = [path]
        elif path.exists():  # reading a pipe or a device could wait forever
            raise MediaError(f"{name}: is no regular file, but a pipe or a device")
        else:
            entries = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
            entries = [p for p in entries if p.is_file()]
            if not entries:
                raise MediaError(f"{name}: there is no such file, folder or match")
        found.update(dict.fromkeys(entries))
    images = [path for path in found if path.suffix.lower() not in VIDEO_ENDINGS]
    videos = [path for path in found if path.suffix.lower() in VIDEO_ENDINGS]
    return images, videos


def unique_names(paths: Sequence[Path]) -> list[str]:
    """Name the files made from each path: by its stem, with a number where stems collide."""
    used: set[str] = set()
    names = []
    for path in paths:
        name, number = path.stem, 1
        while name.lower() in used:  # some file systems do not tell A from a
            number += 1
            name = f"{path.stem}_{number}"
        used.add(name.lower())
        names.append(name)
    return names
