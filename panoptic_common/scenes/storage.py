"""Seeded synthetic street scenes with exact panoptic truth: the built-in data set.

Problem: training and tests need panoptic images on a machine that has no data set.  `make_scene`
makes one scene from a seed, the same bit for bit on every machine. `write_scenes` stores many of
them in the COCO panoptic format (https://cocodataset.org/#format-data): images, id PNGs,
panoptic JSON and instances JSON.

    paths = write_scenes("datasets/scenes", "train", 500, seed=0, workers=4)

What a scene looks like is told in `composition`, why it is reproducible in `textures`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from PIL import Image

from panoptic_common.files import write_json
from panoptic_common.processes.worker_pool import map_in_processes
from panoptic_common.scenes.composition import CLASSES, VERSION, Scene, SceneConfig, make_scene

__all__ = ["CLASSES", "Scene", "SceneConfig", "ScenePaths", "make_scene", "write_scenes"]

logger = logging.getLogger(__name__)


class ScenePaths(NamedTuple):
    """Where `write_scenes` put a split."""

    images: Path
    panoptic_png: Path
    panoptic_json: Path
    instances_json: Path


def scene_seed(seed: int, split: str, index: int) -> int:
    """Return the seed of one image of a split; differs between splits, also for equal indices."""
    digest = hashlib.sha256(f"{seed}/{split}/{index}".encode()).digest()
    return int.from_bytes(digest[:6], "little")  # 48 bits: exact in every JSON reader


def write_scenes(
    root: str | os.PathLike,
    split: str,
    num_scenes: int,
    seed: int = 0,
    config: SceneConfig | None = None,
    workers: int = 1,
) -> ScenePaths:
    """Write a split in the COCO panoptic format, or keep it if it is already there.

    Files: ``<root>/<split>/images/*.png``, ``<root>/<split>/panoptic/*.png``,
    ``<root>/panoptic_<split>.json`` and ``<root>/instances_<split>.json``.  Everything is written
    to a temporary sibling and renamed, the panoptic JSON last: where that file exists, the split
    is complete.  It records the parameters; a split made with others, or half of one, is replaced.
    Processes that want the same split wait for each other.

    Args:
        root: folder of the data set; made if missing.
        split: name, e.g. "train"; letters, digits, "-" and "_".
        num_scenes: number of images, at least 1.
        seed: of the data set.
        config: size and difficulty.
        workers: number of processes; the result does not depend on it.

    Returns:
        The paths.

    Raises:
        ValueError: on a bad argument.
        FileExistsError: if ``<root>/<split>`` or a JSON holds something else than scenes.
    """
    config = config or SceneConfig()
    if not split or not split.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"write_scenes: split = {split!r}: use letters, digits, '-' and '_'")
    if num_scenes < 1 or workers < 1 or seed < 0:
        raise ValueError(
            f"write_scenes: num_scenes = {num_scenes} and workers = {workers} must be at least 1, "
            f"seed = {seed} at least 0"
        )
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    paths = ScenePaths(
        root / split / "images",
        root / split / "panoptic",
        root / f"panoptic_{split}.json",
        root / f"instances_{split}.json",
    )
    parameters = {"generator_version": VERSION, "split": split, "num_scenes": num_scenes}
    parameters |= {"seed": seed, **asdict(config)}
    with _locked(root / f".{split}.lock"):
        if _is_complete(paths, parameters):
            return paths
        _refuse_foreign(paths)
        for leftover in root.glob(f".{split}.partial-*"):
            shutil.rmtree(leftover)  # of a killed process: we hold the lock, so nobody writes it
        partial = root / f".{split}.partial-{os.getpid()}"
        logger.info("Generating %d scenes of split '%s' in %s", num_scenes, split, root)
        try:
            _write_partial(partial, parameters, config, workers)
            _publish(partial, paths)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return paths


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock; the system releases it even if the process is killed."""
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(path))
        except (OSError, NotImplementedError) as error:  # some network file systems
            logger.warning(
                "%s cannot be locked (%s): do not generate scenes there twice at once", path, error
            )
        yield


def _is_complete(paths: ScenePaths, parameters: dict) -> bool:
    """Tell whether the split is there with these parameters; log why not."""
    if not paths.panoptic_json.exists():
        if paths.images.parent.exists():
            logger.warning("%s was left half written: it is made anew", paths.images.parent)
        return False
    found = _parameters_of(paths.panoptic_json)
    if found is None:
        logger.warning("%s is damaged: the split is made anew", paths.panoptic_json)
        return False
    if found != parameters:
        changed = [k for k in parameters if found.get(k) != parameters[k]]
        logger.warning(
            "%s was made with other settings (%s): it is made anew",
            paths.images.parent,
            ", ".join(f"{k} {found.get(k)} -> {parameters[k]}" for k in changed),
        )
        return False
    counts = [len(list(folder.glob("*.png"))) for folder in (paths.images, paths.panoptic_png)]
    if counts != [parameters["num_scenes"]] * 2 or not paths.instances_json.exists():
        logger.warning("%s misses files: it is made anew", paths.images.parent)
        return False
    return True


def _parameters_of(panoptic_json: Path) -> dict | None:
    """Return the parameters in a JSON of ours; None if it is damaged or another's."""
    try:
        with open(panoptic_json) as handle:
            return json.load(handle)["info"]["parameters"]
    except (ValueError, KeyError, TypeError):
        return None


def _refuse_foreign(paths: ScenePaths) -> None:
    """Refuse to delete what this module has not made."""
    folder = paths.images.parent
    if folder.exists() and not (folder / _MARKER).exists():
        raise FileExistsError(f"{folder} was not made by write_scenes; move it or choose a root")
    for path in (paths.panoptic_json, paths.instances_json):
        if path.exists() and not folder.exists() and _parameters_of(path) is None:
            raise FileExistsError(f"{path} was not made by write_scenes; move it or choose a root")


_MARKER = "made_by_write_scenes.json"


def _write_partial(partial: Path, parameters: dict, config: SceneConfig, workers: int) -> None:
    """Write a whole split, with its JSON files last, into a folder of its own."""
    (partial / "split" / "images").mkdir(parents=True)
    (partial / "split" / "panoptic").mkdir()
    write_json(partial / "split" / _MARKER, parameters)
    count, seed, split = (parameters[k] for k in ("num_scenes", "seed", "split"))
    jobs = [(partial / "split", i, scene_seed(seed, split, i), config) for i in range(count)]
    chunk = max(1, count // (8 * workers))
    records = list(map_in_processes(_write_one, jobs, min(workers, count), chunk))
    info = {"description": "Synthetic street scenes", "parameters": parameters}
    categories = [
        {**entry, "supercategory": "thing" if entry["isthing"] else "stuff"} for entry in CLASSES
    ]
    images = [record["image"] for record in records]
    panoptic = {
        "info": info,
        "images": images,
        "annotations": [record["annotation"] for record in records],
        "categories": categories,
    }
    instances = [instance for record in records for instance in record["instances"]]
    for number, instance in enumerate(instances, start=1):
        instance["id"] = number
    things = [entry for entry in categories if entry["isthing"]]
    coco = {"info": info, "images": images, "annotations": instances, "categories": things}
    for name, content in (("panoptic", panoptic), ("instances", coco)):
        write_json(partial / f"{name}.json", content)


def _write_one(job: tuple[Path, int, int, SceneConfig]) -> dict:
    """Make and write one scene; return its entries for the JSON files."""
    # Imported here: storing needs it, making scenes does not.
    from pycocotools import mask as rle

    from panoptic_common.coco.segment_ids import write_id_map

    folder, index, seed, config = job
    scene = make_scene(seed, config)
    name = f"{index:06d}.png"
    # Noise has no long matches: run-length coding (3 = Z_RLE) is as small as level 9, and fast.
    Image.fromarray(scene.image).save(folder / "images" / name, compress_level=1, compress_type=3)
    write_id_map(folder / "panoptic" / name, scene.id_map)
    instances = []
    for segment in scene.segments_info:
        if not segment["isthing"]:
            continue
        code = rle.encode(np.asfortranarray(scene.id_map == segment["id"]))
        entry = {key: segment[key] for key in ("category_id", "iscrowd", "area", "bbox")}
        counts = code["counts"].decode("ascii")
        entry |= {"image_id": index, "segmentation": {"size": code["size"], "counts": counts}}
        instances.append(entry)
    size = {"height": config.height, "width": config.width}
    return {
        "image": {"id": index, "file_name": name, **size, "seed": seed},
        "annotation": {
            "image_id": index,
            "file_name": name,
            "segments_info": [
                {k: v for k, v in segment.items() if k != "isthing"}
                for segment in scene.segments_info
            ],
        },
        "instances": instances,
    }


def _publish(partial: Path, paths: ScenePaths) -> None:
    """Move a finished split into place; the panoptic JSON, moved last, says that it is complete."""
    for old in (paths.panoptic_json, paths.instances_json):
        old.unlink(missing_ok=True)
    folder = paths.images.parent
    if folder.exists():
        os.replace(folder, partial / "old")  # goes with the partial folder, even after a kill
    os.replace(partial / "split", folder)
    os.replace(partial / "instances.json", paths.instances_json)
    os.replace(partial / "panoptic.json", paths.panoptic_json)
