"""A bare page with widgets, as a stored notebook becomes one: for tests without a built book."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page

from effedu.widgets import Widget, embed

HOST = Path(__file__).parents[2] / "book/_static/widget-host.js"


def widget_page(
    *widgets: Widget,
    theme: str | None = "light",
    before: str = "",
    after: str = "",
    body: str | None = None,
) -> str:
    """Return the HTML of a page that shows ``widgets`` with nothing but the host script.

    ``theme`` is what the book's theme writes on ``<html>``; ``None`` leaves it to the system.
    ``before`` and ``after`` are HTML around the widgets; ``body`` replaces what would embed them.
    """
    attribute = "" if theme is None else f' data-theme="{theme}"'
    background = {"light": "#ffffff", "dark": "#14181e"}.get(theme or "", "Canvas")
    ink = {"light": "#222832", "dark": "#ced6dd"}.get(theme or "", "CanvasText")
    shown = embed(*widgets) if body is None else body
    return f"""<!DOCTYPE html>
<html lang="en"{attribute}>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Widgets</title>
<style>
body {{ margin: 0; background: {background}; color: {ink}; font-family: system-ui, sans-serif; }}
main {{ max-width: 60rem; margin: 0 auto; padding: 0 0.75rem; }}
</style>
<script>{HOST.read_text("utf-8")}</script>
</head>
<body>
<main>
<h1>Widgets</h1>
{before}
{shown}
{after}
</main>
</body>
</html>
"""


def wait_for_views(page: Page, part: str, views: int = 1) -> None:
    """Wait until so many views on the page have drawn ``part``, a CSS selector."""
    page.wait_for_function(
        """([part, n]) =>
             document.querySelectorAll(`.widget-view[data-widget] ${part}`).length === n""",
        arg=[part, views],
    )


def slider(view: Page | Locator, label: str) -> Locator:
    """The slider whose label begins like this."""
    return view.locator(".fx-range", has_text=re.compile(f"^{label}")).locator("input")


def words_outside(svg: Locator) -> list[str]:
    """Words of a picture that lie left or right of it."""
    found: list[str] = svg.evaluate(
        """(svg) => [...svg.querySelectorAll("text")].filter((text) => {
             const [a, b] = [text.getBoundingClientRect(), svg.getBoundingClientRect()];
             return a.left < b.left - 1 || a.right > b.right + 1;
           }).map((text) => text.textContent)"""
    )
    return found


def covered_words(svg: Locator) -> list[str]:
    """Pairs of words of a picture that cover each other."""
    found: list[str] = svg.evaluate(
        """(svg) => {
             const texts = [...svg.querySelectorAll("text")];
             const boxes = texts.map((text) => text.getBoundingClientRect());
             return texts.flatMap((text, i) => texts.slice(0, i).filter((_, j) => {
               const [a, b] = [boxes[i], boxes[j]];
               return a.left < b.right - 1 && b.left < a.right - 1
                 && a.top + 2 < b.bottom - 2 && b.top + 2 < a.bottom - 2;
             }).map((other) => `${text.textContent} / ${other.textContent}`));
           }"""
    )
    return found


def random_config(draw: random.Random, models: list[dict[str, Any]]) -> dict[str, Any]:
    """The configuration of one of a widget's models, or sizes drawn at random in its place."""
    config = dict(draw.choice(models)["config"])
    if draw.random() < 0.5:
        heads = draw.randint(1, 64)
        config.update(
            vocab_size=draw.randint(1, 200_000),
            hidden_size=draw.randint(heads, 9000),
            num_hidden_layers=draw.randint(1, 100),
            num_attention_heads=heads,
            num_key_value_heads=draw.randint(1, heads),
            intermediate_size=draw.randint(1, 30_000),
            tie_word_embeddings=draw.random() < 0.5,
        )
        if config["model_type"] == "gpt_neox":
            config.update(num_key_value_heads=heads, attention_bias=draw.random() < 0.5)
    return config
