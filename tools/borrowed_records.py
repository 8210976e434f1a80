"""Write a borrowed package into an environment as pip would; for `setup_environment`.

Standard library only, as there.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

from borrowed_packages import REPOSITORY, Package

INSTALLER = "setup_environment.py"


def unpack(files: dict[str, bytes], package: Package, site_packages: Path) -> None:
    """Write a package and its dist-info into an environment, in place of an older one.

    All is written next to its place first, then renamed, the package last: what can be imported is
    complete.
    """
    dist_info = f"{package.name}-{package.version}.dist-info"
    with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=site_packages) as part:
        for name, data in {**files, **records(files, dist_info, package)}.items():
            target = Path(part, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        for name in (dist_info, package.name):
            shutil.rmtree(site_packages / name, ignore_errors=True)
            os.rename(Path(part, name), site_packages / name)


def records(files: dict[str, bytes], dist_info: str, package: Package) -> dict[str, bytes]:
    """Return the files by which pip lists and uninstalls a package."""
    requires = "".join(f"Requires-Dist: {requirement}\n" for requirement in package.requires)
    source = {"url": REPOSITORY, "vcs_info": {"vcs": "git", "commit_id": package.commit}}
    texts = {
        "METADATA": "Metadata-Version: 2.1\n"
        f"Name: {package.name}\nVersion: {package.version}\n"
        f"Summary: Python files, unpacked by tools/{INSTALLER}\n{requires}",
        "WHEEL": f"Wheel-Version: 1.0\nGenerator: {INSTALLER}\n"
        "Root-Is-Purelib: true\nTag: py3-none-any\n",
        "INSTALLER": f"{INSTALLER}\n",
        "top_level.txt": f"{package.name}\n",
        **({"direct_url.json": json.dumps(source)} if package.commit else {}),
    }
    made = {f"{dist_info}/{name}": text.encode() for name, text in texts.items()}
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    for name, data in sorted({**files, **made}.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        writer.writerow((name, f"sha256={digest}", len(data)))
    writer.writerow((f"{dist_info}/RECORD", "", ""))
    return {**made, f"{dist_info}/RECORD": table.getvalue().encode()}


def is_outdated(package: Package, site_packages: Path) -> bool:
    """Tell whether an earlier set-up unpacked the package from elsewhere than its commit."""
    dist_info = site_packages / f"{package.name}-{package.version}.dist-info"
    installer, note = dist_info / "INSTALLER", dist_info / "direct_url.json"
    if not installer.exists() or installer.read_text().strip() != INSTALLER:
        return False
    return not note.exists() or package.commit not in note.read_text()
