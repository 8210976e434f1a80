#!/usr/bin/env python3
r"""Choose the thresholds of a trained model by the panoptic quality that they give.

    python tools/choose_thresholds.py output/model_final.pth --dataset my_val2 --images 100
    python tools/choose_thresholds.py FILE --dataset my_val2 --out tuned.pth
    python tools/choose_thresholds.py FILE --dataset my_val2 \
        --try MODEL.UNIFIED.INFERENCE.SCORE_THRESH 0.3 0.4 0.5

From which score on a detection counts, how much of it better ones may cover, which segments are too
small: the best values depend on the data and on the training. This tries values of one key after
the other, until none changes any more. The table shows what each value gives beside the chosen
ones. The line below it says what is left of the gain on images that the choice was not made on. The
last line is for `--opts` of other programs; --out writes a checkpoint whose config has it.

UnifiedPanoptic, COPS and PanopticFPN have values to try; --try names others, of any model. Unless
all keys are of MODEL.UNIFIED.INFERENCE or MODEL.COPS.INFERENCE, the network runs anew for each
value. A training set is known to the detector by heart, so its scores are higher there: use images
that are neither trained nor reported on. Exit status: 2 for what cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import panoptic_common.compat

from tabulate import tabulate

from panoptic_common.checkpoint.files import CheckpointError
from panoptic_common.coco.quality import PanopticQuality
from panoptic_common.external.modules import import_modules
from panoptic_common.files import require_writable
from panoptic_tools.arguments import (
    add_import_options,
    make_parser,
    orderly,
    output_file,
    refuse,
    require_at_least,
)
from panoptic_tools.outputs import refuse_own_inputs
from panoptic_tools.sampled_images import add_image_options, check_image_options, find_records
from panoptic_tools.threshold_search import Choice, Trials, changed, judge_by_halves, search
from panoptic_tools.tuned_checkpoint import TunedCheckpoint, value_of


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    add_image_options(parser, held_out=True)
    text = "values of a config key to try instead of the usual ones; may be repeated"
    parser.add_argument(
        "--try", dest="tries", nargs="+", action="append", default=[], metavar="WORD", help=text
    )
    parser.add_argument("--out", type=output_file, help="checkpoint to write (default: none)")
    add_import_options(parser)
    options = parser.parse_args(arguments)
    check_image_options(parser, options)
    require_at_least(parser, options, 2, "images")
    for key, *values in options.tries:
        if not values:
            parser.error(f"--try {key}: name values of it, too")
    keys = [key for key, *_ in options.tries]
    for key in keys:
        if keys.count(key) > 1:
            parser.error(f"--try names {key} twice: put all of its values after one")
    if options.out is not None:
        if options.out.suffix != ".pth":
            parser.error(f"--out is {options.out}: checkpoints are written as .pth")
        refuse_own_inputs(parser, [("--out", options.out)], [("the program", options.checkpoint)])
    return options


def table_of(trials: Trials, start: Choice, best: Choice, tried: Mapping[str, Sequence]) -> str:
    """Show what each value of a key gives beside the chosen values of the others."""
    own, taken, rows = dict(start), dict(best), []
    for key, values in tried.items():
        shown = list(dict.fromkeys([own[key], *values]))
        if not any(isinstance(value, str) for value in shown):
            shown.sort()
        for value in shown:
            quality = trials.quality(changed(best, key, value))
            note = "config's " if value == own[key] else ""
            note += "<- taken" if value == taken[key] else ""
            rows.append([key if value == shown[0] else "", value, *_percent(quality), note])
    return tabulate(
        rows,
        ["key", "value", "PQ", "things", "stuff", ""],
        floatfmt=".2f",
        disable_numparse=[1],  # areas beside shares: each as the config has it
        colalign=("left", "right", "right", "right", "right", "left"),
    )


def at_the_end(value: Any, tried: Sequence[Any]) -> bool:
    """Say whether a number is the largest of those that were tried, or the least one above 0."""
    if isinstance(value, (str, bool)) or len(set(tried)) < 2:  # words and flags have no order
        return False
    return bool(value == max(tried) or value == min(tried) > 0)


def _percent(quality: PanopticQuality) -> tuple[float, float, float]:
    return 100 * quality.all.pq, 100 * quality.things.pq, 100 * quality.stuff.pq


def choose(options: argparse.Namespace) -> None:
    """Do the work.

    Raises:
        CheckpointError, ValueError, OSError: something cannot be used; says what.
    """
    if options.out is not None:
        require_writable(options.out.parent)
    tuned = TunedCheckpoint(
        options.checkpoint,
        options.opts,
        import_modules(options.imports, options.add_config).extensions,
        allow_unsafe=options.allow_unsafe_checkpoint,
    )
    tried = tuned.candidates({key: values for key, *values in options.tries})
    records = find_records(options, tuned.cfg, tuned.metadata.class_table)
    if len(records) < 2:
        raise ValueError("one image is too few to choose on: name a data set with more")
    is_thing = [bool(entry["isthing"]) for entry in tuned.metadata.class_table]
    trials = Trials(records, is_thing, tuned.makers)
    start = tuple((key, value_of(tuned.cfg, key)) for key in tried)
    best = search(trials, start, tried)
    print(f"panoptic quality on {len(records)} images, of {len(trials)} choices that were tried:")
    print(table_of(trials, start, best, tried))
    before, after = (100 * trials.quality(choice).all.pq for choice in (start, best))
    honest = 100 * judge_by_halves(trials, start, tried).all.pq
    print(f"PQ by the config's values {before:.2f}, by those taken {after:.2f}.")
    print(f"Chosen on one half of the images and judged on the other: {honest:.2f}.")
    for key, value in best:
        if at_the_end(value, tried[key]):
            print(f"{key}: {value} is the last value that was tried: --try others beyond it, too")
    print(" ".join(f"{key} {value}" for key, value in best))
    if options.out is not None:
        tuned.write(best, options.out)
        print(f"wrote {options.out}")


@orderly
def main(arguments: Sequence[str] | None = None) -> int:
    """Choose thresholds of a checkpoint; return the exit status."""
    options = parse_args(arguments)
    try:
        choose(options)
    except (CheckpointError, OSError, ValueError) as error:
        return refuse(__file__, error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
