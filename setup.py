"""What pyproject.toml cannot say: folders under another name, and which OpenCV is needed.

Nothing that a user has is replaced. torch and torchvision have lower bounds only; Detectron2 is no
requirement, as it has no release that pip could choose (see tools/setup_environment.py). This file
imports none of them, so it also works where they are missing and under build isolation.
"""

import site
import sys
from importlib import metadata
from pathlib import Path

import setuptools
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MINIMUM_SETUPTOOLS = 77
STARTUP = "panoptic_detectron2.pth"  # belongs beside the packages: see tools/import_order.py


def check_setuptools(version: str) -> None:
    """Refuse a setuptools that cannot read pyproject.toml, in one sentence.

    pip sees to it, unless it is called with ``--no-build-isolation``.

    Args:
        version: of the setuptools that builds.

    Raises:
        SystemExit: it is older than `MINIMUM_SETUPTOOLS`.
    """
    if int(version.partition(".")[0]) < MINIMUM_SETUPTOOLS:
        raise SystemExit(
            f"setuptools {version} is too old to build this project: install "
            f"setuptools>={MINIMUM_SETUPTOOLS}, or leave --no-build-isolation out"
        )


class BuildWithStartup(build_py):
    """Puts the file that Python reads when it starts into the wheel.

    An editable installation has no place for it; tools/setup_environment.py writes it there.
    """

    def run(self) -> None:
        """Build, and add the file."""
        super().run()
        if not self.editable_mode:
            self.copy_file(str(ROOT / "tools" / STARTUP), str(Path(self.build_lib, STARTUP)))


def site_folders() -> list[str]:
    """Return where the environment that pip installs into finds its packages.

    Build isolation hides these folders from ``sys.path``; they follow from its prefixes.
    """
    config = Path(sys.prefix, "pyvenv.cfg")
    isolated = config.exists() and "packages = true" not in config.read_text().lower()
    if isolated:
        return site.getsitepackages([sys.prefix])
    prefixes = list({sys.prefix, sys.base_prefix})
    return [*site.getsitepackages(prefixes), site.getusersitepackages()]


def opencv_requirement() -> list[str]:
    """Return the OpenCV to install: none where a distribution of it is there already.

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


check_setuptools(setuptools.__version__)
setuptools.setup(
    cmdclass={"build_py": BuildWithStartup},
    packages=[
        *setuptools.find_packages(
            str(ROOT),
            include=[
                *("panoptic_common", "panoptic_common.*"),
                *("unified_panoptic", "unified_panoptic.*"),
                *("cops", "cops.*"),
            ],
        ),
        # Without panoptic_tools.studies: they measure a checkout, and write their results into it.
        "panoptic_tools",
        "panoptic_configs",
        *(
            f"panoptic_configs.{name}"
            for name in setuptools.find_namespace_packages(str(ROOT / "configs"))
        ),
    ],
    # The folders keep their names in a checkout; installed, they must not be called "tools".
    package_dir={"panoptic_tools": "tools", "panoptic_configs": "configs"},
    package_data={
        "panoptic_configs": ["**/*.yaml"],
        "panoptic_common": ["py.typed"],
        "unified_panoptic": ["py.typed", "zoo/*"],
        "cops": ["py.typed", "zoo/*"],
    },
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "numpy>=1.26",
        "scipy>=1.11",
        "numba>=0.61",  # 0.59 and 0.60 lose 2.5 kB per solve (tests/cops/solver/test_endurance.py)
        "Pillow>=9.5",
        "PyYAML>=6.0",
        "filelock>=3.12",
        "safetensors>=0.4",  # the form of the models that come along
        "pycocotools>=2.0.7",
        "fvcore>=0.1.5",
        "tqdm>=4.60",
        "tabulate>=0.9",
        # Nothing here imports these. Detectron2 does, and cannot be named here to bring them along.
        "termcolor",
        "matplotlib",
        "tensorboard",
        *opencv_requirement(),
    ],
)
