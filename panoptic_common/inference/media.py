"""Images and video in and out, for programs that show what a model makes of them.

Problem: users have images of every kind: grey, with transparency, 16 bits deep, turned by their
EXIF data, damaged; videos; a camera. Everything arrives here as one kind of `Frame`, and what
cannot be read is an error that names the file, so that a long list can go on with the next one.

Shape shorthand: H, W image size in pixels; colours are RGB throughout.
"""

from __future__ import annotations

import glob
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

logger = logging.getLogger(__name__)

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
VIDEO_ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".gif")
# Container and codec that are tried in turn: the second is part of every OpenCV.
_CODECS = ((".mp4", "mp4v"), (".avi", "MJPG"))
_DEFAULT_RATE = 25.0  # frames a second where a source does not know


class MediaError(ValueError):
    """An image or video cannot be read or written; the message names it and says why."""


@dataclass(frozen=True)
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


# ------------------------------------------------------------------------------------ images


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image of any mode as 8-bit RGB, turned upright as its EXIF data says.

    Transparent parts show white behind them; 16-bit grey values are divided by 257.

    Args:
        path: any file that Pillow reads.

    Returns:
        (H, W, 3) uint8.

    Raises:
        MediaError: the file is missing, damaged or no image.
    """
    path = os.fspath(path)
    try:
        with Image.open(path) as image:
            image.load()
            return np.ascontiguousarray(_as_rgb(ImageOps.exif_transpose(image)))
    except FileNotFoundError:
        raise MediaError(f"{path}: there is no such file") from None
    except Exception as error:  # Pillow raises many types for damaged files
        raise MediaError(f"{path}: cannot be read as an image ({error})") from error


def _as_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow's own conversion clips at 255 and turns most 16-bit images white.
        grey = np.asarray(image).astype(np.int64)
        if grey.max(initial=0) > 255:
            grey = (grey.clip(0, 65535) + 128) // 257
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write an (H, W, 3) uint8 RGB image; the ending names the format."""
    Image.fromarray(np.ascontiguousarray(image)).save(path)


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


# ------------------------------------------------------------------------------------ finding


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
        elif path.exists():
            entries = [path]
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
    """One name a path for the files made from it: its stem; where stems collide, numbered."""
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


# ------------------------------------------------------------------------------------ video


class VideoReader:
    """Frames of a video file or a camera, by OpenCV."""

    def __init__(self, source: str | os.PathLike[str] | int, name: str) -> None:
        """Args:
            source: file, or the number of a camera.
            name: stem of the frames' names.

        Raises:
            MediaError: it cannot be opened.
        """
        self.name = name
        self.is_camera = isinstance(source, int)
        self.source = f"camera {source}" if self.is_camera else os.fspath(source)
        if not self.is_camera and not os.path.isfile(self.source):
            raise MediaError(f"{self.source}: there is no such file")
        self._capture = cv2.VideoCapture(source if self.is_camera else self.source)
        if not self._capture.isOpened():
            raise MediaError(f"{self.source}: cannot be opened as a video")
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if 0 < rate < 1000 else _DEFAULT_RATE
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.num_frames = int(count) if count > 0 and not self.is_camera else None

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in order.

        Raises:
            MediaError: not a single frame could be decoded.
        """
        number = 0
        while True:
            decoded, image = self._capture.read()
            if not decoded:
                break
            number += 1
            rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            yield Frame(f"{self.name}_{number:06d}", f"{self.source}, frame {number}", rgb)
        if number == 0:
            raise MediaError(f"{self.source}: no frame could be read")
        # Containers often announce a frame or two more than can be decoded.
        if self.num_frames is not None and number < 0.95 * self.num_frames - 2:
            raise MediaError(
                f"{self.source}: ends after {number} of {self.num_frames} frames; it is damaged"
            )

    def close(self) -> None:
        self._capture.release()


class VideoWriter:
    """Writes frames to a file whose codec is chosen, and whose size is known, at the first one."""

    def __init__(self, stem: str | os.PathLike[str], rate: float) -> None:
        """Args:
        stem: path without ending.
        rate: frames a second.
        """
        self.stem = os.fspath(stem)
        self.rate = rate
        self.path = ""
        self._size = (0, 0)
        self._writer: cv2.VideoWriter | None = None

    def write(self, image: np.ndarray) -> None:
        """Append an (H, W, 3) uint8 RGB image; all have the size of the first.

        Raises:
            MediaError: the size changed, or no codec can write here.
        """
        size = (image.shape[1], image.shape[0])
        if self._writer is None:
            self._size = size
            self._writer = self._open()
        if size != self._size:
            raise MediaError(f"{self.path}: a frame of {size} after frames of {self._size}")
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def _open(self) -> cv2.VideoWriter:
        for ending, codec in _CODECS:
            self.path = self.stem + ending
            code = cv2.VideoWriter.fourcc(*codec)
            writer = cv2.VideoWriter(self.path, code, self.rate, self._size)
            if writer.isOpened():
                return writer
            logger.warning("This OpenCV cannot write %s as %s.", self.path, codec)
        raise MediaError(f"{self.stem}: OpenCV can write none of the codecs {_CODECS}")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()


class Window:
    """A window that shows images, where there is a display."""

    def __init__(self, title: str) -> None:
        """Args:
            title: of the window.

        Raises:
            MediaError: there is no display, or OpenCV was built without windows.
        """
        x11 = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        if sys.platform.startswith("linux") and not x11:
            raise MediaError("there is no display to show results on: name a folder by --output")
        self.title = title
        try:
            cv2.namedWindow(title, cv2.WINDOW_NORMAL)
        except cv2.error as error:
            raise MediaError(
                "this OpenCV cannot open windows (opencv-python-headless?): name a folder by "
                "--output, or install opencv-python"
            ) from error

    def show(self, image: np.ndarray, wait: bool) -> bool:
        """Show an RGB image.

        Args:
            image: (H, W, 3) uint8.
            wait: until a key is pressed.

        Returns:
            False when the user pressed q or Esc, or closed the window.
        """
        cv2.imshow(self.title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        key = cv2.waitKey(1)
        while wait and key < 0 and self._is_open():
            key = cv2.waitKey(50)
        return key & 0xFF not in (ord("q"), 27) and self._is_open()

    def _is_open(self) -> bool:
        return cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) >= 1

    def close(self) -> None:
        cv2.destroyWindow(self.title)
