"""``{claims-ledger}``: every verdict of the book in one table, read from the stored notebooks.

The numbers stand in the chapters' outputs (``effedu.claims``) and nowhere else, so the ledger
cannot differ from what the chapters show. Chapters are those of the table of contents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from doc_link import link_to
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from effedu.claims import WORDS, Verdict, collect

HEADS = ("Claim", "Article", "Chapter", "Measured", "Verdict")
WIDTHS = (30, 8, 14, 26, 22)  # shares of the table's width
COUNTED = {  # one claim, several claims
    "holds": ("holds", "hold"),
    "holds when": ("holds under a condition", "hold under a condition"),
    "fails": ("fails", "fail"),
}


class ClaimsLedger(SphinxDirective):
    """The directive. ``:folder:`` says where the chapters are, below the source folder."""

    option_spec: ClassVar = {"folder": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        # A chapter's outputs change without this page, so read it again in every build.
        self.env.note_reread()
        folder = self.options.get("folder", "chapters").strip("/")
        documents = {
            str(path): name
            for name in contents(self.env)
            if name.startswith(f"{folder}/")
            for path in [Path(self.env.doc2path(name))]
            if path.suffix == ".ipynb"
        }
        try:
            found = collect(documents)
        except ValueError as error:
            raise ExtensionError(f"claims-ledger: {error}") from error
        if not found:
            return [nodes.paragraph("", "No chapter has put a claim on trial yet.")]
        rows = [(documents[str(path)], verdict) for path, verdict in found]
        return [nodes.paragraph("", summary([v for _, v in rows])), table(rows)]


def contents(env: BuildEnvironment) -> list[str]:
    """Names of the documents in the table of contents, in its order."""
    site_map = getattr(env.app.config, "external_site_map", None)  # of sphinx-external-toc
    if site_map is None:
        return sorted(env.found_docs)
    return [name for name in map(str, site_map) if name in env.found_docs]


def summary(verdicts: list[Verdict]) -> str:
    """How many claims came to which verdict, in a sentence."""
    counts = {word: sum(v.verdict == word for v in verdicts) for word in WORDS}
    parts = [f"{n} {COUNTED[word][n != 1]}" for word, n in counts.items()]
    total = len(verdicts)
    return f"{total} claim{'s' * (total != 1)} on trial: {', '.join(parts[:-1])} and {parts[-1]}."


def table(rows: list[tuple[str, Verdict]]) -> nodes.table:
    """The table: headings on its columns, and on each row its claim."""
    group = nodes.tgroup(cols=len(HEADS))
    for index, width in enumerate(WIDTHS):
        # A stub is a heading of its row.
        group += (
            nodes.colspec(colwidth=width, stub=1) if not index else nodes.colspec(colwidth=width)
        )
    group += nodes.thead("", nodes.row("", *(_cell(head) for head in HEADS)))
    body = nodes.tbody()
    for name, verdict in rows:
        kind = f"claim-verdict-{verdict.verdict.replace(' ', '-')}"
        sentence = f"{verdict.verdict} {verdict.when}".strip()
        body += nodes.row(
            "",
            _cell(verdict.statement),
            _cell(verdict.section),
            nodes.entry("", nodes.paragraph("", "", link_to(name))),
            _cell(verdict.measured),
            nodes.entry("", nodes.paragraph("", sentence), classes=["claim-verdict", kind]),
            classes=[kind],
        )
    group += body
    title = nodes.title("", "Claims of the article, what was measured, and the verdicts")
    return nodes.table("", title, group, classes=["claims-ledger"])


def _cell(text: str) -> nodes.entry:
    return nodes.entry("", nodes.paragraph("", text)) if text else nodes.entry()


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("claims-ledger", ClaimsLedger)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
