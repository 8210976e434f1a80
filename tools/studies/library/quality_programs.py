"""Processor time of whole programs that compute PQ from files, start included, in turn."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from panoptic_common.coco.segment_ids import write_id_map
from panoptic_tools.studies.library import quality_peers

DISTINCT = 300  # images that are drawn; a larger set has copies of their files
Images = list[tuple[np.ndarray, list[dict[str, Any]], np.ndarray, list[dict[str, Any]]]]


class Program(NamedTuple):
    """A program that prints, or writes, the PQ of a folder of files.

    Attributes:
        name: in the table.
        command: its words, given the folder and the number of workers.
        compared: whether its PQ must be that of the others; vernier's and boundary PQ are not.
        search_path: a folder in which it finds a library that its environment lacks.
    """

    name: str
    command: Callable[[Path, int], list[str]]
    compared: bool = True
    search_path: Path | None = None


def write_data_set(folder: Path, images: Images, number: int, num_classes: int) -> None:
    """Write `number` images, the drawn ones again and again, in the COCO panoptic form.

    Args:
        folder: that gets truth.json, predictions.json and the PNGs in folders of these names.
        images: truth, its segments_info, prediction, its segments_info of each.
        number: of images.
        num_classes: K; the first half of the classes are things.
    """
    lists: dict[str, list[dict[str, Any]]] = {"truth": [], "predictions": []}
    for name in lists:
        (folder / name).mkdir(parents=True)
    for i in range(number):
        image, file = images[i % len(images)], f"{i}.png"
        for name, ids, segments in (
            ("truth", image[0], image[1]),
            ("predictions", image[2], image[3]),
        ):
            if i < len(images):
                write_id_map(folder / name / file, ids)
            else:
                shutil.copy(folder / name / f"{i % len(images)}.png", folder / name / file)
            lists[name].append({"image_id": i, "file_name": file, "segments_info": segments})
    height, width = images[0][0].shape
    categories = [
        {"id": k, "name": f"class {k}", "isthing": int(2 * k < num_classes)}
        for k in range(num_classes)
    ]
    listed = [
        {"id": i, "file_name": f"{i}.jpg", "height": height, "width": width} for i in range(number)
    ]
    truth = {"images": listed, "categories": categories, "annotations": lists["truth"]}
    for name, content in (("truth", truth), ("predictions", {"annotations": lists["predictions"]})):
        # panopticapi has left areas behind that are numbers of numpy.
        (folder / f"{name}.json").write_text(json.dumps(content, default=int))


def programs(peers: str | None, scratch: Path) -> list[Program]:
    """List what is compared.

    Args:
        peers: the Python of an environment with hotcoco, vernier and Pillow; None leaves them out.
        scratch: an empty folder.
    """

    def peer(python: str, name: str, *options: str) -> Callable[[Path, int], list[str]]:
        return lambda folder, workers: [
            *(python, quality_peers.__file__, name, str(folder), str(workers), *options)
        ]

    def ours(engine: str, *options: str) -> Callable[[Path, int], list[str]]:
        return lambda folder, workers: [
            *(sys.executable, "-m", "panoptic_tools.evaluate_panoptic", "--engine", engine),
            *("--truth", str(folder / "truth.json")),
            *("--predictions", str(folder / "predictions.json"), "--workers", str(workers)),
            *("--output", str(folder / "figures.json"), *options),
        ]

    ratio = str(quality_peers.RATIO)
    found = [
        Program("panopticapi", peer(sys.executable, "panopticapi")),
        Program("ours", ours("own")),
        Program("ours: PQ and boundary PQ", ours("own", "--boundary-ratio", ratio), False),
    ]
    if peers:
        where = "import hotcoco; print(hotcoco.__path__[0])"
        package = subprocess.run([peers, "-c", where], capture_output=True, text=True, check=True)
        (scratch / "hotcoco").symlink_to(package.stdout.strip())
        found += [
            Program("ours, --engine hotcoco", ours("hotcoco"), search_path=scratch),
            Program("hotcoco", peer(peers, "hotcoco")),
            Program("vernier", peer(peers, "vernier"), False),
            Program("vernier: boundary PQ", peer(peers, "vernier", "--boundary"), False),
        ]
    return found


def measure(program: Program, folder: Path, workers: int) -> tuple[float, float]:
    """Run a program to its end.

    Returns:
        Seconds of processor time, of it and its workers, and the PQ (boundary PQ) in 0..1.

    Raises:
        RuntimeError: with its message, if it failed.
    """
    environment = dict(os.environ)
    if program.search_path:
        paths = [str(program.search_path), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    figures = folder / "figures.json"
    figures.unlink(missing_ok=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run = subprocess.run(
        program.command(folder, workers), capture_output=True, text=True, env=environment
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if run.returncode:
        raise RuntimeError(f"{program.name} failed: {run.stderr.strip()[-500:]}")
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    if not figures.exists():
        return seconds, float(json.loads(run.stdout.splitlines()[-1])["PQ"])
    content = json.loads(figures.read_text())
    name = next((n for n in content if n.startswith("boundary")), "PQ")
    return seconds, content[name]["All"]["PQ"] / 100


def vernier_in_memory(
    peers: str, folder: Path, images: Images, boundary: bool, repeats: int
) -> list[float]:
    """Return processor seconds of vernier over all images of `folder`, for each repetition."""
    maps = [[image[side].astype(np.uint32) for image in images] for side in (0, 2)]
    np.save(folder / "maps.npy", np.array(maps))
    command = [peers, quality_peers.__file__, "vernier", str(folder), "1"]
    command += [*(["--boundary"] if boundary else []), "--memory", str(repeats)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(json.loads(run.stdout.splitlines()[-1])["seconds"])


def spread(values: Sequence[float]) -> str:
    """Write the median and the range of some numbers."""
    return f"{np.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"
