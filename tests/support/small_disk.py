"""Commands on a disk of their own that is small or read-only: a tmpfs in a user namespace."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from project import ROOT

_SCRIPT = """
mkdir -p "$disk" && mount -t tmpfs -o "size=$size" none "$disk" || exit 99
[ -z "$first" ] || cp -r "$first/." "$disk"
[ -z "$read_only" ] || mount -o remount,ro "$disk" || exit 99
"$@"
status=$?
cp -r "$disk" "$copy"
exit $status
"""


def run_on_disk(
    disk: Path, size: str, *command: str, first: str = "", read_only: bool = False, **more: str
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run a command with a small disk mounted; skip the test where that is not allowed.

    Args:
        disk: where it is mounted.
        size: such as "2m".
        command: and its arguments.
        first: folder whose contents lie on it from the start.
        read_only: mount it so.
        more: environment variables.

    Returns:
        The ended process, and a copy of what it left on the disk.
    """
    copy = disk.with_name(f"{disk.name}_left")
    shutil.rmtree(copy, ignore_errors=True)
    path = [str(ROOT), str(ROOT / "tests/support"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    environment |= {"disk": str(disk), "size": size, "first": first, "copy": str(copy)}
    environment |= {"read_only": "yes" if read_only else "", **more}
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", _SCRIPT, "sh", *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    if done.returncode == 99 or "unshare failed" in done.stderr:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    return done, copy
