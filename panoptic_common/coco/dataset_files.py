"""The files that a COCO-panoptic JSON names: where they are, and that no two images share one.

Training and `tools/check_dataset.py` both find files through this module. Folders are listed, not
probed file by file, which matters on network file systems. Standard library only.
"""

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from panoptic_common.coco.annotations import PanopticPaths

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# What listing a folder fails with where the name cannot be that of a folder at all.
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


class DatasetFiles:
    """Finder of the files of one data set, which remembers whose they are.

    Args:
        paths: where the data set lies.
    """

    def __init__(self, paths: PanopticPaths) -> None:
        self._paths = paths
        self._finder = ImageFinder(paths.images)
        self._listings: dict[str, frozenset[str]] = {}
        self._owners: dict[str, Any] = {}

    def find_image(self, image: Mapping[str, Any], png_name: str) -> str | None:
        """Return what `ImageFinder.find` does."""
        return self._finder.find(image, png_name)

    def find_png(self, png_name: str) -> str | None:
        """Return the path of a PNG, or None if it is no file."""
        path = self.png_path(png_name)
        is_there = os.path.basename(path) in list_folder(os.path.dirname(path), self._listings)
        return path if is_there else None

    def png_path(self, png_name: str) -> str:
        """Return where a PNG belongs."""
        return os.path.join(self._paths.panoptic_png, png_name)

    def image_path(self, image: Mapping[str, Any]) -> str:
        """Return where an image belongs."""
        return os.path.join(self._paths.images, image["file_name"])

    def sharing_problems(self, image_id: Any, *files: str | None) -> list[str]:
        """Note whose files these are; return a sentence per file that serves twice.

        Args:
            image_id: of the image.
            files: its image file and its PNG, as far as they are there.
        """
        problems = []
        for path in filter(None, files):
            owner = self._owners.setdefault(os.path.normpath(path), image_id)
            if owner != image_id:
                problems.append(f"image {image_id}: its file {path} is that of image {owner} too")
        # Mostly a folder of PNGs that was named where images belong. Photographs are no PNGs.
        there = [path for path in files if path and path.lower().endswith(".png")]
        if len(there) == 2 and os.path.samefile(*there):
            problems.append(
                f"image {image_id}: the image and its panoptic PNG are one file, {there[0]}; name "
                "the folder of the images"
            )
        return problems


def why_missing(path: str) -> str:
    """Return how a path that is no file is there nevertheless, for a message; mostly ""."""
    if os.path.isdir(path):
        return " (a folder has this name)"
    if os.path.islink(path):
        return " (a link of this name leads nowhere)"
    if os.path.exists(path):
        return " (a pipe or device has this name)"
    return _near_name(path)


def _near_name(path: str) -> str:
    """Return which file looks like a missing one, for a message: capitals or accents differ.

    An accent is one character or two, as a Mac writes it, and both look the same.
    """
    folder, name = os.path.split(path.replace("\\", "/"))
    try:
        others = sorted(list_folder(folder, {}))
    except OSError:
        others = []
    near = next((other for other in others if _alike(other) == _alike(name)), None)
    if near is None:
        return ""
    same = unicodedata.normalize("NFC", near) == unicodedata.normalize("NFC", name)
    what = "whose accents are other characters" if same and near != name else f"called {near!r}"
    return f" (there is a file {what}: names must agree to the letter)"


def _alike(name: str) -> str:
    """Return a name without the differences that a reader hardly sees."""
    return unicodedata.normalize("NFC", name).casefold().strip()


class ImageFinder:
    """Finder of the file of an image, from what the JSON says about it.

    These names are tried in order. First the name in `images` below the folder, then the same name
    in a subfolder. Next an image with the stem of the panoptic PNG (COCO's `000000142238.png`
    belongs to `000000142238.jpg`). At last an image called `<image id>_leftImg8bit` (Cityscapes'
    own converter writes a file name into the JSON that does not exist). Folders are listed, not
    probed file by file, which matters on network file systems. The subfolders are listed only if a
    name does not lead to a file directly.

    Args:
        images: folder of the images.
    """

    def __init__(self, images: str) -> None:
        self._images = images
        self._listings: dict[str, frozenset[str]] = {}
        self._tree: dict[str, list[str]] | None = None

    def find(self, image: Mapping[str, Any], png_name: str) -> str | None:
        """Return the path of the image, or None if there is none.

        Args:
            image: its entry in `images`.
            png_name: `file_name` of its annotation.

        Raises:
            ValueError: if several files fit equally well.
        """
        name = image["file_name"]
        if self._is_listed(name):
            return os.path.join(self._images, name)
        stem = os.path.splitext(os.path.basename(png_name))[0]
        for key in (os.path.basename(name), stem, f"{image['id']}_leftImg8bit"):
            found = self._below(key)
            if len(found) > 1:
                raise ValueError(
                    f"image {image['id']}: {len(found)} files fit the name {key!r}"
                    f" ({', '.join(found[:3])}, ...); give the path below {self._images}"
                    " in images[].file_name"
                )
            if found:
                return found[0]
        return None

    def _is_listed(self, name: str) -> bool:
        folder, base = os.path.split(os.path.join(self._images, name))
        return base in list_folder(folder, self._listings)

    def _below(self, key: str) -> list[str]:
        """Return the files with this name, or this name without its suffix, in the whole tree."""
        if self._tree is None:
            self._tree = {}
            for folder in _folders_below(self._images):
                for file in sorted(list_folder(folder, self._listings)):
                    stem, suffix = os.path.splitext(file)
                    path = os.path.join(folder, file)
                    self._tree.setdefault(file, []).append(path)
                    if suffix.lower() in IMAGE_SUFFIXES:
                        self._tree.setdefault(stem, []).append(path)
        return self._tree.get(key, [])


def _folders_below(root: str) -> Iterator[str]:
    """Yield a folder and all below it, links followed, each once: a link may lead to its parent."""
    seen = set()
    for folder, names, _ in os.walk(root, followlinks=True):
        try:
            place = os.stat(folder)
        except OSError:  # it has just gone
            place = None
        key = place and (place.st_dev, place.st_ino)
        if key is None or key in seen:
            names.clear()  # `os.walk` goes into what is left of them
            continue
        seen.add(key)
        yield folder


def list_folder(folder: str, cache: dict[str, frozenset[str]]) -> frozenset[str]:
    """Return the regular files in a folder, links to some included; from `cache` if known.

    Args:
        folder: its path; one that does not exist has no files.
        cache: what was found so far, by folder.

    Raises:
        OSError: the folder is there, but may not be read.
    """
    if folder not in cache:
        cache[folder] = frozenset()
        try:
            # The kind of a file comes with its name: no further call, but for links.
            with os.scandir(folder) as entries:
                cache[folder] = frozenset(entry.name for entry in entries if _is_file(entry))
        except ValueError:  # a NUL byte in the name
            pass
        except OSError as error:
            if error.errno not in _NO_FOLDER:
                raise
    return cache[folder]


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a regular file; a link that leads to itself is none."""
    try:
        return entry.is_file()
    except OSError:
        return False
