"""What an exercise's master notebook and its students' notebook are made of.

The students' notebook is one file: a cell at its beginning holds the public checks as source and
writes them where otter looks for them, in Jupyter, VS Code and Colab alike. (In Colab otter can't
read checks from a notebook's metadata, where it would put them itself.)
"""

from __future__ import annotations

import ast
import hashlib
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

    folder = Path(tempfile.mkdtemp(prefix="checks-"))
    for question, source in CHECKS.items():
        (folder / f"{{question}}.py").write_text(source, encoding="utf-8")
    return otter.Notebook(tests_dir=str(folder))


CHECKS = {{
{checks}
}}
grader = set_up_checks()'''

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


def with_setup(notebook: NotebookNode, tests: Path, name: str) -> None:
    """Put the public checks and the last cells in, and make ids and metadata repeatable."""
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
    for number, each in enumerate(notebook.cells):
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
