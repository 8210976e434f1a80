"""What a resumed run compares with the one it goes on with, and what it drops."""

from __future__ import annotations

import json
import os
from typing import Any

from detectron2.config import CfgNode

from panoptic_common.mappings import flatten

# Settings that may differ at a resume without changing what is trained.
_FREE_KEYS = {"OUTPUT_DIR", "SEED", "VERSION", "MODEL.WEIGHTS", "MODEL.DEVICE"}


def config_differences(stored: str, cfg: CfgNode) -> list[str]:
    """List what a config changes against the YAML of a checkpoint, one line per key."""
    before, now = flatten(CfgNode.load_cfg(stored)), flatten(cfg)
    return [
        f"{key} {before.get(key, 'absent')} -> {now.get(key, 'absent')}"
        for key in sorted(before.keys() | now.keys())
        if key not in _FREE_KEYS
        and not cfg.key_is_deprecated(key)
        and _listless(before.get(key)) != _listless(now.get(key))
    ]


def _listless(value: Any) -> Any:
    """Turn lists into tuples: YAML has lists only, where the config may have tuples."""
    return tuple(_listless(item) for item in value) if isinstance(value, (list, tuple)) else value


def cut_metrics(path: str, start_iteration: int) -> None:
    """Drop the lines of metrics.json that a resumed run will write again, and a torn last one.

    The file is changed in place, since the writer has it open already.

    Args:
        path: the file; need not exist.
        start_iteration: the first iteration that is run again.
    """
    if not os.path.isfile(path):
        return
    with open(path, "r+b") as file:
        kept = b"".join(line for line in file if _is_before(line, start_iteration))
        file.seek(0)
        file.write(kept)
        file.truncate()


def _is_before(line: bytes, iteration: int) -> bool:
    """Tell whether a line of metrics.json is whole and about an earlier iteration."""
    try:
        return line.endswith(b"\n") and json.loads(line)["iteration"] < iteration
    except (ValueError, KeyError, TypeError):
        return False
