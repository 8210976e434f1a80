#!/usr/bin/env python3
"""Make the panoptic PNGs and JSON files of Cityscapes from its gtFine images.

    python tools/prepare_cityscapes.py                      # below $DETECTRON2_DATASETS/cityscapes
    python tools/prepare_cityscapes.py DIR --splits val test    # of test only image_info_test.json

DIR holds leftImg8bit/ and gtFine/ as they are unpacked from the zip files. The converter of the
package cityscapesscripts writes gtFine/cityscapes_panoptic_<split>.json and a folder of that name.
Category ids are label ids, not train ids. Splits that exist are kept unless --force is given.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import panoptic_common.processes.starting  # Ctrl-C while libraries are imported

import numpy as np
from PIL import Image

from panoptic_common.coco.image_reading import open_image, read_image_size
from panoptic_common.files import naming, write_json
from panoptic_common.processes.scratch import scratch_folder
from panoptic_tools.arguments import FAULTY, input_folder, make_parser, orderly, refuse

INSTALL_HINT = (
    "cityscapesscripts cannot be imported ({error}). To install what is needed of it:\n"
    "  pip install --no-deps cityscapesscripts pyquaternion\n"
    "(--no-deps, because it demands the package `typing`, an old copy of a module that is part of"
    " Python and can hide it)"
)

_RULE = (
    "The pixels of gtFine_instanceIds.png are label ids, and for things 1000 * label id + number:"
    " make it anew by cityscapesscripts"
)
_ID_LIMIT, _NUMBERED = 65536, 1000
_THINGS = np.arange(24, 34)  # label ids: person to bicycle, caravan and trailer included
_EVALUATED = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]  # label ids
_INSTANCES = _NUMBERED * _THINGS[:, None] + np.arange(_NUMBERED)
_POSSIBLE = np.concatenate([np.arange(34), _INSTANCES.ravel()])
_LAST_TRAIN_ID = 18
# Void, and the numbered things, person (11) to bicycle (18), in train ids.
_TRAIN_IDS = {255, *range(11 * _NUMBERED, (_LAST_TRAIN_ID + 1) * _NUMBERED)}


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    root = os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))
    parser.add_argument(
        "folder",
        nargs="?",
        type=input_folder,
        default=os.path.join(root, "cityscapes"),
        help="folder with leftImg8bit/ and gtFine/ (default: %(default)s)",
    )
    choices = ("train", "val", "test")
    parser.add_argument("--splits", nargs="+", default=["train", "val"], choices=choices)
    parser.add_argument("--force", action="store_true", help="make splits anew that exist already")
    return parser.parse_args(arguments)


def load_converter() -> Callable[..., None]:
    """Import the converter of cityscapesscripts.

    Raises:
        ImportError: saying how to install it.
    """
    try:
        from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic
    except ImportError as error:
        raise ImportError(INSTALL_HINT.format(error=error)) from error
    return convert2panoptic


def find_truth(folder: Path, split: str) -> list[tuple[Path, Path]]:
    """Find the images of a split and the instanceIds image of each.

    Returns:
        (image, truth) pairs.

    Raises:
        FileNotFoundError: naming the first file that is missing, and the expected tree.
    """
    images = sorted((folder / "leftImg8bit" / split).glob("*/*_leftImg8bit.png"))
    tree = (
        f"expected:\n  {folder}/leftImg8bit/{split}/<city>/<id>_leftImg8bit.png\n"
        f"  {folder}/gtFine/{split}/<city>/<id>_gtFine_instanceIds.png"
    )
    if not images:
        raise FileNotFoundError(f"no images below {folder / 'leftImg8bit' / split}\n{tree}")
    pairs = []
    for image in images:
        image_id = image.name.removesuffix("_leftImg8bit.png")
        city = folder / "gtFine" / split / image.parent.name
        truth = city / f"{image_id}_gtFine_instanceIds.png"
        if not truth.is_file():
            raise FileNotFoundError(f"{image} has no truth: {truth} is missing\n{tree}")
        pairs.append((image, truth))
    return pairs


# -------------------------------------------------------------------------------- kinds of ids


def require_instance_ids(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Refuse truth that is no instanceIds image, or holds ids of another kind.

    The converter takes whatever there is: train ids would become void, and things without numbers
    crowds, of which nothing can be learnt.

    Args:
        pairs: of `find_truth`.

    Raises:
        ValueError: naming the file, and the kind of ids that it seems to hold.
    """
    pixels = np.zeros(_ID_LIMIT, np.int64)
    for image, truth in pairs:
        counts = count_ids(truth, read_image_size(image))
        ids = np.flatnonzero(counts)
        wrong = ids[~np.isin(ids, _POSSIBLE)]
        if wrong.size:
            hint = "; train ids, it seems" if set(wrong.tolist()) & _TRAIN_IDS else ""
            raise ValueError(f"{truth}: the id {wrong[0]} is none of Cityscapes'{hint}. {_RULE}")
        pixels += counts
    present = np.flatnonzero(pixels)
    first = pairs[0][1]
    if present.max() <= _LAST_TRAIN_ID and 2 * pixels[_EVALUATED].sum() < pixels.sum():
        raise ValueError(
            f"{first}: these are train ids, it seems, as no file of the split has an id above"
            f" {_LAST_TRAIN_ID}. {_RULE}"
        )
    if np.isin(present, _THINGS).any() and present.max() < _NUMBERED:
        raise ValueError(
            f"{first}: no thing has a number, in the whole split: this is a labelIds image. {_RULE}"
        )


