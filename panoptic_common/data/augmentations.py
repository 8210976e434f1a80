"""Augmentations that Detectron2 lacks: random scale, quarter turns, relighting; and their order.

Training crops a randomly scaled and flipped image. Li, Qi and Torr (CVPR 2020, appendix B,
"Cityscapes training") scale by a factor between 0.5 and 2. They also relight: "randomly adjusting
the brightness, contrast, hue, and saturation of the image by a small amount".

Like Detectron2's own augmentations these draw from numpy's global generator, which its data loader
seeds for each worker; a seeded run therefore repeats them.

Shape shorthand: H, W image size in pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from fvcore.transforms.transform import NoOpTransform, Transform

from panoptic_common.data.intensity import NormaliseIntensity
from panoptic_common.runtime.intensity import LUMA, check_format


def build_augmentations(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Make the augmentations that a config asks for.

    In training: normalise intensities, resize (by INPUT.RANDOM_SCALE if it is on, else the shortest
    edge to a draw from INPUT.MIN_SIZE_TRAIN), crop, flip, turn, relight. The crop comes after the
    resize, so that its size in INPUT.CROP.SIZE is that of the network's input. An image smaller
    than an absolute crop is taken whole, as Detectron2 does; batches are padded by the model. In
    testing: normalise intensities and resize (by INPUT.TEST_SCALE if it is on) only.

    Args:
        cfg: a config with the keys of `panoptic_common.config.add_panoptic_config`.
        is_train: which of the two.

    Returns:
        The augmentations in the order in which they are applied.

    Raises:
        ValueError: naming the key that is wrong.
    """
    options = cfg.INPUT
    augmentations: list[T.Augmentation] = []
    if options.INTENSITY.GREY or options.INTENSITY.PERCENTILES or options.INTENSITY.DARK_BACKGROUND:
        augmentations.append(
            NormaliseIntensity(
                grey=options.INTENSITY.GREY,
                percentiles=options.INTENSITY.PERCENTILES,
                dark_background=options.INTENSITY.DARK_BACKGROUND,
                image_format=options.FORMAT,
            )
        )
    if not is_train:
        if options.TEST_SCALE:
            augmentations.append(FixedScale(options.TEST_SCALE, options.MAX_SIZE_TEST))
        else:
            augmentations.append(
                T.ResizeShortestEdge(options.MIN_SIZE_TEST, options.MAX_SIZE_TEST, "choice")
            )
        return augmentations
    low, high = options.RANDOM_SCALE
    if (low, high) != (1.0, 1.0):
        augmentations.append(RandomScale(low, high))
    else:
        augmentations.append(
            T.ResizeShortestEdge(
                options.MIN_SIZE_TRAIN, options.MAX_SIZE_TRAIN, options.MIN_SIZE_TRAIN_SAMPLING
            )
        )
    if options.CROP.ENABLED:
        augmentations.append(T.RandomCrop(options.CROP.TYPE, options.CROP.SIZE))
    return augmentations + _mirrors_and_light(cfg)


def _mirrors_and_light(cfg: CfgNode) -> list[T.Augmentation]:
    """Make the training augmentations that follow the crop."""
    options = cfg.INPUT
    augmentations: list[T.Augmentation] = []
    if options.RANDOM_FLIP not in ("none", "horizontal", "vertical", "both"):
        raise ValueError(
            f"INPUT.RANDOM_FLIP is {options.RANDOM_FLIP!r}: use none, horizontal, vertical or both"
        )
    if options.RANDOM_FLIP in ("horizontal", "both"):
        augmentations.append(T.RandomFlip(horizontal=True, vertical=False))
    if options.RANDOM_FLIP in ("vertical", "both"):
        augmentations.append(T.RandomFlip(horizontal=False, vertical=True))
    if options.RANDOM_QUARTER_TURN:
        augmentations.append(RandomQuarterTurn())
    if options.RELIGHT.ENABLED:
        augmentations.append(
            RandomRelight(
                brightness=options.RELIGHT.BRIGHTNESS,
                contrast=options.RELIGHT.CONTRAST,
                saturation=options.RELIGHT.SATURATION,
                hue=options.RELIGHT.HUE,
                gamma=options.RELIGHT.GAMMA,
                image_format=options.FORMAT,
            )
        )
    return augmentations


