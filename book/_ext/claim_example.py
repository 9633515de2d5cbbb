"""``{claim-example}``: one verdict from the chapters, shown as its chapter shows it.

The home page uses it to show how a claim is put on trial. It takes the first claim that fails,
since that says most about the method, or else the first one there is.
"""

from __future__ import annotations

from typing import Any

from doc_link import link_to
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from effedu.claims import collect


class ClaimExample(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        notebooks = [
            self.env.doc2path(name)
            for name in sorted(self.env.found_docs)
            if name.startswith("chapters/")
        ]
        found = collect(notebooks)
        if not found:
            return [nodes.paragraph("", "No chapter has a verdict yet.")]
        path, verdict = next((one for one in found if one[1].verdict == "fails"), found[0])
        card = nodes.raw("", verdict._repr_mimebundle_()["text/html"], format="html")
        line = nodes.paragraph("", "The experiment is in the chapter ")
        docname = self.env.path2doc(str(path))
        line += link_to(docname)
        line += nodes.Text(".")
        return [card, line]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("claim-example", ClaimExample)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
