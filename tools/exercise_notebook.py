"""What an exercise's master notebook and its students' notebook are made of.

The students' notebook is one file: a cell at its beginning holds the public checks as source and
writes them where otter looks for them, in Jupyter, VS Code and Colab alike. (In Colab otter can't
read checks from a notebook's metadata, where it would put them itself.)
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
from pathlib import Path

import nbformat
import yaml
from nbformat import NotebookNode

SETUP = "setup"  # the tag of the cell that brings the checks: an edition for Colab goes before it

SETUP_CELL = '''#@title Set-up: run this cell first {{ display-mode: "form" }}
# It brings the checks of this exercise. There is nothing in here to change.
def set_up_checks():
    """Write the checks to a new folder; return what runs them."""
    import importlib.util
    import tempfile
    from pathlib import Path

    for package, name in {{"effedu": "effedu", "otter": "otter-grader"}}.items():
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f"This notebook needs the package {{name}}; the book's page on the exercises "
                "says how to install it."
            )
    import otter
    from IPython import get_ipython

    if shell := get_ipython():  # otter's HTML would swallow a <class …>: show its text
        as_html = shell.display_formatter.formatters["text/html"].for_type_by_name
        as_html("otter.test_files.exception_test", "ExceptionTestFile", lambda _: None)
    folder = tempfile.TemporaryDirectory(prefix="checks-")
    for question, source in CHECKS.items():
        Path(folder.name, f"{{question}}.py").write_text(source, encoding="utf-8")
    set_up_checks.folder = folder  # kept until the kernel ends, and removed then
    return otter.Notebook(tests_dir=folder.name)


CHECKS = {{
{checks}
}}
grader = set_up_checks()'''

CHAPTER = re.compile(r"\[chapter (\d\d)\]\(\.\./chapters/(\w+)\.ipynb\)")

HAND_IN = """## Hand in

The cell below runs all checks once more. Then save the notebook and hand in this one file. In
Colab: *File*, *Download*, *Download .ipynb*."""


def read_headings(notebook: NotebookNode, name: str) -> tuple[str, list[str]]:
    """Return the notebook's title, and the heading of each question in order."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    titles = re.findall(r"^# (.+)$", text, flags=re.MULTILINE)
    headings = re.findall(r"^## Question \d+: (.+)$", text, flags=re.MULTILINE)
    if len(titles) != 1:
        raise ValueError(f"{name} must have one title (# …), got {titles}")
    return titles[0], headings


def with_hint(source: str) -> str:
    """Turn ``# HIDDEN: try …``, on top of a hidden check, into what otter reads.

    The hint is what a student is told when the check fails. Raises ``ValueError`` for a hint with
    double quotes, which would end the text that otter reads it from.
    """
    first, _, rest = source.partition("\n")
    if not first.startswith("# HIDDEN: "):
        return source
    hint = first.removeprefix("# HIDDEN: ").strip()
    if '"' in hint:
        raise ValueError(f"hint must be written without double quotes, got {hint!r}")
    config = {"hidden": True, "failure_message": hint}
    return f'""" # BEGIN TEST CONFIG\n{yaml.safe_dump(config)}""" # END TEST CONFIG\n{rest}'


def with_chapter(text: str, title: str, site: str = "") -> str:
    """Say where the chapter is, in a notebook that lies alone in some folder.

    The link of a master leads nowhere from there. With the site's address it leads to the site;
    without one, words take its place.

    >>> link = "[chapter 04](../chapters/04_blocking.ipynb)"
    >>> with_chapter(link, "Exercise 04: Blocking")
    'chapter 04, Blocking, of the book *Efficient Transformers, Live*'
    >>> with_chapter(link, "Exercise 04: Blocking", "https://name.example/book/")
    '[chapter 04](https://name.example/book/chapters/04_blocking.html)'
    """
    name = title.partition(": ")[2]
    words = rf"chapter \1, {name}, of the book *Efficient Transformers, Live*"
    link = rf"[chapter \1]({site.rstrip('/')}/chapters/\2.html)"
    return CHAPTER.sub(link if site else words, text)


def with_setup(notebook: NotebookNode, tests: Path, name: str) -> None:
    """Put the public checks and the last cells in, and make links, ids and metadata repeatable."""
    lines = []
    for path in sorted(tests.glob("*.py")):
        lines.append(f"{path.stem!r}: {quoted(tidy(path.read_text('utf-8')))},")
    cell = nbformat.v4.new_code_cell(SETUP_CELL.format(checks="\n".join(lines)))
    cell.metadata = nbformat.from_dict(
        {"tags": [SETUP], "cellView": "form", "jupyter": {"source_hidden": True}}
    )
    notebook.cells.insert(1, cell)
    notebook.cells.append(nbformat.v4.new_markdown_cell(HAND_IN))
    notebook.cells.append(nbformat.v4.new_code_cell("grader.check_all()"))
    title, _ = read_headings(notebook, name)
    site = os.environ.get("EFFEDU_SITE_URL", "")
    for number, each in enumerate(notebook.cells):
        if each.cell_type == "markdown":
            each.source = with_chapter(each.source, title, site)
        each["id"] = hashlib.sha256(f"{name} {number}".encode()).hexdigest()[:8]
        each.source = each.source.strip()
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "otter": {"assignment_name": name},
        }
    )
    notebook.nbformat_minor = 5


def tidy(checks: str) -> str:
    """Put the message of each assertion on a line of its own: otter shows the line that failed.

    >>> print(tidy("assert x > 0, f'expected more than 0, got {x}'"))
    assert x > 0, (
        f'expected more than 0, got {x}'
    )
    <BLANKLINE>
    """
    lines = []
    for line in checks.strip().splitlines():
        code = line.strip()
        if code.startswith("assert "):
            (check,) = ast.parse(code).body
            if isinstance(check, ast.Assert) and check.msg:
                indent = " " * (len(line) - len(line.lstrip()))
                lines.append(f"{indent}assert {ast.unparse(check.test)}, (")
                lines.append(f"{indent}    {ast.unparse(check.msg)}")
                line = f"{indent})"
        lines.append(line.rstrip())
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    r"""Return ``text``, which ends with a line break, as a Python string that keeps its lines.

    >>> print(quoted("a\n"))
    '''a
    '''
    """
    return "'''" + text.replace("\\", "\\\\").replace("'''", "\\'\\'\\'") + "'''"
