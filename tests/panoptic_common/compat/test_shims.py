"""The work-arounds: each does its job, acts only where needed, and can be applied twice."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

from panoptic_common.compat import engine, shims
from panoptic_common.compat.engine import apply_to_engine

import numpy as np
import PIL.Image
from project import ROOT

from panoptic_common import compat


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


def test_import_works_without_docstrings() -> None:
    """`python -OO` drops them, of which the work-arounds take their reasons."""
    run = run_python("import panoptic_common.compat", PYTHONOPTIMIZE="2")
    assert run.returncode == 0, run.stderr


def test_apply_twice_changes_nothing() -> None:
    apply_to_engine()
    import detectron2.engine.defaults as defaults

    active, filters, wrapper = (
        compat.active_shims(),
        list(warnings.filters),
        defaults.create_ddp_model,
    )
    compat.apply()
    apply_to_engine()
    assert compat.active_shims() == active
    assert list(warnings.filters) == filters
    assert defaults.create_ddp_model is wrapper


def test_every_active_shim_says_why_and_until_when() -> None:
    apply_to_engine()
    names = [shim.name for shim in compat.active_shims()]
    assert {"silence_jit_script_warning", "allow_ddp_on_cpu", "use_torch_amp"} <= set(names)
    assert len(names) == len(set(names))
    for shim in compat.active_shims():
        assert callable(getattr(shims, shim.name, None) or getattr(engine, shim.name))
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
    first, names = run.stdout.splitlines()
    assert first == "False False False False"
    assert names == "silence_jit_script_warning silence_meshgrid_warning silence_read_only_warning"


def test_numpy_keeps_the_names_that_it_has() -> None:
    if "bool" in vars(np) and np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        assert np.bool is np.bool_
    assert PIL.Image.BILINEAR == PIL.Image.Resampling.BILINEAR


def test_only_these_three_warnings_are_silenced() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        shims.silence_jit_script_warning()
        shims.silence_meshgrid_warning()
        shims.silence_read_only_warning()
        warnings.warn("The given NumPy array is not writable, and", UserWarning, stacklevel=1)
        warnings.warn("torch.meshgrid: in an upcoming release, it", UserWarning, stacklevel=1)
        warnings.warn(
            "`torch.jit.script` is deprecated. Please switch", FutureWarning, stacklevel=1
        )
        warnings.warn("`torch.jit.trace` is deprecated. Please switch", FutureWarning, stacklevel=1)
        warnings.warn("another one", FutureWarning, stacklevel=1)
    assert [str(each.message)[:17] for each in caught] == ["`torch.jit.trace`", "another one"]


def test_the_warning_is_the_one_that_torch_gives() -> None:
    read_only = "import numpy, torch; torch.from_numpy(numpy.frombuffer(b'a', 'u1'))"
    assert "not writable" in run_python(read_only).stderr
    assert run_python(f"import panoptic_common.compat; {read_only}").stderr == ""


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
