"""nbval is able to fail: one changed number in a stored output, and the notebook does not pass."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from tools.chapters import CHAPTERS, IGNORE, ROOT, joined
from tools.notebooks import KERNEL_ENVIRONMENT

NUMBER = re.compile(r"\d")


def texts(cell: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Return where a cell's outputs keep text that nbval compares: (holder, key)."""
    found = []
    for output in cell["outputs"]:
        if output.get("name") == "stdout":
            found.append((output, "text"))
        if output["output_type"] == "execute_result" and "text/plain" in output["data"]:
            found.append((output["data"], "text/plain"))
    return found


def compared(cell: dict[str, Any]) -> bool:
    """Say whether nbval compares a number which this cell shows."""
    return (
        cell["cell_type"] == "code"
        and IGNORE not in cell["metadata"].get("tags", [])
        and any(NUMBER.search(joined(holder[key])) for holder, key in texts(cell))
    )


def excerpt(path: Path) -> dict[str, Any]:
    """Return the code of a chapter up to the first number that nbval compares."""
    notebook = json.loads(path.read_text("utf-8"))
    notebook["metadata"].pop("widgets", None)
    cells = notebook["cells"]
    last = next((number for number, cell in enumerate(cells) if compared(cell)), None)
    assert last is not None, f"{path.name} has no untagged cell that shows a number"
    notebook["cells"] = [cell for cell in cells[: last + 1] if cell["cell_type"] == "code"]
    return notebook


def with_another_number(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return the notebook with one digit of its last cell's output changed."""
    changed = copy.deepcopy(notebook)
    for holder, key in texts(changed["cells"][-1]):
        words = joined(holder[key])
        digit = NUMBER.search(words)
        if digit:
            other = str((int(digit[0]) + 1) % 10)
            holder[key] = words[: digit.start()] + other + words[digit.end() :]
            return changed
    raise AssertionError("no number to change")


def run_nbval(folder: Path) -> dict[str, bool]:
    """Run ``pytest --nbval`` on the notebooks of a folder; return which cell passed."""
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-q"]
    command += ["-p", "no:cacheprovider", f"--rootdir={folder}", f"--junitxml={report}", folder]
    env = {**os.environ, **KERNEL_ENVIRONMENT, "PYTHONPATH": str(ROOT)}
    env.pop("MPLBACKEND", None)  # the kernel's own choice, as in a reader's notebook
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert report.exists(), done.stdout + done.stderr
    cases = ElementTree.parse(report).getroot().iter("testcase")
    return {
        f"{case.get('classname')}::{case.get('name')}": case.find("failure") is None
        and case.find("error") is None
        for case in cases
    }


@pytest.mark.parametrize("path", sorted(CHAPTERS.glob("*.ipynb"))[:1], ids=lambda path: path.stem)
def test_one_changed_number_fails(path: Path, tmp_path: Path) -> None:
    original = excerpt(path)
    (tmp_path / "original.ipynb").write_text(json.dumps(original), "utf-8")
    (tmp_path / "changed.ipynb").write_text(json.dumps(with_another_number(original)), "utf-8")
    passed = run_nbval(tmp_path)
    cells = len(original["cells"])
    assert len(passed) == 2 * cells
    failed = [name for name, good in passed.items() if not good]
    assert len(failed) == 1, failed
    assert "changed" in failed[0]
    assert failed[0].endswith(f"Cell {cells - 1}")
