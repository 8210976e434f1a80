"""Read a config file with its _BASE_: as data, from regular files, to an end."""

from __future__ import annotations

import io
from typing import Any

import panoptic_common.compat

from detectron2.config import CfgNode as CN

from panoptic_common.coco.user_files import open_regular
from panoptic_common.plain_yaml import parse_yaml

_MOST_FILES = 100  # a chain of _BASE_ has five or six


def read_yaml(place: str) -> dict[str, Any]:
    """Return what a YAML file and its _BASE_ hold.

    Raises:
        ValueError: naming the file, if it or its _BASE_ cannot be read, or holds no keys.
    """
    try:
        content = _reader().load_yaml_with_base(place)
    except OSError as error:
        base = error.filename or ""
        reason = error.strerror or error
        raise ValueError(f"{place}: its _BASE_ {base} cannot be read: {reason}") from error
    except AssertionError as error:
        raise ValueError(f"{place} cannot be read as a config: {error}") from error
    except (TypeError, AttributeError):  # a file that holds one value, or a list
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{place} holds no keys with values: it is no config")
    return content


def _reader() -> Any:
    """Return a config class that opens no file without an end, without data, or over and over.

    One per call, since the library's reader is a class method that calls itself.
    """
    names: list[str] = []

    def open_config(_: object, filename: str) -> io.StringIO:
        names.append(filename)
        if len(names) > _MOST_FILES:
            raise ValueError(f"{names[0]} is its own _BASE_, directly or by way of others")
        web = filename.startswith(("http://", "https://"))
        try:
            opened = CN._open_cfg(filename) if web else open_regular(filename)
        except ValueError as error:  # a folder, a pipe, a device
            if len(names) == 1:
                raise
            raise ValueError(f"{names[0]}: its _BASE_ {error}") from error
        with opened as file:
            content = file.read()
        try:
            text = content if isinstance(content, str) else content.decode("utf-8")
            parse_yaml(text)
        except ValueError as error:  # of bytes that are no text, too
            raise ValueError(f"{filename} cannot be read as a config: {error}") from error
        return io.StringIO(text)

    return type("_Files", (CN,), {"_open_cfg": classmethod(open_config)})
