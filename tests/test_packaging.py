"""What is installed: the metadata, the wheel, and that a wheel alone can train."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from project import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it along
    import tomli as tomllib

setuptools = pytest.importorskip("setuptools", minversion="77")

PACKAGES = ("panoptic_common", "unified_panoptic", "cops")
# All that a wheel is made of.
SOURCES = (*PACKAGES, "tools", "configs", "setup.py", "pyproject.toml", "README.md", "LICENSE")


def load_setup(monkeypatch: pytest.MonkeyPatch) -> tuple[types.ModuleType, dict]:
    """Run setup.py with `setup` replaced by a recorder; returns the module and what it gave."""
    given: dict = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    spec = importlib.util.spec_from_file_location("setup_under_test", ROOT / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, given


def project_table() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


# --------------------------------------------------------------------------------------------
# Metadata
# --------------------------------------------------------------------------------------------

WITHOUT = """
import runpy, sys
for name in ("torch", "torchvision", "detectron2", "numpy", "cv2"):
    sys.modules[name] = None  # importing it raises ImportError
sys.argv = ["setup.py", "--version"]
runpy.run_path("setup.py", run_name="__main__")
"""


def test_metadata_never_imports_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    from panoptic_common import __version__

    assert done.stdout.splitlines()[-1] == __version__


def test_metadata_replaces_nothing_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    required = [Requirement(text) for text in load_setup(monkeypatch)[1]["install_requires"]]
    names = {requirement.name.lower() for requirement in required}
    assert not {"detectron2", "panopticapi", "panopticapi-lite", "roof-mask"} & names
    assert {"torch", "torchvision", "numpy"} <= names
    # A lower bound lets pip keep what is there; an upper bound or a pin would replace it.
    bounded = {
        requirement.name
        for requirement in required
        if requirement.url or any(bound.operator != ">=" for bound in requirement.specifier)
    }
    assert bounded <= {"opencv-python-headless"}


def test_installed_opencv_of_any_kind_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV's distributions overwrite one another, and new ones replace a numpy 1."""
    program, _ = load_setup(monkeypatch)
    monkeypatch.setattr(program, "site_folders", lambda: [str(tmp_path)])
    assert program.opencv_requirement() == ["opencv-python-headless>=4.8"]
    numpy = tmp_path / "numpy-1.26.4.dist-info"
    numpy.mkdir()
    (numpy / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.26.4\n")
    assert program.opencv_requirement() == ["opencv-python-headless>=4.8,<4.12"]
    (tmp_path / "cv2").mkdir()
    assert program.opencv_requirement() == []


def test_old_setuptools_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    program, _ = load_setup(monkeypatch)
    with pytest.raises(SystemExit, match=r"65\.5\.0 is too old .* leave --no-build-isolation out"):
        program.check_setuptools("65.5.0")
    program.check_setuptools("77.0.3")
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert wanted == [f"setuptools>={program.MINIMUM_SETUPTOOLS}"]


def third_party_imports() -> set[str]:
    """The packages that our packages import while they are loaded."""
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.Import):
                    found |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - {*PACKAGES, "detectron2"}


def test_what_is_imported_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    program, _ = load_setup(monkeypatch)
    monkeypatch.setattr(program, "site_folders", list)  # an environment without OpenCV
    required = [*load_setup(monkeypatch)[1]["install_requires"], *program.opencv_requirement()]
    names = {Requirement(text).name.lower() for text in required}
    other_name = {"cv2": "opencv-python-headless", "PIL": "pillow", "yaml": "pyyaml"}
    imported = {other_name.get(name, name).lower() for name in third_party_imports()}
    assert {"torch", "numpy", "pyyaml", "pillow", "opencv-python-headless"} <= imported
    assert imported - names == set()
    # Which nothing here imports, but Detectron2, whose requirements cannot be named; and what is
    # imported only where it is used.
    assert names - imported == {"termcolor", "matplotlib", "tensorboard", "safetensors"}


