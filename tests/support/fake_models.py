"""Models whose tensors have shapes and a device, but no values: what a GPU refuses shows without.

torch's FakeTensorMode runs each operator on shapes alone. It raises where tensors of two devices
meet, as a GPU would. So a tensor that the code makes on the wrong device is found on any machine.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.modeling import build_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from panoptic_tools.studies.library.options import read_config

_CONVOLVE = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

with FakeTensorMode():
    image = torch.empty(1, 3, 8, 8, device="cuda:0")
    weight = torch.nn.Parameter(torch.empty(4, 3, 3, 3, device="cuda:0"))
    assert torch.nn.functional.conv2d(image, weight).shape == (1, 4, 6, 6)
"""


@functools.cache
def convolves_on_fake_gpus() -> bool:
    """Tell whether this torch convolves fake weights of a GPU that is not there.

    torch 2.4 asks the driver where weights are trained. That ends the process at the second time.
    """
    done = subprocess.run([sys.executable, "-c", _CONVOLVE], capture_output=True, check=False)
    return done.returncode == 0


@contextmanager
def fake_model(config: str, device: str, classes: int, things: int) -> Iterator[nn.Module]:
    """Build a config's model, then let it and all that a block makes be fake.

    Args:
        config: path of the file.
        device: on which parameters and buffers seem to lie.
        classes: of the class table.
        things: the first so many of them are things.
    """
    table = [
        {"id": k, "name": str(k), "isthing": int(k < things), "color": [0, 0, 0]}
        for k in range(classes)
    ]
    options = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]
    model = build_model(read_config(argparse.ArgumentParser(), config, options, table=table))
    with FakeTensorMode():
        for module in model.modules():
            for name, value in list(module.named_parameters(recurse=False)):
                empty = torch.empty(value.shape, dtype=value.dtype, device=device)
                module._parameters[name] = nn.Parameter(empty, requires_grad=value.requires_grad)
            for name, value in list(module.named_buffers(recurse=False)):
                module._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device=device)
        yield model
