"""The only metadata of the three packages: `pip install -e .` into an environment with torch.

Nothing that a user has is replaced. torch and torchvision have lower bounds only; Detectron2 is no
requirement, as it has no release that pip could choose (see tools/setup_environment.py). This file
imports none of them, so it also works where they are missing and under build isolation.
"""

import site
import sys
from importlib import metadata
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def site_folders() -> list[str]:
    """Returns where the environment that pip installs into finds its packages.

    Build isolation hides these folders from ``sys.path``; they follow from its prefixes.
    """
    config = Path(sys.prefix, "pyvenv.cfg")
    isolated = config.exists() and "packages = true" not in config.read_text().lower()
    if isolated:
        return site.getsitepackages([sys.prefix])
    prefixes = list({sys.prefix, sys.base_prefix})
    return [*site.getsitepackages(prefixes), site.getusersitepackages()]


def opencv_requirement() -> list[str]:
    """Returns the OpenCV to install: none where a distribution of it is there already.

    OpenCV comes as four distributions that overwrite one another (with or without windows, with
    or without contributions), so naming one would damage another. The one without windows needs
    no libGL, which servers lack. From 4.12 on OpenCV wants numpy 2, and would replace a numpy 1.
    """
    folders = site_folders()
    if any(Path(folder, "cv2").exists() for folder in folders):
        return []
    numpy = next(iter(metadata.distributions(name="numpy", path=folders)), None)
    if numpy is not None and numpy.version.startswith("1."):
        return ["opencv-python-headless>=4.8,<4.12"]
    return ["opencv-python-headless>=4.8"]


def version() -> str:
    """Reads the version without importing the package."""
    text = (ROOT / "panoptic_common" / "__init__.py").read_text()
    return next(line.split('"')[1] for line in text.splitlines() if line.startswith("__version__"))


EXTRAS = {
    # What `make test` runs.
    "test": ["pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100"],
    "lint": ["ruff>=0.6", "mypy>=1.10"],
    # Preparing and evaluating Cityscapes with its official scripts.
    "cityscapes": ["cityscapesscripts>=2.2"],
    # Reading and writing weights as .safetensors.
    "safetensors": ["safetensors>=0.4"],
}
EXTRAS["dev"] = EXTRAS["test"] + EXTRAS["lint"]

setup(
    name="panoptic-detectron2",
    version=version(),
    description="Panoptic segmentation with Detectron2: UnifiedPanoptic and COPS",
    python_requires=">=3.10",
    packages=[
        *find_packages(include=["panoptic_common*", "unified_panoptic*", "cops", "cops.*"]),
        "panoptic_tools",
        "panoptic_configs",
    ],
    # The folders keep their names in a checkout; installed, they must not be called "tools".
    package_dir={"panoptic_tools": "tools", "panoptic_configs": "configs"},
    package_data={"panoptic_configs": ["**/*.yaml"]},
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "numpy>=1.26",
        "scipy>=1.11",
        "numba>=0.59",
        "Pillow>=9.5",
        "pycocotools>=2.0.7",
        "fvcore>=0.1.5",
        "filelock>=3.12",
        "tqdm",
        "tabulate",
        "termcolor",
        "matplotlib",
        "tensorboard",
        *opencv_requirement(),
    ],
    extras_require=EXTRAS,
)
