"""Reading and writing the files that hold weights, without trusting them.

Three kinds of file come in. One is our own checkpoints and other `.pth` files of torch, then there
are `.pkl` files of Detectron2's model zoo and of Caffe2, and `.safetensors`. All but the last are
pickles, which may name any function to be called while they are read. Nothing here obeys such a
file. Torch reads its own with `weights_only` (`safe_load`), and `.pkl` files go through a machine
that only makes numeric arrays and plain containers (`array_pickle`). A file that needs more is
refused, unless the user says `--allow-unsafe-checkpoint`.

No file makes more data than it holds, up to a small factor. `array_pickle` counts bytes;
`safe_load` refuses compressed archives and tensors that reach beyond their storage. `safetensors`
compares the ranges in its header, a JSON text of 100 MB at most, with the length of the file.

Our checkpoint is a dict of tensors and plain values: "model", "optimizer", "scheduler",
"iteration" (the last one finished, counted from 0), "class_table", "config" (YAML), "seed". As
`.safetensors` (`weights_format`) it lacks the states of optimizer and schedule.
"""

from __future__ import annotations

import collections
import logging
import os
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from panoptic_common.checkpoint.array_pickle import load_arrays
from panoptic_common.checkpoint.own_format import OWN_KEYS, faulty_entry, is_own
from panoptic_common.checkpoint.pickled_values import UnsafePickle
from panoptic_common.checkpoint.safe_load import odd_kind, torch_load_safely
from panoptic_common.checkpoint.weights_format import read_weights

# Whatever becomes float32 without a loss that nobody sees, as that of an imaginary part would be.
_REAL = {
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
}
_ENDINGS = (".pth", ".pkl", ".pyth", ".safetensors")