class RandomScale(T.Augmentation):
    """Resize by one factor, drawn uniformly, in both directions.

    Args:
        low: smallest factor, above 0.
        high: largest factor.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        if not 0 < low <= high:
            raise ValueError(
                f"INPUT.RANDOM_SCALE is ({low}, {high}): give 0 < smallest <= largest factor"
            )
        self.low, self.high = float(low), float(high)

    def get_transform(self, image: np.ndarray) -> Transform:
        """Return the resize for an (H, W, 3) image."""
        return _resize(image, np.random.uniform(self.low, self.high))


class FixedScale(T.Augmentation):
    """Resize by one factor in both directions, for testing.

    Args:
        factor: above 0.
        max_size: most pixels of the longer edge of the result; the factor is lowered to keep it.

    Raises:
        ValueError: the factor is not above 0.
    """

    def __init__(self, factor: float, max_size: int) -> None:
        super().__init__()
        if not factor > 0:
            raise ValueError(f"INPUT.TEST_SCALE is {factor}: give a factor above 0, or 0.0 for off")
        self.factor, self.max_size = float(factor), int(max_size)

    def get_transform(self, image: np.ndarray) -> Transform:
        """Return the resize for an (H, W, 3) image."""
        factor = min(self.factor, self.max_size / max(image.shape[:2]))
        return _resize(image, factor)


def _resize(image: np.ndarray, factor: float) -> Transform:
    """Return the resize of an (H, W, 3) image by a factor."""
    height, width = image.shape[:2]
    new_height = max(1, int(height * factor + 0.5))
    new_width = max(1, int(width * factor + 0.5))
    return T.ResizeTransform(height, width, new_height, new_width)


class RandomQuarterTurn(T.Augmentation):
    """Turn by 0, 90, 180 or 270 degrees, each as likely; for images without an up and a down."""

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw the turn of an (H, W, 3) image."""
        return QuarterTurnTransform(image.shape[0], image.shape[1], int(np.random.randint(4)))


class QuarterTurnTransform(Transform):
    """A turn by quarters, counter-clockwise; exact, as no pixel is interpolated.

    Args:
        height: H of the image before.
        width: W of the image before.
        quarters: 0 to 3.
    """

    def __init__(self, height: int, width: int, quarters: int) -> None:
        super().__init__()
        self.height, self.width, self.quarters = height, width, quarters

    def apply_image(self, img: np.ndarray, *_: object) -> np.ndarray:
        """Turn an (H, W) or (H, W, C) array."""
        return np.ascontiguousarray(np.rot90(img, self.quarters))

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Turn a label map likewise."""
        return self.apply_image(segmentation)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Turn (N, 2) points x, y in pixels; a quarter takes (x, y) to (y, W - x)."""
        height, width = self.height, self.width
        for _ in range(self.quarters):
            coords = np.stack([coords[:, 1], width - coords[:, 0]], axis=1)
            height, width = width, height
        return coords

    def inverse(self) -> Transform:
        """Return the turn back."""
        turned = self.quarters % 2 == 1
        height, width = (self.width, self.height) if turned else (self.height, self.width)
        return QuarterTurnTransform(height, width, -self.quarters % 4)


class RandomRelight(T.Augmentation):
    """Change brightness, contrast, saturation and hue by small random amounts.

    Args:
        brightness: the factor is drawn from [1 - brightness, 1 + brightness]; so for the next two.
        contrast: as above.
        saturation: as above.
        hue: the shift is drawn from [-hue, hue], in full turns of the hue circle.
        image_format: "BGR" or "RGB", the order of the channels of the images.
        gamma: the exponent is drawn from [1 / (1 + gamma), 1 + gamma], evenly in its logarithm.
    """

    def __init__(
        self,
        brightness: float = 0.2,
        contrast: float = 0.2,
        saturation: float = 0.2,
        hue: float = 0.02,
        image_format: str = "BGR",
        gamma: float = 0.0,
    ) -> None:
        super().__init__()
        ranges = {"BRIGHTNESS": brightness, "CONTRAST": contrast, "SATURATION": saturation}
        for key, value in ranges.items():
            if not 0 <= value <= 1:
                raise ValueError(f"INPUT.RELIGHT.{key} is {value}: give a number from 0 to 1")
        if not 0 <= hue <= 0.5:
            raise ValueError(f"INPUT.RELIGHT.HUE is {hue}: give a number of turns from 0 to 0.5")
        if not gamma >= 0:
            raise ValueError(f"INPUT.RELIGHT.GAMMA is {gamma}: give 0 or more")
        check_format(image_format)
        self.brightness, self.contrast = float(brightness), float(contrast)
        self.saturation, self.hue, self.gamma = float(saturation), float(hue), float(gamma)
        self.image_format = image_format

    def get_transform(self, image: np.ndarray) -> Transform:
        """Draw the amounts; the image itself does not matter."""
        draw = np.random.uniform(-1.0, 1.0, size=4)
        # Drawn last and only if asked for, so that runs without it see what they always saw.
        power = np.random.uniform(-1.0, 1.0) if self.gamma else 0.0
        return RelightTransform(
            brightness=1.0 + self.brightness * draw[0],
            contrast=1.0 + self.contrast * draw[1],
            saturation=1.0 + self.saturation * draw[2],
            hue=self.hue * draw[3],
            gamma=(1.0 + self.gamma) ** power,
            image_format=self.image_format,
        )