def count_ids(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Count the pixels of each id of an instanceIds image.

    Args:
        path: of the image.
        size: (height, width) that it must have.

    Returns:
        (65536,) int64.

    Raises:
        ValueError: it is damaged, of another size, or no 16-bit grey image.
    """

    def count(image: Image.Image) -> np.ndarray | str:
        if image.mode != "I" and not image.mode.startswith("I;16"):
            return image.mode
        ids = np.asarray(image).astype(np.int64).clip(0, _ID_LIMIT - 1)
        return np.bincount(ids.ravel(), minlength=_ID_LIMIT)

    counts = open_image(path, count, size)
    if isinstance(counts, str):
        bits = "8 bits of grey" if counts in ("L", "P", "1") else f"colours ({counts})"
        raise ValueError(f"{path}: an instanceIds image has 16 bits of grey, not {bits}. {_RULE}")
    return counts


def prepare_split(folder: Path, split: str, convert: Callable[..., None], force: bool) -> None:
    """Convert one split.

    Args:
        folder: with leftImg8bit/ and gtFine/.
        split: "train" or "val".
        convert: the converter of cityscapesscripts.
        force: convert even if the result exists.
    """
    truth = folder / "gtFine"
    name = f"cityscapes_panoptic_{split}"
    pngs, json_file = truth / name, truth / f"{name}.json"
    # The JSON is moved into place last: where it is, the split is complete.
    if json_file.is_file() and pngs.is_dir() and not force:
        print(f"{split}: {json_file} exists already, kept (--force makes it anew)")
        return
    pairs = find_truth(folder, split)
    print(f"{split}: {len(pairs)} images; looking at their ids", flush=True)
    require_instance_ids(pairs)
    with scratch_folder(truth) as temporary:
        with naming(pngs):
            convert(
                cityscapesPath=str(truth),
                outputFolder=str(temporary),
                useTrainId=False,
                setNames=[split],
            )
        json_file.unlink(missing_ok=True)
        if pngs.exists():
            shutil.rmtree(pngs)
        os.replace(temporary / name, pngs)
        os.replace(temporary / f"{name}.json", json_file)
    print(f"{split}: wrote {json_file} and {pngs}")


def list_test_images(folder: Path, force: bool) -> None:
    """Write image_info_test.json, which lists the test images; their truth is not public.

    Raises:
        FileNotFoundError: there are no test images.
    """
    json_file = folder / "image_info_test.json"
    if json_file.is_file() and not force:
        print(f"test: {json_file} exists already, kept (--force makes it anew)")
        return
    root = folder / "leftImg8bit" / "test"
    images: list[dict[str, object]] = []
    for path in sorted(root.glob("*/*_leftImg8bit.png")):
        height, width = read_image_size(path)
        image_id, name = path.name.removesuffix("_leftImg8bit.png"), path.relative_to(root)
        size = {"height": height, "width": width}
        images.append({"id": image_id, "file_name": name.as_posix(), **size})
    if not images:
        raise FileNotFoundError(f"no images below {root}")
    write_json(json_file, {"images": images})
    print(f"test: wrote {json_file}, with {len(images)} images")


@orderly
def main(arguments: list[str] | None = None) -> int:
    """Prepare the splits and return the exit status."""
    options = parse_args(arguments)
    try:
        if "test" in options.splits:
            list_test_images(options.folder, options.force)
        if annotated := [split for split in options.splits if split != "test"]:
            convert = load_converter()
        for split in annotated:
            prepare_split(options.folder, split, convert, options.force)
    except (ImportError, OSError, ValueError) as error:
        return refuse(__file__, error, FAULTY)
    if annotated:
        print("Check the result: panoptic-check cityscapes_fine_panoptic_val")
    return 0


if __name__ == "__main__":
    sys.exit(main())
