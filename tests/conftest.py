"""What all tests share: one thread, a data folder of their own, and where real images may lie."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from project import ROOT

# Before torch and numpy are imported: tests run in several processes, each with one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before Detectron2 is imported, which reads the variable then: no test may see, let alone write
# into, the user's data sets. The processes of pytest-xdist inherit the folder of the first one,
# so that what one of them generates serves all.
_owns_datasets = "PYTEST_XDIST_WORKER" not in os.environ
if _owns_datasets:
    os.environ["DETECTRON2_DATASETS"] = tempfile.mkdtemp(prefix="panoptic_tests_")

# For all test files, before one of them imports Detectron2.
importlib.import_module("panoptic_common.compat")


def pytest_unconfigure() -> None:
    if _owns_datasets:
        shutil.rmtree(os.environ["DETECTRON2_DATASETS"], ignore_errors=True)


@pytest.fixture(autouse=True, scope="session")
def single_thread() -> None:
    """OMP_NUM_THREADS does not bind every backend of torch."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where a test puts its models and tensors: the CPU, and a GPU if there is one.

    Where there is none, PANOPTIC_PRETENDED_GPU=1 runs what is marked `gpu` on a pretended one.
    """
    import torch
    from pretended_gpu import pretended_gpu

    if request.param == "cpu" or torch.cuda.is_available():
        yield request.param
    elif os.environ.get("PANOPTIC_PRETENDED_GPU"):
        with pretended_gpu():
            yield request.param
    else:
        pytest.skip("no GPU is there")


@pytest.fixture(scope="session")
def shared_coco() -> Path:
    """The folder above ``coco/`` with two real COCO images and their panoptic truth.

    Their licence keeps them out of this repository: PANOPTIC_REAL_COCO names the folder, or they
    lie in ``../shared/datasets`` beside it. Tests that need them are skipped elsewhere.
    """
    root = Path(os.environ.get("PANOPTIC_REAL_COCO", ROOT.parent / "shared" / "datasets"))
    if not (root / "coco" / "annotations" / "panoptic_val2017.json").is_file():
        pytest.skip(
            f"no COCO images below {root}; set PANOPTIC_REAL_COCO to a folder with "
            "coco/annotations/panoptic_val2017.json, coco/panoptic_val2017/ and coco/val2017/"
        )
    return root


@pytest.fixture(scope="session")
def shared_nuclei() -> Path:
    """The folder with microscope images of nuclei and their panoptic truth, to be read in place.

    PANOPTIC_REAL_NUCLEI names it, or it is ``../shared/datasets/nuclei`` beside this repository.
    Tests that need it are skipped elsewhere.
    """
    default = ROOT.parent / "shared" / "datasets" / "nuclei"
    root = Path(os.environ.get("PANOPTIC_REAL_NUCLEI", default))
    if not (root / "panoptic_val.json").is_file():
        pytest.skip(
            f"no nuclei in {root}; set PANOPTIC_REAL_NUCLEI to a folder with val/, panoptic_val/ "
            "and panoptic_val.json, as tools/prepare_nuclei.py makes it"
        )
    return root


@pytest.fixture
def coco_paths(tmp_path: Path) -> SimpleNamespace:
    """Three small images with their truth, in COCO's panoptic format."""
    from dataset_factory import make_coco_panoptic

    return make_coco_panoptic(tmp_path, num_images=3)


@pytest.fixture
def tiny_dataset(coco_paths: SimpleNamespace) -> Iterator[str]:
    """The name under which `coco_paths` is registered."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from evaluation_outputs import register

    name = register("evaluation_tiny", coco_paths)
    yield name
    DatasetCatalog.pop(name)
    MetadataCatalog.pop(name)


@pytest.fixture
def tiny_root(tmp_path: Path) -> Iterator[Path]:
    """A folder with the registered data set "tiny" of 5 images, for runs of the tiny system.

    Two data sets of that name never live at once.
    """
    from tiny_system import forget_tiny, register_tiny

    register_tiny(tmp_path)
    yield tmp_path
    forget_tiny()
