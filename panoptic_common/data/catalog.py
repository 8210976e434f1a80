"""Data sets by name: everything Detectron2 wants to know comes from the panoptic JSON.

    register_panoptic("my_streets", images="images", panoptic_json="truth.json",
                      panoptic_png="truth")

is all that a data set of one's own needs: class names, colours, what is a thing, the mapping of
category ids to contiguous ones. No instances JSON and no folder of semantic maps is read. Masks,
boxes and semantic maps are derived from the panoptic PNG when an image is used.

Classes have one table for things and stuff. The contiguous id of a class, 0..K-1, is its rank among
the category ids. This is what Detectron2 calls the "standard" form; its "separated" form, in which
thing 3 and stuff 3 differ, is not used anywhere here.

Registering is cheap: the JSON is read at the first use.
"""

from __future__ import annotations

import difflib
import functools
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_common.coco.annotations import PanopticPaths, build_class_table, read_panoptic_json
from panoptic_common.coco.image_info import read_class_table, read_image_records
from panoptic_common.coco.records import read_records, try_records
from panoptic_common.data.builtin_sets import ANNOTATED, HINTS, TEST_SETS
from panoptic_common.data.class_metadata import class_metadata

logger = logging.getLogger(__name__)

IGNORE_LABEL = 255
LABEL_DIVISOR = 1000
WITHOUT_TRUTH = "submission"  # the evaluator_type of images alone

_SCENE_SPLITS = ("train", "val", "test")
# Sizes in pixels; difficulty from 0 (easy) to 1 (hard).
DEFAULT_SCENES: Mapping[str, int | float] = {
    "HEIGHT": 192,
    "WIDTH": 384,
    "DIFFICULTY": 0.25,
    "NUM_TRAIN": 800,
    "NUM_VAL": 60,
    "NUM_TEST": 100,
    "SEED": 0,
}


@dataclass(frozen=True)
class _Source:
    """One registered data set.

    Attributes:
        paths: where it lies.
        evaluator_type: how it is evaluated.
        hint: one sentence for errors about missing files.
        prepare: called before the files are read; makes them if they are made on first use.
        make_table: gives the class table where the JSON does not, or need not be read for it.
        submission: how a test server wants the files called; {} stands for the method.
        classes: file that the classes of images without truth come from.
    """

    paths: PanopticPaths
    evaluator_type: str
    hint: str = ""
    prepare: Callable[[], object] | None = field(default=None, compare=False)
    make_table: Callable[[], list[dict[str, Any]]] | None = field(default=None, compare=False)
    submission: str = "{}"
    classes: str = ""


_SOURCES: dict[str, _Source] = {}
_CLASS_TABLES: dict[str, list[dict[str, Any]]] = {}
_COUNTS: dict[str, tuple[int, int]] = {}  # images and segments of what was read so far


# ------------------------------------------------------------------------------- registering


def register_panoptic(
    name: str,
    images: str | os.PathLike[str],
    panoptic_json: str | os.PathLike[str],
    panoptic_png: str | os.PathLike[str],
    evaluator_type: str = "panoptic",
) -> None:
    """Register one split of a data set in the COCO panoptic form; repeating it is harmless.

    Args:
        name: what configs call it, e.g. in DATASETS.TRAIN.
        images: folder of the images.
        panoptic_json: annotation file, with images, annotations and categories.
        panoptic_png: folder of the panoptic PNGs.
        evaluator_type: "panoptic", or "cityscapes_panoptic" for Cityscapes' own measures.

    Raises:
        ValueError: if the name stands for another data set already.
    """
    paths = PanopticPaths(os.fspath(images), os.fspath(panoptic_json), os.fspath(panoptic_png))
    _register(name, _Source(paths, evaluator_type))


def register_images(
    name: str,
    images: str | os.PathLike[str],
    info_json: str | os.PathLike[str],
    classes: str | os.PathLike[str],
) -> None:
    """Register images without truth, to predict on; repeating it is harmless.

    Args:
        name: what configs call it, in DATASETS.TEST.
        images: folder of the images.
        info_json: "image info" file with the list `images`; other lists in it do not matter.
        classes: file with panoptic `categories`: those of the training set, mostly its JSON.

    Raises:
        ValueError: if the name stands for another data set already.
    """
    paths = PanopticPaths(os.fspath(images), os.fspath(info_json), "")
    file = os.fspath(classes)
    make_table = functools.partial(read_class_table, file)
    _register(name, _Source(paths, WITHOUT_TRUTH, make_table=make_table, classes=file))


def has_truth(name: str) -> bool:
    """Tell whether a data set has annotations, or images only.

    Raises:
        ValueError: if the name is unknown.
    """
    return _source(name).evaluator_type != WITHOUT_TRUTH


