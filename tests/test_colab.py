"""Colab's editions as a reader meets them: the first cell installs, the rest runs.

Here the packages that Colab has are those of this environment, so that a test takes seconds;
``make colab`` installs the newest releases and runs every edition.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

from tools import colab, exercises, publish, site

# otter's own code, as traitlets sees it
pytestmark = pytest.mark.filterwarnings("ignore:Traits should be given:DeprecationWarning")


class Published(NamedTuple):
    """A publication on loopback, its notebooks by name, and a reader's interpreter."""

    address: str
    editions: dict[str, Path]
    python: Path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Published]:
    scratch = tmp_path_factory.mktemp("colab")
    pages, out = scratch / "pages", scratch / "site"
    pages.mkdir()
    out.mkdir()
    (pages / "index.html").write_text("<title>Efficient Transformers, Live</title>")

    def ours(python: Path) -> None:
        """Our packages as if they were the reader's; the package itself, editable, isn't seen."""
        (site_packages,) = (python.parent.parent / "lib").glob("python*/site-packages")
        (site_packages / "ours.pth").write_text(sysconfig.get_path("purelib"))

    build = exercises.build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site, "build", lambda strict: [])
        patch.setattr(site, "OUT", pages)
        patch.setattr(exercises, "build", lambda folder: build(folder, ["03"]))
        patch.setattr(colab, "preinstall", ours)
        with site.served(out) as address:
            found = publish.publish(address, out)
            editions = {f"{path.parent.name}/{path.stem}": path for path in found}
            yield Published(
                address, editions, colab.environment(scratch / "reader", sys.executable)
            )


def ran(published: Published, edition: Path, folder: Path) -> str:
    folder.mkdir()
    return colab.run(edition, published.python, folder)


def test_there_is_an_edition_of_each_chapter(published: Published) -> None:
    chapters = {f"chapters/{path.stem}" for path in (site.BOOK / "chapters").glob("[0-9]*.ipynb")}
    assert set(published.editions) == chapters | {"exercises/03_attention"}


@pytest.mark.parametrize("name", ["chapters/03_attention", "exercises/03_attention"])
def test_an_edition_runs_from_top_to_bottom(
    published: Published, tmp_path: Path, name: str
) -> None:
    notebook = nbformat.read(published.editions[name], as_version=4)
    place = nbformat.v4.new_code_cell("import effedu; assert '/reader/' in effedu.__file__")
    notebook.cells.append(place)
    edition = tmp_path / "edition.ipynb"
    nbformat.write(notebook, edition)
    assert ran(published, edition, tmp_path / "empty") == ""


def test_a_wheel_that_was_changed_is_not_installed(published: Published, tmp_path: Path) -> None:
    notebook = nbformat.read(published.editions["chapters/03_attention"], as_version=4)
    first = notebook.cells[0]
    digest = first.source.partition("#sha256=")[2][:64]
    first.source = first.source.replace(digest, digest[::-1])
    notebook.cells[1:] = [nbformat.v4.new_code_cell("assert _exit_code == 0")]
    edition = tmp_path / "edition.ipynb"
    nbformat.write(notebook, edition)
    assert "AssertionError" in ran(published, edition, tmp_path / "empty")


def test_what_goes_wrong_is_told(published: Published, tmp_path: Path) -> None:
    edition = tmp_path / "edition.ipynb"
    cell = nbformat.v4.new_code_cell("import effedu_of_another_name")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), edition)
    assert "No module named 'effedu_of_another_name'" in ran(published, edition, tmp_path / "empty")
