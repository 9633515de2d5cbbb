"""``{claims-ledger}``: every claim of the article in one table, with the verdict on it.

The verdicts are read from the stored notebooks (``effedu.claims``), so the ledger cannot differ
from what the chapters show. ``claims.yml`` says which claims there are: a chapter in the table of
contents that leaves one of its claims without a verdict stops the build, and so does a verdict on
a claim that the list doesn't have.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml
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
TRIAL = "#on-trial"  # the part of a chapter in which its experiments lead to verdicts
COUNTED = {  # one claim, several claims
    "holds": ("holds", "hold"),
    "holds when": ("holds under a condition", "hold under a condition"),
    "fails": ("fails", "fail"),
}


@dataclass(frozen=True)
class Row:
    """A claim of the list, the page that judges it, and the verdict once there is one."""

    section: str
    statement: str
    page: str
    verdict: Verdict | None

    @property
    def kind(self) -> str:
        return self.verdict.verdict.replace(" ", "-") if self.verdict else "open"


class ClaimsLedger(SphinxDirective):
    """The directive. ``:folder:`` and ``:claims:`` lie below the source folder."""

    option_spec: ClassVar = {
        "folder": directives.unchanged_required,
        "claims": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        # A chapter's outputs change without this page, so read it again in every build.
        self.env.note_reread()
        folder = self.options.get("folder", "chapters").strip("/")
        pages = {
            str(path): name
            for name in contents(self.env)
            if name.startswith(f"{folder}/")
            for path in [Path(self.env.doc2path(name))]
            if path.suffix == ".ipynb"
        }
        claims = Path(self.env.srcdir) / self.options.get("claims", "claims.yml")
        try:
            found = [(pages[str(path)], verdict) for path, verdict in collect(pages)]
            rows = settle(yaml.safe_load(claims.read_text("utf-8")), found, pages.values(), folder)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ExtensionError(f"claims-ledger: {error}") from error
        return [nodes.paragraph("", summary(rows)), _filters(rows), table(rows)]


def settle(
    claims: list[dict[str, str]],
    found: list[tuple[str, Verdict]],
    pages: Iterable[str],
    folder: str,
) -> list[Row]:
    """Return a row for each claim, in the list's order.

    Raises ``ValueError`` for a chapter that owes a verdict, a verdict on a claim that isn't in
    the list, and one that gives another section.
    """
    verdicts = {(page, verdict.statement): verdict for page, verdict in found}
    rows = []
    for claim in claims:
        page = f"{folder}/{claim['chapter']}"
        verdict = verdicts.pop((page, claim["claim"]), None)
        if verdict is None and page in pages:
            raise ValueError(f"{page} has no verdict on its claim {claim['claim']!r}")
        if verdict and verdict.section != claim["section"]:
            raise ValueError(
                f"{page} finds {claim['claim']!r} in section {verdict.section} of the article, "
                f"the list of claims in section {claim['section']}"
            )
        rows.append(Row(claim["section"], claim["claim"], page, verdict))
    for page, statement in verdicts:
        raise ValueError(f"{page} judges a claim that the list of claims lacks: {statement!r}")
    return rows


def contents(env: BuildEnvironment) -> list[str]:
    """Names of the documents in the table of contents, in its order."""
    site_map = getattr(env.app.config, "external_site_map", None)  # of sphinx-external-toc
    if site_map is None:
        return sorted(env.found_docs)
    return [name for name in map(str, site_map) if name in env.found_docs]


def summary(rows: list[Row]) -> str:
    """How many claims came to which verdict, in a sentence or two."""
    counts = {word: sum(row.kind == word.replace(" ", "-") for row in rows) for word in WORDS}
    parts = [f"{n} {COUNTED[word][n != 1]}" for word, n in counts.items()]
    total = sum(counts.values())
    still = len(rows) - total
    judged = f"{total} claim{'s' * (total != 1)} on trial: {', '.join(parts[:-1])} and {parts[-1]}."
    return judged + f" {still} {'waits' if still == 1 else 'wait'} for a chapter." * bool(still)


def _filters(rows: list[Row]) -> nodes.raw:
    """Two pickers above the table; a script shows them, and the table is whole without it."""
    kinds = {"": "any", **{word.replace(" ", "-"): word for word in WORDS}, "open": "open"}
    kinds = {kind: name for kind, name in kinds.items() if not kind or _has(rows, kind)}
    parts = {"": "all", **{row.section[0]: f"section {row.section[0]}" for row in rows}}
    pickers = "".join(
        f'<label>{label} <select name="{name}">'
        + "".join(f'<option value="{value}">{text}</option>' for value, text in options.items())
        + "</select></label> "
        for label, name, options in (("Verdict", "kind", kinds), ("Article", "part", parts))
    )
    script = Path(__file__).with_suffix(".js").read_text("utf-8")
    form = f'<form class="ledger-filter" hidden>{pickers}<output></output></form>'
    return nodes.raw("", f'{form}<script type="module">{script}</script>', format="html")


def _has(rows: list[Row], kind: str) -> bool:
    return any(row.kind == kind for row in rows)


def table(rows: list[Row]) -> nodes.table:
    """The table: headings on its columns, and on each row its claim."""
    group = nodes.tgroup(cols=len(HEADS))
    for index, width in enumerate(WIDTHS):
        # A stub is a heading of its row.
        group += (
            nodes.colspec(colwidth=width, stub=1) if not index else nodes.colspec(colwidth=width)
        )
    group += nodes.thead("", nodes.row("", *(_cell(head) for head in HEADS)))
    body = nodes.tbody()
    for row in rows:
        kind = f"claim-verdict-{row.kind}"
        measured, sentence, chapter = "", "open", nodes.Text("to come")
        if row.verdict:
            measured = row.verdict.measured
            sentence = f"{row.verdict.verdict} {row.verdict.when}".strip()
            chapter = link_to(row.page)
        body += nodes.row(
            "",
            _cell(row.statement),
            _cell(row.section),
            nodes.entry("", nodes.paragraph("", "", chapter)),
            _cell(measured),
            nodes.entry("", nodes.paragraph("", sentence), classes=["claim-verdict", kind]),
            classes=[kind, f"claim-part-{row.section[0]}"],
        )
    group += body
    title = nodes.title("", "Claims of the article, what was measured, and the verdicts")
    return nodes.table("", title, group, classes=["claims-ledger"])


def _cell(text: str) -> nodes.entry:
    return nodes.entry("", nodes.paragraph("", text)) if text else nodes.entry()


def to_the_trial(app: Sphinx, document: nodes.document, name: str) -> None:
    """Let the ledger's links, resolved by now, lead to the experiment in the chapter."""
    for ledger in document.findall(nodes.table):
        if "claims-ledger" in ledger["classes"]:
            for link in ledger.findall(nodes.reference):
                link["refuri"] += TRIAL


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("doctree-resolved", to_the_trial)
    app.add_directive("claims-ledger", ClaimsLedger)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
