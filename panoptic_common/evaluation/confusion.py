"""Which classes a semantic output takes for which, and things for stuff (Li, Qi, Torr, Table G).

Shape shorthand: K classes. A confusion matrix is (K, K + 1) pixels, rows the true class, columns
the predicted one. The last column is where no class, or a thing of unknown class, was predicted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tabulate import tabulate

from panoptic_common.drawing.matrices import draw_confusion
from panoptic_common.files import write_atomically, write_json

logger = logging.getLogger(__name__)

KINDS = ("things", "stuff")


def confusion_of_kinds(
    confusion: npt.NDArray[Any], is_thing: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Compute how things and stuff are confused, as shares of each row.

    Args:
        confusion: (K, K + 1) pixels. The last column counts as things: a semantic output leaves no
            pixel without a class.
        is_thing: (K,) flags.

    Returns:
        (2, 2), rows the truth, things first; nan where the truth has no such pixel.
    """
    columns = np.append(is_thing, True)
    pixels = np.array(
        [
            [confusion[rows][:, columns].sum(), confusion[rows][:, ~columns].sum()]
            for rows in (is_thing, ~is_thing)
        ],
        dtype=np.float64,
    )
    return _shares_of_rows(pixels)


def write_confusion(
    folder: Path, confusion: npt.NDArray[Any], table: Sequence[Mapping[str, Any]]
) -> None:
    """Log the confusion of things and stuff, and write that of all classes as numbers and image.

    Args:
        folder: receives `confusion.json` (pixels and percentages) and `confusion.png` (shares of
            each row, things before stuff).
        confusion: (K, K + 1) pixels.
        table: class table, K entries.
    """
    is_thing = np.array([bool(entry["isthing"]) for entry in table])
    kinds = 100 * confusion_of_kinds(confusion, is_thing)
    rows = [[f"true {kind}", *row] for kind, row in zip(KINDS, kinds.tolist(), strict=True)]
    headers = ["% of the row's pixels", *KINDS]
    logger.info("Things and stuff:\n%s", tabulate(rows, headers, tablefmt="pipe", floatfmt=".1f"))
    folder.mkdir(parents=True, exist_ok=True)
    order = np.argsort(~is_thing, kind="stable")
    names = [table[k]["name"] for k in order.tolist()]
    content = {
        "kinds": list(KINDS),
        "percent_of_kinds": kinds.tolist(),
        "classes": [entry["name"] for entry in table],
        "pixels": confusion.tolist(),
    }
    write_json(folder / "confusion.json", content)
    shares = _shares_of_rows(confusion)[order][:, order]
    image = Image.fromarray(draw_confusion(shares, names, split=int(is_thing.sum())))
    write_atomically(folder / "confusion.png", lambda file: image.save(file, format="PNG"))


def _shares_of_rows(pixels: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Divide each row by its sum; nan where that is 0."""
    sums = pixels.sum(axis=1, keepdims=True).astype(np.float64)
    shares = np.full(pixels.shape, np.nan)
    return np.divide(pixels, sums, out=shares, where=sums > 0)
