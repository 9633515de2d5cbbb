"""Sphinx extension: what a page with widgets holds, and what it leaves to a file beside it.

A notebook stores a widget's output as a widget view and as HTML (``Widget.fallback``). myst-nb
keeps only the first of them for web pages. Before it chooses, this puts the HTML into the view's
place as ``<noscript>``.

myst-nb writes the state of all widgets into the page, where a phone has to receive it before the
text below can appear. This moves it to ``<page>.widgets.js`` beside the page and leaves an empty
``<script data-src=…>`` of the same type; ``_static/widget-host.js`` loads the file once the page
is there. A script and not JSON, because a page opened from a folder may load nothing else.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_nb.sphinx_ import SelectMimeType
from sphinx.application import Sphinx
from sphinx.builders.html._assets import _JavaScript
from sphinx.transforms.post_transforms import SphinxPostTransform

VIEW_MIME = "application/vnd.jupyter.widget-view+json"
STATE_MIME = "application/vnd.jupyter.widget-state+json"


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


def is_state(script: object) -> bool:
    """Whether a script of a page is the state of its widgets, or says where that is."""
    return getattr(script, "attributes", {}).get("type") == STATE_MIME


def move_state(
    app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: object
) -> None:
    """Write the state of a page's widgets beside the page, and leave a note where it is."""
    scripts = context.get("script_files", [])
    for index, script in enumerate(scripts):
        if not is_state(script):
            continue
        text = f"document.currentScript.widgetState = {script.attributes['body']};\n"
        path = Path(app.outdir) / f"{pagename}.widgets.js"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        version = hashlib.sha256(text.encode()).hexdigest()[:8]
        place = {"data-src": f"{path.name}?v={version}"}
        scripts[index] = _JavaScript(None, priority=script.priority, type=STATE_MIME, **place)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_post_transform(KeepWidgetFallback)
    # After myst-nb has added the state, before the frame chooses what the page loads.
    app.connect("html-page-context", move_state, priority=800)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
