"""The lab note of a paper as HTML, and the passages of it that explain a claim."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup


def _parser() -> MarkdownIt:
    # HTML in a note is shown as text. A link of a note is relative to the checkout, where the report is not.
    return MarkdownIt("commonmark", {"html": False}).enable("table").disable("link")


def render_note(path: Path) -> Markup:
    """Return a lab note as HTML, without its title, and with headings one level lower to fit into a page."""
    parser = _parser()
    tokens = parser.parse(path.read_text(encoding="utf-8"))
    if tokens and tokens[0].type == "heading_open" and tokens[0].tag == "h1":
        tokens = tokens[3:]
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1]) + 1}"
        elif token.type == "th_open":
            token.attrSet("scope", "col")
        elif token.type in ("fence", "code_block", "table_open"):
            token.attrSet("tabindex", "0")  # wider than a phone: the keyboard scrolls what has the focus
    return Markup(parser.renderer.render(tokens, parser.options, {}))


def explanations(path: Path) -> dict[str, list[Markup]]:
    """Return the passages of a lab note that explain claims: {claim id: [HTML]}.

    A passage is a paragraph or an item of a list; it explains the claims whose ids it has in bold ("**C6 fails by its
    accuracy part**: ...").
    """
    parser = _parser()
    tokens = parser.parse(path.read_text(encoding="utf-8"))
    found: dict[str, list[Markup]] = defaultdict(list)
    for number, token in enumerate(tokens):
        if token.type != "inline" or tokens[number - 1].type != "paragraph_open":
            continue
        for identity in dict.fromkeys(re.findall(r"\b[A-Z]+\d*[a-z]?\b", _bold(token))):
            found[identity].append(Markup(parser.renderer.render([token], parser.options, {})))
    return dict(found)


def _bold(token: Token) -> str:
    """Return the text of an inline token that is in bold."""
    depth, parts = 0, []
    for child in token.children or []:
        if child.type == "strong_open":
            depth += 1
        elif child.type == "strong_close":
            depth -= 1
            parts.append(" ")
        elif depth:
            parts.append(child.content)
    return "".join(parts)
