"""Video in and out, and a window, by OpenCV.

Problem: a camera, a damaged file and a file that announces a wrong number of frames all look alike
to OpenCV. Which codecs it can write depends on how it was built. Here each is an error that names
the source, or a codec that works.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

import cv2
import numpy as np

from panoptic_common.inference.media import Frame, MediaError

logger = logging.getLogger(__name__)

# Container and codec that are tried in turn: the second is part of every OpenCV.
_CODECS = ((".mp4", "mp4v"), (".avi", "MJPG"))
_DEFAULT_RATE = 25.0  # frames per second where a source does not know


class VideoReader:
    """Frames of a video file or a camera.

    Attributes:
        name: stem of the frames' names.
        source: as messages call it.
        is_camera: whether it has no end.
        rate: frames per second.
        num_frames: as the file announces; None where it does not say.
    """

    def __init__(self, source: str | os.PathLike[str] | int, name: str) -> None:
        """Open a file or a camera.

        Args:
            source: file, or the number of a camera.
            name: stem of the frames' names.

        Raises:
            MediaError: it cannot be opened.
        """
        self.name = name
        self.is_camera = isinstance(source, int)
        self.source = f"camera {source}" if isinstance(source, int) else os.fspath(source)
        if not self.is_camera and not os.path.isfile(self.source):
            raise MediaError(f"{self.source}: there is no such file")
        if isinstance(source, int) and not 0 <= source < 2**31:  # OpenCV's own error is no sentence
            raise MediaError(f"{self.source}: there is none of that number, the first one is 0")
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
        """Free the file or the camera."""
        self._capture.release()


class VideoWriter:
    """Writes frames to a file whose codec is chosen, and whose size is known, at the first one.

    OpenCV does not tell when the disk is full. So the frames go to a file with a name of its own,
    which `close` reads back. It gets the wanted name only if it is whole.

    Attributes:
        stem: path without ending.
        path: the file, once it is closed; "" before the first frame.
        rate: frames per second.
    """

    def __init__(
        self, stem: str | os.PathLike[str], rate: float, keep_when_stopped: bool = False
    ) -> None:
        """Choose the file; it is made with the first frame.

        Args:
            stem: path without ending.
            rate: frames per second.
            keep_when_stopped: whether the file is kept where a signal ends the block of `with`.
        """
        self.keep_when_stopped = keep_when_stopped
        self.stem = os.fspath(stem)
        self.rate = rate
        self.path = ""
        self._part = ""
        self._count = 0
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
        self._count += 1

    def _open(self) -> cv2.VideoWriter:
        for ending, codec in _CODECS:
            self.path = self.stem + ending
            self._part = f"{self.stem}.{os.getpid()}.part{ending}"
            code = cv2.VideoWriter.fourcc(*codec)
            writer = cv2.VideoWriter(self._part, code, self.rate, self._size)
            if writer.isOpened():
                return writer
            logger.warning("This OpenCV cannot write %s as %s.", self.path, codec)
        raise MediaError(f"{self.stem}: OpenCV can write none of the codecs {_CODECS}")

    def close(self) -> None:
        """End the file and give it its name.

        Raises:
            MediaError: it is not whole; it is removed.
        """
        if self._writer is None:
            return
        self._writer.release()
        self._writer = None
        readable = _count_frames(self._part)
        if readable == self._count:
            os.replace(self._part, self.path)
            return
        self.discard()
        raise MediaError(
            f"{self.path}: only {readable} of {self._count} frames could be written, so it was "
            "removed: is the disk full?"
        )

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        stopped = kind is not None and issubclass(kind, (KeyboardInterrupt, SystemExit))
        if kind is None or (stopped and self.keep_when_stopped):
            self.close()
        else:
            self.discard()

    def discard(self) -> None:
        """Remove the file unless it was closed whole."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._part)


def _count_frames(path: str) -> int:
    """Count the frames of a video by decoding it."""
    capture = cv2.VideoCapture(path)
    count = 0
    while capture.grab():
        count += 1
    capture.release()
    return count


class Window:
    """A window that shows images, where there is a display."""

    def __init__(self, title: str) -> None:
        """Open the window.

        Args:
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
        """Close the window."""
        cv2.destroyWindow(self.title)
