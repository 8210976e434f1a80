"""Hostile data sets: the check and the loader agree, no id is read wrong, nothing crashes."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
from dataset_factory import make_coco_panoptic
from dataset_parity import TREATMENTS
from hostile_datasets import Builder, hostile_datasets
from mapped_samples import map_record
from PIL import Image

from cops.targets import make_cops_targets
from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.check import check_dataset
from panoptic_common.coco.records import read_records, try_records
from trials.outcome import Outcome
from unified_panoptic.targets import make_unified_targets

MEANS = (
    "what the check calls sound the loader of training reads for both systems, with the ids and "
    "classes that are in the files, and what the loader refuses the check names; each refusal is a "
    "ValueError or OSError, within 20 s"
)
REFUSALS = (ValueError, OSError)


def run(count: int, seed: int, folder: Path, make_cases: Any = hostile_datasets) -> Outcome:
    """Try `count` data sets.

    Args:
        count: how many.
        seed: of all of them.
        folder: to work in.
        make_cases: function of seed and count that yields pairs (name, builder).
    """
    outcome = Outcome()
    make_coco_panoptic(folder, num_images=1)
    for number, (name, build) in enumerate(make_cases(seed, count)):
        place = folder / str(number)
        place.mkdir()
        verdict, problem = try_dataset(build, place)
        outcome.record(name, problem, verdict)
        shutil.rmtree(place)
    return outcome


def try_dataset(build: Builder, folder: Path) -> tuple[str, str | None]:
    """Build, check and load one data set; returns the loader's verdict, and what is wrong."""

    def out_of_time(*_: object) -> None:
        raise TimeoutError("it takes more than 20 s")

    before = signal.signal(signal.SIGALRM, out_of_time)
    try:
        paths = build(folder)
        signal.alarm(20)
        complaints, refusal, samples = checked(paths), None, []
        try:
            table, samples = loaded(paths)
        except TimeoutError:
            raise
        except REFUSALS as error:
            refusal = str(error)
        if refusal is None:
            return "loaded", compare(paths, complaints, table, samples)
        return "refused", None if complaints else f"check is silent, training says: {refusal}"
    except Exception as error:
        return "crashed", f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def checked(paths: PanopticPaths) -> list[str]:
    """What the check says; one sentence if it refuses the set as a whole."""
    try:
        return check_dataset(paths).problems
    except TimeoutError:
        raise
    except REFUSALS as error:
        return [str(error)]


def loaded(paths: PanopticPaths) -> tuple[list[dict], list[tuple[dict, dict]]]:
    """The class table, and records with their samples as training makes them."""
    table, records = read_records(paths)
    try_records(records)  # as every training does before it sets anything up
    is_thing = tuple(bool(entry["isthing"]) for entry in table)
    samples = []
    for record in records:
        sample = map_record(record)
        ids, segments = sample["id_map"], sample["segments"]
        make_unified_targets(ids, segments, is_thing)
        make_cops_targets(ids, segments, is_thing, (1, 4))
        samples.append((record, sample))
    return table, samples


def compare(
    paths: PanopticPaths, complaints: list[str], table: list[dict], samples: list[tuple[dict, dict]]
) -> str | None:
    """Return what is wrong with a data set that was loaded, None if nothing is."""
    patterns = TREATMENTS.values()
    serious = [text for text in complaints if not any(p.search(text) for p in patterns)]
    if serious:
        return f"training reads what the check calls wrong: {serious[0]}"
    content = json.loads(Path(paths.panoptic_json).read_bytes())  # in any encoding of JSON
    classes = {entry["id"]: entry for entry in content["categories"]}
    listed = {a["file_name"]: a["segments_info"] for a in content["annotations"]}
    for record, sample in samples:
        with Image.open(record["pan_seg_file_name"]) as image:
            rgb = np.asarray(image.convert("RGB")).astype(np.int64)
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]
        if not np.array_equal(ids, sample["id_map"]):
            return f"image {record['image_id']}: ids differ from the PNG's"
        wanted = {s["id"]: s for s in listed[Path(record["pan_seg_file_name"]).name]}
        if set(np.unique(ids).tolist()) - {0} != {s["id"] for s in sample["segments"]}:
            return f"image {record['image_id']}: segments are not those of the PNG"
        for segment in sample["segments"]:
            told = classes[wanted[segment["id"]]["category_id"]]
            read = table[segment["category_id"]]
            if (told["id"], told["name"], told["isthing"]) != (
                *(read["id"], read["name"]),
                int(segment["isthing"]),
            ):
                return f"image {record['image_id']}, segment {segment['id']}: class {read['name']}"
    return None