def _register(name: str, source: _Source, replace: bool = False) -> None:
    """Enter a data set into Detectron2's catalogs and into ours."""
    if name in DatasetCatalog and not replace:
        if _SOURCES.get(name) == source:
            return
        known = _SOURCES[name].paths if name in _SOURCES else "a data set not registered here"
        raise ValueError(
            f"data set {name!r} is registered already, as {known}; choose another name for"
            f" {source.paths}"
        )
    _forget(name)
    _SOURCES[name] = source
    DatasetCatalog.register(name, functools.partial(_load, name))
    MetadataCatalog.get(name).set(
        panoptic_json=source.paths.panoptic_json,
        panoptic_root=source.paths.panoptic_png,
        image_root=source.paths.images,
        evaluator_type=source.evaluator_type,
        submission=source.submission,
        ignore_label=IGNORE_LABEL,
        label_divisor=LABEL_DIVISOR,
    )


def _forget(name: str) -> None:
    """Remove a name from the catalogs, so that metadata of another data set cannot remain."""
    for catalog in (DatasetCatalog, MetadataCatalog, _SOURCES, _CLASS_TABLES, _COUNTS):
        catalog.pop(name, None)


def register_builtin(root: str | os.PathLike[str] | None = None) -> None:
    """Register COCO, Cityscapes, nuclei and the synthetic scenes.

    Detectron2's own entries of `coco_2017_{train,val}_panoptic` and
    `cityscapes_fine_panoptic_{train,val}` are replaced: they need further files (semantic maps,
    instances) and hide part of the metadata. So is `coco_2017_test-dev`, which has no stuff there.
    `cityscapes_test` and `nuclei_{train,val}` are what the tools `prepare_...` make.
    `scenes_{train,val,test}` are added with the default settings, unless `register_scenes` has
    registered them below this root.

    Args:
        root: the folder above `coco/`, `cityscapes/`, `nuclei/` and `scenes/`; by default the
            environment variable DETECTRON2_DATASETS, or else `datasets`.
    """
    root = builtin_root() if root is None else os.fspath(root)
    sources = {}
    for name, (*relative, evaluator_type) in ANNOTATED.items():
        paths = PanopticPaths(*(os.path.join(root, path) for path in relative))
        sources[name] = _Source(paths, evaluator_type, HINTS[name.split("_")[0]])
    for name, test in TEST_SETS.items():
        paths = PanopticPaths(*(os.path.join(root, path) for path in test[:2]), "")
        table = functools.partial(build_class_table, test.categories(), "Detectron2")
        sources[name] = _Source(
            paths, WITHOUT_TRUTH, test.hint, None, table, submission=test.submission
        )
    for name, source in sources.items():
        if _SOURCES.get(name) != source or name not in DatasetCatalog:
            _register(name, source, replace=True)
    scenes = os.path.join(root, "scenes", "")
    if not all(
        name in _SOURCES and _SOURCES[name].paths.images.startswith(scenes)
        for name in (f"scenes_{split}" for split in _SCENE_SPLITS)
    ):
        register_scenes(root)


def register_scenes(
    root: str | os.PathLike[str] | None = None, settings: Mapping[str, Any] | None = None
) -> None:
    """Register `scenes_train`, `scenes_val` and `scenes_test`, the synthetic street scenes.

    They are generated at the first use, into a folder below `<root>/scenes` that is named after the
    settings. A run with other settings therefore leaves them alone. Registering them again, with
    the same or with other settings, replaces the three names.

    Args:
        root: as in `register_builtin`.
        settings: HEIGHT, WIDTH, DIFFICULTY, SEED, NUM_TRAIN, NUM_VAL and NUM_TEST, that is,
            `cfg.DATASETS.SCENES`; by default `DEFAULT_SCENES`.
    """
    root = builtin_root() if root is None else os.fspath(root)
    settings = DEFAULT_SCENES if settings is None else settings
    for split in _SCENE_SPLITS:
        source = _scene_source(root, split, settings)
        if _SOURCES.get(f"scenes_{split}") != source or f"scenes_{split}" not in DatasetCatalog:
            _register(f"scenes_{split}", source, replace=True)


def _scene_source(root: str, split: str, settings: Mapping[str, Any]) -> _Source:
    """Say where the scenes of a split lie and how they are made; touches no file."""
    from panoptic_common.scenes.storage import CLASSES, SceneConfig, write_scenes

    count, seed = int(settings[f"NUM_{split.upper()}"]), int(settings["SEED"])
    config = SceneConfig(
        height=int(settings["HEIGHT"]),
        width=int(settings["WIDTH"]),
        difficulty=float(settings["DIFFICULTY"]),
    )
    # The number of scenes is part of the name too: another run may be reading the split.
    size = f"{config.height}x{config.width}"
    label = f"{size}_difficulty{config.difficulty:g}_seed{seed}_n{count}"
    folder = os.path.join(root, "scenes", label)
    # Starting processes takes longer than making a few scenes.
    workers = min(8, os.cpu_count() or 1) if count >= 100 else 1
    return _Source(
        paths=PanopticPaths(
            images=os.path.join(folder, split, "images"),
            panoptic_json=os.path.join(folder, f"panoptic_{split}.json"),
            panoptic_png=os.path.join(folder, split, "panoptic"),
        ),
        evaluator_type="panoptic",
        prepare=functools.partial(write_scenes, folder, split, count, seed, config, workers),
        make_table=functools.partial(
            build_class_table, CLASSES, "panoptic_common.scenes.storage.CLASSES"
        ),
    )


