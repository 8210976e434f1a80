"""Does training do with a data set what the check leads one to expect?

The rule: what the check accepts, training accepts; what it calls wrong, training refuses with a
sentence, or treats as `docs/howto/data_faults.md` says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from hostile_datasets import FAULT, LOAD, NOTE, NOTHING, READ, TRAINS, TREATED, TRY

from panoptic_common.coco.annotations import PanopticPaths
from panoptic_common.coco.check import check_dataset
from panoptic_common.coco.records import try_records
from panoptic_common.data.catalog import class_table, load_panoptic, register_panoptic
from panoptic_common.data.mapper import PanopticDatasetMapper
from unified_panoptic.targets import make_unified_targets

# The faults that training does not refuse; the words are those of the check.
TREATMENTS = {
    "area derived": re.compile(r"segment \d+: area \S+ listed, \d+ pixels in the PNG"),
    "box derived": re.compile(r"segment \d+: bbox .* listed, .* in the PNG"),
    "segment dropped": re.compile(r"segment \d+: listed, but no pixel of the PNG has this id"),
}


class Verdicts(NamedTuple):
    """What the check and the training say of a data set.

    Attributes:
        check: "nothing", "note" or "fault".
        problems: the sentences of the check.
        training: when training refused, "load", "try" or "read"; "treated" or "trains" otherwise.
        refusal: its sentence; "" where it trains.
        samples: what the mapper made of all images, if none was refused.
    """

    check: str
    problems: list[str]
    training: str
    refusal: str
    samples: list[dict[str, Any]]


def judge(paths: PanopticPaths) -> Verdicts:
    """Check a data set, and read it as a training of Unified does, to its last image."""
    try:
        report = check_dataset(paths)
        problems, notes = report.problems, report.notes
    except (OSError, ValueError) as error:  # of a file that is no panoptic JSON
        problems, notes = [str(error)], []
    said = FAULT if problems else NOTE if notes else NOTHING
    stage, samples = LOAD, []
    try:
        with _registered(paths) as name:
            records = load_panoptic(name)
            is_thing = [bool(entry["isthing"]) for entry in class_table(name)]
            stage = TRY
            try_records(records[:1])  # one alone, so that the others are left to the mapper
            stage = READ
            mapper = PanopticDatasetMapper(True, [], make_targets=_targets(is_thing))
            samples = [mapper(record) for record in records]
            stage = TRY
            try_records(records)
    except (OSError, ValueError) as error:
        return Verdicts(said, problems, stage, str(error), [])
    return Verdicts(said, problems, TREATED if problems else TRAINS, "", samples)


def _targets(is_thing: list[bool]) -> Callable[..., dict]:
    return lambda id_map, segments: make_unified_targets(id_map, segments, is_thing)


@contextmanager
def _registered(paths: PanopticPaths) -> Iterator[str]:
    """Register a data set for a while."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    register_panoptic("judged", paths.images, paths.panoptic_json, paths.panoptic_png)
    try:
        yield "judged"
    finally:
        for catalog in (DatasetCatalog, MetadataCatalog):
            catalog.pop("judged")


def parity_problem(verdicts: Verdicts) -> str:
    """Return how check and training contradict each other, "" if they agree."""
    open_problems = [
        problem
        for problem in verdicts.problems
        if not any(pattern.search(problem) for pattern in TREATMENTS.values())
    ]
    if verdicts.refusal and not verdicts.problems:
        return f"the check accepts what training refuses: {verdicts.refusal}"
    if open_problems and not verdicts.refusal:
        return f"training accepts what the check calls wrong: {open_problems[0]}"
    return ""


def judge_hostile(build: Callable[[Path], PanopticPaths], root: Path) -> str:
    """Build a data set of `hostile_datasets` in an empty folder; return what contradicts, or ""."""
    return parity_problem(judge(build(root)))
