r"""StarDist on our nuclei, for a comparison at equal time. This file runs in its environment.

    python tools/label_images.py write datasets/nuclei/panoptic_train.json others/train \
        --images datasets/nuclei/train
    python tools/label_images.py write datasets/nuclei/panoptic_val.json others/val \
        --images datasets/nuclei/val
    python3 -m venv others/stardist
    others/stardist/bin/pip install stardist tensorflow-cpu
    PYTHONPATH=. others/stardist/bin/python tools/studies/peers/stardist_nuclei.py \
        others/train others/val others/predictions --minutes 25
    python tools/label_images.py read datasets/nuclei/panoptic_val.json others/predictions \
        --out others/predictions.json

The network, its loss, its choice of thresholds and all settings that are not named are StarDist's
own. Thresholds are chosen on a tenth of the training images. Three things are set:

* Images are made grey, on a dark background, as `configs/*/nuclei` makes them.
* In training they are flipped, turned and relit.
* The rate falls along a cosine to the end of the time, as that of the other systems does.

Of the folder to predict, only images are read. One thread.

Shapes: H, W pixels of an image.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from panoptic_common.runtime.intensity import change_values, value_table
from panoptic_tools.value_types import finite

# Labels lie beside their image, as tools/label_images.py writes them.
LABELS = "_masks.png"
# INPUT.INTENSITY of configs/*/nuclei/Base.yaml; the test compares them.
PERCENTILES = (0.5, 99.8)
HELD_OUT = 10  # every tenth training image chooses weights and thresholds

FloatImage = npt.NDArray[np.float32]


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("train", type=Path, metavar="FOLDER", help="images and label images")
    parser.add_argument("predict", type=Path, metavar="FOLDER", help="images to predict")
    parser.add_argument("output", type=Path, metavar="FOLDER", help="for label images and weights")
    parser.add_argument("--minutes", type=finite, default=25.0, help="of a processor (default 25)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(words)


def list_images(folder: Path) -> list[Path]:
    """List the images of a folder in order, without label images.

    Raises:
        FileNotFoundError: there is none.
    """
    files = [path for path in sorted(folder.glob("*.png")) if not path.name.endswith(LABELS)]
    if not files:
        raise FileNotFoundError(f"{folder} holds no images: write them by tools/label_images.py")
    return files


def read_grey(path: Path) -> FloatImage:
    """Read an image as the nuclei configs have it: grey, stretched, on a dark background.

    Returns:
        (H, W) float32 in 0..1.
    """
    with Image.open(path) as opened:
        image = np.asarray(opened.convert("RGB"))
    table = value_table(
        image, grey=True, percentiles=PERCENTILES, dark_background=True, image_format="RGB"
    )
    changed = change_values(image, table, grey=True, image_format="RGB")
    return changed[:, :, 0].astype(np.float32) / 255


def read_labels(path: Path) -> npt.NDArray[np.int32]:
    """Read the label image of an image, (H, W), 0 = background."""
    with Image.open(path.with_name(path.stem + LABELS)) as opened:
        return np.asarray(opened).astype(np.int32)


class Augment:
    """Flips, turns and relights a patch with its labels, in place of StarDist's `augmenter`.

    Args:
        seed: of the random numbers.
    """

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def __call__(self, image: FloatImage, labels: np.ndarray) -> tuple[FloatImage, np.ndarray]:
        """Return both anew; patches are square."""
        turns = int(self.random.integers(4))
        image, labels = np.rot90(image, turns), np.rot90(labels, turns)
        if self.random.integers(2):
            image, labels = image[::-1], labels[::-1]
        factor, offset = self.random.uniform(0.6, 2.0), self.random.uniform(-0.2, 0.2)
        noise = self.random.normal(0.0, 0.02, image.shape)
        return (image * factor + offset + noise).astype(np.float32), labels


def make_clock(keras: Any, seconds: float, rate: float) -> Any:
    """Make a Keras callback that lowers the rate along a cosine and stops at the end of the time.

    Args:
        keras: the module whose `Callback` StarDist's training takes.
        seconds: of a processor, from the start of training on.
        rate: learning rate at its begin.

    Returns:
        The callback; its `steps` counts batches.
    """

    class Clock(keras.callbacks.Callback):
        start = 0.0
        steps = 0

        def on_train_begin(self, logs: Any = None) -> None:
            self.start = time.process_time()

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.steps += 1
            spent = min((time.process_time() - self.start) / seconds, 1.0)
            self.model.optimizer.learning_rate = rate * (1 + math.cos(math.pi * spent)) / 2
            self.model.stop_training = self.model.stop_training or spent >= 1.0

    return Clock()


def main(words: Sequence[str] | None = None) -> int:
    """Train, choose thresholds, predict; returns the exit status."""
    options = parse_arguments(words)
    train_files, predicted_files = list_images(options.train), list_images(options.predict)
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    import tensorflow as tf
    from stardist.models import Config2D, StarDist2D

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.keras.utils.set_random_seed(options.seed)
    clock_begin, processor_begin = time.monotonic(), time.process_time()

    pairs = [(read_grey(path), read_labels(path)) for path in train_files]
    held_out = pairs[::HELD_OUT]
    kept = [pair for index, pair in enumerate(pairs) if index % HELD_OUT]
    config = Config2D(grid=(2, 2), n_channel_in=1, train_tensorboard=False, train_reduce_lr=None)
    options.output.mkdir(parents=True, exist_ok=True)
    model = StarDist2D(config, name="model", basedir=str(options.output))
    model.prepare_for_training()
    clock = make_clock(tf.keras, options.minutes * 60, config.train_learning_rate)
    model.callbacks.append(clock)
    images, labels = zip(*kept, strict=True)
    held_images, held_labels = zip(*held_out, strict=True)
    held, augment = (held_images, held_labels), Augment(options.seed)
    model.train(images, labels, validation_data=held, augmenter=augment, seed=options.seed)
    print(f"{clock.steps} steps of {config.train_batch_size} patches, {config.train_patch_size}")
    model.optimize_thresholds(held_images, held_labels)
    predict_begin = time.process_time()
    for path in predicted_files:
        found, _ = model.predict_instances(read_grey(path))
        Image.fromarray(found.astype(np.uint16)).save(options.output / (path.stem + LABELS))
    end = time.process_time()
    print(f"{len(predicted_files)} images predicted in {end - predict_begin:.1f} s")
    clock_time = (time.monotonic() - clock_begin) / 60
    print(f"processor {(end - processor_begin) / 60:.1f} min, clock {clock_time:.1f} min")
    return 0


if __name__ == "__main__":
    sys.exit(main())
