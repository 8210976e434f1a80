"""Bytes of files: texts that may be packed, and .npz archives; what something else is, is named.

Shapes: V nodes, K classes, E edges.
"""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cops.solver.stored import FileError, StoredProblem, check_stored

# Packed files may hold so many times their size: text packs to a third or tenth.
MOST_UNPACKING = 200
LEAST_LIMIT = 1 << 26
UTF16 = "is text in UTF-16: save it in ASCII or UTF-8"
# By the first bytes, what a file is that is no text.
OTHER_FILES = (
    (b"\x1f\x8b", "is packed with gzip: let its name end in .gz"),
    (b"BZh", "is packed with bzip2: unpack it, or pack it with gzip"),
    (b"\xfd7zXZ\0", "is packed with xz: unpack it, or pack it with gzip"),
    (b"\x28\xb5\x2f\xfd", "is packed with Zstandard: unpack it, or pack it with gzip"),
    (b"PK\x03\x04", "is a zip archive: if it is one of numpy, let its name end in .npz"),
    (b"\x93NUMPY", "is an .npy file, which holds one array: save all of them in an .npz"),
    (b"\xff\xfe", UTF16),
    (b"\xfe\xff", UTF16),
)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def kind_of(path: Path) -> str:
    """Return the end of a file's name that says its form, in small letters."""
    return path.suffix.lower()


def read_bytes(path: Path) -> bytes:
    """Read a text as it is, or unpack it as long as it does not swell out of proportion."""
    data = _unpack(path) if kind_of(path) == ".gz" else path.read_bytes()
    for begin, what in OTHER_FILES:
        if data.startswith(begin):
            raise FileError(f"{path} {what}")
    head = data[:64]
    if head[1::2][:8] == bytes(8) or head[::2][:8] == bytes(8):  # letters, each beside a zero
        raise FileError(f"{path} {UTF16}")
    if b"\r" in data[:4096].partition(b"\n")[0].strip():
        raise FileError(f"{path} has lines that end in CR alone: end them by LF, or by CR and LF")
    return data.removeprefix(BYTE_ORDER_MARK)


def _unpack(path: Path) -> bytes:
    limit = max(MOST_UNPACKING * path.stat().st_size, LEAST_LIMIT)
    try:
        with gzip.open(path) as file:
            data = file.read(limit + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FileError(f"{path} is no complete gzip file: {error}") from error
    if len(data) > limit:
        raise FileError(
            f"{path} unpacks to more than {limit} bytes, {MOST_UNPACKING} times its size: if that "
            "is right, unpack it yourself"
        )
    return data


def read_archive(path: Path) -> StoredProblem:
    """Read edges and edge_costs, and node_costs and partitionable or num_nodes, or all of them."""
    arrays = _read_arrays(path)
    unknown = sorted(set(arrays) - set(StoredProblem._fields))
    if unknown:
        known = ", ".join(StoredProblem._fields)
        raise FileError(f"{path} has an array called {unknown[0]}, which is none of {known}")
    wanted = {"edges", "edge_costs"}
    if "num_nodes" not in arrays or {"node_costs", "partitionable"} & set(arrays):
        wanted |= {"node_costs", "partitionable"}
    missing = wanted - set(arrays)
    if missing:
        raise FileError(f"{path} has no array called {', '.join(sorted(missing))}")
    nodes = arrays.get("node_costs")
    given: Any = arrays.get("num_nodes")
    if given is None:
        given = len(nodes) if nodes is not None and nodes.ndim == 2 else 1
    elif given.size == 1:
        given = given.item()
    problem = StoredProblem(
        arrays["edges"], arrays["edge_costs"], given, nodes, arrays.get("partitionable")
    )
    try:
        return check_stored(problem)
    except (ValueError, TypeError) as error:
        raise FileError(f"{path}: {error}") from error


def _read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Read all arrays of an archive, whatever is broken of it."""
    # Taken from a broken archive, a number may be anything, so that many things can go wrong.
    broken = (
        zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, struct.error, LookupError,
        RuntimeError, TypeError, SyntaxError, OverflowError,
    )  # fmt: skip
    found: dict[str, npt.NDArray[Any]] = {}
    name = ""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        limit = max(MOST_UNPACKING * path.stat().st_size, LEAST_LIMIT)
        if unpacked > limit:
            raise FileError(f"{path} unpacks to {unpacked} bytes, more than {limit}: pack it less")
        with np.load(path, allow_pickle=False) as file:
            for name in file.files:
                found[name] = file[name]
    except broken as error:
        raise FileError(f"{path} is no complete .npz file: {error}") from error
    except FileError:
        raise
    except ValueError as error:
        raise FileError(f"{path}: {name or 'the file'} cannot be read: {error}") from error
    except MemoryError as error:
        raise FileError(f"{path} has arrays that do not fit into memory") from error
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):
            raise
        raise FileError(f"{path} is no complete .npz file: {error}") from error
    for name, array in found.items():
        if not isinstance(array, np.ndarray):  # a member that is no .npy file
            raise FileError(f"{path}: {name} is no array of numpy")
    return found


def write_archive(path: Path, problem: StoredProblem) -> None:
    """Write a checked problem; num_nodes only where no node costs tell it."""
    arrays = {name: value for name, value in problem._asdict().items() if value is not None}
    if problem.node_costs is not None:
        del arrays["num_nodes"]
    # In memory: where the disk is full, an archive complains once more when it is collected.
    archive = io.BytesIO()
    np.savez(archive, **arrays)
    # Not getbuffer(): Python 3.12.1 crashes when it collects a view that an error has kept.
    path.write_bytes(archive.getvalue())
