"""What the widgets share: composed sources, a stable name, a picture for pages without scripts.

A widget is one Python class, one ``name.js`` and one ``name.css``. Its module stands on
``common.js`` (see its header), which is put in front of it here, so that what reaches the page is
self-contained: nothing is fetched. https://anywidget.dev/en/afm/ describes the module's contract.
"""

from __future__ import annotations

import json
import re
from importlib import resources
from typing import Any

import anywidget
from ipywidgets import embed as _embed  # type: ignore[import-untyped]

VIEW_MIME = "application/vnd.jupyter.widget-view+json"
STATE_MIME = "application/vnd.jupyter.widget-state+json"


def compose(*names: str) -> tuple[str, str]:
    """Return the JavaScript and the CSS of a widget, each with the common part in front.

    The last of ``names`` is the widget; before it may stand parts that it shares with some others.

    >>> esm, css = compose("attention_map")
    >>> "export default" in esm, ".fx" in css
    (True, True)
    """
    folder = resources.files("effedu.widgets")
    modules, styles = (
        [folder / f"{part}.{kind}" for part in ("common", *names)] for kind in ("js", "css")
    )
    esm = "\n".join(_slim(file.read_text("utf-8")) for file in modules)
    css = "\n".join(_slim(file.read_text("utf-8")) for file in styles if file.is_file())
    return esm, css


def _slim(source: str) -> str:
    """Drop comments that have their lines to themselves, and indentation: every notebook and page
    carries this text. The sources therefore keep no template literal longer than a line."""
    source = re.sub(r"^[ \t]*/\*.*?\*/[ \t]*$", "", source, flags=re.M | re.S)
    source = re.sub(r"^[ \t]*//.*$", "", source, flags=re.M)
    return re.sub(r"\n\s*", "\n", source).strip()


class Widget(anywidget.AnyWidget):  # type: ignore[misc]
    """Base of the widgets: a ``repr`` without addresses, and HTML for pages where scripts are off.

    A subclass sets ``_esm, _css = compose("its_name")`` and writes ``fallback``.
    """

    def fallback(self) -> str:
        """Return HTML that says and shows the widget's present state, without any script."""
        raise NotImplementedError

    def _summary(self) -> str:
        """Return what distinguishes this widget, for its ``repr``: ``"57 tokens, layer 1"``."""
        return ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._summary()})"

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = super()._repr_mimebundle_(**kwargs)
        return {**data, "text/html": self.fallback()}, metadata


def embed(*widgets: Widget) -> str:
    """Return HTML that shows ``widgets`` on a static page that has ``widget-host.js``.

    It is what a stored notebook becomes on the site: their state as JSON, then for each a view and
    its fallback in ``<noscript>``.
    """
    state = _embed.dependency_state(list(widgets), drop_defaults=False)
    manager = {"version_major": 2, "version_minor": 0, "state": state}
    parts = [_script(STATE_MIME, manager)]
    for widget in widgets:
        view = widget.get_view_spec()
        parts.append(f"{_script(VIEW_MIME, view)}\n<noscript>{widget.fallback()}</noscript>")
    return "\n".join(parts)


def _script(mime: str, data: Any) -> str:
    text = _embed.escape_script(json.dumps(data))
    return f'<script type="{mime}">{text}</script>'
