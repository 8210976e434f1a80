"""The documentation: every page is reachable, every page that is named exists, the site builds."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from project import ROOT

PAGES = sorted(str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md"))


class _Loader(yaml.SafeLoader):
    """Reads mkdocs.yml, whose tags name Python functions, without calling any."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def _leaves(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for value in entry.values() if isinstance(entry, dict) else entry:
            yield from _leaves(value)


def test_every_page_stands_once_in_the_navigation() -> None:
    config = yaml.load((ROOT / "mkdocs.yml").read_text(), _Loader)
    assert sorted(_leaves(config["nav"])) == PAGES


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", *(f"docs/{p}" for p in PAGES)])
def test_every_page_that_is_named_exists(file: str) -> None:
    named = re.findall(r"`?docs/([\w/-]+\.md)", (ROOT / file).read_text())
    assert [name for name in named if name not in PAGES] == []


def test_every_file_that_the_comparison_names_exists() -> None:
    """Its rows are evidence: a test that has moved must be named anew."""
    text = (ROOT / "docs/howto/compare.md").read_text()
    rows = re.findall(r"`(tests/[\w/]+\.py)`", text)
    assert len(rows) > 40
    assert [name for name in rows if not (ROOT / name).is_file()] == []


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """A link without target or a name without docstring ends a strict build."""
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    for page in PAGES:
        text = (site / page).with_suffix(".html").read_text()
        assert re.findall(r'(?:src="|<link[^>]*href=")https?://[^"]*', text) == []
    assert "solve_multicut" in (site / "reference" / "solver.html").read_text()
    # A name of a page has become a link.
    assert '<a href="demo.html"><code>docs/demo.md</code></a>' in (site / "index.html").read_text()
