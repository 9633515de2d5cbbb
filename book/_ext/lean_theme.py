"""The book's own page frame: what every page loads, its contents list, its links.

Sphinx-book-theme puts 1.5 MB of icon script, Bootstrap and a notebook launcher on every page. A
page of this book needs one style sheet and one small script, so it has a frame of its own
(``_theme``), and this extension decides what else a page may load: the mathematics' style sheet
where there is mathematics, the widget host where there is a widget. Everything an extension adds
beyond that is left out.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import yaml
from doc_link import link_to
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.builders.html._assets import _CascadingStyleSheet, _JavaScript
from sphinx.config import Config
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from widget_host import VIEW_MIME, is_state

BOOK = Path(__file__).resolve().parent.parent
THEME = BOOK / "_theme"
MATHS = "katex/katex.min.css"
ROMAN = ("I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X")
logger = logging.getLogger(__name__)


def chapter_list() -> list[dict[str, Any]]:
    """The whole path through the book, from ``chapters.yml``: parts with their chapters."""
    parts: list[dict[str, Any]] = yaml.safe_load((BOOK / "chapters.yml").read_text("utf-8"))
    return parts


def chapter_of(docname: str) -> dict[str, str] | None:
    """Which part and chapter a page is; None for the pages around the chapters."""
    folder, _, name = docname.rpartition("/")
    if folder != "chapters":
        return None
    for roman, part in zip(ROMAN, chapter_list(), strict=False):
        for chapter in part["chapters"]:
            if chapter["name"] == name:
                return {"part_number": roman, "part": part["part"], "title": chapter["title"]}
    return None


def plain_title(title: str) -> str:
    """A chapter's title without its number, which the contents list shows in a column of its own.

    >>> plain_title("3. Attention"), plain_title("04 · Blocking"), plain_title("2-bit weights")
    ('Attention', 'Blocking', '2-bit weights')
    """
    return re.sub(r"^\d+(?:\.|:|\s+[·:–—-])?\s+", "", title)


def contents(app: Sphinx) -> list[dict[str, Any]]:
    """The contents list: groups with a caption and their pages, as ``_toc.yml`` orders them."""
    env = app.env
    site_map = env.external_site_map  # type: ignore[attr-defined]  # sphinx_external_toc puts it there

    def entry(item: str) -> dict[str, str]:
        docname = re.sub(r"\.(ipynb|md|rst)$", "", item)
        number = re.match(r"chapters/(\d+)_", docname)
        title = env.titles[docname].astext()
        if docname == app.config.root_doc:
            title = "Home"
        return {
            "docname": docname,
            "number": str(int(number[1])) if number else "",
            "title": plain_title(title) if number else title,
        }

    groups: list[dict[str, Any]] = [{"caption": "", "entries": [entry(site_map.root.docname)]}]
    for tree in site_map.root.subtrees:
        groups.append({"caption": tree.caption, "entries": [entry(file) for file in tree.files()]})
    return groups


def sections(app: Sphinx, docname: str) -> list[tuple[str, str]]:
    """The sections of a page as (anchor, name), for "On this page"."""
    toc = app.env.tocs.get(docname)
    if toc is None or not toc.children or len(toc.children[0].children) < 2:
        return []
    found = []
    for item in toc.children[0].children[1].children:
        if isinstance(item, nodes.list_item) and item.children:
            link = next(item.findall(nodes.reference), None)
            if link is not None and link.get("anchorname"):
                name = app.builder.render_partial(nodes.paragraph("", "", *link.children))  # type: ignore[attr-defined]
                name = re.sub(r"^\s*<p>|</p>\s*$", "", name["fragment"].strip())
                found.append((link["anchorname"].removeprefix("#"), name))
    return found if len(found) > 1 else []


def description(doctree: nodes.document | None) -> str:
    """What a search engine shows: the page's first plain paragraph, at most 160 characters."""
    if doctree is None:
        return ""
    for paragraph in doctree.findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        if len(text) >= 40 and not any(paragraph.findall(nodes.math)):
            return text if len(text) <= 160 else text[:157].rsplit(" ", 1)[0] + "…"
    return ""


