"""Models whose tensors have shapes and a device, but no values: what a GPU refuses shows without.

torch's FakeTensorMode runs each operator on shapes alone. It raises where tensors of two devices
meet, as a GPU would. So a tensor that the code makes on the wrong device is found on any machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from detectron2.modeling import build_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from panoptic_tools.studies.library.options import read_config


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