class RelightTransform(Transform):
    """One relighting: the image changes, coordinates and label maps do not.

    Why not torchvision's ``adjust_brightness`` and its kin: each rounds down to uint8. The four
    together differ from this by up to 25 of 255, and they take 4 times as long.

    Args:
        brightness: factor on every value.
        contrast: factor on the difference to the mean luma of the image.
        saturation: factor on the difference to the pixel's own luma.
        hue: shift in full turns of the hue circle; 1/3 makes red green.
        image_format: "BGR" or "RGB".
        gamma: exponent of every value as a share of 255, after the factors; 2 darkens mid-tones.
    """

    def __init__(
        self,
        brightness: float = 1.0,
        contrast: float = 1.0,
        saturation: float = 1.0,
        hue: float = 0.0,
        image_format: str = "BGR",
        gamma: float = 1.0,
    ) -> None:
        super().__init__()
        check_format(image_format)
        # Python's floats keep the image in float32; numpy's own would make it float64.
        self.brightness, self.contrast = float(brightness), float(contrast)
        self.saturation, self.hue, self.gamma = float(saturation), float(hue), float(gamma)
        self.image_format = image_format

    def apply_image(self, img: np.ndarray, *_: object) -> np.ndarray:
        """Relight an (H, W, 3) uint8 image; returns a new one."""
        if img.dtype != np.uint8 or img.ndim != 3 or img.shape[2] != 3:
            raise ValueError(f"relighting needs (H, W, 3) uint8, got {img.shape} {img.dtype}")
        is_bgr = self.image_format == "BGR"
        rgb = (img[:, :, ::-1] if is_bgr else img).astype(np.float32)
        rgb = _relight(rgb, self.brightness, self.contrast, self.saturation)
        rgb = rgb.clip(0, 255)
        if self.gamma != 1.0:
            rgb = 255 * (rgb / 255) ** np.float32(self.gamma)
        if self.hue:
            rgb = _turn_hue(rgb, self.hue)
        relit = (rgb + 0.5).astype(np.uint8)  # round: a neutral relighting changes nothing
        return np.ascontiguousarray(relit[:, :, ::-1]) if is_bgr else relit

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """Return the coordinates as they are."""
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        """Return the label map as it is."""
        return segmentation

    def inverse(self) -> Transform:
        """Return a transform that leaves geometry alone; the colours cannot be restored exactly."""
        return NoOpTransform()


def _relight(rgb: np.ndarray, brightness: float, contrast: float, saturation: float) -> np.ndarray:
    """Apply the three factors, in this order, to an (H, W, 3) float32 image of 0..255.

    The three are linear in the pixel and in its luma y. So they are one step: x' = s b c x + (1 -
    s) b c y + (1 - c) b mean(y). For contrast maps y to b c y + (1 - c) b mean(y) and the
    saturation blends towards exactly that grey.
    """
    luma = rgb @ LUMA
    gain = brightness * contrast
    grey = (1.0 - saturation) * gain * luma + (1.0 - contrast) * brightness * float(luma.mean())
    return saturation * gain * rgb + grey[:, :, None]


def _turn_hue(rgb: np.ndarray, turns: float) -> np.ndarray:
    """Turn the hue of an (H, W, 3) float32 image of 0..255; value and saturation stay."""
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)  # for float32: hue in degrees
    hsv[:, :, 0] = np.mod(hsv[:, :, 0] + 360.0 * turns, 360.0)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
