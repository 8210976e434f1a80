"""The one reader of images, for training, evaluation, demo and check: any file to 8-bit RGB.

A model must see in training what it sees later. So every mode of Pillow has one rule here:

    1, L                  grey, the same in all three channels
    P                     the colours of the palette
    RGB, RGBX             as it is; the fourth channel of RGBX means nothing
    LA, La, PA, RGBA, RGBa, and a transparent colour (tRNS) of any mode
                          blended over white; premultiplied colours (La, RGBa) are divided first
    CMYK, YCbCr, HSV      by Pillow's conversion
    LAB                   by Pillow's conversion, through the profiles LAB and sRGB
    I;16, I;16L, I;16B, I;16N, I
                          clipped to 0..65535 and divided by 257, rounded; an image that has no
                          value above 255 holds 8-bit numbers, which are kept
    F                     values up to 1 are fractions of white, others numbers of 0..255; clipped
                          and rounded, what is not finite is black

The EXIF orientation is applied; one that is damaged is ignored. So is one behind the pixels of a
PNG or in the XMP of a TIFF. The size of an image must be known from its header. An animation gives
its first frame. The pixels of 8-bit RGB files are those that Pillow decodes.

A file is refused before it is decoded if it is no regular file. The same holds if its header does
not have the size that is expected, or if it has more than `pixel_limit()` pixels. No torch, no
Detectron2.

Shape shorthand: H, W image size in pixels, upright.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from panoptic_common.coco.user_files import open_regular

LIMIT_VARIABLE = "PANOPTIC_MAX_IMAGE_PIXELS"
DEFAULT_LIMIT = 178_956_970  # of Pillow: half a gigabyte in RGB

RGBImage = npt.NDArray[np.uint8]
_Result = TypeVar("_Result")

_ORIENTATION = 274  # number of the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange height and width
_pillow_limit = threading.Lock()


class ImageSizeError(ValueError):
    """An image has another size than expected.

    Attributes:
        size: (height, width) that it has.
    """

    def __init__(self, path: str, size: tuple[int, int], expected: tuple[int, int]) -> None:
        """Make the sentence."""
        super().__init__(f"{path} has {size_text(size)}, expected are {size_text(expected)}")
        self.size = size


def size_text(size: tuple[int, ...]) -> str:
    """Write a (height, width) for a message."""
    return f"{size[0]} x {size[1]} (height x width)"


def pixel_limit() -> int:
    """Return how many pixels an image may have: $PANOPTIC_MAX_IMAGE_PIXELS, or Pillow's limit.

    Raises:
        ValueError: the variable is no positive integer.
    """
    text = os.environ.get(LIMIT_VARIABLE, "")
    if not text:
        return DEFAULT_LIMIT
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{LIMIT_VARIABLE} is {text!r}, no positive number of pixels")
    return int(text)


def read_image(
    path: str | os.PathLike[str], expected_size: tuple[int, int] | None = None
) -> RGBImage:
    """Read an image of any mode as 8-bit RGB, upright, by the rules of this module.

    Args:
        path: any file that Pillow reads.
        expected_size: (height, width) that it must have, upright; None accepts any.

    Returns:
        (H, W, 3) uint8, contiguous and writable.

    Raises:
        FileNotFoundError: there is no such file.
        ImageSizeError: it has another size.
        ValueError: naming it, if it is damaged, no image, no regular file, or too large.
    """
    rgb = open_image(path, upright_rgb, expected_size)
    if expected_size is not None and rgb.shape[:2] != tuple(expected_size):
        raise ImageSizeError(os.fspath(path), (rgb.shape[0], rgb.shape[1]), expected_size)
    return rgb


def read_image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (height, width), upright, of an image of which only the header is read.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming it, if its header is damaged, or it is no image or no regular file.
    """

    def measure(image: Image.Image) -> tuple[int, int]:
        sideways = _orientation(image) in _SIDEWAYS
        return image.size if sideways else (image.height, image.width)

    return open_image(path, measure)


