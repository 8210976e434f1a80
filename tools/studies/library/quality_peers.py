"""PQ by other programs, each as its documentation has it. This file runs in their environments.

    python quality_peers.py PROGRAM FOLDER WORKERS [--boundary | --memory REPEATS]

FOLDER holds truth.json and predictions.json with PNGs in truth/ and predictions/. The last line of
the output is JSON: {"PQ": 0..1}, and with --memory the processor seconds of each repetition.
It imports nothing of this project.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RATIO = 0.02  # width of the boundary over the diagonal
_CHUNK = 50  # images whose maps vernier is given at once


def panopticapi(folder: Path, workers: int) -> float:
    """Evaluate by panopticapi, which starts a process per core that it believes there is."""
    import multiprocessing

    from panopticapi import evaluation

    multiprocessing.cpu_count = lambda: workers
    results = evaluation.pq_compute(
        *(str(folder / name) for name in ("truth.json", "predictions.json", "truth", "predictions"))
    )
    return float(results["All"]["pq"])


def hotcoco(folder: Path, workers: int) -> float:
    """Evaluate by hotcoco."""
    os.environ["RAYON_NUM_THREADS"] = str(workers)
    from hotcoco.panoptic import pq_compute

    results = pq_compute(
        *(str(folder / name) for name in ("truth.json", "predictions.json", "truth", "predictions"))
    )
    return float(results["All"]["pq"])


def vernier(folder: Path, workers: int, boundary: bool = False, maps: Any = None) -> float:
    """Evaluate by vernier, which reads no files but one PNG, chunk by chunk.

    Args:
        folder: of the files.
        workers: threads.
        boundary: boundary PQ in place of PQ.
        maps: (2, I, H, W) truth and predictions, if they are in memory already.
    """
    from vernier import panoptic

    truth, prediction = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("truth", "predictions")
    )
    categories = json.dumps(truth["categories"]).encode()
    settings: Any = {"parity_mode": "strict", "boundary": boundary, "dilation_ratio": RATIO}
    evaluator = panoptic.Evaluator(**settings)

    def images(start: int) -> Iterator[tuple]:
        for i in range(start, min(start + _CHUNK, len(truth["annotations"]))):
            image: list[Any] = [i]
            for side, (name, content) in enumerate((("truth", truth), ("predictions", prediction))):
                annotation = content["annotations"][i]
                image += [
                    panoptic.decode_label_map_png(folder / name / annotation["file_name"])
                    if maps is None
                    else maps[side][i],
                    json.dumps(annotation["segments_info"]).encode(),
                ]
            yield tuple(image)

    partials = [
        evaluator.evaluate_to_partial(
            images(start),
            categories=categories,
            rank_id=start,
            num_threads=workers,
            retain_per_image_deltas=True,
        )
        for start in range(0, len(truth["annotations"]), _CHUNK)
    ]
    summary = evaluator.from_partials(
        categories, partials, retain_per_image_deltas=True, **settings
    )
    return float(summary.pq)


def in_memory(folder: Path, boundary: bool, repeats: int) -> dict[str, Any]:
    """Time vernier on maps.npy of the folder."""
    import numpy as np

    maps = np.load(folder / "maps.npy")
    seconds, quality = [], float("nan")
    for _ in range(repeats + 1):  # the first one warms up
        start = time.process_time()
        quality = vernier(folder, 1, boundary, maps)
        seconds.append(time.process_time() - start)
    return {"PQ": quality, "seconds": seconds[1:]}


def main(arguments: list[str]) -> None:
    """Run one program."""
    program, folder, workers = arguments[0], Path(arguments[1]), int(arguments[2])
    boundary = "--boundary" in arguments
    if "--memory" in arguments:
        result = in_memory(folder, boundary, int(arguments[arguments.index("--memory") + 1]))
    elif program == "vernier":
        result = {"PQ": vernier(folder, workers, boundary)}
    else:
        result = {"PQ": {"panopticapi": panopticapi, "hotcoco": hotcoco}[program](folder, workers)}
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
