"""Find images and their instance masks or label images in a folder of microscope images.

Three layouts are known, and told apart by what is there:

    folders   NAME/images/*  and  NAME/masks/*          one mask file per instance (BBBC038)
    pairs     images/NAME.*  and  masks/NAME.*          label images (StarDist); or labels/
    suffixes  NAME.*  beside  NAME_masks.*              label images (Cellpose, QuPath)

Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from panoptic_common.coco.dataset_files import IMAGE_SUFFIXES, why_missing
from panoptic_common.coco.user_files import printable, require_utf8_name

LABEL_FOLDERS = ("masks", "labels")
# What programs put behind the name of an image to name its label image.
LABEL_ENDINGS = ("_cp_masks", "_masks", "_labels", "_label", "-labels", "-mask", "_mask")
LABEL_SUFFIXES = (*IMAGE_SUFFIXES, ".npy")
_OF_THE_SYSTEM = ("thumbs.db", "desktop.ini")  # Windows puts them into folders that are looked at


@dataclass(frozen=True)
class InstanceSample:
    """One image and where its instances lie.

    Attributes:
        name: unique in the data set.
        image: file of the image.
        masks: mask files, one per instance, by name; empty where there is a label image.
        labels: file of the label image, or None.
        problems: one sentence per entry among the masks that is none.
    """

    name: str
    image: Path
    masks: tuple[Path, ...] = ()
    labels: Path | None = None
    problems: tuple[str, ...] = ()

    @property
    def files(self) -> list[Path]:
        """All files that belong to it."""
        return [self.image, *self.masks, *([self.labels] if self.labels else [])]


@dataclass(frozen=True)
class FoundSamples:
    """What a folder holds.

    Attributes:
        layout: "folders", "pairs" or "suffixes".
        samples: by name.
        problems: one sentence per file or folder that belongs to no sample.
    """

    layout: str
    samples: list[InstanceSample]
    problems: list[str]


def find_samples(folder: str | os.PathLike[str]) -> FoundSamples:
    """Find all samples of a folder.

    Args:
        folder: in one of the layouts of this module.

    Returns:
        The samples, and what is none.

    Raises:
        FileNotFoundError: there is no such folder, or no layout fits; the sentence shows all three.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    label_folder = next((root / name for name in LABEL_FOLDERS if (root / name).is_dir()), None)
    if (root / "images").is_dir() and label_folder is not None:
        return _find_pairs(root / "images", label_folder)
    entries = sorted(root.iterdir())
    if any((entry / "images").is_dir() for entry in entries):
        return _find_folders(entries)
    found = _find_suffixes(entries)
    if found.samples:
        return found
    raise FileNotFoundError(
        f"{root} holds no images with masks; expected is one of\n"
        f"  {root}/NAME/images/ with one image, {root}/NAME/masks/ with one file per instance\n"
        f"  {root}/images/NAME.*, {root}/masks/NAME.* (or labels/) with label images\n"
        f"  {root}/NAME.*, {root}/NAME_masks.* (or {', '.join(LABEL_ENDINGS)})"
    )


def _is_hidden(path: Path) -> bool:
    """Tell whether a system hides an entry (._NAME), or made it for itself."""
    return path.name.startswith(".") or path.name.lower() in _OF_THE_SYSTEM


def _files_of(
    entries: Iterable[Path], suffixes: tuple[str, ...], problems: list[str]
) -> list[Path]:
    """List the files of these kinds that are not hidden.

    Args:
        entries: of a folder.
        suffixes: of the kinds.
        problems: gets a sentence per entry that is called so, but cannot be used: a dead link, say.
    """
    files = []
    for path in entries:
        if path.suffix.lower() not in suffixes or _is_hidden(path):
            continue
        try:
            require_utf8_name(path)
        except ValueError as error:
            problems.append(str(error))
            continue
        if path.is_file():
            files.append(path)
        else:
            problems.append(f"{path}: is no file{why_missing(str(path))}")
    return files