def open_image(
    path: str | os.PathLike[str],
    use: Callable[[Image.Image], _Result],
    expected_size: tuple[int, int] | None = None,
) -> _Result:
    """Open an image file, look at its header, and hand it to a function.

    Args:
        path: any file that Pillow reads.
        use: called with the image, of which nothing is decoded yet.
        expected_size: (height, width), here in either order, as the image may lie on its side.

    Returns:
        What `use` returned.

    Raises:
        FileNotFoundError, ValueError: as `read_image`; whatever `use` raises is damage.
    """
    name = os.fspath(path)
    with open_regular(path) as file:
        try:
            image = open_unlimited(file)
        except Exception as error:  # Pillow raises many types for damaged files
            raise ValueError(f"{name}: damaged or no image ({error})") from error
        with image:
            size = (image.height, image.width)
            if expected_size is not None and sorted(size) != sorted(expected_size):
                raise ImageSizeError(name, size, expected_size)
            check_pixels(name, size)
            try:
                return use(image)
            except Exception as error:
                raise ValueError(f"{name}: damaged image ({error})") from error


def check_pixels(name: str, size: tuple[int, int]) -> None:
    """Refuse an image, before it is decoded, that has more pixels than `pixel_limit`.

    Raises:
        ValueError: naming the file, and the way to read it nevertheless.
    """
    limit = pixel_limit()
    if size[0] * size[1] > limit:
        raise ValueError(
            f"{name}: the image has {size_text(size)}, more than {limit} pixels; if it is wanted,"
            f" set the environment variable {LIMIT_VARIABLE} to a larger number"
        )


def open_unlimited(file: BinaryIO) -> Image.Image:
    """Open an image without Pillow's own limit, which knows no exception and warns at its half.

    Raises:
        ValueError: the file is of no format that Pillow knows; other types for damage.
    """
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file)
        except UnidentifiedImageError:  # it would name the object that was opened, not the file
            raise ValueError("of no format that Pillow knows") from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _orientation(image: Image.Image) -> int:
    """Return the orientation that the header states, 1 to 8, before the image is decoded.

    1 is upright, and stands for damaged data too.
    """
    # Pillow would decode a PNG to look for EXIF data behind the pixels. It turns a TIFF itself, and
    # tells of an orientation in EXIF when it opens one.
    if image.format == "TIFF" or (image.format == "PNG" and "exif" not in image.info):
        return 1
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # cameras and editors write EXIF blocks that Pillow cannot parse
        return 1
    return value if isinstance(value, int) else 1


def upright_rgb(image: Image.Image) -> RGBImage:
    """Convert an opened image by the rules of this module, its orientation too.

    Returns:
        (H, W, 3) uint8, contiguous and writable.
    """
    turn = _TURNS.get(_orientation(image))
    if image.format == "TIFF":
        image.info.pop("xmp", None)  # an orientation in it would turn pixels, and no header
    image.load()
    return np.array(to_rgb(image if turn is None else image.transpose(turn)))


def to_rgb(image: Image.Image) -> RGBImage:
    """Convert a decoded image of any mode by the rules of this module.

    Returns:
        (H, W, 3) uint8; may be read-only.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey_to_rgb(_narrow(np.asarray(image)), image)
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image, np.float64), nan=0, posinf=0, neginf=0)
        scale = 255 if values.max(initial=0) <= 1 else 1
        return _grey_to_rgb((values * scale).clip(0, 255).round().astype(np.uint8), image)
    if image.mode in ("La", "RGBa"):  # premultiplied; Pillow converts them to their twin only
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))


def _narrow(values: npt.NDArray[np.integer]) -> RGBImage:
    """Bring whole numbers of up to 16 bits to 8; 257 v is v in both bytes."""
    grey = values.astype(np.int64)
    if grey.max(initial=0) > 255:
        grey = (grey.clip(0, 65535) + 128) // 257
    return grey.clip(0, 255).astype(np.uint8)


def _grey_to_rgb(grey: RGBImage, image: Image.Image) -> RGBImage:
    """Repeat (H, W) grey in three channels; the value that `image` calls transparent is white."""
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey = np.where(np.asarray(image) == key, np.uint8(255), grey)
    return np.repeat(grey[:, :, None], 3, axis=2)