def builtin_root() -> str:
    """Return the folder of the built-in data sets: $DETECTRON2_DATASETS, or else `datasets`."""
    return os.path.expanduser(os.environ.get("DETECTRON2_DATASETS", "datasets"))


# ----------------------------------------------------------------------------------- reading


def load_panoptic(name: str) -> list[dict[str, Any]]:
    """Read a data set and fill its metadata.

    Args:
        name: a registered name.

    Returns:
        One dict per image: `file_name`, `image_id`, `height`, `width`. Where there is truth, also
        `pan_seg_file_name` and `segments_info`, a list of ``{"id", "category_id" (contiguous),
        "isthing", "iscrowd", "area", "bbox" (x, y, width, height)}``.

    Raises:
        ValueError: if the name is unknown or the JSON is wrong; the sentence names the place.
        FileNotFoundError: naming the first missing file and the expected tree.
    """
    _source(name)
    return DatasetCatalog.get(name)


def require_files(name: str) -> None:
    """Read a data set as training does, and look into a few of its files.

    Args:
        name: a registered name.

    Raises:
        ValueError, FileNotFoundError: as `load_panoptic`, and for files that are no images or PNGs
            of a panoptic data set.
    """
    try_records(load_panoptic(name))


def class_table(name: str) -> list[dict[str, Any]]:
    """Return the classes of a data set in contiguous order; fills its metadata.

    Args:
        name: a registered name.

    Returns:
        K dicts ``{"id", "name", "isthing": 0 or 1, "color": [r, g, b]}``, a copy of its own.

    Raises:
        ValueError, FileNotFoundError: as `load_panoptic`.
    """
    source = _source(name)
    if name not in _CLASS_TABLES:
        table = _read_table(source) if source.make_table is None else source.make_table()
        _fill_metadata(name, table)
    return [{**entry, "color": list(entry["color"])} for entry in _CLASS_TABLES[name]]


def count_segments(name: str) -> tuple[int, int]:
    """Return the number of images and of segments of a data set; reads it if nobody has yet.

    Raises:
        ValueError, FileNotFoundError: as `load_panoptic`.
    """
    if name not in _COUNTS:
        load_panoptic(name)
    return _COUNTS[name]


def dataset_paths(name: str) -> PanopticPaths:
    """Return where a data set lies, after making it if it is made on first use.

    Raises:
        ValueError: if the name is unknown.
    """
    source = _source(name)
    if source.prepare is not None:
        source.prepare()
    return source.paths


def _source(name: str) -> _Source:
    """Look a name up; an unknown one is an error that says what is known."""
    if is_registered(name):
        return _SOURCES[name]
    if name in DatasetCatalog:
        raise ValueError(
            f"data set {name!r} is known to Detectron2 only, not as a panoptic data set: register"
            " it with panoptic_common.data.catalog.register_panoptic"
        )
    near = difflib.get_close_matches(name, _SOURCES, n=1, cutoff=0.8)
    raise ValueError(
        f"unknown data set {name!r}{f' (did you mean {near[0]!r}?)' if near else ''}; registered:"
        f" {', '.join(sorted(_SOURCES)) or 'none'}. Programs take one of your own by --register"
        f" {name} IMAGES JSON PNGS. Python does by panoptic_common.data.catalog.register_panoptic,"
        " and registers what is built in by register_builtin"
    )


def _read_table(source: _Source) -> list[dict[str, Any]]:
    """Read the class table of the JSON."""
    try:
        data = read_panoptic_json(source.paths)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}\n{source.hint}".rstrip()) from None
    return build_class_table(data["categories"], source.paths.panoptic_json)


def is_registered(name: str) -> bool:
    """Tell whether a name stands for a panoptic data set that was registered here."""
    return name in _SOURCES and name in DatasetCatalog


def _fill_metadata(name: str, table: list[dict[str, Any]]) -> None:
    """Derive the metadata from the class table."""
    _CLASS_TABLES[name] = table
    # Not by set(), which refuses new values: the JSON may have been corrected since the last call.
    vars(MetadataCatalog.get(name)).update(class_metadata(name, table))


def _load(name: str) -> list[dict[str, Any]]:
    """Read a data set; what DatasetCatalog.get(name) calls."""
    source = _source(name)
    paths = dataset_paths(name)
    try:
        if source.evaluator_type == WITHOUT_TRUTH and source.make_table is not None:
            table = source.make_table()
            records = read_image_records(paths.images, paths.panoptic_json)
        else:
            table, records = read_records(paths)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}\n{source.hint}".rstrip()) from None
    _fill_metadata(name, table)
    _COUNTS[name] = len(records), sum(len(record.get("segments_info", ())) for record in records)
    logger.info(
        "%s: %d images, %d classes, from %s", name, len(records), len(table), paths.panoptic_json
    )
    return records
