"""Figures inside the page, and the contrast of the colours that they are drawn with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import matplotlib.pyplot as plt
import pytest

from effedu.plots import INK, FigureSVG, _inline, figure_svg

PAGES = ("#ffffff", "#121212")


@pytest.fixture(autouse=True)
def book_style() -> Any:
    matplotlib.use("agg")
    with plt.style.context("effedu.data.book"):
        yield


def draw(alt: str = "A line that rises from 1 to 4.", height: float = 4) -> FigureSVG:
    fig, ax = plt.subplots()
    ax.plot([1, 2, 3], [1, 2, height], marker="o")
    ax.fill_between([1, 2], [0, 0], [1, 1], color="black", alpha=0.3)
    ax.imshow([[0, 1], [1, 0]])
    ax.text(0.5, 0.5, "$N^2$ <b>")
    ax.set(xlabel="length (tokens)", ylabel="time (ms)")
    return figure_svg(fig, alt)


def test_it_is_one_accessible_svg_element() -> None:
    figure = draw(alt='Time "rises" <script>')
    root = ElementTree.fromstring(figure.svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("role") == "img"
    title = root[0]
    assert title.text == 'Time "rises" <script>'
    assert root.get("aria-labelledby") == title.get("id")
    bundle = figure._repr_mimebundle_()
    assert bundle["text/plain"] == repr(figure) == 'Time "rises" <script>'
    assert bundle["text/html"] == f'<div class="effedu-figure">{figure.svg}</div>'
    assert "<script>" not in bundle["text/html"]


def test_labels_stay_text_and_take_the_page_s_colour_and_font() -> None:
    svg = draw().svg
    texts = "".join(ElementTree.fromstring(svg).itertext())
    assert "length (tokens)" in texts
    assert "<b>" in texts
    assert "stroke: currentColor" in svg
    assert "fill: currentColor" in svg
    assert INK not in svg.lower()
    assert "#000000" not in svg
    assert "#ffffff" not in svg  # no background
    assert "font-family" not in svg
    assert "0072b2" in svg.lower()  # the line keeps its own


def test_nothing_reaches_beyond_the_figure() -> None:
    svg = draw().svg
    assert "<style" not in svg
    assert "<?xml" not in svg
    assert not re.search(r'(?:href|src)="(?!#|data:)', svg)


def test_ids_are_unique_and_resolve() -> None:
    one, two = draw().svg, draw(alt="Another one.").svg
    ids = {svg: re.findall(r'\bid="([^"]+)"', svg) for svg in (one, two)}
    for svg, names in ids.items():
        assert len(names) == len(set(names))
        used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)
        assert used
        assert {a or b for a, b in used} <= set(names)
    assert not set(ids[one]) & set(ids[two])
    assert not set(re.findall(r'\bid="([^"]+)"', draw(height=5).svg)) & set(ids[one])


def test_the_same_figure_gives_the_same_text() -> None:
    assert draw() == draw()
    assert "metadata" not in draw().svg


def test_the_figure_is_closed_and_the_file_stands_alone(tmp_path: Path) -> None:
    before = plt.get_fignums()
    figure = draw()
    assert plt.get_fignums() == before
    figure.save(tmp_path / "figure.svg")
    assert ElementTree.parse(tmp_path / "figure.svg").getroot().get("role") == "img"


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="alt must say what the figure shows"):
        figure_svg(plt.figure(), alt=" ")
    with pytest.raises(ValueError, match="fig must be a matplotlib Figure, got Axes"):
        figure_svg(plt.figure().subplots(), alt="x")
    plt.close("all")


def contrast(one: str, two: str) -> float:
    """WCAG 2.2 contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted([luminance(one), luminance(two)])
    return (light + 0.05) / (dark + 0.05)


def test_the_first_colours_stand_out_on_both_pages() -> None:
    cycle = ["#" + c.lstrip("#") for c in plt.rcParams["axes.prop_cycle"].by_key()["color"]]
    for page in PAGES:
        for colour in cycle[:4]:
            assert contrast(colour, page) >= 3  # WCAG 1.4.11, for graphics


def test_no_grey_is_legible_as_text_on_both_pages() -> None:
    greys = [f"#{v:02x}{v:02x}{v:02x}" for v in range(256)]
    assert not [g for g in greys if min(contrast(g, page) for page in PAGES) >= 4.5]
    assert contrast(INK, "#ffffff") >= 4.5  # where the figure is saved as a plain picture
    assert "#" + plt.rcParams["text.color"].lstrip("#") == INK


def test_another_kind_of_picture_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"expected an <svg> with a viewBox .*got '<svg>'"):
        _inline("<svg>", "Nothing.")
