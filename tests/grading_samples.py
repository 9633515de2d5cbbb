"""A small exercise in otter's format, and submissions to it: right, wrong and hostile."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

NAME = "99_sample"

SQUARE = "def square(x):\n    return x * x"
MEAN = (
    "def mean(values):\n"
    "    if not values:\n"
    "        raise ValueError('values is empty')\n"
    "    return sum(values) / len(values)"
)

TESTS = {
    "q1": """\
from otter.test_files import test_case

OK_FORMAT = False

name = "q1"
points = None

@test_case(points=1, hidden=False, failure_message="A square is a product: <x> times x.")
def test_public(square):
    assert square(2) == 4

@test_case(points=1.5, hidden=True)
def test_hidden(square):
    assert square(-3) == 9
    assert [square(n) for n in range(5)] == [0, 1, 4, 9, 16]

@test_case(points=0.5, hidden=True)
def test_several(square):
    for found, expected in zip(map(square, range(3)), [0, 1, 4]):
        assert found == expected
""",
    "q2": """\
from otter.test_files import test_case

OK_FORMAT = False

name = "q2"
points = None

@test_case(points=1, hidden=False)
def test_public(mean):
    assert callable(mean), "mean should be a function."
    assert abs(mean([1, 2, 3]) - 2) < 1e-9

@test_case(points=1.5, hidden=True)
def test_empty(mean):
    try:
        mean([])
    except ValueError as problem:
        assert "empty" in str(problem)
    else:
        raise AssertionError("nothing was raised")
""",
}

TENSOR_TESTS = {
    "q1": """\
from otter.test_files import test_case

OK_FORMAT = False

name = "q1"
points = None

@test_case(points=2, hidden=True)
def test_softmax(softmax):
    import torch
    scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(softmax(scores), scores.softmax(-1))

@test_case(points=1, hidden=True)
def test_draw(draw):
    import torch
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    assert torch.equal(draw(), expected)
"""
}


def autograder(path: Path, tests: dict[str, str], name: str = NAME) -> Path:
    """Write an autograder zip as ``otter assign`` does."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("otter_config.json", json.dumps({"assignment_name": name}))
        archive.writestr("environment.yml", "name: otter-env\n")
        for question, source in tests.items():
            archive.writestr(f"tests/{question}.py", source)
    return path


def notebook(*cells: str, name: str | None = NAME, language: str = "python") -> bytes:
    """Return a notebook of these code cells."""
    codes = [
        {
            "cell_type": "code",
            "id": f"cell-{number}",
            "metadata": {},
            "execution_count": None,
            "outputs": [],
            "source": source,
        }
        for number, source in enumerate(cells)
    ]
    kernel = {"name": language, "language": language, "display_name": language}
    metadata: dict[str, object] = {"kernelspec": kernel}
    if name:
        metadata["otter"] = {"assignment_name": name}
    return json.dumps(
        {"cells": codes, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    ).encode()


def answers(square: str = SQUARE, mean: str = MEAN, **options: str) -> bytes:
    """Return a filled-in notebook; cell 2 holds ``square``, cell 4 holds ``mean``."""
    setup = "import otter\ngrader = otter.Notebook()"
    checks = 'grader.check("q1")', 'grader.check("q2")'
    return notebook(setup, square, checks[0], mean, checks[1], "grader.check_all()", **options)


def packed(files: dict[str, bytes]) -> bytes:
    """Return a zip of these files."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return out.getvalue()
