"""Our weights as `.safetensors`: the network alone, with its config and its classes inside.

The format is that of the package safetensors: a JSON header, then the values. Nothing in it can run
code. What our checkpoints say about themselves stands in the header's metadata, each entry a text:

| entry | content |
|---|---|
| `config` | YAML |
| `class_table` | JSON |
| `iteration`, `seed` | digits |

Values may be stored as float32, in half precision, or in bytes. A weight in bytes is a tensor of
int8 and a second one, `NAME:scale`. That one has a factor for each entry of the first axis, the
output channel. So weight = byte * factor, and the error is at most 1/254 of the channel's largest
weight. Whatever is stored, float32 comes back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch

from panoptic_common.files import write_atomically

STORAGES = ("float32", "half", "bytes")
# Bytes pay where values are many: a factor for each channel, and names, come on top.
LEAST_BYTES = 1 << 14
_SCALE = ":scale"
_TEXTS = ("config", "class_table", "iteration", "seed")


def write_weights(
    path: str | os.PathLike[str], contents: Mapping[str, Any], storage: str = "float32"
) -> None:
    """Write what one of our checkpoints needs to be used again, without the training's state.

    Args:
        path: of the file, written whole or not at all.
        contents: of one of our checkpoints; reads "model", "config", "class_table", "iteration"
            and "seed".
        storage: one of `STORAGES`. "half" rounds to float16, "bytes" takes int8 for weights of
            more than `LEAST_BYTES` values and half for the rest.

    Raises:
        ImportError: the package safetensors is not there.
        ValueError: an unknown storage, or a value that half precision cannot hold.
    """
    from safetensors.torch import save

    if storage not in STORAGES:
        raise ValueError(f"storage is {storage!r}: use one of {STORAGES}")
    data = save(_stored(contents["model"], storage), metadata=_metadata(contents))
    write_atomically(path, lambda file: file.write(data))


def read_weights(path: str) -> dict[str, Any]:
    """Read a `.safetensors` file, ours or another one.

    Returns:
        The entries of one of our checkpoints where the file has them. Otherwise "model" alone, with
        "matching_heuristics".

    Raises:
        ImportError: the package safetensors is not there.
        Exception: of several classes, for a damaged file.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        texts = file.metadata() or {}
        names = list(file.keys())
        weights = {name: file.get_tensor(name) for name in names}
    if not all(name in texts for name in _TEXTS):
        return {"model": weights, "matching_heuristics": True}
    return {
        "model": _restored(weights),
        "config": texts["config"],
        "class_table": json.loads(texts["class_table"]),
        "iteration": int(texts["iteration"]),
        "seed": int(texts["seed"]),
    }


def _metadata(contents: Mapping[str, Any]) -> dict[str, str]:
    """Return what the header says."""
    return {
        "format": "pt",
        "config": contents["config"],
        "class_table": json.dumps(contents["class_table"]),
        "iteration": str(contents["iteration"]),
        "seed": str(contents["seed"]),
    }


def _stored(weights: Mapping[str, torch.Tensor], storage: str) -> dict[str, torch.Tensor]:
    """Return the tensors of the file."""
    stored = {}
    for name, value in weights.items():
        value = value.detach().cpu()
        if not value.is_floating_point() or storage == "float32":
            # A copy: tensors that share memory are refused.
            stored[name] = value.clone().contiguous()
        elif storage == "bytes" and value.ndim > 1 and value.numel() > LEAST_BYTES:
            stored[name], stored[name + _SCALE] = _as_bytes(value)
        else:
            stored[name] = value.half().contiguous()
            if not torch.isfinite(stored[name]).all():
                raise ValueError(f"{name} has values beyond those of half precision")
    return stored


def _as_bytes(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 values and a half-precision factor for each entry of the first axis."""
    rows = value.float().flatten(1)
    # The factor is rounded first, and the values are divided by what is stored of it.
    scale = (rows.abs().amax(dim=1) / 127).half().clamp(min=6e-8)
    bytes_of = (rows / scale.float()[:, None]).round().clamp(-127, 127).to(torch.int8)
    return bytes_of.reshape(value.shape).contiguous(), scale


def _restored(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights of our file in float32.

    Raises:
        ValueError: a weight in bytes is without its factors, or factors are without their weight;
            names it.
    """
    restored = {}
    for name, value in weights.items():
        if name.endswith(_SCALE):
            _require_weight_of(name, weights)
            continue
        scale = weights.get(name + _SCALE)
        if value.dtype == torch.int8 or scale is not None:
            value = value.float() * _factors(name, value, scale)
        restored[name] = value.float() if value.is_floating_point() else value
    return restored


def _require_weight_of(name: str, weights: Mapping[str, torch.Tensor]) -> None:
    """Raise ValueError for factors whose weight is not there, or is not stored in bytes."""
    weight = weights.get(name.removesuffix(_SCALE))
    if weight is None or weight.dtype != torch.int8:
        found = "is not there" if weight is None else f"is stored as {_kind(weight)}, not as int8"
        raise ValueError(f"{name} holds factors of a weight that {found}")


def _factors(name: str, value: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """Return the factors of a weight in bytes, in a shape that it can be multiplied by."""
    if scale is None:
        raise ValueError(f"the weight {name} is stored in bytes, but {name}{_SCALE} is not there")
    if not scale.is_floating_point() or value.ndim < 1 or scale.shape != value.shape[:1]:
        raise ValueError(
            f"{name}{_SCALE} is {_kind(scale)} of shape {tuple(scale.shape)}, but the weight has "
            f"the shape {tuple(value.shape)}: it needs a float for each entry of its first axis"
        )
    return scale.float().reshape(-1, *[1] * (value.ndim - 1))


def _kind(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
