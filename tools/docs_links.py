"""Make links of the pages that the documentation names, for the site that mkdocs builds.

In the files a page is named by its path in the project, such as `docs/results.md`. That reads well
in an editor too. This hook of mkdocs (https://www.mkdocs.org/user-guide/configuration/#hooks) turns
such names into links, outside blocks of code.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

_NAMED_PAGE = re.compile(r"(?<!\[)`docs/([\w/]+\.md)`")
_FENCE = re.compile(r"^\s*```")


def link_pages(text: str, page: str) -> str:
    """Replace the names of pages by links to them.

    Args:
        text: Markdown.
        page: where it stands, from the folder of the documentation, such as "howto/errors.md".

    Returns:
        Markdown; blocks of code and links that exist stay as they are.
    """

    def link(match: re.Match[str]) -> str:
        target = posixpath.relpath(match[1], posixpath.dirname(page) or ".")
        return f"[{match[0]}]({target})"

    lines, inside = [], False
    for line in text.split("\n"):
        if _FENCE.match(line):
            inside = not inside
        lines.append(line if inside else _NAMED_PAGE.sub(link, line))
    return "\n".join(lines)


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Be called by mkdocs for each page."""
    return link_pages(markdown, page.file.src_uri)
