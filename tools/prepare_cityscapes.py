#!/usr/bin/env python3
"""Make the panoptic PNGs and JSON files of Cityscapes from its gtFine images.

    python tools/prepare_cityscapes.py                      # below $DETECTRON2_DATASETS/cityscapes
    python tools/prepare_cityscapes.py DIR --splits val

DIR holds leftImg8bit/ and gtFine/ as they are unpacked from leftImg8bit_trainvaltest.zip and
gtFine_trainvaltest.zip. The converter of the package cityscapesscripts does the work; it writes
gtFine/cityscapes_panoptic_<split>.json and a folder of the same name. Category ids are the original
label ids (not the train ids), which is what Detectron2 and this project read. The converter runs in
a temporary folder, and a complete split is moved into place. So an interrupted run leaves nothing
half done. Splits that exist already are kept unless --force is given.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from panoptic_tools.arguments import FAULTY, input_folder, make_parser, refuse

INSTALL_HINT = (
    "cityscapesscripts cannot be imported ({error}). To install what is needed of it:\n"
    "  pip install --no-deps cityscapesscripts pyquaternion\n"
    "(--no-deps, because it demands the package `typing`, an old copy of a module that is part of"
    " Python and can hide it)"
)


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
    parser.add_argument("--splits", nargs="+", default=["train", "val"], choices=("train", "val"))
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


def count_truth(folder: Path, split: str) -> int:
    """Count the images of a split, and check that each has its instanceIds image.

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
    for image in images:
        image_id = image.name.removesuffix("_leftImg8bit.png")
        city = folder / "gtFine" / split / image.parent.name
        truth = city / f"{image_id}_gtFine_instanceIds.png"
        if not truth.is_file():
            raise FileNotFoundError(f"{image} has no truth: {truth} is missing\n{tree}")
    return len(images)


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
    count = count_truth(folder, split)
    print(f"{split}: {count} images", flush=True)
    with tempfile.TemporaryDirectory(dir=truth, prefix=".preparing_") as temporary:
        convert(
            cityscapesPath=str(truth), outputFolder=temporary, useTrainId=False, setNames=[split]
        )
        json_file.unlink(missing_ok=True)
        if pngs.exists():
            shutil.rmtree(pngs)
        os.replace(Path(temporary) / name, pngs)
        os.replace(Path(temporary) / f"{name}.json", json_file)
    print(f"{split}: wrote {json_file} and {pngs}")


def main(arguments: list[str] | None = None) -> int:
    """Prepare the splits and return the exit status."""
    options = parse_args(arguments)
    try:
        convert = load_converter()
        for split in options.splits:
            prepare_split(options.folder, split, convert, options.force)
    except (ImportError, OSError) as error:
        return refuse(__file__, error, FAULTY)
    print("Check the result: python tools/check_dataset.py cityscapes_fine_panoptic_val")
    return 0


if __name__ == "__main__":
    sys.exit(main())
