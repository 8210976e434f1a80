"""The one reader of images: a rule per mode, the same in every room, and nothing that hangs."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from panoptic_common.coco import image_reading
from panoptic_common.coco.check import CheckTask, check_image
from panoptic_common.coco.image_reading import (
    LIMIT_VARIABLE,
    ImageSizeError,
    read_image,
    read_image_size,
    to_rgb,
)
from panoptic_common.coco.segment_ids import read_id_map, write_id_map
from panoptic_common.data.mapper import PanopticDatasetMapper
from panoptic_common.evaluation import images as sheets
from panoptic_common.inference import media

# One pixel of each mode, and the grey or colour that the rule of the mode makes of it.
PIXELS: dict[str, tuple[Any, list[int]]] = {
    "1": (255, [255] * 3),
    "L": (100, [100] * 3),
    "P": (100, [100] * 3),  # with a palette of greys
    "RGB": ((10, 20, 30), [10, 20, 30]),
    "RGBX": ((10, 20, 30, 0), [10, 20, 30]),
    "LA": ((100, 0), [255] * 3),  # nothing of it is seen
    "La": ((0, 0), [255] * 3),
    "PA": ((100, 0), [255] * 3),
    "RGBA": ((200, 0, 0, 51), [244, 204, 204]),  # 0.2 of it: 0.2 * 200 + 0.8 * 255 = 244
    "RGBa": ((40, 0, 0, 51), [244, 204, 204]),  # the same, multiplied by 0.2 already
    "CMYK": ((0, 0, 0, 255), [0] * 3),
    "YCbCr": ((100, 128, 128), [100] * 3),
    "HSV": ((0, 0, 100), [100] * 3),
    "LAB": ((255, 128, 128), [255] * 3),  # Pillow's a and b are 0 at 128
    "I": (25700, [100] * 3),
    "I;16": (25700, [100] * 3),
    "I;16L": (25700, [100] * 3),
    "I;16B": (25700, [100] * 3),
    "I;16N": (25700, [100] * 3),
    "F": (0.4, [102] * 3),
}


def _image(mode: str) -> Image.Image:
    pixel = PIXELS[mode][0]
    if mode.startswith("I;16"):
        order = ">" if mode == "I;16B" else "<"
        raw = np.full((3, 4), pixel, f"{order}u2").tobytes()
        return Image.frombytes(mode, (4, 3), raw)
    if mode == "LAB":
        raw = bytes([pixel[0], 0, 0] * 12)  # a and b are stored signed
        return Image.frombytes(mode, (4, 3), raw)
    image = Image.new(mode, (4, 3), pixel)
    if mode == "P":
        image.putpalette([value for value in range(256) for _ in range(3)])
    return image


def test_every_mode_of_pillow_has_a_rule() -> None:
    assert set(Image.MODES) <= set(PIXELS)


@pytest.mark.parametrize("mode", PIXELS)
def test_a_mode_gives_the_same_pixels_to_training_evaluation_demo_and_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    path = tmp_path / "a.tif"
    try:
        _image(mode).save(path)
        Image.open(path).load()  # Pillow 9.5 cuts its own YCbCr
    except (OSError, KeyError, ValueError):  # a mode that no file has: met in memory only
        path.touch()
        monkeypatch.setattr(image_reading, "open_unlimited", lambda file: _image(mode))
    expected = np.broadcast_to(np.array(PIXELS[mode][1], np.uint8), (3, 4, 3))
    record = {"file_name": str(path), "image_id": 1, "height": 3, "width": 4}
    sample = PanopticDatasetMapper(True, [], "RGB")(record)["image"].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(sample, expected, atol=1)
    bgr = PanopticDatasetMapper(True, [], "BGR")(record)["image"].numpy().transpose(1, 2, 0)
    np.testing.assert_array_equal(bgr[:, :, ::-1], sample)
    np.testing.assert_array_equal(media.read_image(path), sample)
    np.testing.assert_array_equal(sheets.read_image(path), sample)
    assert check_image(CheckTask(1, str(path), None, (3, 4), [])).problems == []


def test_eight_bit_rgb_files_are_what_pillow_and_detectron2_decode(tmp_path: Path) -> None:
    from detectron2.data.detection_utils import read_image as detectron2_reader

    rgb = np.random.default_rng(0).integers(0, 256, (30, 41, 3), dtype=np.uint8)
    for name in ("a.png", "a.jpg", "a.bmp"):
        Image.fromarray(rgb).save(tmp_path / name)
        pixels = read_image(tmp_path / name)
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(tmp_path / name)))
        np.testing.assert_array_equal(pixels, detectron2_reader(tmp_path / name, "RGB"))
        assert pixels.flags.writeable and pixels.flags.c_contiguous


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_upright(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[274] = orientation
    rgb = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    for name in ("a.png", "a.tif"):
        path = tmp_path / name
        Image.fromarray(rgb).save(path, exif=exif)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
        np.testing.assert_array_equal(read_image(path, upright.shape[:2]), upright)
        assert read_image_size(path) == upright.shape[:2]
    if orientation > 4:
        with pytest.raises(ImageSizeError, match="5 x 3 .*expected are 3 x 5"):
            read_image(tmp_path / "a.png", (3, 5))  # Pillow 9.5 writes no EXIF into a TIFF


@pytest.mark.parametrize(
    ("ending", "kind"), [("png", "EXIF behind the pixels"), ("png", "XMP"), ("tif", "XMP")]
)
def test_header_and_pixels_agree_on_what_is_upright(tmp_path: Path, ending: str, kind: str) -> None:
    """What only the decoder sees does not turn an image: checks read headers alone."""
    path, image = tmp_path / f"a.{ending}", Image.new("RGB", (5, 3))
    xmp = b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    if ending == "tif":
        image.save(path, tiffinfo={700: xmp})
    elif kind == "XMP":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        image.save(path, pnginfo=text)
    else:
        exif = Image.Exif()
        exif[274] = 6
        chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
        image.save(path)
        content = path.read_bytes()
        late = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        path.write_bytes(content[:-12] + late + content[-12:])  # before IEND
    assert read_image_size(path) == read_image(path).shape[:2] == (3, 5)


def test_the_transparent_colour_of_deep_grey_is_white() -> None:
    image = Image.fromarray(np.array([[0, 25700]], np.uint16))
    image.info["transparency"] = 0
    assert to_rgb(image)[0, :, 0].tolist() == [255, 100]


def test_numbers_outside_are_clipped_and_those_that_are_none_are_black() -> None:
    values = np.array([[np.nan, -3, 100.4, 999, np.inf]], np.float32)
    assert to_rgb(Image.fromarray(values))[0, :, 0].tolist() == [0, 0, 100, 255, 0]
    wide = Image.fromarray(np.array([[-5, 65535 * 3, 257]], np.int32))
    assert to_rgb(wide)[0, :, 0].tolist() == [0, 255, 1]
    narrow = Image.fromarray(np.array([[0, 200]], np.uint16))  # 8-bit numbers in a 16-bit file
    assert to_rgb(narrow)[0, :, 0].tolist() == [0, 200]


def _special(folder: Path, kind: str) -> Path:
    path = folder / "a.png"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    return path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_special_files_are_named_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = _special(tmp_path, kind)
    for reader in (read_image, read_image_size, read_id_map, media.read_image):
        with pytest.raises(ValueError, match=r"a\.png: .*no regular file"):
            reader(path)
    (problem,) = check_image(CheckTask(1, str(path), None, (3, 4), [])).problems
    assert "no regular file" in problem
    if kind != "folder":
        with pytest.raises(media.MediaError, match="no regular file"):
            media.find_media([str(path)])


def test_a_header_of_the_wrong_size_is_refused_undecoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_id_map(tmp_path / "a.png", np.zeros((30, 40), np.int32))

    def explode(*_: Any, **__: Any) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "load", explode)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", explode)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.verify", explode)
    for reader in (read_image, read_id_map):
        with pytest.raises(ImageSizeError, match=r"30 x 40 .*expected are 3 x 4"):
            reader(tmp_path / "a.png", (3, 4))
    problems = check_image(CheckTask(1, str(tmp_path / "a.png"), None, (3, 4), [])).problems
    assert len(problems) == 1 and "30 x 40" in problems[0]


def test_the_limit_of_pixels_is_an_environment_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    write_id_map(path, np.zeros((30, 40), np.int32))
    monkeypatch.setenv(LIMIT_VARIABLE, "1199")
    for reader in (read_image, read_id_map):
        with pytest.raises(ValueError, match=f"a.png: .*30 x 40.*1199 pixels.*{LIMIT_VARIABLE}"):
            reader(path)
    monkeypatch.setenv(LIMIT_VARIABLE, "1200")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow refuses twice this
    assert read_image(path).shape == (30, 40, 3) and read_id_map(path).shape == (30, 40)
    assert Image.MAX_IMAGE_PIXELS == 500
    monkeypatch.setenv(LIMIT_VARIABLE, "many")
    with pytest.raises(ValueError, match=f"{LIMIT_VARIABLE} is 'many'"):
        read_image(path)


def test_the_drawing_of_training_uses_the_same_reader() -> None:
    from panoptic_common.engine import prediction_images

    readers = SimpleNamespace(a=sheets.read_image, b=prediction_images.read_image)
    assert readers.a is read_image and readers.b is read_image
