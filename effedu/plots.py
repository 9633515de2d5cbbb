"""Matplotlib figures as SVG inside the page: right in light and dark, and with a text alternative.

A picture file keeps its colours, and no grey is legible on both a white and a dark page. An SVG
element inside the page can take the colour of the text around it, and its labels stay text. Use
the book's style first: ``plt.style.use("effedu.data.book")``.
"""

from __future__ import annotations

import hashlib
import html
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#767676"  # what book.mplstyle draws text, axes and grid with


@dataclass(frozen=True)
class FigureSVG:
    """A figure that displays as inline SVG; its text form is the alternative text."""

    alt: str
    svg: str

    def __repr__(self) -> str:
        return self.alt

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {
            "text/plain": self.alt,
            "text/html": f'<div class="effedu-figure">{self.svg}</div>',
        }

    def save(self, path: Path | str) -> None:
        """Write the picture as an SVG file."""
        Path(path).write_text(self.svg + "\n", encoding="utf-8")


def figure_svg(fig: Figure, alt: str) -> FigureSVG:
    """Turn a figure into inline SVG, and close it so that a notebook does not show it twice.

    Text, axes and grid of the book's style, and black, take the colour of the text around the
    figure. Ids are unique to the figure, so that several can share a page; equal figures give
    equal text, whatever the day or the Matplotlib version's name.

    Args:
        fig: a ``matplotlib.figure.Figure``.
        alt: what the figure shows, in words, for readers who do not see it.

    Raises:
        ValueError: no figure, or an empty ``alt``.

    >>> from matplotlib.figure import Figure
    >>> figure_svg(Figure(), alt="An empty figure.")
    An empty figure.
    """
    if not callable(getattr(fig, "savefig", None)):
        raise ValueError(f"fig must be a matplotlib Figure, got {type(fig).__name__}")
    if not alt.strip():
        raise ValueError("alt must say what the figure shows, got an empty text")
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "effedu"}):
        fig.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(fig)
    return FigureSVG(alt, _inline(buffer.getvalue(), alt))


def _inline(picture: str, alt: str) -> str:
    """Make an SVG file fit for the inside of a page."""
    start = re.search(r'<svg\b[^>]*viewBox="(0 0 ([\d.]+) [\d.]+)"[^>]*>', picture)
    if start is None:
        raise RuntimeError(f"expected an <svg> with a viewBox from 0 0, got {picture[:60]!r}")
    body = picture[start.end() : picture.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    # Matplotlib's rule is for every element, which inside a page means the whole page.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    # The page's own fonts, by inheritance.
    body = re.sub(r"""\s*font-family: (?:'[^']*'|[^;"'])*;?""", "", body)
    body = re.sub(rf"{INK}|#000000\b", "currentColor", body, flags=re.IGNORECASE)
    body = re.sub(r">\s+<", "><", body).strip()

    # Ids of one page must differ: each figure's begin with a digest of its content.
    digest = hashlib.sha256((alt + body).encode()).hexdigest()[:8]
    body = re.sub(r'(\bid="|\bhref="#|url\(#)', rf"\g<1>f{digest}-", body)
    width = round(float(start[2]) * 4 / 3)  # points to pixels
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{start[1]}" role="img" aria-labelledby="f{digest}-title" '
        f'style="width: 100%; max-width: {width}px; height: auto" '
        f'fill="currentColor" stroke-linejoin="round" stroke-linecap="butt">'
        f'<title id="f{digest}-title">{html.escape(alt)}</title>{body}</svg>'
    )
