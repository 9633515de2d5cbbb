"""Mathematics typeset while the book is built, so that a page shows it without any script.

KaTeX (in ``_vendor/katex``) runs once per build inside an embedded JavaScript engine and writes
HTML for the eye and MathML for screen readers. A formula that KaTeX can't read is a Sphinx
warning, so a strict build stops at it instead of showing red text to a reader.
"""

from __future__ import annotations

import atexit
import html
from functools import lru_cache
from pathlib import Path
from typing import Any

from docutils import nodes
from py_mini_racer import JSEvalException, MiniRacer
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

KATEX = Path(__file__).resolve().parent.parent / "_vendor" / "katex"
logger = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def _engine() -> MiniRacer:
    engine = MiniRacer()
    atexit.register(engine.close)  # later, while Python 3.13 tears itself down, it would hang
    engine.eval((KATEX / "katex.min.js").read_text(encoding="utf-8"))
    return engine


@lru_cache(maxsize=4096)
def typeset(latex: str, display: bool) -> str:
    """The HTML of one formula; a ``ValueError`` with KaTeX's own words if it can't be read."""
    options = {"displayMode": display, "throwOnError": True, "strict": "error", "trust": False}
    try:
        return str(_engine().call("katex.renderToString", latex, options))
    except JSEvalException as error:
        reason = str(error).split("\n")[0].removeprefix("<anonymous>:1: ")
        raise ValueError(f"can't typeset {latex!r}: {reason}") from None


def _typeset_node(node: nodes.Node, display: bool) -> str:
    try:
        return typeset(node.astext().strip(), display)
    except ValueError as error:
        logger.warning(str(error), location=node, type="math")
        return f"<code>{html.escape(node.astext())}</code>"


def visit_inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(_typeset_node(node, display=False))
    raise nodes.SkipNode


def visit_display(translator: Any, node: nodes.math_block) -> None:
    translator.body.append(translator.starttag(node, "div", CLASS="equation"))
    # The scrolling part is inside, so that the number stays in sight beside a long equation.
    translator.body.append(f'<div class="equation-body">{_typeset_node(node, True)}</div>')
    if node["number"]:
        number = get_node_equation_number(translator, node)
        translator.body.append(f'<span class="equation-number">({number})</span>')
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_html_math_renderer("build", (visit_inline, None), (visit_display, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
