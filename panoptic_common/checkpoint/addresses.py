"""From what a user calls a file of weights to a local file: a path, a shipped model, an address.

| given | what it is |
|---|---|
| `model_final.pth` | a file |
| `nuclei` | a model that comes with a system (`shipped_models`) |
| `https://host/model.pth#sha256=DIGITS` | an address, and the file's SHA-256 or its beginning |
| `https://host/model-0123abcd.pth` | the same, as torch.hub writes it |
| `hf://owner/name/file#sha256=DIGITS` | that file of the repository on huggingface.co |
| `hf://owner/name@revision/file` | the same at a branch, tag or commit |
| `detectron2://...` | what Detectron2's PathManager knows |

Addresses are fetched by Detectron2's PathManager into its cache. A file whose hash is wrong is
deleted there and not read.
"""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
import re
import time
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path

from detectron2.utils.file_io import PathManager

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.systems import SYSTEMS, shipped_models

logger = logging.getLogger(__name__)

LEAST_DIGITS = 8  # of a hash: 1 of 4 billion files passes by chance
_FRAGMENT = re.compile(r"sha256=([0-9a-fA-F]+)")
_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[A-Za-z0-9]+$")
_REPOSITORY = re.compile(r"hf://([\w.-]+)/([\w.-]+?)(?:@([\w.-]+))?/(.+)")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][\w-]*")


def local_weights(name: str, systems: Mapping[str, str] = SYSTEMS) -> str:
    """Return the local file that a name, path or address of weights stands for.

    Args:
        name: see the top of this module.
        systems: package of each known meta-architecture.

    Returns:
        A path; that given if it is neither an address nor the name of a model, whether it is there
        or not.

    Raises:
        CheckpointError: the file cannot be fetched, or has another hash; or there is neither a file
            nor a model of that name.
    """
    if os.path.isfile(name):
        return name
    if "://" in name:
        return _fetched(name)
    if not _MODEL_NAME.fullmatch(name):
        return name
    models = shipped_models(systems)
    if name in models:
        return os.fspath(models[name])
    if os.path.exists(name):  # a folder, of which whoever reads it says so
        return name
    near = difflib.get_close_matches(name, models, n=1)
    raise CheckpointError(
        f"there is no file of weights {name}, and no model of that name"
        f"{f' (did you mean {near[0]}?)' if near else ''}: the models that come along are "
        f"{', '.join(models) or 'none'}"
    )


def _fetched(address: str) -> str:
    """Fetch an address to the cache, and compare the file's hash with the one that it names."""
    place, _, fragment = address.partition("#")
    wanted = _wanted_hash(address, place, fragment)
    url = _resolved(place)
    started = time.time()
    local, found = _fetch(address, url)
    if wanted and not found.startswith(wanted) and os.path.getmtime(local) < started:
        # The cache does not know hosts and versions: the file may be an earlier one.
        Path(local).unlink(missing_ok=True)
        local, found = _fetch(address, url)
    if wanted and not found.startswith(wanted):
        Path(local).unlink(missing_ok=True)
        raise CheckpointError(
            f"{address} has the SHA-256 {found}, not {wanted}, and was not read: it is another "
            "file, or was damaged on its way; fetch it again, or correct the hash"
        )
    if not wanted and url.startswith(("http://", "https://", "ftp://")):
        logger.warning(
            "%s names no hash, so nobody knows whether it is the right file; '#sha256=%s' behind "
            "it would hold this one.",
            address,
            found,
        )
    return local


def _fetch(address: str, url: str) -> tuple[str, str]:
    """Return the file in the cache, fetched if need be, and its hash."""
    try:
        local = PathManager.get_local_path(url)
        return local, _sha256(local)
    except (OSError, ValueError, AssertionError, HTTPException) as error:
        raise CheckpointError(
            f"{address} could not be fetched ({error}): give a local file"
        ) from error


def _wanted_hash(address: str, place: str, fragment: str) -> str:
    """Return the hexadecimal digits with which the file's hash must begin, "" for none."""
    if fragment:
        match = _FRAGMENT.fullmatch(fragment)
        if match is None or not LEAST_DIGITS <= len(match[1]) <= 64:
            raise CheckpointError(
                f"{address}: what follows the # must be sha256= and {LEAST_DIGITS} to 64 "
                "hexadecimal digits"
            )
        return match[1].lower()
    match = _IN_NAME.search(place)
    # Digits alone may be a date.
    return match[1] if match and not match[1].isdigit() else ""


def _resolved(place: str) -> str:
    """Turn hf://owner/name/file into the https address of that file."""
    if not place.startswith("hf://"):
        return place
    match = _REPOSITORY.fullmatch(place)
    if match is None:
        raise CheckpointError(f"{place} is no address hf://owner/name/file")
    owner, name, revision, file = match.groups()
    return f"https://huggingface.co/{owner}/{name}/resolve/{revision or 'main'}/{file}"


def _sha256(path: str) -> str:
    """Return the hash of a file, read in parts."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
