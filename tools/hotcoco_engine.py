"""PQ counted by hotcoco, where it is installed: the same figures in a third of the time.

hotcoco (https://github.com/derekallman/hotcoco, MIT) reads the PNGs and counts the pixels in
compiled code. Its sums are those of `panoptic_common.coco.quality` to the last digit. It accepts
input that is refused here: a segment that is listed twice, a class that only the truth names, PNGs
with 16 bits or alpha. It takes a truth whose PNGs have ids that are not listed, and believes one
whose listed areas are wrong. So all that is checked, or left out of what it gets, before it counts.
It knows no boundary PQ.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from panoptic_common.coco.quality import PanopticStatistics, classes_by_id
from panoptic_common.coco.segment_ids import check_id_map_header
from panoptic_common.processes.stopping import end_at_once
from panoptic_tools.matched_files import Pair, naming_image, read_truth
from panoptic_tools.worker_pool import map_tasks


def add_engine_option(parser: argparse.ArgumentParser) -> None:
    """Add --engine."""
    parser.add_argument(
        "--engine",
        choices=("auto", "own", "hotcoco"),
        default="auto",
        help="what counts pixels; auto: hotcoco where it is installed and can do what is asked",
    )


def choose_engine(parser: argparse.ArgumentParser, options: argparse.Namespace) -> str:
    """Return "own" or "hotcoco"; refuse hotcoco where it is missing or cannot do what is asked."""
    own = [
        name
        for name, wanted in (
            ("--boundary-ratio", options.boundary_ratio is not None),
            ("--errors", options.errors),
            ("--compare", options.compare),
        )
        if wanted
    ]
    installed = importlib.util.find_spec("hotcoco") is not None
    if options.engine == "hotcoco" and own:
        parser.error(f"--engine hotcoco: it cannot do what {own[0]} asks for")
    if options.engine == "hotcoco" and not installed:
        parser.error("--engine hotcoco: not installed (pip install hotcoco)")
    return "own" if own or not installed else str(options.engine).replace("auto", "hotcoco")


def count_or(
    own: Callable[[Any, int, int], list[PanopticStatistics]],
    pairs: Sequence[Pair],
    num_classes: int,
    workers: int,
) -> list[PanopticStatistics]:
    """Let hotcoco count; where it refuses, count here, which names the image and the reason.

    Args:
        own: does the same with `pairs`, `num_classes` and `workers`.
        pairs: the images.
        num_classes: K.
        workers: threads of hotcoco, or processes of `own`.

    Returns:
        One sum over all images, or what `own` returns.
    """
    try:
        return [count(pairs, num_classes, workers)]
    except Exception as error:  # of whatever type its next version raises
        totals = own(pairs, num_classes, workers)
        print(f"note: evaluated without hotcoco, which refused: {error}", file=sys.stderr)
        return totals


def count(pairs: Sequence[Pair], num_classes: int, threads: int) -> PanopticStatistics:
    """Add up the images.

    Args:
        pairs: one or more images.
        num_classes: K.
        threads: how many read and count; fixed by the first call of a process.

    Raises:
        ValueError, OSError: for input that is wrong; naming the image where it is refused here.
    """
    for pair in pairs:
        _check(pair, num_classes)
    os.environ.setdefault("RAYON_NUM_THREADS", str(max(1, threads)))
    truth = _annotations((pair.truth_png, pair.truth_segments) for pair in pairs)
    prediction = _annotations((p.prediction_png, p.prediction_segments) for p in pairs)
    try:  # in a prediction it refuses ids that are not listed
        _evaluate(truth, truth, num_classes)
    except Exception:  # so it does segments without a pixel, which are no fault of a truth
        for _ in map_tasks(read_truth, pairs, threads):
            pass
    evaluation = _evaluate(truth, prediction, num_classes)
    sums = PanopticStatistics.zeros(num_classes)
    for category, figures in evaluation.results()["per_class"].items():
        for name in ("iou", "tp", "fp", "fn"):
            getattr(sums, name)[int(category)] = figures[name]
    return sums


def _evaluate(
    truth: list[dict[str, Any]], prediction: list[dict[str, Any]], num_classes: int
) -> Any:
    """Return hotcoco's evaluation of annotations of the same images."""
    from hotcoco.panoptic import PanopticEval

    content = {
        "images": [{"id": number} for number in range(len(truth))],
        "categories": [{"id": k, "name": str(k), "isthing": 1} for k in range(num_classes)],
        "annotations": truth,
    }
    evaluation = PanopticEval(content, {"annotations": prediction}, gt_folder="", pred_folder="")
    with end_at_once():
        evaluation.evaluate()
    return evaluation


def _check(pair: Pair, num_classes: int) -> None:
    """Refuse what hotcoco would accept."""
    with naming_image(pair):
        classes_by_id(pair.truth_segments, num_classes, "truth")
        classes_by_id(pair.prediction_segments, num_classes, "prediction")
        for path in (pair.truth_png, pair.prediction_png):
            check_id_map_header(path)


def _annotations(
    images: Iterable[tuple[str, Sequence[Mapping[str, Any]]]],
) -> list[dict[str, Any]]:
    """Give the images numbers, as ids may be texts; leave out areas, which may be wrong."""
    return [
        {
            "image_id": number,
            "file_name": os.path.abspath(path),
            "segments_info": [
                {
                    "id": int(segment["id"]),
                    "category_id": int(segment["category_id"]),
                    "iscrowd": int(bool(segment.get("iscrowd", 0))),
                }
                for segment in segments
            ],
        }
        for number, (path, segments) in enumerate(images)
    ]
