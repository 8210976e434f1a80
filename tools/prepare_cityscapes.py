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
from collections.abc import Callable
from pathlib import Path

import panoptic_common.processes.starting  # Ctrl-C while libraries are imported

from panoptic_common.coco.cityscapes_ids import require_instance_ids
from panoptic_common.coco.dataset_files import why_missing
from panoptic_common.coco.image_reading import read_image_size
from panoptic_common.coco.user_files import require_utf8_name
from panoptic_common.files import naming, write_json
from panoptic_common.processes.scratch import scratch_folder
from panoptic_tools.arguments import FAULTY, input_folder, make_parser, orderly, refuse

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


def list_files(root: Path, ending: str) -> list[Path]:
    """List the files <city>/<id><ending> below a folder, as the converter does: no hidden ones.

    Raises:
        ValueError: a name is no UTF-8, so no JSON could hold it.
    """
    found = sorted(root.glob(f"[!.]*/[!.]*{ending}"))
    for path in found:
        require_utf8_name(path.parent)
        require_utf8_name(path)
    return found


def find_truth(folder: Path, split: str) -> list[tuple[Path, Path]]:
    """Find the images of a split and the instanceIds image of each.

    Returns:
        (image, truth) pairs.

    Raises:
        FileNotFoundError: images have no truth, or truth no image. The sentence gives their
            number, names the first, and shows the expected tree.
        ValueError: a name is no UTF-8.
    """
    images, truths = folder / "leftImg8bit" / split, folder / "gtFine" / split
    tree = (
        f"expected:\n  {images}/<city>/<id>_leftImg8bit.png\n"
        f"  {truths}/<city>/<id>_gtFine_instanceIds.png"
    )
    pairs = []
    for image in list_files(images, "_leftImg8bit.png"):
        image_id = image.name.removesuffix("_leftImg8bit.png")
        truth = truths / image.parent.name / f"{image_id}_gtFine_instanceIds.png"
        pairs.append((image, truth))
    if not pairs:
        raise FileNotFoundError(f"no images below {images}\n{tree}")
    if without := [(image, truth) for image, truth in pairs if not truth.is_file()]:
        image, truth = without[0]
        raise FileNotFoundError(
            f"{len(without)} of {len(pairs)} images have no truth, the first is {image}: {truth}"
            f" is missing{why_missing(str(truth))}\n{tree}"
        )
    # The converter would take these, and nobody had looked at their ids.
    known = {truth for image, truth in pairs if image.is_file()}
    found = list_files(truths, "_instanceIds.png")
    if left := [truth for truth in found if truth not in known]:
        raise FileNotFoundError(
            f"{len(left)} of {len(found)} instanceIds images have no image, the first is {left[0]}:"
            f" unpack all of leftImg8bit, or move them out of {truths}\n{tree}"
        )
    return pairs


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
    for path in list_files(root, "_leftImg8bit.png"):
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
