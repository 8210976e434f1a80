"""Find images and their instance masks or label images in a folder of microscope images.

Three layouts are known, and told apart by what is there:

    folders   NAME/images/*  and  NAME/masks/*          one mask file per instance (BBBC038)
    pairs     images/NAME.*  and  masks/NAME.*          label images (StarDist); or labels/
    suffixes  NAME.*  beside  NAME_masks.*              label images (Cellpose, QuPath)

Standard library only.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from panoptic_common.coco.dataset_files import IMAGE_SUFFIXES

LABEL_FOLDERS = ("masks", "labels")
# What programs put behind the name of an image to name its label image.
LABEL_ENDINGS = ("_cp_masks", "_masks", "_labels", "_label", "-labels", "-mask", "_mask")
LABEL_SUFFIXES = (*IMAGE_SUFFIXES, ".npy")


@dataclass(frozen=True)
class InstanceSample:
    """One image and where its instances lie.

    Attributes:
        name: unique in the data set.
        image: file of the image.
        masks: mask files, one per instance, by name; empty where there is a label image.
        labels: file of the label image, or None.
    """

    name: str
    image: Path
    masks: tuple[Path, ...] = ()
    labels: Path | None = None


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
    found = _find_suffixes([entry for entry in entries if _is_file_of(entry, LABEL_SUFFIXES)])
    if found.samples:
        return found
    raise FileNotFoundError(
        f"{root} holds no images with masks; expected is one of\n"
        f"  {root}/NAME/images/ with one image, {root}/NAME/masks/ with one file per instance\n"
        f"  {root}/images/NAME.*, {root}/masks/NAME.* (or labels/) with label images\n"
        f"  {root}/NAME.*, {root}/NAME_masks.* (or {', '.join(LABEL_ENDINGS)})"
    )


def _is_file_of(path: Path, suffixes: tuple[str, ...]) -> bool:
    """Tell whether a path is a file of these kinds, and none that a system hides (._NAME)."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()


def _find_folders(entries: list[Path]) -> FoundSamples:
    samples: list[InstanceSample] = []
    problems: list[str] = []
    for entry in entries:
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        images = _image_files(entry / "images", problems)
        masks = _image_files(entry / "masks", problems)
        if len(images) != 1:
            problems.append(f"{entry}/images holds {len(images)} images where one belongs")
        elif not (entry / "masks").is_dir():
            problems.append(f"{entry} has no folder masks")
        else:
            samples.append(InstanceSample(entry.name, images[0], tuple(masks)))
    return FoundSamples("folders", samples, problems)


def _image_files(folder: Path, problems: list[str]) -> list[Path]:
    """List the image files of a folder by name; others that are not hidden become problems."""
    files = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if _is_file_of(path, IMAGE_SUFFIXES):
            files.append(path)
        elif not path.name.startswith("."):
            problems.append(f"{path}: no image file, left out")
    return files


def _find_pairs(images: Path, label_folder: Path) -> FoundSamples:
    labels: dict[str, Path] = {}
    problems = []
    for path in sorted(label_folder.iterdir()):
        if not _is_file_of(path, LABEL_SUFFIXES):
            continue
        name = _image_name(path.stem) or path.stem
        if name in labels:
            problems.append(f"{path}: {labels[name]} has the labels of {name} already")
        labels.setdefault(name, path)
    samples: list[InstanceSample] = []
    for path in sorted(images.iterdir()):
        if not _is_file_of(path, IMAGE_SUFFIXES):
            continue
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


def _find_suffixes(files: list[Path]) -> FoundSamples:
    stems = {path.stem for path in files}
    labels: dict[str, Path] = {}
    others, problems = [], []
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
