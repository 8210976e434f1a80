"""Reading files of ``torch.save`` without letting them run code."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import textwrap
import zipfile
from typing import Any

import torch

logger = logging.getLogger(__name__)

GROWTH = 4  # bytes of tensors per byte of the file, at most; layers may share weights
# What torch makes odd tensors by. Newer versions refuse these as they refuse any function.
REBUILDERS = {
    "torch._utils._rebuild_meta_tensor_no_storage": "meta",
    "torch._utils._rebuild_nested_tensor": "nested",
    "torch._utils._rebuild_qtensor": "quantized",
    "torch._utils._rebuild_sparse_tensor": "sparse",
}


def torch_load_safely(path: str | os.PathLike[str], allow_unsafe: bool = False) -> Any:
    """Load a file of ``torch.save`` to the CPU without letting it run code.

    A pickle may name any function to be called while it is read. torch >= 2.6 refuses such files
    by default, older ones obey; here the refusal is the same for all, and says what to do. Since
    torch does not compare checksums, a flipped bit would go unnoticed; they are compared here.

    torch checks that a tensor stays inside its storage, and a storage inside the file. Two ways
    remain to make more data than the file holds, and both are refused. They are compressed records,
    which ``torch.save`` never writes, and tensors that repeat a few values by a stride of 0.

    Args:
        path: the checkpoint file.
        allow_unsafe: obey the pickle if it cannot be loaded safely
            (``--allow-unsafe-checkpoint``); only for a source that may run code here.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, cut short, or no checkpoint at all.
        pickle.UnpicklingError: the file would call the functions that the message lists.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no checkpoint file {path}")
    try:
        _compare_checksums(path)
        contents = torch.load(path, map_location="cpu", weights_only=True)
        _require_held(contents, GROWTH * os.path.getsize(path))
        return contents
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # a damaged pickle raises nearly anything
        unsafe = _unsafe_globals(path, error)
        if kinds := sorted({REBUILDERS[name] for name in unsafe if name in REBUILDERS}):
            error, unsafe = _odd_tensor(kinds[0]), []
        if not unsafe:
            raise ValueError(
                f"cannot read the checkpoint {path}: it is damaged, cut short or not a file of "
                f"torch.save ({_short(error)}); use an earlier checkpoint or fetch it again"
            ) from error
        if not allow_unsafe:
            raise pickle.UnpicklingError(
                f"the checkpoint {path} holds more than tensors and plain values, reading it "
                f"would call {', '.join(unsafe)}: if you trust its source with your machine, "
                "repeat with --allow-unsafe-checkpoint"
            ) from error
    logger.warning("Reading %s without protection: it may run any code.", path)
    return torch.load(path, map_location="cpu", weights_only=False)


def _compare_checksums(path: str) -> None:
    """Raise `zipfile.BadZipFile` if a record of the archive is not what was written."""
    if zipfile.is_zipfile(path):  # the format of torch < 1.6 has no checksums
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                if record.compress_type != zipfile.ZIP_STORED:
                    raise zipfile.BadZipFile(f"its record {record.filename} is compressed")
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of its record {damaged} is wrong")


def odd_kind(value: torch.Tensor) -> str:
    """Return how a tensor differs from a plain array of its values, such as "sparse"; else "".

    Few functions of torch take these kinds, and each fails in words of its own.
    """
    kinds = {
        "nested": value.is_nested,
        "sparse": value.layout is not torch.strided,
        "quantized": value.is_quantized,
        "meta": value.is_meta,
    }
    return next((kind for kind, holds in kinds.items() if holds), "")


def _odd_tensor(kind: str) -> ValueError:
    return ValueError(f"it holds a {kind} tensor, which no weights are")


def _require_held(contents: Any, limit: int) -> None:
    """Raise ValueError if the tensors, each laid out whole, take more bytes than a limit."""
    seen: set[int] = set()
    waiting = [contents]
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            limit -= value.numel() * value.element_size()
            if limit < 0:
                raise ValueError("its tensors are bigger than the file")
            if kind := odd_kind(value):
                raise _odd_tensor(kind)
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _unsafe_globals(path: str, error: Exception) -> list[str]:
    """Return the functions and classes for which torch refused the file; empty if damaged."""
    if not isinstance(error, pickle.UnpicklingError):
        return []
    named = re.findall(r"GLOBAL ([\w.]+)", str(error))  # torch stops at the first of them
    if zipfile.is_zipfile(path):  # with right checksums: not damaged, so torch refused something
        find_all = getattr(torch.serialization, "get_unsafe_globals_in_checkpoint", None)
        # It knows no other pickle protocol than torch's own.
        with contextlib.suppress(pickle.UnpicklingError):
            named = (find_all(path) if find_all else None) or named
        named = named or [f"something that torch does not name ({_short(error)})"]
    return sorted(set(named))


def _short(error: Exception) -> str:
    """Return the cause in one line: torch wraps it in a page of advice."""
    cause = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
    text = cause.group(1) if cause else str(error).strip() or type(error).__name__
    return textwrap.shorten(text.splitlines()[0], width=120, placeholder=" ...").rstrip(".")
