"""Run the blocks of a page of the documentation as a reader does, in order, in a folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from project import ROOT

from panoptic_common.engine.training_run import with_packages

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks_of(page: Path) -> list[tuple[str, str]]:
    """Language and text of each block."""
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def run_page(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run all blocks of a page in an empty folder; returns what its commands print.

    Python runs in one namespace, here; what stands between two blocks of Python, as commands of one
    shell. A block of YAML that begins with `# name.yaml` is written to that file.
    """
    (folder / "bin").mkdir()
    (folder / "bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / "bin/python").chmod(0o755)
    for name in ("tools", "configs"):
        (folder / name).symlink_to(ROOT / name)
    monkeypatch.chdir(folder)
    namespace: dict = {}
    said, commands = "", ""
    for language, text in [*blocks_of(page), ("python", "")]:
        if language == "python":
            said += run_bash(commands, folder) if commands else ""
            commands = ""
            exec(compile(text, page.name, "exec"), namespace)
        elif language == "yaml":
            name = re.match(r"# (\S+)\n", text)
            assert name is not None, text
            (folder / name.group(1)).write_text(text, encoding="utf-8")
        else:
            assert language == "bash", language
            commands += text
    return said


def run_bash(text: str, folder: Path) -> str:
    """Run shell commands; returns what they print."""
    environment = {**os.environ, **with_packages(ROOT), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = os.pathsep.join([str(folder / "bin"), environment["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout
