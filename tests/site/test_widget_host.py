"""The host that shows widgets on pages without a kernel, and what stands there without scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import traitlets
from playwright.sync_api import expect
from widget_page import widget_page

from effedu.widgets import AttentionMap, Widget, embed
from effedu.widgets._base import STATE_MIME, VIEW_MIME

ROOT = Path(__file__).parents[2]


class Probe(Widget):
    """A widget that lays its model open to the test."""

    _esm = """
    export default {
      initialize({ model }) { model.set("started", model.get("started") + 1); },
      render({ model, el }) {
        el.textContent = "probe " + model.get("name");
        (window.models ??= []).push(model);
      },
    };
    """
    _css = ".probe { color: red; }"
    name = traitlets.Unicode("one").tag(sync=True)
    started = traitlets.Int(0).tag(sync=True)
    data = traitlets.Bytes(b"").tag(sync=True)

    def fallback(self):
        return "<p>probe without scripts</p>"


class Broken(Probe):
    _esm = "export default { render() { throw new Error('no luck'); } };"


class Misspelt(Probe):
    _esm = "export default { render( };"


def small(**options):
    query, key = np.random.default_rng(0).normal(size=(2, 1, 2, 3, 4))
    return AttentionMap(["a", " b", "\n"], query, key, **options)


def views(page, number):
    page.wait_for_function(
        "n => document.querySelectorAll('.widget-view[data-widget]').length === n", arg=number
    )


def test_model(open_page):
    probe = Probe(name="two", data=bytes(range(256)))
    page = open_page(widget_page(probe, probe))
    views(page, 2)
    assert page.locator(".widget-view").all_inner_texts() == ["probe two", "probe two"]
    seen = page.evaluate(
        """() => {
             const [model, same] = window.models;
             const log = [];
             const listen = () => log.push("name");
             model.on("change:name change:started", listen);
             model.on("change", () => log.push("any"));
             model.set("name", "three");
             model.set("name", "three"); // no change, no event
             model.set({ started: 7 });
             model.off("change:name", listen);
             model.set("name", "four");
             model.save_changes();
             const view = model.get("data");
             return { log, same: model === same, name: same.get("name"),
                      type: view.constructor.name,
                      bytes: Array.from({ length: view.byteLength }, (_, i) => view.getUint8(i)) };
           }"""
    )
    assert seen["same"]
    assert seen["name"] == "four"
    assert seen["log"] == ["name", "any", "name", "any", "any"]
    assert (seen["type"], bytes(seen["bytes"])) == ("DataView", bytes(range(256)))
    assert page.evaluate("() => document.querySelectorAll('style[data-widget]').length") == 1


def test_initialize_runs_once_for_two_views(open_page):
    probe = Probe()
    page = open_page(widget_page(probe, probe))
    views(page, 2)
    assert page.evaluate("() => window.models[0].get('started')") == 1


def test_an_error_says_so_in_its_place_and_breaks_nothing_else(open_page):
    lost = f'<script type="{VIEW_MIME}">{{"model_id": "nobody"}}</script>'
    page = open_page(
        widget_page(Broken(), Misspelt(), small(), before=lost),
        expected=("no luck", "Unexpected token", "isn't stored"),
    )
    views(page, 4)
    messages = page.locator(".fx-error").all_inner_texts()
    assert len(messages) == 3
    assert "isn't stored in this page" in messages[0]
    assert "no luck" in messages[1]
    assert "Unexpected token" in messages[2]
    page.locator(".fx-am-token").nth(1).click()
    expect(page.locator(".fx-readout")).to_contain_text("Token “·b” at 1")


def test_a_state_that_does_not_arrive_is_named(open_page, tmp_path):
    (tmp_path / "empty.js").write_text("", "utf-8")
    for name in ("nowhere.js", "empty.js"):
        body = f'''<script type="{VIEW_MIME}">{{"model_id": "a"}}</script>
                   <script type="{STATE_MIME}" data-src="{name}"></script>'''
        page = open_page(widget_page(body=body), expected=("ERR_FILE_NOT_FOUND", "did not arrive"))
        views(page, 1)
        assert "reload the page" in page.locator(".fx-error").inner_text()


def test_what_is_far_below_waits(open_page):
    page = open_page(widget_page(Probe(name="far"), before="<div style='height: 5000px'></div>"))
    page.wait_for_timeout(300)
    assert page.locator(".widget-view").inner_text() == ""
    page.locator(".widget-view").scroll_into_view_if_needed()
    views(page, 1)
    assert page.locator(".widget-view").inner_text() == "probe far"


def test_a_page_without_widgets_is_left_alone(open_page):
    page = open_page(widget_page(body="<p>Only text.</p>"))
    assert page.locator("main").inner_text().split() == ["Widgets", "Only", "text."]


def test_without_scripts_a_picture_and_a_sentence(open_page):
    widget = small(token=1)
    page = open_page(widget_page(widget), java_script_enabled=False)
    assert page.locator("figure svg").is_visible()
    assert "token “·b” at 1 looks most at" in page.locator("figcaption").inner_text()


def test_a_stored_notebook_keeps_both_on_the_site(tmp_path, open_page):
    """Sphinx with the extension, on a stored notebook: the view, and the HTML beside it."""
    widget = small(token=2)
    data, _ = widget._repr_mimebundle_()
    cell = nbformat.v4.new_code_cell(
        "widget", outputs=[nbformat.v4.new_output("execute_result", data, execution_count=1)]
    )
    state = json.loads(embed(widget).split(">", 1)[1].split("</script>")[0])
    heading = nbformat.v4.new_markdown_cell("# A page")
    notebook = nbformat.v4.new_notebook(cells=[heading, cell])
    notebook.metadata["widgets"] = {STATE_MIME: state}
    nbformat.write(notebook, tmp_path / "index.ipynb")
    (tmp_path / "_static").mkdir()
    host = (ROOT / "book/_static/widget-host.js").read_text("utf-8")
    (tmp_path / "_static/widget-host.js").write_text(host, "utf-8")
    (tmp_path / "conf.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT / 'book/_ext')!r})\n"
        "extensions = ['myst_nb', 'widget_host']\nnb_execution_mode = 'off'\n"
        "nb_ipywidgets_js = {}\nhtml_static_path = ['_static']\n"
        "html_js_files = ['widget-host.js']\nhtml_theme = 'basic'\n",
        "utf-8",
    )
    built = tmp_path / "built"
    subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(tmp_path), str(built)], check=True
    )
    page = open_page("<title>x</title>")
    page.goto((built / "index.html").as_uri())
    views(page, 1)
    assert "Token “⏎” at 2" in page.locator(".fx-readout").inner_text()
    # The state is in a file of its own, so that the text doesn't wait for it.
    assert "_esm" not in (built / "index.html").read_text("utf-8")
    assert "_esm" in (built / "index.widgets.js").read_text("utf-8")
    page = open_page("<title>x</title>", java_script_enabled=False)
    page.goto((built / "index.html").as_uri())
    assert "token “⏎” at 2 looks most at" in page.locator("figcaption").inner_text()
