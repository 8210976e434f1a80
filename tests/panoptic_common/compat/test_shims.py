"""The work-arounds: each does its job, acts only where needed, and can be applied twice."""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import panoptic_common.compat as compat

import numpy as np
import PIL.Image
import pytest
import torch
from project import ROOT


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter that finds the packages of this repository."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        cwd=environment.get("HOME", ROOT),
        capture_output=True,
        text=True,
        timeout=300,
    )


# --------------------------------------------------------------------------------------------
# At the import
# --------------------------------------------------------------------------------------------


def test_import_loads_neither_torch_nor_detectron2() -> None:
    run = run_python(
        "import sys, panoptic_common.compat\n"
        "assert not {'torch', 'detectron2'} & set(sys.modules), 'a costly import'\n"
    )
    assert run.returncode == 0, run.stderr


def test_apply_twice_changes_nothing() -> None:
    compat.apply_to_engine()
    import detectron2.engine.defaults as defaults

    shims, filters, wrapper = (
        compat.active_shims(),
        list(warnings.filters),
        defaults.create_ddp_model,
    )
    compat.apply()
    compat.apply_to_engine()
    assert compat.active_shims() == shims
    assert list(warnings.filters) == filters
    assert defaults.create_ddp_model is wrapper


def test_every_active_shim_says_why_and_until_when() -> None:
    compat.apply_to_engine()
    names = [shim.name for shim in compat.active_shims()]
    assert {"silence_jit_script_warning", "allow_ddp_on_cpu", "use_torch_amp"} <= set(names)
    assert len(names) == len(set(names))
    for shim in compat.active_shims():
        assert callable(getattr(compat, shim.name))
        assert len(shim.reason) > 20 and len(shim.until) > 20


def fake_detectron2(folder: Path, transform: str, build: str) -> None:
    """Writes a package with the two files in which `compat` looks for removed names."""
    for name, text in {
        "__init__.py": "",
        "data/transforms/transform.py": transform,
        "data/build.py": build,
    }.items():
        path = folder / "detectron2" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


SHOW_NAMES = """
import warnings
warnings.simplefilter("error")
import numpy as np, PIL.Image
for name in ("int", "float", "str"):
    vars(np).pop(name, None)
vars(PIL.Image).pop("LINEAR", None)
from panoptic_common import compat
print("LINEAR" in vars(PIL.Image), *(name in vars(np) for name in ("int", "float", "str")))
print(*(shim.name for shim in compat.active_shims()))
"""


