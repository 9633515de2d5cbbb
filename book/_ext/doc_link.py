"""A link to a document of the book, for the directives that make one."""

from __future__ import annotations

from docutils import nodes
from sphinx import addnodes


def link_to(docname: str, text: str = "") -> addnodes.pending_xref:
    """A link that Sphinx resolves, and warns of where there is no such document.

    Without ``text`` it shows the document's title.
    """
    return addnodes.pending_xref(
        "",
        nodes.inline("", text),
        refdomain="std",
        reftype="doc",
        reftarget=f"/{docname}",
        refexplicit=bool(text),
        refwarn=True,
    )
