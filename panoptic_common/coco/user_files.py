"""Open the files that a user names: regular files only, and JSON as it is met in the wild.

A named pipe behind the name of an image waits for a writer forever, and a device such as /dev/zero
has no end. So the kind of a file is looked at before its first byte is read. Standard library only.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from typing import Any, BinaryIO

# Without O_NONBLOCK, opening a named pipe waits for a writer. It does nothing to files.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
# How files begin that are no UTF-8; the mark of UTF-32 begins like that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PACKED = {b"\x1f\x8b": "gzip", b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; links are followed.

    Args:
        path: of the file.

    Returns:
        The binary file.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it may not be read.
        ValueError: naming it, if it is a folder, a named pipe, a device or a socket.
    """
    name = os.fspath(path)
    try:
        descriptor = os.open(name, _FLAGS)
    except FileNotFoundError:
        raise
    except ValueError as error:  # a NUL byte or half a character: no file has such a name
        raise ValueError(f"{name!r} is no name of a file ({error})") from error
    except OSError as error:
        if os.path.exists(name) and not os.path.isfile(name):  # a socket, or a folder on Windows
            raise ValueError(f"{name}: is no regular file") from error
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"
        raise ValueError(f"{name}: is {kind}, no regular file")
    # Not by `fdopen`: libraries name a file in their errors by what was opened.
    return open(name, "rb", opener=lambda *_: descriptor)


def printable(path: str | os.PathLike[str]) -> str:
    r"""Return a path as text; bytes of it that are no UTF-8 become escapes such as \xe9."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def require_utf8_name(path: str | os.PathLike[str]) -> None:
    """Refuse a file whose name no JSON can hold, as zip archives of Windows bring them.

    Raises:
        ValueError: naming it.
    """
    try:
        os.path.basename(os.fspath(path)).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{printable(path)}: its name is no UTF-8, rename it") from None


def error_text(error: object) -> str:
    """Return the words of an error, without the decoration of Python's own."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"
    if isinstance(error, KeyError) and error.args:
        return str(error.args[0])
    return str(error)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file in UTF-8, or in UTF-16 or UTF-32 as its byte order mark says.

    An object that has a key twice is refused. Python would drop one of the two without a word.

    Args:
        path: of the file.

    Returns:
        The parsed content. NaN and Infinity are read as Python reads them.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it may not be read.
        ValueError: naming it, if it is damaged, packed, no regular file or nested too deeply. Also
            if it has a key twice, or text that no program could print (half a surrogate pair).
    """
    name = os.fspath(path)
    with open_regular(path) as file:
        data = file.read()
    try:
        text = _decoded(data)
        del data
        content = json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError(f"{name}: the JSON is nested too deeply") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise ValueError(f"{name}: damaged JSON file ({error})") from error
    if _SURROGATE.search(text):  # most files have no such escape, and need no walk
        place = next(_half_characters(content, ""), None)
        if place is not None:
            raise ValueError(f"{name}: {place} is no text: it holds half a surrogate pair")
    return content


def _decoded(data: bytes) -> str:
    """Return the text of a file; its byte order mark is dropped.

    Raises:
        ValueError: it is packed, or damaged.
    """
    for beginning, program in _PACKED.items():
        if data.startswith(beginning):
            raise ValueError(f"it is packed by {program}: unpack it first")
    found = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8-sig")
    return data.decode(found)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict of the keys and values of an object, which must not have a key twice."""
    content = dict(pairs)
    if len(content) < len(pairs):
        ((twice, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"an object has the key {twice!r} twice: remove one of them")
    return content


def _half_characters(content: Any, place: str) -> Iterator[str]:
    """Yield the places of strings that UTF-8 cannot write; the depth is bounded by the parser."""
    if isinstance(content, str):
        try:
            content.encode("utf-8")
        except UnicodeEncodeError:
            yield place
    elif isinstance(content, list):
        for position, value in enumerate(content):
            yield from _half_characters(value, f"{place}[{position}]")
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _half_characters(key, f"a key of {place or 'the file'}")
            yield from _half_characters(value, f"{place}.{key}".lstrip("."))
