"""When and with what the stored outputs were made: a line on each chapter, and a page of them all.

``tools.notebooks`` writes a stamp into a notebook's metadata when it stores new outputs. The frame
shows it above the chapter (``layout.html``), and ``{stored-notebooks}`` makes a table of all.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from doc_link import link_to
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

HEADS = ("Chapter", "Stored", "Ran for", "On", "Python", "PyTorch", "Transformers", "NumPy")


def stamp_of(path: Path) -> dict[str, Any] | None:
    """The stamp of a notebook, None for another page or one without a stamp."""
    if path.suffix != ".ipynb":
        return None
    stamp: dict[str, Any] | None = json.loads(path.read_text("utf-8"))["metadata"].get("stored")
    return stamp


def day(date: str) -> str:
    """A date in words.

    >>> day("2026-01-31")
    '31 January 2026'
    """
    when = datetime.date.fromisoformat(date)
    return f"{when.day} {when:%B %Y}"


def sentence(stamp: dict[str, Any]) -> str:
    """The line above a chapter.

    >>> sentence({"date": "2026-01-31", "python": "3.11.7", "torch": "2.13.0+cpu", "seconds": 40})
    'Outputs of 31 January 2026, with Python 3.11.7 and PyTorch 2.13.0+cpu'
    """
    return (
        f"Outputs of {day(stamp['date'])}, with Python {stamp['python']} and "
        f"PyTorch {stamp['torch']}"
    )


class StoredNotebooks(SphinxDirective):
    """The directive: a row for each chapter of the contents."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        group = nodes.tgroup(cols=len(HEADS))
        for index in range(len(HEADS)):
            group += nodes.colspec(colwidth=1, stub=int(not index))
        group += nodes.thead("", _row(*map(nodes.Text, HEADS)))
        body = nodes.tbody()
        for name in sorted(self.env.found_docs):
            stamp = stamp_of(Path(self.env.doc2path(name)))
            if stamp and name.startswith("chapters/"):
                fields = [stamp[key] for key in ("machine", "python", "torch")]
                fields += [stamp[key] for key in ("transformers", "numpy")]
                body += _row(
                    link_to(name),
                    nodes.Text(day(stamp["date"])),
                    nodes.Text(f"{stamp['seconds']} s" if "seconds" in stamp else "not kept"),
                    *map(nodes.Text, fields),
                )
        group += body
        return [nodes.table("", nodes.title("", "The stored chapters"), group)]


def _row(*cells: nodes.Node) -> nodes.row:
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells))


def page_context(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    found = pagename.startswith("chapters/") and stamp_of(Path(app.env.doc2path(pagename)))
    context["book_stored"] = sentence(found) if found else ""


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("stored-notebooks", StoredNotebooks)
    app.connect("html-page-context", page_context)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
