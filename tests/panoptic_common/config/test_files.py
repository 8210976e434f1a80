"""Config files and their _BASE_: where they are found, and what is read of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from project import ROOT

from panoptic_common.config import find_config, load_config, read_config

D2 = "configs/unified/scenes/D2.yaml"


def test_configs_of_the_project_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config(D2).is_file() and find_config("cops/scenes/full.yaml").is_file()
    (tmp_path / "configs/unified/scenes").mkdir(parents=True)
    (tmp_path / D2).write_text("")
    assert find_config(D2) == Path(D2)  # one's own comes first


@pytest.mark.parametrize("name", [D2, "unified/scenes/D2.yaml", "unified/scenes/D2", f"./{D2}"])
def test_each_name_of_a_config_of_the_project_is_one_as_a_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """From a folder that is no checkout; as a list, too, and behind a file of one's own."""
    monkeypatch.chdir(tmp_path)
    assert find_config(name).samefile(ROOT / D2)
    own = tmp_path / "runs" / "own.yaml"
    own.parent.mkdir()
    for base in (name, f"[{name}]", "between.yaml"):
        own.write_text(f"_BASE_: {base}\nSOLVER: {{MAX_ITER: 7}}\n")
        own.with_name("between.yaml").write_text(f"_BASE_: {name}\nSOLVER: {{MAX_ITER: 9}}\n")
        expected = read_config(ROOT / D2, {"SOLVER.MAX_ITER": 7})
        for path in (own, "runs/own.yaml"):
            assert read_config(path).dump() == expected.dump()


def test_a_base_beside_the_file_comes_before_that_of_the_project(tmp_path: Path) -> None:
    beside = tmp_path / D2
    beside.parent.mkdir(parents=True)
    beside.write_text("MODEL: {META_ARCHITECTURE: COPS}\n")
    (tmp_path / "own.yaml").write_text(f"_BASE_: {D2}\n")
    assert read_config(tmp_path / "own.yaml").MODEL.META_ARCHITECTURE == "COPS"
    beside.unlink()
    beside.mkdir()  # what is in the way is told, not passed over
    with pytest.raises(ValueError, match="its _BASE_ .*D2.yaml: is a folder"):
        read_config(tmp_path / "own.yaml")


def test_later_bases_override_earlier_ones_and_the_file_all(tmp_path: Path) -> None:
    for name, text in {
        "a.yaml": "MODEL: {META_ARCHITECTURE: COPS, WEIGHTS: a}\nSEED: 1\nSOLVER: {MAX_ITER: 1}\n",
        "b.yaml": "SEED: 2\nSOLVER: {MAX_ITER: 2, STEPS: [5]}\n",
        "own.yaml": "_BASE_: [a.yaml, b.yaml]\nSOLVER: {MAX_ITER: 3}\n",
    }.items():
        (tmp_path / name).write_text(text)
    cfg = read_config(tmp_path / "own.yaml")
    assert (cfg.MODEL.WEIGHTS, cfg.SEED) == ("a", 2)
    assert (cfg.SOLVER.MAX_ITER, tuple(cfg.SOLVER.STEPS)) == (3, (5,))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("../configs/unified/scenes/D2.yaml", "did you mean configs/unified/scenes/D2.yaml"),
        ("configs/unified/scene/D2.yaml", "did you mean configs/unified/scenes/D2.yaml"),
        ("cops/nuclei/ful.yaml", "did you mean configs/cops/nuclei/full.yaml"),
        ("mine.yaml", "give a path, or a config that comes along such as configs/"),
    ],
)
def test_a_config_that_is_not_there_is_answered_with_one_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, advice: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"no config file .*: {advice}"):
        find_config(name)
    (tmp_path / "own.yaml").write_text(f"_BASE_: {name}\n")
    with pytest.raises(ValueError, match=f"own.yaml: its _BASE_ .* cannot be read: .*{advice}"):
        read_config(tmp_path / "own.yaml")


@pytest.mark.parametrize("through_base", [False, True])
def test_tags_that_run_code_are_refused(tmp_path: Path, through_base: bool) -> None:
    trace = tmp_path / "trace"
    evil = tmp_path / "evil.yaml"
    evil.write_text(
        f"MODEL:\n  META_ARCHITECTURE: COPS\nSEED: !!python/object/apply:os.mkdir ['{trace}']\n"
    )
    path = evil
    if through_base:
        path = tmp_path / "child.yaml"
        path.write_text("_BASE_: evil.yaml\n")
    for load in (load_config, read_config):
        with pytest.raises(ValueError, match="cannot be read as a config"):
            load(path)
    assert not trace.exists()


def test_a_config_of_nearly_that_name_beside_it_is_named(tmp_path: Path) -> None:
    (tmp_path / "street.yaml").write_text("SEED: 2\n")
    with pytest.raises(FileNotFoundError, match=f"did you mean {tmp_path}/street.yaml"):
        find_config(tmp_path / "street.yml")
    (tmp_path / "own.yaml").write_text("_BASE_: steet.yaml\n")
    with pytest.raises(
        ValueError, match=f"cannot be read: .*; did you mean {tmp_path}/street.yaml"
    ):
        read_config(tmp_path / "own.yaml")
    # Not the file itself.
    (tmp_path / "own.yaml").write_text("_BASE_: ow.yaml\n")
    with pytest.raises(ValueError, match="give a path, or a config that comes along"):
        read_config(tmp_path / "own.yaml")
