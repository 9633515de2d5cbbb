"""The book's own exercises through the sandbox: what checks and solutions exchange must travel."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("otter")

from tools import grade
from tools.grading import sandbox


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exercises built that pass: two for all, since each starts PyTorch four times."""
    if sandbox.find()[0] != "bubblewrap":
        pytest.skip(f"needs a sandbox: {sandbox.find()[0]}")
    folder = tmp_path_factory.mktemp("exercises")
    line = [sys.executable, "-m", "tools.exercises", "build", "03", "07", "--out", str(folder)]
    subprocess.run(line, cwd=grade.ROOT, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("name", ["03_attention", "07_quantization"])
def test_solution_and_untouched_notebook(tree: Path, tmp_path: Path, name: str) -> None:
    handed_in = tmp_path / "class"
    handed_in.mkdir()
    for student, folder in ((1, "solutions"), (2, "student")):
        target = handed_in / f"{folder}_{student}_1_{name}.ipynb"
        target.write_bytes((tree / folder / f"{name}.ipynb").read_bytes())
    line = [sys.executable, "-m", "tools.grade", str(handed_in), "--exercise", name]
    line += ["--exercises", str(tree / "autograder"), "--out", str(tmp_path / "g.csv")]
    subprocess.run([*line, "--jobs", "2"], cwd=grade.ROOT, check=True, capture_output=True)
    with (tmp_path / "g.csv").open(newline="") as file:
        solution, untouched = csv.DictReader(file)
    assert solution["total"] == solution["possible"], solution["status"]
    assert solution["status"] == "graded"
    assert untouched["total"] == "0"