def github(config: Config) -> str:
    """The repository as owner/name if it is known and on GitHub, else nothing."""
    known = re.fullmatch(
        r"(?:https://github\.com/)?([\w.-]+/[\w.-]+?)(?:\.git)?/?", config.book_repository
    )
    return known[1] if known else ""


def colab_address(config: Config, notebook: str) -> str:
    """Where Colab opens a notebook's edition, which ``tools.publish`` puts on the site's branch."""
    owner = github(config)
    edition = f"{owner}/blob/gh-pages/colab/{notebook}"
    return f"https://colab.research.google.com/github/{edition}" if owner else ""


def notebook_links(app: Sphinx, pagename: str, context: dict[str, Any]) -> dict[str, Any] | None:
    """Where a chapter's notebook can be had, and where it can be opened if an address is known."""
    source = context.get("sourcename") or ""
    if not (pagename.startswith("chapters/") and source.endswith(".ipynb")):
        return None
    launch = []
    colab = colab_address(app.config, f"{pagename}.ipynb")
    if colab:
        binder = f"https://mybinder.org/v2/gh/{github(app.config)}/{app.config.book_branch}"
        launch = [
            ("Open in Colab", colab),
            ("Open in Binder", f"{binder}?labpath=book/{pagename}.ipynb"),
        ]
    return {"download": context["pathto"](f"_sources/{source}", True), "launch": launch}


def mend_signatures(html: str) -> str:
    """Make the reference's signatures right and half as heavy.

    Sphinx sets a long signature as a list of definitions without terms, which is no list at all,
    and wraps each of its words in an element that nothing uses.

    >>> mend_signatures('(<dl>\\n<dd><em class="sig-param">x</em>,</dd>\\n</dl>\\n)')
    '(<span class="sig-list"><span><em class="sig-param">x</em>,</span></span>)'
    """

    def as_spans(found: re.Match[str]) -> str:
        lines = re.sub(r"<(/?)dd>", r"<\1span>", found[1]).replace("\n", "")
        return f'<span class="sig-list">{lines}</span>'

    pattern = r'<dl>\n((?:<dd><em class="sig-param">.*?</dd>\n)+)</dl>\n'
    html = re.sub(pattern, as_spans, html)
    html = re.sub(r'<span class="pre">([^<]*)</span>', r"\1", html)
    return html.replace('<span class="w"> </span>', " ")


def wrap_tables(html: str) -> str:
    """Put every table into a box that scrolls by itself; scripts (widget states) stay untouched.

    >>> wrap_tables("<table><tr></tr></table><script><table></script>")
    '<div class="table-scroll"><table><tr></tr></table></div><script><table></script>'
    """
    pieces = re.split(r"(<script\b.*?</script>)", html, flags=re.DOTALL)
    for index in range(0, len(pieces), 2):
        piece = re.sub(r"<table\b", '<div class="table-scroll"><table', pieces[index])
        pieces[index] = piece.replace("</table>", "</table></div>")
    return "".join(pieces)


