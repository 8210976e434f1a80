"""tools/studies/waiting.py in miniature: a row per part, thread number and policy, and a limit."""

from __future__ import annotations

import pytest

from panoptic_tools.studies import waiting


def test_the_table_has_both_policies_in_turn(capsys, monkeypatch):
    """The times are given: PASSIVE takes 2 s of the processor, the default comes to no end."""
    order = []

    def run_part(part, threads, policy, options):
        order.append(policy)
        return [(1.0, 2.0), (3.0, 2.0)] if policy == "PASSIVE" else []

    monkeypatch.setattr(waiting, "run_part", run_part)
    words = ["--parts", "opencv", "--threads", "2", "--busy", "0", "--limit", "9"]
    assert waiting.main(words) == 0
    assert order == ["PASSIVE", "libgomp's default"] * 2
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| opencv")]
    assert "2.00 (1.00 to 3.00)" in rows[0] and "2.00 (2.00 to 2.00)" in rows[0]
    assert rows[1].count("two take more than 9") == 2


def test_a_part_is_measured_in_a_process_of_its_own():
    options = waiting.parse_arguments(["--size", "32", "48", "--repeat", "2", "--limit", "120"])
    found = waiting.run_part("opencv", 1, "PASSIVE", options)
    assert len(found) == 2 and all(wall > 0 and processor > 0 for wall, processor in found)


def test_a_piece_past_the_limit_does_not_count():
    """Some 400 megapixels per piece, which no machine resizes and warps in a second."""
    words = ["--size", "2000", "6000", "--repeat", "1", "--limit", "1"]
    options = waiting.parse_arguments(words)
    assert waiting.run_part("opencv", 1, "PASSIVE", options) == []


@pytest.mark.parametrize("part", ["unified", "cops", "solver"])
def test_each_part_does_its_work(part):
    waiting.PARTS[part]((64, 96), 1)()