logger = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A file of weights cannot be used; the message names the file and says what to do."""


@dataclass(frozen=True)
class CheckpointMetadata:
    """What one of our checkpoints says about itself.

    Attributes:
        config: the full config of its training, as YAML.
        class_table: the class table of its training set, in contiguous order.
        iteration: the last iteration finished, counted from 0.
        seed: the seed of the run.
    """

    config: str
    class_table: list[dict]
    iteration: int
    seed: int


# ---- writing ------------------------------------------------------------------------------------


def plain(value: Any, where: str = "checkpoint") -> Any:
    """Make numpy scalars Python numbers, in a value of tensors and plain values only.

    Files of nothing else always pass torch's safe loader, whatever its version.

    Raises:
        TypeError: names the entry that is something else.
    """
    if value is None or isinstance(value, torch.Tensor):
        return value
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)  # numpy.float64 is a float too, yet needs numpy to be read
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        converted = {plain(k, where): plain(v, f"{where}[{k!r}]") for k, v in value.items()}
        if hasattr(value, "_metadata"):  # versions of the modules, in the dict of state_dict()
            converted = collections.OrderedDict(converted)
            vars(converted)["_metadata"] = vars(value)["_metadata"]
        return converted
    if isinstance(value, (list, tuple)):
        items = [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise TypeError(
        f"{where} is a {type(value).__name__}: a checkpoint holds tensors and plain values only"
    )


# ---- reading ------------------------------------------------------------------------------------


def read_weights_file(path: str | os.PathLike[str], allow_unsafe: bool = False) -> dict[str, Any]:
    """Read a local file of weights of any kind that we know.

    Args:
        path: `.pth` (or any other name for a file of torch), `.pkl`, `.pyth` or `.safetensors`.
        allow_unsafe: obey pickles that want to call functions.

    Returns:
        A dict with "model" (name -> tensor or array). Our own files have all of `OWN_KEYS`,
        foreign ones "matching_heuristics" (match names by their endings) and "__author__".

    Raises:
        CheckpointError: the file is missing, damaged, unsafe, or holds no weights.
    """
    path = os.fspath(path)
    try:
        contents = _read_contents(path, allow_unsafe)
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(
            f"{path} cannot be read ({reason}): see to its permissions"
        ) from error
    except MemoryError as error:
        raise CheckpointError(
            f"{path} is too big for the memory of this machine ({os.path.getsize(path)} bytes): is "
            "it a file of weights?"
        ) from error
    # Whatever the format: what says that it is ours is used as ours.
    if is_own(contents) and (fault := faulty_entry(contents)):
        raise CheckpointError(
            f"{path} is damaged or of another program: {fault}" + advice_on_neighbours(path)
        )
    for name in contents["model"]:
        if not isinstance(name, str):
            raise CheckpointError(f"{path} is no file of weights: one of them is called {name!r}")
    return contents


def _read_contents(path: str, allow_unsafe: bool) -> dict[str, Any]:
    """Read a file by its ending; "model" of the result is a dict unless the file is our own."""
    if not os.path.isfile(path):
        raise CheckpointError(_why_no_file(path))
    if path.endswith(".pkl"):
        return _as_zoo_format(path, _read_pickle(path, allow_unsafe))
    if path.endswith(".safetensors"):
        contents = _read_safetensors(path)
    else:
        try:
            contents = torch_load_safely(path, allow_unsafe)
        except (ValueError, pickle.UnpicklingError) as error:
            raise CheckpointError(str(error) + advice_on_neighbours(path)) from error
    if not isinstance(contents, dict) or not contents:
        raise CheckpointError(f"{path} holds no dict of weights but a {type(contents).__name__}")
    if path.endswith(".pyth"):  # pycls
        if not isinstance(contents.get("model_state"), dict):
            raise CheckpointError(f"{path} has no 'model_state', as files of pycls have")
        return {"model": contents["model_state"], "matching_heuristics": True}
    if is_own(contents):
        return contents
    for key in ("model", "state_dict"):
        if isinstance(contents.get(key), dict):
            return {**contents, "model": contents[key], "matching_heuristics": True}
    return {"model": contents, "matching_heuristics": True}


def _why_no_file(path: str) -> str:
    """Say what is there instead of a file of weights."""
    if os.path.isdir(path):
        inside = sorted(name for name in os.listdir(path) if name.endswith(_ENDINGS))
        example = f", such as {os.path.join(path, inside[-1])}" if inside else ""
        return f"{path} is a folder, no file of weights: name a file in it{example}"
    if os.path.exists(path):
        return f"{path} is a pipe or a device, no file of weights"
    return f"there is no file of weights {path}"


def read_checkpoint_metadata(
    path: str | os.PathLike[str], allow_unsafe: bool = False
) -> CheckpointMetadata:
    """Read what one of our checkpoints says about its training; enough to build its model.

    Raises:
        CheckpointError: the file is missing, damaged, or none of ours.
    """
    contents = read_weights_file(path, allow_unsafe)
    if not is_own(contents):
        missing = [key for key in OWN_KEYS if key not in contents]
        raise CheckpointError(
            f"{os.fspath(path)} is not a checkpoint of this project (it has no {missing}): "
            "give the config and the data set by --config-file"
        )
    return CheckpointMetadata(
        config=contents["config"],
        class_table=contents["class_table"],
        iteration=contents["iteration"],
        seed=contents["seed"],
    )


def as_tensor(name: str, value: Any, path: str) -> torch.Tensor:
    """Return a weight as a tensor, or raise if it is no array."""
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype != object:
        value = torch.from_numpy(np.array(value))
    if isinstance(value, torch.Tensor):
        if value.dtype not in _REAL or odd_kind(value):
            kind = odd_kind(value) or str(value.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{path}: the entry {name!r} is a {kind} tensor, which no weights of a network "
                "here are: store it as float32"
            )
        return value
    raise CheckpointError(
        f"{path}: the entry {name!r} is a {type(value).__name__}, not an array: no file of weights"
    )


def advice_on_neighbours(path: str) -> str:
    """Say which other checkpoint of a run to go on from, for a damaged file of it."""
    folder, name = os.path.split(path)
    pointer = os.path.join(folder, "last_checkpoint")
    if not os.path.isfile(pointer):
        return ""
    others = sorted(p.name for p in Path(folder).glob("model_[0-9]*.pth") if p.name < name)
    if not others:
        return (
            f". There is no earlier checkpoint in {folder}: start again without --resume, after "
            f"deleting {name} and last_checkpoint"
        )
    return f". The previous one is {others[-1]}: write that name into {pointer} and resume again"


def _read_safetensors(path: str) -> dict[str, Any]:
    """Read a `.safetensors` file, for which a package is needed that may be missing."""
    try:
        return read_weights(path)
    except ImportError as error:
        raise CheckpointError(
            f"reading {path} needs the package safetensors: pip install safetensors"
        ) from error
    except OSError:
        raise
    except Exception as error:  # the package's own exception class, and others for odd headers
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error


# ---- pickles of the model zoo -------------------------------------------------------------------


def _read_pickle(path: str, allow_unsafe: bool) -> Any:
    """Read a `.pkl` file without obeying it; Python 2 wrote many."""
    try:
        return load_arrays(Path(path).read_bytes())
    except UnsafePickle as error:
        if not allow_unsafe:
            raise CheckpointError(
                f"{path} would call {error} when read, which could run any code: if you trust its "
                "source with your machine, repeat with --allow-unsafe-checkpoint"
            ) from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        raise CheckpointError(
            f"{path} is damaged, cut short or no pickle ({type(error).__name__}: {error}): "
            "fetch it again"
        ) from error
    logger.warning("Reading %s without protection: it may run any code.", path)
    with open(path, "rb") as file:
        return pickle.load(file, encoding="latin1")


def _as_zoo_format(path: str, contents: Any) -> dict[str, Any]:
    """Return Detectron2's zoo format as it is, bare arrays as the Caffe2 models that they are."""
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path} holds no dict of weights but a {type(contents).__name__}")
    if isinstance(contents.get("model"), dict):
        return contents
    blobs = contents.get("blobs", contents)  # detection models of Detectron1 have "blobs"
    if not isinstance(blobs, dict):
        raise CheckpointError(f"{path} holds no dict of blobs but a {type(blobs).__name__}")
    blobs = {k: v for k, v in blobs.items() if not str(k).endswith("_momentum")}
    return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}
