"""tools/docs_links.py: names of pages become links, elsewhere nothing changes."""

from __future__ import annotations

import pytest

from panoptic_tools.docs_links import link_pages


@pytest.mark.parametrize(
    ("page", "target"),
    [
        ("results.md", "howto/errors.md"),
        ("howto/python.md", "errors.md"),
        ("a/b/c.md", "../../howto/errors.md"),
    ],
)
def test_the_name_of_a_page_becomes_a_link_from_where_it_stands(page: str, target: str) -> None:
    text = "see `docs/howto/errors.md`, again"
    assert link_pages(text, page) == f"see [`docs/howto/errors.md`]({target}), again"


@pytest.mark.parametrize(
    "text",
    [
        "```bash\ncat `docs/results.md`\n```",  # code
        "[`docs/results.md`](other.md)",  # a link already
        "`configs/unified/Base.yaml` and docs/results.md",  # no page, and no name
    ],
)
def test_what_is_no_name_of_a_page_stays(text: str) -> None:
    assert link_pages(text, "index.md") == text


def test_text_after_a_block_of_code_is_linked_again() -> None:
    text = "```\n`docs/a.md`\n```\n`docs/a.md`"
    assert link_pages(text, "index.md") == "```\n`docs/a.md`\n```\n[`docs/a.md`](a.md)"
