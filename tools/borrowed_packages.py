"""Detectron2 and panopticapi, unpacked into an environment without pip; for `setup_environment`.

Neither has a release on the package index that can be installed beside today's torch and numpy.
Both are pure Python where this project needs them. So their files suffice, with a dist-info of
their own by which pip lists and removes them.

Detectron2's files come from upstream's archive of one commit, ``COMMIT``. Where it cannot be
reached they come from the wheel of an unrelated project. It carries the same files but for one log
call commented out. Either way only those of ``detectron2_files.sha256`` are taken, and each must
have the digest that stands there. The result is the same tree, byte for byte upstream's. Nothing is
written before all agree.

The list leaves out what the wheel lacks and nothing here imports: ``model_zoo/``, ``projects/``,
the C++ and CUDA sources, and the README files.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = "https://github.com/facebookresearch/detectron2"
COMMIT = "0ad20f13e23f2f4454be6196c1cd38e2171b294c"
ARCHIVE = f"{REPOSITORY}/archive/{COMMIT}.tar.gz"
HASH_LIST = Path(__file__).with_name("detectron2_files.sha256")

# Seconds for the connection and between two pieces of an answer, and for all of it.
PATIENCE, LONGEST_DOWNLOAD = 5.0, 60.0
# Bytes: upstream's archive has 1 MB and unpacks to 5 MB; its largest Python file has 0.2 MB.
LARGEST_DOWNLOAD, LARGEST_CONTENT, LARGEST_FILE = 10_000_000, 50_000_000, 1_000_000

OWN_WAY = (
    "Install Detectron2 and panopticapi yourself (for example `pip install --no-build-isolation "
    f"git+{REPOSITORY}`) and run this with --system-site-packages"
)


@dataclass(frozen=True)
class Package:
    """A package to unpack, and the wheel that carries it.

    Attributes:
        name: top-level folder in the wheel, and the name under which pip lists it.
        version: version under which pip lists it.
        wheel: requirement that names the wheel.
        sha256: digest of the wheel that was examined.
        requires: what its modules import.
        commit: upstream's commit that the files come from, "" if unknown.
        commented_out: a file in which the wheel comments lines out, and the first and the last of
            these lines, counted from 1.
    """

    name: str
    version: str
    wheel: str
    sha256: str
    requires: tuple[str, ...]
    commit: str = ""
    commented_out: tuple[str, int, int] = ("", 0, 0)


DETECTRON2 = Package(
    name="detectron2",
    version="0.6+0ad20f1",
    wheel="roof-mask==0.5.4",
    sha256="26391d9b578ad5530f3b99dace9e25cb74fc4ee389126a32c8dfdfc43c0343c7",
    # What that commit's own setup.py asks for; without black (formats dumped configs), future and
    # pydot (Caffe2 export), which nothing here reaches.
    requires=(
        "Pillow>=7.1",
        "matplotlib",
        "pycocotools>=2.0.2",
        "termcolor>=1.1",
        "yacs>=0.1.8",
        "tabulate",
        "cloudpickle",
        "tqdm>4.29.0",
        "tensorboard",
        "fvcore>=0.1.5,<0.1.6",
        "iopath>=0.1.7,<0.1.11",
        "omegaconf>=2.1,<2.4",
        "hydra-core>=1.1",
        "scipy>1.5.1",
    ),
    commit=COMMIT,
    commented_out=("detectron2/checkpoint/c2_model_loading.py", 324, 329),
)
PANOPTICAPI = Package(
    name="panopticapi",
    version="0.2.0",
    # Its only form on the index demands numpy < 2, which it does not need.
    wheel="panopticapi-lite==0.2.0",
    sha256="58d3ffa842a72240162e7fa744c602a0a5320baabbdb3295d770374f4639b486",
    requires=("numpy", "Pillow"),
)


class SetupError(Exception):
    """A step failed; the message says which and what to do."""


class UnreachableError(Exception):
    """A source did not deliver; the next one may."""


def read_hash_list(path: Path = HASH_LIST) -> dict[str, str]:
    """Return the SHA-256 that each file must have, by its path; `sha256sum -c` reads it, too."""
    lines = path.read_text("utf-8").splitlines()
    pairs = (line.split("  ", 1) for line in lines if not line.startswith("#"))
    return {name: digest for digest, name in pairs}


def collect_detectron2(
    expected: dict[str, str],
    archive_url: str,
    download_wheel: Callable[[Package], Path],
    say: Callable[[str], None],
) -> dict[str, bytes]:
    """Return the files of Detectron2, all checked, from the first source that delivers.

    Args:
        expected: SHA-256 of each file that is wanted.
        archive_url: a gzipped tar archive of upstream's commit.
        download_wheel: brings a package's wheel; called only if the archive cannot be reached.
        say: shows the user a line.

    Raises:
        SetupError: a source delivered something else than the files that were examined.
    """
    try:
        files = files_of_archive(download(archive_url), expected)
    except UnreachableError as error:
        wheel = DETECTRON2.wheel
        say(f"{archive_url} cannot be had ({error}): taking the same files from {wheel}")
        found = files_of_wheel(download_wheel(DETECTRON2), DETECTRON2)
        files = {name: data for name, data in found.items() if name in expected}
    check_files(files, expected)
    return files


def download(url: str) -> bytes:
    """Return what an address delivers.

    Raises:
        UnreachableError: it cannot be reached, answers with an error, stalls, or breaks off.
        SetupError: it sends far more than upstream's archive.
    """
    end = time.monotonic() + LONGEST_DOWNLOAD
    data = b""
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            length = answer.headers.get("Content-Length")
            while part := answer.read1(1 << 16):  # read would wait until all of it is there
                data += part
                if len(data) > LARGEST_DOWNLOAD:
                    raise SetupError(f"refused: {url} sends more than {LARGEST_DOWNLOAD} bytes")
                if time.monotonic() > end:
                    raise UnreachableError(f"not complete after {LONGEST_DOWNLOAD:.0f} s")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnreachableError(getattr(error, "reason", None) or error) from error
    if length is not None and len(data) != int(length):
        raise UnreachableError(f"it broke off after {len(data)} of {length} bytes")
    return data


def files_of_archive(archive: bytes, wanted: dict[str, str]) -> dict[str, bytes]:
    """Return the wanted files of a gzipped tar archive whose content lies in one folder.

    Nothing is unpacked to disk, and a member is looked up by its exact path: one that leads
    elsewhere is never used.

    Raises:
        UnreachableError: it is no complete archive, but say the page of a proxy.
        SetupError: a wanted file is a link or the like, or something is too large.
    """
    files: dict[str, bytes] = {}
    unzip = zlib.decompressobj(wbits=31)  # 31: the gzip format
    try:
        content = unzip.decompress(archive, LARGEST_CONTENT)
        if unzip.unconsumed_tail:
            raise SetupError(f"refused: the archive holds more than {LARGEST_CONTENT} bytes")
        if not unzip.eof:
            raise UnreachableError("the archive is cut off")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                name = member.name.partition("/")[2]
                if name not in wanted:
                    continue
                if not member.isreg() or member.size > LARGEST_FILE:
                    raise SetupError(f"refused: {name} in the archive is no plain small file")
                data = tar.extractfile(member)
                files[name] = data.read() if data else b""
    except (zlib.error, tarfile.TarError) as error:
        raise UnreachableError(f"it sends no gzipped tar archive: {error}") from error
    return files


def files_of_wheel(wheel: Path, package: Package) -> dict[str, bytes]:
    """Return a package's files from a wheel, which must be the one that was examined.

    Raises:
        SetupError: it is another wheel; none of it was unpacked.
    """
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != package.sha256:
        raise SetupError(
            f"refused: {wheel.name} has SHA-256 {found}, but the file that was examined has "
            f"{package.sha256}; the index serves another file under this name. {OWN_WAY}"
        )
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(f"{package.name}/")]
        files = {name: archive.read(name) for name in names if not name.endswith("/")}
    name, first, last = package.commented_out
    if name:
        lines = files[name].splitlines(keepends=True)
        for number in range(first - 1, last):
            lines[number] = lines[number].replace(b"# ", b"", 1)
        files[name] = b"".join(lines)
    return files


def check_files(files: dict[str, bytes], expected: dict[str, str]) -> None:
    """Raise `SetupError` unless all expected files are there and are the expected ones."""
    for name, digest in expected.items():
        if name not in files:
            raise SetupError(f"refused: {name} is missing from what was downloaded. {OWN_WAY}")
        found = hashlib.sha256(files[name]).hexdigest()
        if found != digest:
            raise SetupError(
                f"refused: {name} has SHA-256 {found}, but upstream's file has {digest}; nothing "
                f"was unpacked. {OWN_WAY}"
            )
