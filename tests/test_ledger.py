"""The ledger page, in a small Sphinx project with notebooks of its own."""

from __future__ import annotations

import importlib
import io
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

from effedu.claims import Claim, Verdict

EXTENSIONS = Path(__file__).parents[1] / "book" / "_ext"
CONF = f"""
import sys
sys.path.insert(0, {str(EXTENSIONS)!r})
extensions = ["myst_nb", "sphinx_external_toc", "ledger"]
external_toc_path = "_toc.yml"
external_toc_exclude_missing = True
nb_execution_mode = "off"
suppress_warnings = ["mystnb.unknown_mime_type"]  # the verdict as data, beside its HTML
"""
ONE = Claim("Blocks <b>save</b> time.", section="3.2")
TWO = Claim("Nothing is lost.", section="4.3", experiment="Measure it.")
CLAIMS = [  # in the article's order, which is not the book's
    {"section": "3.2", "chapter": "04_b", "claim": ONE.statement},
    {"section": "3.4", "chapter": "12_later", "claim": "It speaks."},
    {"section": "4.3", "chapter": "03_a", "claim": TWO.statement},
    {"section": "4.3", "chapter": "04_b", "claim": TWO.statement},
]


def write_notebook(path: Path, title: str, *verdicts: Verdict) -> None:
    outputs = [
        nbformat.v4.new_output("display_data", data=verdict._repr_mimebundle_())
        for verdict in verdicts
    ]
    cells = [
        nbformat.v4.new_markdown_cell(f"# {title}"),
        nbformat.v4.new_code_cell("1", outputs=outputs, execution_count=1),
    ]
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


def build(source: Path, fresh: bool = True) -> BeautifulSoup:
    """Build with warnings as errors, and return the ledger page."""
    out = source / "_build"
    with patch_docutils(str(source)), docutils_namespace():
        app = Sphinx(
            source, source, out, out / "doctrees", "html",
            freshenv=fresh, warningiserror=True, status=io.StringIO(), warning=io.StringIO(),
        )  # fmt: skip
        app.build()
    assert app.statuscode == 0, app.warning.getvalue()
    return BeautifulSoup((out / "ledger.html").read_text(encoding="utf-8"), "html.parser")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "conf.py").write_text(CONF)
    (tmp_path / "index.md").write_text("# Start\n")
    (tmp_path / "ledger.md").write_text("# Ledger\n\n```{claims-ledger}\n```\n")
    toc = "root: index\nsubtrees:\n- entries:\n" + "".join(
        f"  - file: {name}\n" for name in ("chapters/04_b", "chapters/03_a", "other/05_c", "ledger")
    )
    (tmp_path / "_toc.yml").write_text(toc)
    (tmp_path / "claims.yml").write_text(yaml.safe_dump(CLAIMS))
    two = TWO.verdict(0.123456, holds=False)
    write_notebook(tmp_path / "chapters" / "03_a.ipynb", "Attention", two)
    when = ONE.verdict("4.0x", holds=True, when="texts are long")
    write_notebook(tmp_path / "chapters" / "04_b.ipynb", "Blocks & more", when, two)
    write_notebook(tmp_path / "chapters" / "99_draft.ipynb", "Not in the contents", when)
    write_notebook(tmp_path / "other" / "05_c.ipynb", "Not a chapter", when)
    return tmp_path


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXTENSIONS))
    return importlib.import_module("ledger")


def cells(row: Any) -> list[str]:
    return [cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])]


# sphinx-external-toc touches every object in memory, also those that warn about being touched.
@pytest.mark.filterwarnings("ignore")
def test_the_page_shows_what_the_notebooks_hold(project: Path) -> None:
    page = build(project)
    judged = (
        "3 claims on trial: 0 hold, 1 holds under a condition and 2 fail. 1 waits for a chapter."
    )
    assert judged in page.get_text()
    table = page.find("table", class_="claims-ledger")
    assert "Claims of the article" in table.caption.get_text()
    heads, *rows = table.find_all("tr")
    assert heads.parent.name == "thead"
    assert cells(heads) == ["Claim", "Article", "Chapter", "Measured", "Verdict"]
    assert [cells(row) for row in rows] == [
        ["Blocks <b>save</b> time.", "3.2", "Blocks & more", "4.0x", "holds when texts are long"],
        ["It speaks.", "3.4", "to come", "", "open"],
        ["Nothing is lost.", "4.3", "Attention", "0.123", "fails"],
        ["Nothing is lost.", "4.3", "Blocks & more", "0.123", "fails"],
    ]
    assert all(row.find_all(["th", "td"])[0].name == "th" for row in rows)
    links = [row.a["href"] for row in rows if row.a]
    assert links == [f"chapters/{name}.html#on-trial" for name in ("04_b", "03_a", "04_b")]
    assert all((project / "_build" / link.split("#")[0]).is_file() for link in links)
    assert rows[0].find("td", class_="claim-verdict-holds-when")
    assert all(f"claim-part-{n}" in row["class"] for n, row in zip((3, 3, 4, 4), rows, strict=True))
    pickers = [[o["value"] for o in p.find_all("option")] for p in page.find_all("select")]
    assert pickers == [["", "holds-when", "fails", "open"], ["", "3", "4"]]

    # A chapter that was run again shows up without touching the ledger's page.
    write_notebook(project / "chapters" / "03_a.ipynb", "Attention", TWO.verdict(7, holds=True))
    page = build(project, fresh=False)
    assert "1 holds, 1 holds under a condition and 1 fails." in page.get_text()

    (project / "chapters" / "03_a.ipynb").write_text(
        re.sub(r'"verdict": "holds"', '"verdict": "maybe"',
               (project / "chapters" / "03_a.ipynb").read_text())
    )  # fmt: skip
    with pytest.raises(Exception, match=r"claims-ledger: the claim in cell 2 of .*03_a\.ipynb is"):
        build(project, fresh=False)


ROWS = [
    ("chapters/04_b", ONE.verdict(4, holds=True)),
    ("chapters/04_b", TWO.verdict(0.1, holds=True)),
]


@pytest.mark.parametrize(
    ("claims", "found", "message"),
    [
        (CLAIMS, [], r"chapters/04_b has no verdict on its claim 'Blocks <b>save</b> time\.'"),
        (
            CLAIMS[:2],
            ROWS,
            r"chapters/04_b judges a claim that the list .* lacks: 'Nothing is lost",
        ),
        (
            [{**CLAIMS[0], "section": "3.3"}],
            ROWS[:1],
            r"chapters/04_b finds 'Blocks .* in section 3\.2 of the article, .* in section 3\.3",
        ),
    ],
)
def test_claims_and_verdicts_have_to_meet(
    ledger: Any, claims: list[dict[str, str]], found: list[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ledger.settle(claims, found, ["chapters/04_b"], "chapters")


def test_every_claim_of_the_article_has_a_chapter(ledger: Any) -> None:
    """In the list of the book: sections in the article's order, statements that differ."""
    book = EXTENSIONS.parent
    claims = yaml.safe_load((book / "claims.yml").read_text("utf-8"))
    plan = yaml.safe_load((book / "chapters.yml").read_text("utf-8"))
    chapters = {chapter["name"] for part in plan for chapter in part["chapters"]}
    assert {claim["chapter"] for claim in claims} <= chapters
    assert [claim["section"] for claim in claims] == sorted(claim["section"] for claim in claims)
    assert {claim["section"][0] for claim in claims} >= set("2345")
    assert len({claim["claim"] for claim in claims}) == len(claims)
