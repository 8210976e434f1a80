"""The page of config keys: as the code has it, and without gaps."""

from __future__ import annotations

from panoptic_tools import config_reference as reference


def test_the_page_is_as_the_code_has_it() -> None:
    """After a change of a key: `python tools/config_reference.py`."""
    assert reference.main(["--check"]) == 0


def test_every_key_stands_in_it() -> None:
    keys = {
        name
        for name in reference.own_keys()
        for shown in (name, name.replace(".SEMANTIC.", ".{SEMANTIC,AFFINITY}."))
        if f"| `{shown}` |" in reference.PAGE.read_text("utf-8")
    }
    both = {key.replace("COPS.SEMANTIC.", "COPS.AFFINITY.") for key in keys}
    assert set(reference.own_keys()) == keys | both


def test_a_difference_is_told_and_mended(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(reference, "PAGE", tmp_path / "config.md")
    assert reference.main(["--check"]) == 1 and not list(tmp_path.iterdir())
    assert "run tools/config_reference.py" in capsys.readouterr().out
    assert reference.main([]) == 0 == reference.main(["--check"])


def test_comments_become_meanings() -> None:
    text = """
    # ---- first part (3.1) -------------
    node.A = CN()
    node.A.ONE = 1  # behind
    # Above it,
    # in two lines.
    node.A.TWO = 2  # behind
    node.A.THREE = 3

    # ---- what: "x" is one
    # and "y" another
    node.B = "x"
    other.C = 5
"""
    found = list(reference.read_entries(text, {"node": "M."}))
    assert found == [
        ("M.A", "", "first part (3.1)"),
        ("M.A.ONE", "behind", "first part (3.1)"),
        ("M.A.TWO", "behind. Above it, in two lines.", "first part (3.1)"),
        ("M.A.THREE", "", "first part (3.1)"),
        ("M.B", '"x" is one and "y" another', "what"),
    ]