def page_context(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Give the frame what it shows on this page, and the list of what the page loads."""
    body = mend_signatures(wrap_tables(context.get("body") or ""))
    # docutils' role for a work is deprecated in ARIA 1.3; the works stand in a list, as its items.
    body = body.replace(' role="doc-biblioentry"', ' role="listitem"')
    context["body"] = body
    styles = [_CascadingStyleSheet("_static/book.css")]
    if 'class="katex' in body:
        styles.append(_CascadingStyleSheet(f"_static/{MATHS}"))
    scripts = [_JavaScript("_static/book.js", defer="defer")]
    if VIEW_MIME in body:
        states = [script for script in context["script_files"] if is_state(script)]
        if not states:
            logger.warning(
                "%s shows a widget whose state isn't stored in the notebook", pagename, type="book"
            )
        scripts += [*states, _JavaScript("_static/widget-host.js", defer="defer")]
    context.update(
        book_styles=styles,
        book_scripts=scripts,
        book_contents=contents(app),
        book_sections=sections(app, pagename),
        book_description=description(doctree),
        book_chapter=chapter_of(pagename),
        book_notebook=notebook_links(app, pagename, context),
        book_repository=repository_address(app.config.book_repository),
    )


def repository_address(repository: str) -> str:
    """The address to link to; "owner/name" is taken to be on GitHub."""
    if not repository or "://" in repository:
        return repository
    return f"https://github.com/{repository}"


class PictureWithoutWords(SphinxPostTransform):
    """A strict build stops at a picture without a text alternative.

    Without one, docutils would write the file's name there, which no checker notices and no
    reader understands.
    """

    default_priority = 900
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:
        for image in self.document.findall(nodes.image):
            if not image.get("alt", "").strip():
                logger.warning(
                    "a picture has no text alternative: give its cell the metadata "
                    '{"mystnb": {"image": {"alt": "…"}}}',
                    location=(self.env.docname, image.line),
                    type="book",
                )


class BookPath(SphinxDirective):
    """``{book-path}``: all parts and chapters; those which exist are links, the rest are coming."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # a chapter may have come since
        box = nodes.container(classes=["book-path"])
        for roman, part in zip(ROMAN, chapter_list(), strict=False):
            group = nodes.container(classes=["book-part"])
            name = nodes.paragraph("", f"Part {roman} · {part['part']}", classes=["book-part-name"])
            chapters = nodes.bullet_list(classes=["book-chapters"])
            for chapter in part["chapters"]:
                chapters += self.chapter(chapter)
            box += group
            group += [name, chapters]
        return [box]

    def chapter(self, chapter: dict[str, str]) -> nodes.list_item:
        docname = f"chapters/{chapter['name']}"
        number = str(int(chapter["name"][:2]))
        line = nodes.paragraph("", "", nodes.inline("", number, classes=["nav-number"]))
        exists = docname in self.env.found_docs
        title = nodes.inline(classes=["book-chapter-title"])
        if exists:
            title += link_to(docname, chapter["title"])
        else:
            title += nodes.Text(chapter["title"])
        about = nodes.inline("", chapter["about"], classes=["book-chapter-about"])
        if not exists:
            about += nodes.inline("", " (coming)", classes=["book-chapter-coming"])
        for part in (title, about):
            line += [nodes.Text(" "), part]
        return nodes.list_item("", line, classes=[] if exists else ["is-coming"])


def ship_files(app: Sphinx) -> None:
    """KaTeX's style sheet and fonts go beside the pages; its script stays here."""
    if app.builder.format == "html":
        shutil.copytree(
            BOOK / "_vendor" / "katex",
            Path(app.outdir) / "_static" / "katex",
            dirs_exist_ok=True,
            ignore=shutil.ignore_patterns("*.js"),
        )


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_config_value("book_repository", os.environ.get("EFFEDU_REPOSITORY", ""), "html", str)
    app.add_config_value("book_branch", os.environ.get("EFFEDU_BRANCH", "main"), "html", str)
    # Jupyter Book sets these for extensions that this book doesn't load.
    app.add_config_value("comments_config", {}, "")
    app.config.html_baseurl = os.environ.get("EFFEDU_SITE_URL", "")
    app.add_html_theme("effedu_book", str(THEME))
    app.add_directive("book-path", BookPath)
    app.add_post_transform(PictureWithoutWords)
    app.connect("builder-inited", ship_files)
    # Late, so that nothing another extension adds to the page comes after this list.
    app.connect("html-page-context", page_context, priority=900)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
