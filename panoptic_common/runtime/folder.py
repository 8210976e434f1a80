"""The folder of an exported model: its networks as ONNX, and `model.json`, which says the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from panoptic_common.files import write_json
from panoptic_common.runtime.images import check_preparation

MANIFEST = "model.json"
FORMAT = 1
# What `model.json` must hold; `options` are the system's own.
KEYS = ("format", "system", "classes", "preparation", "parts", "options")


class ExportError(ValueError):
    """A folder is no exported model, or something that it needs is missing."""


class ExportedModel:
    """An exported model that is ready to run.

    Attributes:
        system: the meta-architecture, as in `panoptic_common.systems.SYSTEMS`.
        classes: class table, in contiguous order.
        preparation: how an image becomes the network's input; see `runtime.images`.
        options: of the system.
    """

    def __init__(self, folder: str | os.PathLike[str], threads: int = 0) -> None:
        """Read the folder and load its networks.

        Args:
            folder: of `tools/export.py`.
            threads: of onnxruntime for one operator; 0 leaves the choice to it.

        Raises:
            ExportError: the folder is no exported model, or onnxruntime is missing.
        """
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        self.system: str = manifest["system"]
        self.classes: list[dict[str, Any]] = manifest["classes"]
        self.preparation: dict[str, Any] = manifest["preparation"]
        self.options: dict[str, Any] = manifest["options"]
        self._sessions = {
            name: open_session(self.folder / file, threads)
            for name, file in manifest["parts"].items()
        }

    def __contains__(self, part: str) -> bool:
        return part in self._sessions

    def run(self, part: str, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
        """Run one network.

        Args:
            part: its name.
            inputs: arrays by name.

        Returns:
            Arrays by name.
        """
        session = self._sessions[part]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check `model.json`.

    Raises:
        ExportError: it is missing or does not hold what it must; says which.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ExportError(
            f"{path} cannot be read: give a folder that tools/export.py has written"
        ) from error
    except ValueError as error:
        raise ExportError(f"{path} is no JSON ({error}): export the model again") from error
    missing = [key for key in KEYS if not isinstance(manifest, dict) or key not in manifest]
    if missing:
        raise ExportError(f"{path} lacks {', '.join(missing)}: export the model again")
    if manifest["format"] != FORMAT:
        raise ExportError(
            f"{path} has format {manifest['format']!r}, this program reads {FORMAT}: export the "
            "model again"
        )
    absent = [file for file in manifest["parts"].values() if not (folder / file).is_file()]
    if absent:
        raise ExportError(f"{folder} lacks {', '.join(absent)}: export the model again")
    try:
        check_preparation(manifest["preparation"])
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(f"{path}: preparation is wrong ({error}): export it again") from error
    return manifest


def write_manifest(
    folder: Path,
    *,
    system: str,
    classes: Sequence[Mapping[str, Any]],
    preparation: Mapping[str, Any],
    parts: Mapping[str, str],
    options: Mapping[str, Any],
) -> None:
    """Write `model.json`; see `ExportedModel` for the meaning, `parts` names files by part."""
    write_json(
        folder / MANIFEST,
        {
            "format": FORMAT,
            "system": system,
            "classes": [dict(entry) for entry in classes],
            "preparation": dict(preparation),
            "parts": dict(parts),
            "options": dict(options),
        },
    )


def open_session(path: Path, threads: int) -> Any:
    """Load an ONNX file.

    Raises:
        ExportError: onnxruntime is missing or refuses the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(
            "onnxruntime is missing: pip install onnxruntime, or this project's extra [export]"
        ) from error
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3  # errors alone
    try:
        return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # of classes that onnxruntime makes from C++
        raise ExportError(f"{path} cannot be loaded: {str(error).splitlines()[0]}") from error
