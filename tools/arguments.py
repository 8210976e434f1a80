"""Command lines of all programs: options that several share, and how a program refuses.

The rule for messages stands in `CONTRIBUTING.md`. `Parser` follows it for options, `input_file`
and its like for paths, `refuse` for everything else. None needs torch or Detectron2.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from panoptic_common.coco.user_files import error_text, open_regular
from panoptic_common.processes import stopping
from panoptic_common.processes.output import UNREAD, complete_streams, nobody_reads
from panoptic_tools.outputs import DISK_IS_FULL, require_file_taken

FAULTY, REFUSED = 1, 2  # exit statuses: fault was found in the data; the command line is wrong

# ------------------------------------------------------------------------------------ refusing


class Parser(argparse.ArgumentParser):
    """A parser that complains in one sentence; `--help` says the rest."""

    def error(self, message: str) -> NoReturn:
        """End the program with status `REFUSED`."""
        self.exit(REFUSED, f"{self.prog}: {message}\n")


def refuse(program: str, error: object, status: int = REFUSED) -> int:
    """Say why a program ends, and return its exit status.

    Args:
        program: ``__file__`` of the program.
        error: the sentence, or the exception that holds it.
        status: `REFUSED`, or `FAULTY` where the program has done its work on faulty data; it is
            `FAULTY`, too, where the disk was full.
    """
    if isinstance(error, BrokenPipeError):  # `orderly` knows whether that is a fault
        raise error
    with contextlib.suppress(OSError):  # the terminal may be closed
        print(f"{Path(program).name}: {error_text(error)}", file=sys.stderr)
    return FAULTY if isinstance(error, OSError) and error.errno in DISK_IS_FULL else status


def orderly(main: Callable[..., int]) -> Callable[..., int]:
    """Let SIGTERM, SIGHUP and Ctrl-C end a program in good order; decorates its `main`.

    What it holds is given back: temporary files and folders, worker processes, locks. One sentence
    says so; the status is 143, 129 or 130. Without a word it ends by `UNREAD` where its output's
    reader has gone, as `head` does.
    """

    @functools.wraps(main)
    def run(*words: Any) -> int:
        complete_streams()
        program = main.__globals__["__file__"]
        with stopping.orderly_end():
            try:
                return stopping.ended(main(*words))
            except SystemExit as end:
                status = stopping.status_of(end)
                sentence = f"ended by {signal.Signals(status - 128).name}"
                return stopping.ended(refuse(program, sentence, status))
            except OSError as error:
                if nobody_reads(error):
                    return UNREAD
                if error.errno in DISK_IS_FULL:  # that of the output, too
                    return refuse(program, error)
                raise

    return run


def make_parser(document: str | None, *, whole: bool = False) -> Parser:
    """Return a parser that describes a program by its docstring.

    Args:
        document: the docstring.
        whole: show all of it, laid out as it is, and not its first paragraph alone.
    """
    text = document or ""
    if not whole:
        return Parser(description=text.split("\n\n")[0])
    return Parser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)


def checked(parser: Parser, load: Callable[[], Any]) -> Any:
    """Return what a function loads; its ValueError, KeyError or OSError ends the program."""
    try:
        return load()
    except (ValueError, KeyError, OSError, AssertionError) as error:
        parser.error(error_text(error))


# --------------------------------------------------------------------------------------- paths


def input_file(text: str) -> Path:
    """Take a regular file that can be read; a `type` for arguments, as the next three."""
    try:
        open_regular(text).close()
    except FileNotFoundError:
        raise argparse.ArgumentTypeError(f"there is no file {text}") from None
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(error_text(error)) from error
    return Path(text)


def input_folder(text: str) -> Path:
    """Take a folder that can be listed."""
    try:
        os.scandir(text).close()
    except FileNotFoundError:
        raise argparse.ArgumentTypeError(f"there is no folder {text}") from None
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(error_text(error)) from error
    return Path(text)


def output_file(text: str) -> Path:
    """Take the name of a file to write into a folder that exists."""
    path, folder = Path(text), Path(text).absolute().parent
    if os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{text} is a folder: name a file in it")
    if os.path.exists(path) and not os.path.isfile(path):  # it would be replaced by a file
        raise argparse.ArgumentTypeError(f"{text} is a pipe or a device, no regular file")
    if not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(f"{text}: its folder does not exist")
    require_file_taken(text, folder, path.name)
    return path


def output_folder(text: str) -> Path:
    """Take the name of a folder to write to, which may have to be made."""
    path = Path(text).absolute()
    above = next(place for place in (path, *path.parents) if os.path.exists(place))
    if not os.path.isdir(above):
        raise argparse.ArgumentTypeError(f"{text}: {above} is a file, no folder")
    require_file_taken(text, above, *path.relative_to(above).parts)
    return Path(text)


def duration(text: str) -> float:
    """Take a time such as 90s, 30m, 1.5h or 2d; returns seconds."""
    try:
        seconds = float(text[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[text[-1:]]
    except (ValueError, KeyError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no time, such as 90s, 30m, 1.5h or 2d")
    return seconds


# ------------------------------------------------------------------------------------- options


def require_at_least(parser: Parser, parsed: argparse.Namespace, least: int, *names: str) -> None:
    """End the program unless each of some numbers, or of their lists, is `least` or more.

    Args:
        parser: of the program.
        parsed: what it has read.
        least: the smallest value allowed.
        names: attributes of `parsed`; None and empty lists pass.
    """
    for name in names:
        value = getattr(parsed, name)
        numbers = value if isinstance(value, (list, tuple)) else [value]
        if any(number is not None and not number >= least for number in numbers):
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")


def require_pairs(parser: Parser, opts: Sequence[str]) -> None:
    """End the program unless config options come in pairs."""
    if len(opts) % 2:
        parser.error("opts are pairs of key and value")


def add_register_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--register``: a list of (name, images, JSON, PNGs), for `load_config`'s `datasets`."""
    parser.add_argument(
        "--register",
        nargs=4,
        action="append",
        default=[],
        metavar=("NAME", "IMAGES", "JSON", "PNGS"),
        help="register a data set in the COCO panoptic format under NAME; may be repeated",
    )


def add_images_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--register-images``: a list of (name, images, JSON, classes) for `load_config`."""
    parser.add_argument(
        "--register-images",
        nargs=4,
        action="append",
        default=[],
        metavar=("NAME", "IMAGES", "JSON", "CLASSES"),
        help="register images without truth, which JSON lists, under NAME; CLASSES is a JSON with "
        "the categories, such as that of the training set; may be repeated",
    )


def add_unsafe_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-unsafe-checkpoint``, for `allow_unsafe` of the readers of weights."""
    parser.add_argument(
        "--allow-unsafe-checkpoint",
        action="store_true",
        help="read weights whose file may run any code; only for files you trust",
    )


def add_import_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--import`` and ``--add-config``, for `import_modules`."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE",
        help="import a module that registers a meta-architecture with Detectron2; may be repeated",
    )
    parser.add_argument(
        "--add-config",
        action="append",
        default=[],
        metavar="FUNCTION",
        help="function of these modules that adds config keys (default: the one add_..._config of "
        "each); may be repeated",
    )
