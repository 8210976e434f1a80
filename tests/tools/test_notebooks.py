"""The notebooks: each is as its page says, and runs from its first cell to its last."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from panoptic_tools import notebooks


def sources(page: str) -> list[tuple[str, str]]:
    """Kind and text of each cell of a page, without the set-up that follows the first."""
    cells = notebooks.cells_of(page, "demo")
    assert "os.chdir(folder)" in "".join(cells[1]["source"])
    return [(c["cell_type"], "".join(c["source"])) for c in [cells[0], *cells[2:]]]


def test_each_notebook_is_as_its_page() -> None:
    """After a change of a page: `python tools/notebooks.py`."""
    assert notebooks.main(["--check"]) == 0
    files = {path.stem for path in notebooks.FOLDER.glob("*.ipynb")}
    assert files == set(notebooks.PAGES)


def test_a_difference_is_told_and_mended(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path)
    assert notebooks.main(["--check"]) == 1 and not list(tmp_path.iterdir())
    assert notebooks.main([]) == 0
    (tmp_path / "solver.ipynb").write_text("{}")
    capsys.readouterr()
    assert notebooks.main(["--check"]) == 1
    assert capsys.readouterr().out == "solver.ipynb: is not as docs/tutorials/solver.md\n"


def test_doctests_lose_prompts_and_keep_what_they_show() -> None:
    page = "# T\n```python\n>>> a = [1,\n...      2]\n>>> sum(a)\n3\n>>> b = 4\n\n```\nEnd.\n"
    assert sources(page) == [
        ("markdown", "# T"),
        ("code", "a = [1,\n     2]\ndisplay(sum(a))\nb = 4"),
        ("markdown", "End."),
    ]


def test_what_shall_raise_is_marked() -> None:
    page = (
        "T\n```python\n>>> 1 / 0\nTraceback (most recent call last):\nZeroDivisionError: x\n```\n"
    )
    last = notebooks.cells_of(page, "demo")[-1]
    assert "".join(last["source"]) == "1 / 0" and last["metadata"]["tags"] == ["raises-exception"]


def test_a_shell_knows_the_variables_of_those_before() -> None:
    page = (
        'T\n```bash\nDATA2="a\n  b"\npython tools/demo.py $DATA2\n```\n```bash\necho $DATA2\n```\n'
    )
    first, second = (text for kind, text in sources(page) if kind == "code")
    assert first == '%%bash\nset -e\nDATA2="a\n  b"\npython -m panoptic_tools.demo $DATA2'
    assert second == '%%bash\nset -e\nDATA2="a\n  b"\necho $DATA2'


def test_comments_add_cells_and_replace_words() -> None:
    page = (
        "T\n<!-- notebook\n```python\nx = 'few'\n```\nmany => few\n-->\n"
        "```yaml\n# own.yaml\nN: many\n```\n```yaml\nloose: many\n```\n"
    )
    assert sources(page) == [
        ("markdown", "T"),
        ("code", "x = 'few'"),
        ("code", "%%writefile own.yaml\n# own.yaml\nN: few"),
        ("markdown", "```yaml\nloose: few\n```"),
    ]


# What the cells must have shown.
SHOWN = {
    "solver": ['"text/plain": "3"', '"text/plain": "1536"', '"text/plain": "True"'],
    "nuclei": ["nothing wrong", "PQ", "nuclei; median area"],
    "python": ["['background', 'nucleus']", "floats from 0 to 200 are no image"],
    "own_data": ["nothing wrong", "loss_panoptic_quality"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", notebooks.PAGES)
def test_it_runs_to_its_last_cell(name: str, tmp_path: Path, monkeypatch) -> None:
    """In a folder of its own, with the Python that runs this test."""
    reason = "the extra [notebooks] is not installed"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    nbformat = pytest.importorskip("nbformat", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    shutil.copy(notebooks.FOLDER / f"{name}.ipynb", tmp_path)
    content = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
    nbformat.validate(content)
    assert all(not cell.outputs for cell in content.cells if cell.cell_type == "code")
    client = nbclient.NotebookClient(
        content, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    shown = json.dumps([cell.get("outputs", []) for cell in content.cells], ensure_ascii=False)
    assert [text for text in SHOWN[name] if text not in shown] == []
    assert (tmp_path / "output" / name).is_dir()
