"""The classroom's archive: what lies in it, and that its how-to is what the check follows."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from tools import bundle, exercises, site

# otter's own code, as traitlets sees it
pytestmark = pytest.mark.filterwarnings("ignore:Traits should be given:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without other people's wheels, with a site of one page and one exercise."""
    scratch = tmp_path_factory.mktemp("bundle")
    pages = scratch / "pages"
    pages.mkdir()
    (pages / "index.html").write_text("<title>Efficient Transformers, Live</title>")
    build = exercises.build
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site, "build", lambda: [])
        patch.setattr(site, "OUT", pages)
        patch.setattr(exercises, "build", lambda out: build(out, ["03"]))
        return bundle.collect(scratch, wheels=False)


def test_everything_is_in_it(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {
        "README.txt", "chapters", "exercises", "site", "wheels",
    }  # fmt: skip
    chapters = {path.name for path in (site.BOOK / "chapters").glob("*.ipynb")}
    assert {path.name for path in (folder / "chapters").iterdir()} == chapters
    assert [path.name for path in (folder / "exercises").iterdir()] == ["03_attention.ipynb"]
    (wheel,) = (folder / "wheels").iterdir()
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("effedu/data/lm/") and "safetensors" in name for name in names)


def test_the_how_to_gives_exact_versions_and_the_check_follows_it(folder: Path) -> None:
    text = (folder / "README.txt").read_text("utf-8")
    make, install = bundle.instructions(text)
    assert make == "python3 -m venv venv"
    assert install.startswith(
        "venv/bin/python -m pip install --no-index --find-links wheels effedu"
    )
    for pin in bundle.pinned(bundle.TOOLS):
        assert pin in install


def test_packing_keeps_every_file(folder: Path, tmp_path: Path) -> None:
    archive = tmp_path / "new" / "a.zip"
    bundle.pack(folder, archive)
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path / "out")
    there = tmp_path / "out" / folder.name
    for path in folder.rglob("*"):
        if path.is_file():
            assert (there / path.relative_to(folder)).read_bytes() == path.read_bytes()
    assert [path.name for path in archive.parent.iterdir()] == ["a.zip"]


@pytest.mark.skipif(not bundle.namespaces(), reason="no namespaces here")
def test_the_check_fails_for_a_bundle_that_lacks_wheels(folder: Path, tmp_path: Path) -> None:
    """Without a network pip has nothing but the folder, and this one holds our wheel alone."""
    bundle.pack(folder, tmp_path / "a.zip")
    with pytest.raises(
        RuntimeError, match=r"(?s)the bundle doesn't work:.*No matching distribution"
    ):
        bundle.check(tmp_path / "a.zip", "04_blocking")
