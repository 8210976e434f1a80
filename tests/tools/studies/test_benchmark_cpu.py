"""The study of ways to run a network on a CPU, on tiny networks."""

from __future__ import annotations

import pytest

from panoptic_tools.studies import benchmark_cpu

TINY = [
    *("--size", "64", "96", "--classes", "5", "--things", "2", "--detections", "3"),
    *("--repeat", "1"),
]


@pytest.mark.parametrize("system", ["unified", "cops"])
def test_all_ways_but_the_compiled(capsys, system):
    config = f"configs/{system}/scenes/" + ("D2.yaml" if system == "unified" else "pretrain.yaml")
    more = ["MODEL.UNIFIED.DECODER.DEFORMABLE", "True"] if system == "unified" else []
    path = str(benchmark_cpu.ROOT / config)
    assert benchmark_cpu.main(["--config-file", path, *TINY, *more]) == 0
    rows = capsys.readouterr().out.splitlines()[-5:]
    assert [row.split("|")[1].strip() for row in rows] == list(benchmark_cpu.WAYS[:-1])
    results = [row.split("|")[4].strip() for row in rows]
    if system == "cops":
        assert float(results[1]) == 0 and float(results[2]) < 1e-4 < float(results[3]) < 0.2
    else:
        assert results[0] == "100.000% of the pixels"
        assert all(float(text.split("%")[0]) > 90 for text in results)


def test_what_makes_no_sense_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark_cpu.main(["--things", "5", "--classes", "5"])
    assert ended.value.code == 2
    assert "--things 5 must be less than --classes 5" in capsys.readouterr().err
