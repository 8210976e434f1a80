"""The solver alone: `cops.solver` of this checkout, which needs numpy and Numba only.

    pip install ./tools/cops_solver

An extra cannot leave requirements of the whole project out, so this is a project of its own. It
takes its files from the checkout around it, and has none itself. Both own `cops/solver`: install
one of the two.
"""

from __future__ import annotations

import re
from pathlib import Path

import setuptools
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Outside `cops.solver`: what its imports pass through, and the graph of grids.
MODULES = {"cops": {"__init__", "grid_graph"}}


class BuildSolver(build_py):
    """Take `cops/__init__.py` and `cops/grid_graph.py`, and all of `cops/solver`."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """List (package, module, file) of a package."""
        found = super().find_package_modules(package, package_dir)
        wanted = MODULES.get(package)
        return [entry for entry in found if wanted is None or entry[1] in wanted]


def version() -> str:
    """Read the version of the project."""
    text = (ROOT / "panoptic_common" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit("panoptic_common/__init__.py says no version")
    return found[1]


setuptools.setup(
    name="cops-solver",
    version=version(),
    description="Multicut, multiway cut and asymmetric multiway cut on any graph",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=["cops", *setuptools.find_packages(str(ROOT), include=["cops.solver*"])],
    package_dir={"": "../.."},
    package_data={"cops": ["py.typed"]},
    cmdclass={"build_py": BuildSolver},
    # The same bounds as in the setup.py of the whole; a test compares them.
    install_requires=["numpy>=1.26", "numba>=0.61"],
    extras_require={"exact": ["scipy>=1.11"]},
)
