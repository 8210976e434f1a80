"""The folder of an exported model: its networks as ONNX, and `model.json`, which says the rest."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from panoptic_common.files import write_json
from panoptic_common.runtime.forms import TEXT, THING, Form, form_problem
from panoptic_common.runtime.images import check_preparation

MANIFEST = "model.json"
FORMAT = 1
# What `model.json` must hold; `options` are the system's own.
KEYS = ("format", "system", "classes", "preparation", "parts", "options")
_FORM: Form = {"system": TEXT, "classes": [{"name": TEXT, "isthing": THING}], "parts": {}}
_LARGEST = 1 << 26  # bytes of `model.json`


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

    def require_options(self, form: Form) -> None:
        """Refuse options of another form than the system reads.

        Raises:
            ExportError: saying which value is wrong.
        """
        if problem := form_problem(self.options, form, "options"):
            raise ExportError(f"{self.folder / MANIFEST}: {problem}: export the model again")

    def __contains__(self, part: str) -> bool:
        return part in self._sessions

    def run(self, part: str, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
        """Run one network.

        Args:
            part: its name.
            inputs: arrays by name.

        Returns:
            Arrays by name.

        Raises:
            ExportError: there is no such network, or it takes other inputs, or gives NaN.
        """
        if part not in self._sessions:
            raise ExportError(f"{self.folder} has no network {part!r}: export the model again")
        session = self._sessions[part]
        names = [output.name for output in session.get_outputs()]
        where = f"the network {part!r} of {self.folder}"
        try:
            found = session.run(names, dict(inputs))
        except Exception as error:  # of classes that onnxruntime makes from C++
            reason = str(error).strip().splitlines()[0]
            raise ExportError(
                f"{where} cannot be run ({reason}): export the model again"
            ) from error
        for name, values in zip(names, found, strict=True):
            if values.dtype.kind == "f" and np.isnan(values).any():
                raise ExportError(f"{where} gives NaN as {name!r}: its weights are damaged")
        return _Outputs(where, zip(names, found, strict=True))


class _Outputs(dict[str, Any]):
    """Outputs by name; one that is asked for and not there is an error of the file."""

    def __init__(self, where: str, pairs: Iterable[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self._where = where

    def __missing__(self, name: str) -> Any:
        raise ExportError(f"{self._where} has no output {name!r}: export the model again")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check `model.json`.

    Raises:
        ExportError: it is missing or does not hold what it must; says which.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(_read_text(path))
    except OSError as error:
        raise ExportError(
            f"{path} cannot be read: give a folder that panoptic-export has written"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path} is no JSON ({error}): export the model again") from error
    missing = [key for key in KEYS if not isinstance(manifest, dict) or key not in manifest]
    if missing:
        raise ExportError(f"{path} lacks {', '.join(missing)}: export the model again")
    if manifest["format"] != FORMAT:
        raise ExportError(
            f"{path} has format {manifest['format']!r}, this program reads {FORMAT}: export the "
            "model again"
        )
    if problem := form_problem({key: manifest[key] for key in _FORM}, _FORM, "model"):
        raise ExportError(f"{path}: {problem}: export the model again")
    files = list(manifest["parts"].values())
    if odd := [file for file in files if not _is_plain_name(file)]:
        raise ExportError(
            f"{path} names {str(odd[0])[:60]!r}, which is no file beside it: export the model again"
        )
    absent = [file for file in files if not (folder / file).is_file()]
    if absent:
        raise ExportError(f"{folder} lacks {', '.join(absent)}: export the model again")
    try:
        check_preparation(manifest["preparation"])
    except (KeyError, TypeError, ValueError) as error:
        raise ExportError(f"{path}: preparation is wrong ({error}): export it again") from error
    return manifest


def _read_text(path: Path) -> str:
    """Read a text file that is a regular one: a pipe waits, and a device has no end.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no UTF-8, no regular file, or much too long.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > _LARGEST:
        raise ValueError("it is no regular file of a sensible length")
    return path.read_text(encoding="utf-8-sig")


def _is_plain_name(name: Any) -> bool:
    """Tell whether a part's file lies in the folder itself: a manifest must not lead elsewhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


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