def test_the_solver_alone_needs_numpy_and_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """tools/cops_solver has the bounds of the whole, and all of cops.solver's folders."""
    whole = {
        Requirement(text).name: text for text in load_setup(monkeypatch)[1]["install_requires"]
    }
    given: dict = {}
    monkeypatch.setattr(setuptools, "setup", lambda **options: given.update(options))
    runpy.run_path(str(ROOT / "tools" / "cops_solver" / "setup.py"))
    assert given["install_requires"] == [whole["numpy"], whole["numba"]]
    assert given["extras_require"] == {"exact": [whole["scipy"]]}
    folders = {path.parent for path in (ROOT / "cops" / "solver").rglob("*.py")}
    packages = {".".join(folder.relative_to(ROOT).parts) for folder in folders} | {"cops"}
    assert set(given["packages"]) == packages
    from panoptic_common import __version__

    assert given["version"] == __version__


def test_extras_hold_what_the_targets_need() -> None:
    extras = project_table()["optional-dependencies"]
    names = {key: {Requirement(text).name for text in extras[key]} for key in extras}
    assert names["test"] >= {"pytest", "pytest-cov", "pytest-xdist", "hypothesis"}
    assert names["lint"] >= {"ruff", "mypy"}
    whole = next(
        Requirement(text) for text in extras["dev"] if text.startswith(project_table()["name"])
    )
    assert whole.extras >= {"test", "lint"} and whole.extras <= set(extras)
    assert "pre-commit" in names["dev"]


def test_licence_is_the_apache_licence_everywhere() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.split()[:4] == ["Apache", "License", "Version", "2.0,"]
    assert project_table()["license"] == "Apache-2.0"
    assert citation()["license"] == "Apache-2.0"


# --------------------------------------------------------------------------------------------
# Files that people and programs read
# --------------------------------------------------------------------------------------------


def citation() -> dict:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_citation_has_the_fields_of_its_format() -> None:
    found = citation()
    assert found["cff-version"] == "1.2.0"
    assert {"title", "message", "authors"} <= set(found)
    for reference in found["references"]:
        assert {"type", "title", "authors"} <= set(reference)
        assert all({"family-names", "given-names"} <= set(name) for name in reference["authors"])
    papers = {
        (entry["year"], tuple(name["family-names"] for name in entry["authors"]))
        for entry in found["references"]
    }
    assert papers == {(2020, ("Li", "Qi", "Torr")), (2021, ("Abbas", "Swoboda"))}


def test_one_version_in_all_files() -> None:
    from panoptic_common import __version__

    assert Version(citation()["version"]) == Version(__version__)
    headings = re.findall(r"^## \[?(\d[\w.]*)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == __version__
    assert headings == sorted(headings, key=Version, reverse=True)


def test_hooks_run_what_is_installed_and_download_nothing() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [entry["repo"] for entry in repositories] == ["local"]
    hooks = repositories[0]["hooks"]
    assert {hook["id"] for hook in hooks} == {"ruff-check", "ruff-format", "mypy"}
    assert all(hook["language"] == "system" for hook in hooks)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md"])
def test_paths_that_a_page_names_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    paths = set(re.findall(r"(?<![\w./<>])[\w.]+(?:/[\w.]+)+\.(?:py|md|yaml)\b", text))
    assert len(paths) > 5
    assert {path for path in paths if not (ROOT / path).is_file()} == set()


MOVED = ["register_panoptic", "register_builtin", "register_scenes", "load_panoptic", "class_table"]


@pytest.mark.parametrize("name", MOVED)
def test_former_place_of_the_catalog_works_and_says_where_it_went(name: str) -> None:
    from panoptic_common import register_datasets
    from panoptic_common.data import catalog

    with pytest.warns(DeprecationWarning, match=rf"is now panoptic_common\.data\.catalog\.{name}"):
        found = getattr(register_datasets, name)
    assert found is getattr(catalog, name)
    assert name in dir(register_datasets)


def test_former_place_of_the_catalog_has_no_other_names() -> None:
    from panoptic_common import register_datasets

    with pytest.raises(AttributeError, match="no attribute 'register_everything'"):
        _ = register_datasets.register_everything


# --------------------------------------------------------------------------------------------
# The wheel
# --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built in a copy, as building leaves files where it happens."""
    pytest.importorskip("pip")
    copy = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    folder = tmp_path_factory.mktemp("wheel")
    run_pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, copy)
    (found,) = folder.iterdir()
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel, and nothing else, is installed."""
    folder = tmp_path_factory.mktemp("installed")
    run_pip("install", "--no-deps", "--no-index", "--target", folder, wheel)
    return folder


def run_pip(*words: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    environment = {**os.environ, "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def run_installed(
    command: list[object], installed: Path, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run a command in an empty folder, with the installed wheel in place of the checkout."""
    folder.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(installed),
        "DETECTRON2_DATASETS": str(folder / "datasets"),
        "OMP_NUM_THREADS": "1",
    }
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.mark.slow
def test_wheel_holds_packages_configs_and_programs_but_no_studies(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())

    def ours(folder: str, pattern: str, package: str) -> set[str]:
        return {
            f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
            for path in (ROOT / folder).rglob(pattern)
            if not {"studies", "cops_solver"} & {*path.relative_to(ROOT / folder).parts}
        }

    expected = ours("configs", "*.yaml", "panoptic_configs") | ours(
        "tools", "*.py", "panoptic_tools"
    )
    for package in PACKAGES:
        expected |= ours(package, "*.py", package) | {f"{package}/py.typed"}
        expected |= ours(package, "zoo/*", package)  # trained models with their cards
    expected.add("panoptic_detectron2.pth")  # beside the packages, see tools/import_order.py
    found = {name for name in names if ".dist-info/" not in name}
    assert found == expected
    assert len([name for name in expected if name.endswith(".yaml")]) > 20
    assert len([name for name in expected if name.endswith(".safetensors")]) >= 2
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


