"""YAML of others: read as plain values of the size that the text has, or refused in words."""

from __future__ import annotations

import os
import random
import time

import pytest
import yaml
from project import ROOT

from panoptic_common.checkpoint.own_format import faulty_entry
from panoptic_common.config import read_config
from panoptic_common.plain_yaml import parse_yaml

# Each line has five times the values of the one before: 5 ** 11 in all.
LAUGHS = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 5)}]\n" for i in range(1, 12)
)
ODD = {
    "no such day": ("MODEL: {WEIGHTS: 2021-02-30}", "day is out of range"),
    "long number": (f"MODEL: {'9' * 5000}", "4300"),
    "no number": ("MODEL: !!int abc", "invalid literal"),
    "no truth value": ("MODEL: !!bool abc", "does not fit its tag"),
    "no time": ("MODEL: !!timestamp abc", "does not fit its tag"),
    "deep list": ("MODEL: " + "[" * 400 + "]" * 400, "nested more than 50 deep"),
    "deeper than the stack": ("MODEL: " + "[" * 20000, "nested more than 50 deep"),
    "aliases of aliases": (LAUGHS, "more than 100000 values"),
    "an alias in itself": ("MODEL: &m {SELF: *m}", "contains it"),
    "a key twice": ("SEED: 1\nSEED: 2", "the key SEED stands twice, in lines . and ."),
    "a section twice": ("MODEL:\n  A: {B: 1, B: 1}", "the key B stands twice"),
    "code": ("MODEL: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
}


@pytest.mark.parametrize(("text", "words"), ODD.values(), ids=list(ODD))
def test_odd_yaml_is_refused_at_once_wherever_it_is_read(tmp_path, text, words) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"_BASE_: base.yaml\n{text}\n")
    (tmp_path / "base.yaml").write_text("MODEL: {META_ARCHITECTURE: COPS}\n")
    begin = time.process_time()
    with pytest.raises(ValueError, match=words) as caught:
        read_config(path)
    assert str(path) in str(caught.value)
    (tmp_path / "base.yaml").write_text(text)
    path.write_text("_BASE_: base.yaml\n")
    with pytest.raises(ValueError, match=words) as caught:
        read_config(path)
    assert str(tmp_path / "base.yaml") in str(caught.value)
    assert faulty_entry({"config": text}) == "its 'config' is no config in YAML"
    assert time.process_time() - begin < 20


def test_a_base_that_is_a_pipe_is_not_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "base.yaml")
    (tmp_path / "own.yaml").write_text("_BASE_: base.yaml\n")
    with pytest.raises(ValueError, match=r"base\.yaml: is a pipe"):
        read_config(tmp_path / "own.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SOLVER: {WEIGHT_DECAY: .nan}", "WEIGHT_DECAY is nan"),
        ("MODEL: {PIXEL_STD: [1.0, .nan, 1.0]}", "PIXEL_STD is"),
    ],
)
def test_a_setting_that_is_no_number_is_named(tmp_path, text, words) -> None:
    path = tmp_path / "own.yaml"
    base = ROOT / "configs/cops/scenes/full.yaml"
    path.write_text(f"_BASE_: {base}\n{text}\n")
    with pytest.raises(ValueError, match=words):
        read_config(path)


def test_aliases_and_merge_keys_of_a_usual_size_are_read() -> None:
    text = "a: &a {x: 1, y: [2]}\nb: {<<: *a, x: 3}\nc: *a\n"
    assert parse_yaml(text) == {
        "a": {"x": 1, "y": [2]},
        "b": {"x": 3, "y": [2]},
        "c": {"x": 1, "y": [2]},
    }


def test_whatever_is_changed_in_a_text_it_is_read_as_the_library_does_or_refused() -> None:
    draw = random.Random(0)
    text = "MODEL: &m {A: [1, 2.5, x], D: 2021-01-01, B: !!float 1, C: yes}\nS: {T: *m}\n"
    signs = "&*![]{}:,-?|>%@`'\"#~<=.0123456789abmxT_\n\t "
    read = 0
    for _ in range(2000):
        letters = list(text)
        for _ in range(draw.randint(1, 4)):
            letters[draw.randrange(len(letters))] = draw.choice(signs)
        changed = "".join(letters)
        try:
            found = parse_yaml(changed)
        except ValueError:
            continue
        read += 1
        assert repr(found) == repr(yaml.safe_load(changed))
    assert 200 < read < 1800  # python -m pytest: 739 of 2000
