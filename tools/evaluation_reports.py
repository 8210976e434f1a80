"""The options --errors and --compare of `evaluate_panoptic.py`, and what follows from them."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from panoptic_common.coco.errors import COCO_SIZES
from panoptic_common.coco.quality import PanopticStatistics
from panoptic_common.coco.user_files import read_json
from panoptic_common.files import naming
from panoptic_common.processes.scratch import scratch_folder
from panoptic_tools.arguments import (
    Parser,
    input_file,
    input_folder,
    output_folder,
    require_at_least,
)
from panoptic_tools.matched_files import Pair
from panoptic_tools.outputs import NamedPath

if TYPE_CHECKING:
    from panoptic_tools.error_report import ErrorFigures


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add --errors, --compare and what belongs to them."""
    group = parser.add_argument_group("what PQ is lost to")
    group.add_argument(
        "--errors",
        type=output_folder,
        metavar="FOLDER",
        help="write what PQ is lost to into a new folder: Markdown, JSON, a sheet per worst image",
    )
    group.add_argument(
        "--images", type=input_folder, metavar="DIR", help="the images, for the sheets"
    )
    group.add_argument("--worst", type=int, default=10, metavar="N", help="sheets (default 10)")
    group.add_argument(
        "--areas",
        type=int,
        nargs="*",
        default=list(COCO_SIZES),
        metavar="PIXELS",
        help="areas that part small from large segments (default %(default)s, those of COCO)",
    )
    group.add_argument(
        "--compare",
        type=input_file,
        metavar="JSON",
        help="other predictions of the same images, to compare --predictions with, image by image",
    )
    group.add_argument("--compare-png", type=input_folder, metavar="DIR")
    group.add_argument("--seed", type=int, default=0, help="of the resamples of --compare")


def check_report_options(parser: Parser, options: argparse.Namespace) -> None:
    """Refuse, before anything is evaluated, options that could not be followed."""
    if options.images and not options.errors:
        parser.error("--images: the sheets are written with --errors FOLDER only")
    if options.compare_png and not options.compare:
        parser.error("--compare-png: the predictions themselves are named by --compare JSON")
    if options.compare and not _png_folder(options).is_dir():
        parser.error(
            f"there is no folder {_png_folder(options)}: name that of the PNGs by --compare-png"
        )
    if (options.errors or options.compare) and options.boundary_ratio is not None:
        parser.error("--boundary-ratio: --errors and --compare explain PQ, not boundary PQ")
    require_at_least(parser, options, 0, "worst", "seed")
    if any(low >= high for low, high in zip([0, *options.areas], options.areas, strict=False)):
        parser.error(f"--areas {options.areas}: must ascend from 1 on")
    if options.errors and options.errors.exists() and any(options.errors.glob("[!.]*")):
        parser.error(f"--errors {options.errors}: is no new or empty folder")


def files_written(options: argparse.Namespace) -> list[NamedPath]:
    """Return the tables of --errors, and the option, for `refuse_own_inputs`."""
    if not options.errors:
        return []
    names = ("errors.json", "errors.md", "comparison.json", "comparison.md")
    return [("--errors", options.errors / name) for name in names]


def files_read(options: argparse.Namespace) -> list[NamedPath]:
    """Return what the options of the reports read, by their names."""
    pngs = _png_folder(options) if options.compare else None
    return [("--compare", options.compare), ("--compare-png", pngs), ("--images", options.images)]


def options_of_other(options: argparse.Namespace) -> argparse.Namespace:
    """Copy the options with the predictions of --compare in place of --predictions."""
    changes = {"predictions": options.compare, "predictions_png": _png_folder(options)}
    return argparse.Namespace(**{**vars(options), **changes})


def _png_folder(options: argparse.Namespace) -> Path:
    """Return where the PNGs of --compare lie."""
    return Path(options.compare_png or options.compare.with_suffix(""))


def make_reports(
    options: argparse.Namespace,
    tasks: Sequence[Pair],
    others: Sequence[Pair] | None,
    table: Sequence[dict[str, Any]],
) -> tuple[list[PanopticStatistics], str]:
    """Evaluate, and write what --errors and --compare ask for.

    Args:
        options: checked by `check_report_options`.
        tasks: the images.
        others: the same images with the predictions of --compare, if there is such an option.
        table: class table.

    Returns:
        The sums for PQ in a list, and the tables as Markdown.

    Raises:
        ValueError, OSError: naming the image or the file.
    """
    # Evaluation without reports starts faster without drawing.
    from panoptic_tools.error_images import check_sizes, find_images
    from panoptic_tools.error_report import add_up, examine, report_text, worst_images, write_report
    from panoptic_tools.worker_pool import map_tasks

    files: dict[Any, str] = {}
    if options.images:
        files = find_images(options.images, read_json(options.truth), options.truth)
        check_sizes(tasks, files)

    def evaluate(pairs: Sequence[Pair]) -> ErrorFigures:
        found = list(map_tasks(examine, pairs, options.workers))
        return add_up(found, len(table), options.areas)

    figures = evaluate(tasks)
    other = None if others is None else evaluate(others)
    text = ""
    with _filled(options.errors) as folder:
        if folder is not None:
            worst = worst_images(figures, options.worst)
            text = report_text(figures, table, worst)
            with naming(options.errors):
                write_report(folder, figures, table, text)
            _draw(folder / "worst", worst, tasks, figures, table, files)
        if others is not None and other is not None:
            text += "\n" + _compare(options, folder, tasks, others, figures, other, table, files)
    return [figures.totals.statistics], text


@contextlib.contextmanager
def _filled(folder: Path | None) -> Iterator[Path | None]:
    """Give a place for what is to come into a folder; without an error it is moved there at last.

    A folder that is half filled would be refused when the corrected command is given.
    """
    if folder is None:
        yield None
        return
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with scratch_folder(folder) as place:
            yield place
            for path in sorted(place.glob("[!.]*")):
                os.replace(path, folder / path.name)
    except BaseException:
        if new:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _draw(
    folder: Path,
    places: Sequence[int],
    tasks: Sequence[Pair],
    figures: ErrorFigures,
    table: Sequence[dict[str, Any]],
    files: dict[Any, str],
    others: tuple[Sequence[Pair], ErrorFigures] | None = None,
) -> None:
    """Draw a sheet of each of some images, in this order, into a new folder."""
    from panoptic_tools.error_images import draw_sheet, save_sheet

    folder.mkdir()
    for rank, i in enumerate(places, 1):
        sheet = draw_sheet(
            tasks[i],
            figures.images[i].errors,
            table,
            files.get(tasks[i].image_id),
            other=None if others is None else (others[0][i], others[1].images[i].errors),
        )
        with naming(folder.parent.parent):
            save_sheet(folder, rank, tasks[i], sheet)


def _compare(
    options: argparse.Namespace,
    folder: Path | None,
    tasks: Sequence[Pair],
    others: Sequence[Pair],
    figures: ErrorFigures,
    other: ErrorFigures,
    table: Sequence[dict[str, Any]],
    files: dict[Any, str],
) -> str:
    """Compare `figures` with `other`; with a folder, write that and sheets of the extremes."""
    from panoptic_tools.paired_report import compare, comparison_text, extremes, write_comparison

    comparison = compare(other, figures, options.seed)
    text = comparison_text(other, figures, comparison, table, options.worst)
    if folder is None:
        return text
    with naming(options.errors):
        write_comparison(folder, other, figures, comparison, table, text)
    for name, places in zip(("gains", "losses"), extremes(comparison, options.worst), strict=True):
        _draw(folder / name, places, tasks, figures, table, files, (others, other))
    return text
