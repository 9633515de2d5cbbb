"""Sphinx extension: what a widget says without scripts goes into the page beside it.

A notebook stores a widget's output as a widget view and as HTML (``Widget.fallback``). myst-nb
keeps only the first of them for web pages. Before it chooses, this puts the HTML into the view's
place as ``<noscript>``. The script which shows the views, ``_static/widget-host.js``, is on every
page already: Jupyter Book adds what lies in ``_static``.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from myst_nb.sphinx_ import SelectMimeType
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

VIEW_MIME = "application/vnd.jupyter.widget-view+json"


class KeepWidgetFallback(SphinxPostTransform):
    default_priority = SelectMimeType.default_priority - 1
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        for bundle in self.document.findall(nodes.container):
            if bundle.get("nb_element") != "mime_bundle":
                continue
            found = {child["mime_type"]: child for child in bundle.children}
            if VIEW_MIME in found and "text/html" in found:
                html = "".join(node.astext() for node in found["text/html"].children)
                found[VIEW_MIME] += nodes.raw("", f"<noscript>{html}</noscript>", format="html")


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_post_transform(KeepWidgetFallback)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