def test_old_detectron2_gets_the_names_it_uses(tmp_path: Path) -> None:
    fake_detectron2(tmp_path, "interp=Image.LINEAR", "dtype=np.int)")
    run = run_python(SHOW_NAMES, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[0] == "True True True True"
    assert "restore_pillow_names restore_numpy_names" in run.stdout
    assert "preload_in_forkserver" in run.stdout


def test_new_detectron2_leaves_pillow_and_numpy_alone(tmp_path: Path) -> None:
    fake_detectron2(tmp_path, "interp=Image.BILINEAR", "dtype=int)")
    run = run_python(SHOW_NAMES, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert run.returncode == 0, run.stderr
    first, shims = run.stdout.splitlines()
    assert first == "False False False False"
    assert shims == "silence_jit_script_warning silence_meshgrid_warning"


def test_numpy_keeps_the_names_that_it_has() -> None:
    if "bool" in vars(np) and np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        assert np.bool is np.bool_
    assert PIL.Image.BILINEAR == PIL.Image.Resampling.BILINEAR


def test_only_these_two_warnings_are_silenced() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compat.silence_jit_script_warning()
        compat.silence_meshgrid_warning()
        warnings.warn("torch.meshgrid: in an upcoming release, it", UserWarning, stacklevel=1)
        warnings.warn(
            "`torch.jit.script` is deprecated. Please switch", FutureWarning, stacklevel=1
        )
        warnings.warn("`torch.jit.trace` is deprecated. Please switch", FutureWarning, stacklevel=1)
        warnings.warn("another one", FutureWarning, stacklevel=1)
    assert [str(each.message)[:17] for each in caught] == ["`torch.jit.trace`", "another one"]


def test_workers_of_a_forkserver_are_patched() -> None:
    """Such a worker unpickles Detectron2's class before anything of ours (default in 3.14)."""
    run = run_python(
        "import multiprocessing as mp\n"
        "import panoptic_common.compat\n"
        "from detectron2.data.transforms import ResizeTransform\n"
        "if __name__ == '__main__':\n"
        "    context = mp.get_context('forkserver')\n"
        "    process = context.Process(target=ResizeTransform, args=(4, 4, 8, 8))\n"
        "    process.start(); process.join(60)\n"
        "    assert process.exitcode == 0, process.exitcode\n"
    )
    assert run.returncode == 0, run.stderr


# --------------------------------------------------------------------------------------------
# Without Detectron2
# --------------------------------------------------------------------------------------------


def check_missing_message(run: subprocess.CompletedProcess[str]) -> None:
    assert run.returncode == 1
    message = run.stderr.splitlines()[-1]
    assert message.startswith("ModuleNotFoundError: Detectron2 is not installed")
    assert "--no-build-isolation" in message and "tools/setup_environment.py" in message
    assert message.count(". ") == 0 and message.endswith(".")  # one sentence


def test_missing_detectron2_is_said_in_one_sentence() -> None:
    hidden = "import sys; sys.modules['detectron2'] = None\n"
    check_missing_message(run_python(hidden + "import panoptic_common.compat"))


def test_checkout_above_detectron2_is_not_taken_for_the_package(tmp_path: Path) -> None:
    (tmp_path / "detectron2" / "configs").mkdir(parents=True)
    code = (
        "import sys\n"
        f"sys.path[:] = [{str(tmp_path)!r}, {str(ROOT)!r}] + [p for p in sys.path"
        " if not __import__('os').path.exists(p + '/detectron2/__init__.py')]\n"
        "import importlib.util\n"
        "assert importlib.util.find_spec('detectron2').origin is None\n"
        "sys.modules['numpy'] = sys.modules['PIL'] = None  # not needed to say so\n"
        "import panoptic_common.compat\n"
    )
    run = run_python(code)
    check_missing_message(run)
    assert "a folder of that name" in run.stderr


# --------------------------------------------------------------------------------------------
# Checkpoints
# --------------------------------------------------------------------------------------------


class RunsCode:
    """A pickle that makes a folder when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


STATE = {"model": {"weight": torch.arange(1000.0)}, "iteration": 7, "config": "A: 1"}


@pytest.mark.parametrize("zipped", [True, False])
def test_plain_checkpoint_loads(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "model.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    loaded = compat.torch_load_safely(path)
    assert torch.equal(loaded["model"]["weight"], STATE["model"]["weight"])
    assert loaded["iteration"] == 7


@pytest.mark.parametrize("zipped", [True, False])
def test_pickle_that_runs_code_is_refused_by_name(tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    torch.save({"x": RunsCode(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(pickle.UnpicklingError, match=r"mkdir.*--allow-unsafe-checkpoint") as error:
        compat.torch_load_safely(path)
    assert str(path) in str(error.value)
    assert not trace.exists()
    compat.torch_load_safely(path, allow_unsafe=True)
    assert trace.exists()


def test_all_offending_names_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"args": argparse.Namespace(lr=1), "best": np.float64(3.0)}, path)
    with pytest.raises(pickle.UnpicklingError, match="argparse.Namespace") as error:
        compat.torch_load_safely(path)
    if hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        assert "multiarray.scalar" in str(error.value)
    assert compat.torch_load_safely(path, allow_unsafe=True)["args"].lr == 1


def test_unusual_pickle_protocol_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "protocol.pth"
    torch.save({"args": argparse.Namespace(lr=1)}, path, pickle_protocol=4)
    with pytest.raises(pickle.UnpicklingError, match="--allow-unsafe-checkpoint"):
        compat.torch_load_safely(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_file_cut_short_is_named(tmp_path: Path, zipped: bool, keep: float) -> None:
    path = tmp_path / "model.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ValueError, match=r"model\.pth: it is damaged, cut short"):
        compat.torch_load_safely(path)
    with pytest.raises(ValueError, match="damaged"):  # the permission does not mend it
        compat.torch_load_safely(path, allow_unsafe=True)


def test_flipped_bit_in_a_weight_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(STATE, path)
    with zipfile.ZipFile(path) as archive:
        record = max(archive.infolist(), key=lambda info: info.file_size)
    data = bytearray(path.read_bytes())
    data[record.header_offset + 200 + record.file_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        compat.torch_load_safely(path)


@pytest.mark.parametrize("content", [b"<html>404 not found</html>", b"\0" * 5000, b"PK\3\4 no"])
def test_other_files_are_no_checkpoints(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "page.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"page\.pth: it is damaged"):
        compat.torch_load_safely(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        compat.torch_load_safely(tmp_path / "nowhere.pth")
