"""What trials/machine.py measures in other processes: `python FILE FUNCTION SYSTEM COUNT SEED`.

`infer` prints the kilobytes by which the memory has grown after a warm-up, `train` the seconds of
user time that the steps took.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import sys

# As the programs do it: what is set for OpenMP must be set before torch is imported.
import panoptic_common.compat

import cops_factory
import model_factory
import numpy as np
import torch

FACTORIES = {"unified": model_factory, "cops": cops_factory}
SIZES = ((64, 96), (61, 94), (48, 64), (97, 131))


def resident_kilobytes() -> int:
    """Memory in use now, after what is free was given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


def infer(system: str, count: str, seed: str) -> int:
    """Predict images of four sizes by turns; kilobytes grown after the first hundred."""
    factory, draw = FACTORIES[system], np.random.default_rng(int(seed))
    torch.set_num_threads(1)
    model = factory.tiny_model().eval()

    def predict(number: int) -> None:
        for index in range(number):
            height, width = SIZES[index % len(SIZES)]
            pixels = draw.integers(0, 256, (3, height, width)).astype(np.uint8)
            image = {"image": torch.from_numpy(pixels), "height": height, "width": width}
            with torch.no_grad():
                model([image])

    predict(100)
    before = resident_kilobytes()
    predict(int(count))
    return resident_kilobytes() - before


def train(system: str, count: str, seed: str) -> float:
    """Train on one image of 192 x 384 pixels, the size of the scenes; seconds of user time."""
    factory = FACTORIES[system]
    model, batch = factory.tiny_model(), [factory.make_image(int(seed), (192, 384))]
    model_factory.training_step(model, batch)
    begin = os.times().user
    for _ in range(int(count)):
        model_factory.training_step(model, batch)
    return os.times().user - begin


if __name__ == "__main__":
    print(globals()[sys.argv[1]](*sys.argv[2:]), flush=True)