def _find_folders(entries: list[Path]) -> FoundSamples:
    samples: list[InstanceSample] = []
    problems: list[str] = []
    for entry in entries:
        if _is_hidden(entry):
            continue
        if not entry.is_dir():
            if entry.is_symlink() and not entry.exists():
                problems.append(f"{printable(entry)}: is a link that leads nowhere")
            continue
        images, others = _image_files(entry / "images")
        masks, no_masks = _image_files(entry / "masks")
        problems += others
        try:
            require_utf8_name(entry)
        except ValueError as error:
            problems.append(str(error))
            continue
        if len(images) != 1:
            problems.append(f"{entry}/images holds {len(images)} images where one belongs")
        elif not (entry / "masks").is_dir():
            problems.append(f"{entry} has no folder masks")
        else:
            sample = InstanceSample(entry.name, images[0], tuple(masks), problems=tuple(no_masks))
            samples.append(sample)
            continue
        problems += no_masks
    return FoundSamples("folders", samples, problems)


def _image_files(folder: Path) -> tuple[list[Path], list[str]]:
    """List the image files of a folder by name, and a sentence per other entry not hidden."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    files, others = [], []
    for path in entries:
        if _is_hidden(path):
            continue
        is_file = path.is_file()
        if is_file and path.suffix.lower() in IMAGE_SUFFIXES:
            files.append(path)
        else:
            why = "" if is_file else why_missing(os.fspath(path))
            others.append(f"{printable(path)}: no image file{why}, left out")
    return files, others


def _find_pairs(images: Path, label_folder: Path) -> FoundSamples:
    labels: dict[str, Path] = {}
    problems: list[str] = []
    for path in _files_of(sorted(label_folder.iterdir()), LABEL_SUFFIXES, problems):
        name = _image_name(path.stem) or path.stem
        if name in labels:
            problems.append(f"{path}: {labels[name]} has the labels of {name} already")
        labels.setdefault(name, path)
    samples: list[InstanceSample] = []
    for path in _files_of(sorted(images.iterdir()), IMAGE_SUFFIXES, problems):
        name = path.stem if path.stem in labels else _image_name(path.stem) or path.stem
        if name not in labels:
            problems.append(f"{path} has no label image in {label_folder}")
        elif any(sample.name == name for sample in samples):
            problems.append(f"{path}: there is another image called {name}")
        else:
            samples.append(InstanceSample(name, path, labels=labels[name]))
    used = {sample.name for sample in samples}
    problems += [
        f"{path} has no image in {images}" for name, path in labels.items() if name not in used
    ]
    return FoundSamples("pairs", samples, problems)


def _find_suffixes(entries: list[Path]) -> FoundSamples:
    problems: list[str] = []
    files = _files_of(entries, LABEL_SUFFIXES, problems)
    stems = {path.stem for path in files}
    labels: dict[str, Path] = {}
    others = []
    for path in files:
        name = _image_name(path.stem)
        if name is None or name not in stems:
            others.append(path)
        elif name in labels:
            problems.append(f"{path}: {labels[name]} has the labels of {name} already")
        else:
            labels[name] = path
    samples: list[InstanceSample] = []
    for path in others:
        if path.stem not in labels or path.suffix.lower() not in IMAGE_SUFFIXES:
            problems.append(f"{path} has no label image beside it")
        elif any(sample.name == path.stem for sample in samples):
            problems.append(f"{path}: there is another image called {path.stem}")
        else:
            samples.append(InstanceSample(path.stem, path, labels=labels[path.stem]))
    return FoundSamples("suffixes", samples, problems)


def _image_name(stem: str) -> str | None:
    """Strip the ending of a label image's name; None if it has none."""
    for ending in LABEL_ENDINGS:
        if stem.endswith(ending) and len(stem) > len(ending):
            return stem.removesuffix(ending)
    return None