# Programs of a checkout: its set-up and its demo.
OF_A_CHECKOUT = {"setup_environment", "quickstart", "notebooks", "config_reference"}


def test_every_program_for_users_has_a_command() -> None:
    programs = {
        path.stem
        for path in (ROOT / "tools").glob("*.py")
        if any(
            isinstance(node, ast.FunctionDef) and node.name == "main"
            for node in ast.parse(path.read_text(encoding="utf-8")).body
        )
    }
    commands = project_table()["scripts"]
    found = {target.removeprefix("panoptic_tools.") for target in commands.values()}
    assert found == {f"{program}:main" for program in programs - OF_A_CHECKOUT}
    assert all(re.fullmatch(r"panoptic(-[a-z]+)+", name) for name in commands)


def test_what_console_commands_name_can_be_imported(tmp_path: Path) -> None:
    """Without the folder of the programs on the path, which only `python tools/NAME.py` puts there.

    What is missing here, such as gradio, must not be missed before the program runs.
    """
    modules = [target.partition(":")[0] for target in project_table()["scripts"].values()]
    code = f"import importlib\nfor name in {modules!r}: assert importlib.import_module(name).main"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_console_commands_answer(installed: Path, tmp_path: Path) -> None:
    commands = project_table()["scripts"]
    for number, name in enumerate(sorted(commands)):
        done = run_installed(
            [installed / "bin" / name, "--help"], installed, tmp_path / str(number)
        )
        assert done.stdout.startswith("usage: panoptic-")


@pytest.mark.slow
def test_wheel_alone_can_train_and_evaluate(installed: Path, tmp_path: Path) -> None:
    """From an empty folder: the programs, the scenes and what a config is based on."""
    from panoptic_tools.quickstart import FAST

    own = tmp_path / "own.yaml"
    own.write_text("_BASE_: configs/unified/scenes/D2.yaml\nSEED: 3\n")
    code = (
        "import panoptic_common as a, panoptic_tools as b, cops as c\n"
        "from panoptic_common.config import read_config\n"
        "from panoptic_common import model_zoo\n"
        "shipped = read_config('configs/unified/scenes/D2.yaml', {'SEED': 3})\n"
        f"assert read_config({str(own)!r}).dump() == shipped.dump()\n"
        "d = model_zoo.get_config_file('unified/scenes/D2')\n"
        "print(a.__file__, b.__file__, c.__file__, d)"
    )
    places = run_installed([sys.executable, "-c", code], installed, tmp_path / "asked").stdout
    assert all(Path(place).is_relative_to(installed) for place in places.split())

    words = [word for pair in FAST.items() for word in pair]
    command = [installed / "bin" / "panoptic-train", "--config-file", own]
    folder = tmp_path / "empty"
    run_installed([*command, *words, "OUTPUT_DIR", "out"], installed, folder)
    assert (folder / "out" / "model_final.pth").is_file()
    lines = [json.loads(line) for line in (folder / "out" / "metrics.json").open()]
    # Two iterations: the last line holds the evaluation.
    assert lines[-1]["iteration"] in (1, 2)
    assert 0.0 <= lines[-1]["panoptic_seg/PQ"] <= 100.0
    assert {path.name for path in folder.iterdir()} == {"out", "datasets"}
