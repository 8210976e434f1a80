#!/usr/bin/env python3
r"""Make a model that can be handed on: one small .safetensors file, and its card.

    python tools/pack_model.py output/unified/nuclei/D2/model_final.pth --name nuclei \
        --out unified_panoptic/zoo --storage bytes --images val/a.png val/b.png \
        --card title="Cell nuclei" data="..." licence="CC0" results="PQ 70.1" \
        --opts DATASETS.TRAIN "('nuclei_train',)"

The file holds the weights without the optimizer's state, the config and the class table. Folders
of the machine that trained it are taken out of the config. Before anything is written, the packed
model and the checkpoint predict the same images. It is refused if more than the tolerance of an
image's pixels lie in other segments, or if the file is larger than the limit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from panoptic_common.checkpoint.files import CheckpointError, read_weights_file
from panoptic_common.checkpoint.model_card import CardParts, write_card
from panoptic_common.checkpoint.own_format import is_own
from panoptic_common.checkpoint.weight_names import is_counter
from panoptic_common.checkpoint.weights_format import STORAGES, write_weights
from panoptic_common.coco.image_reading import read_image
from panoptic_common.coco.overlaps import count_overlaps
from panoptic_common.coco.quality import match_segments
from panoptic_common.config import load_config, stored_config
from panoptic_common.files import write_atomically
from panoptic_common.inference.predictor import Prediction, Predictor
from panoptic_tools.arguments import (
    add_unsafe_option,
    input_file,
    make_parser,
    orderly,
    output_folder,
    refuse,
    require_pairs,
)
from panoptic_tools.outputs import refuse_own_inputs
from panoptic_tools.value_types import number_from, plain_name

LIMIT = 8.0  # MB


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, whole=True)
    add = parser.add_argument
    add("checkpoint", type=input_file, help="of this project")
    add(
        "--name",
        type=plain_name,
        required=True,
        help="of the model, and of the files that are written",
    )
    add("--out", type=output_folder, required=True, help="folder to write to")
    text = "how weights are stored: half is float16, bytes int8 with a factor per channel"
    add("--storage", choices=STORAGES, default="half", help=f"{text} (default: half)")
    text = "images on which the packed model must agree with the checkpoint"
    add("--images", type=input_file, nargs="+", required=True, help=text)
    text = "greatest share of an image's pixels that may lie in other segments (default: 0.005)"
    add("--tolerance", type=number_from(0), default=0.005, metavar="SHARE", help=text)
    add("--max-size", type=number_from(0), default=LIMIT, metavar="MB", help="limit (default: 8)")
    parts = ", ".join(part.name for part in fields(CardParts) if part.name != "model_name")
    text = f"what the model card says: KEY=TEXT, with the keys {parts}"
    add("--card", nargs="+", default=[], metavar="KEY=TEXT", help=text)
    add_unsafe_option(parser)
    text = "config keys and values, such as the usual name of the data set; comes last"
    add("--opts", nargs=argparse.REMAINDER, default=[], help=text)
    options = parser.parse_args(words)
    require_pairs(parser, options.opts)
    refuse_own_inputs(
        parser,
        [("--out", options.out / f"{options.name}{end}") for end in (".safetensors", ".md")],
        [("the program", options.checkpoint), *(("--images", path) for path in options.images)],
    )
    try:
        options.card = card_parts(options.card, options.name)
    except ValueError as error:
        parser.error(str(error))
    return options


def card_parts(words: Sequence[str], name: str) -> CardParts:
    """Read KEY=TEXT words.

    Raises:
        ValueError: a word of another form, or an unknown key.
    """
    known = {part.name for part in fields(CardParts)} - {"model_name"}
    given = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key not in known:
            raise ValueError(f"--card {word!r} is not KEY=TEXT with one of {sorted(known)}")
        given[key] = text
    return replace(CardParts(title=name, model_name=name), **given)


def packed_contents(options: argparse.Namespace) -> dict[str, Any]:
    """Read the checkpoint, and leave out what nobody needs who uses it.

    Raises:
        CheckpointError: the file is damaged, or none of this project.
        ValueError: an option does not fit the config.
    """
    contents = read_weights_file(options.checkpoint, options.allow_unsafe_checkpoint)
    if not is_own(contents):
        raise CheckpointError(f"{options.checkpoint} is not a checkpoint of this project")
    # Where it was trained, and from what, is nobody else's.
    own = ["OUTPUT_DIR", "output", "MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu"]
    table = contents["class_table"]
    cfg = load_config(stored_config(contents["config"]), [*own, *options.opts], table=table)
    weights = {k: v for k, v in contents["model"].items() if not is_counter(k)}
    return {**contents, "model": weights, "config": cfg.dump()}


def changed_share(first: Prediction, second: Prediction, num_classes: int) -> float:
    """Return the share of pixels that lie in other segments.

    Segments of one class correspond if their IoU is above 1/2, as for the panoptic quality, however
    they are numbered.
    """
    overlaps = count_overlaps(first.id_map, second.id_map)
    matches = match_segments(
        first.id_map,
        first.segments_info,
        second.id_map,
        second.segments_info,
        num_classes,
        overlaps=overlaps,
    )
    same = {(pair.truth_id, pair.prediction_id) for pair in matches.pairs} | {(0, 0)}
    shared = sum(pixels for pair, pixels in overlaps.table().items() if pair in same)
    return 1 - shared / first.id_map.size


def largest_change(options: argparse.Namespace, packed: Path) -> float:
    """Return the greatest `changed_share` of the images; both models have the packed settings."""
    models = [
        Predictor.from_checkpoint(str(path), device="cpu", opts=opts, allow_unsafe=unsafe)
        for path, opts, unsafe in (
            (options.checkpoint, options.opts, options.allow_unsafe_checkpoint),
            (packed, (), False),
        )
    ]
    num_classes, shares = len(models[0].class_table), []
    for path in options.images:
        first, second = (model(read_image(path)) for model in models)
        shares.append(changed_share(first, second, num_classes))
        print(f"{path.name}: {100 * shares[-1]:.3f} % of the pixels lie in other segments")
    return max(shares)


def pack(options: argparse.Namespace) -> Path:
    """Do the work; returns the file.

    Raises:
        CheckpointError, ValueError, OSError: it cannot be done; says why.
    """
    contents = packed_contents(options)
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder, f"{options.name}.safetensors")
        write_weights(trial, contents, options.storage)
        size = trial.stat().st_size / 1e6
        if size > options.max_size:
            raise ValueError(
                f"{options.checkpoint} makes a file of {size:.2f} MB, more than "
                f"{options.max_size:g}: try --storage bytes, or train a smaller network"
            )
        change = largest_change(options, trial)
        if change > options.tolerance:
            raise ValueError(
                f"the packed model changes {100 * change:.2f} % of an image's pixels, more than "
                f"{100 * options.tolerance:g} %: use a --storage of more bits"
            )
        data = trial.read_bytes()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"{options.name}.safetensors"
    note = (
        f"Stored as {options.storage}, {size:.1f} MB. Images compared with the checkpoint: "
        f"{len(options.images)}; at most {100 * change:.3f} % of the pixels of one lie in other "
        "segments. "
    )
    parts = replace(options.card, notes=(note + options.card.notes).strip())
    card = write_card(contents, parts, path.name)
    write_atomically(path, lambda file: file.write(data))
    write_atomically(path.with_suffix(".md"), lambda file: file.write(card.encode()))
    return path


@orderly
def main(words: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    options = parse_arguments(words)
    try:
        path = pack(options)
    except (CheckpointError, ValueError, OSError) as error:
        return refuse(__file__, error)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB, and its card {path.stem}.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
