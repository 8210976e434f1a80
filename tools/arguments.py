"""Options that several programs share."""

from __future__ import annotations

import argparse


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
