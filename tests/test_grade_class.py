"""The synthetic class: what is handed in, and that it notices a wrong row."""

from __future__ import annotations

import csv
import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import grading_samples as samples
import pytest

from tools import exercise_check, grade_class

POSSIBLE = {"q1": 3.0, "q2": 2.5}


def class_of(size: int) -> list[grade_class.Handed]:
    solution = json.loads(samples.answers())
    student = json.loads(samples.answers("def square(x):\n    ...", "..."))
    wrong = [
        exercise_check.Wrong("q1", "doubles", "def square(x):\n    return 2 * x"),
        exercise_check.Wrong("q2", "forgets the empty list", "def mean(v):\n    return 2.0"),
    ]
    return grade_class.compose(solution, student, wrong, list(POSSIBLE), size)


def sources(handed: grade_class.Handed) -> str:
    return "\n".join(cell["source"] for cell in json.loads(handed.data)["cells"])


def test_a_class_has_all_kinds_and_no_two_alike() -> None:
    handed = class_of(200)
    kinds = Counter(each.kind for each in handed)
    assert kinds["right"] == 80
    assert kinds["partly wrong"] == 60
    assert kinds["untouched"] == 20
    assert set(grade_class.HOSTILE) | set(grade_class.BROKEN) <= set(kinds)
    notebooks = [each.data for each in handed if each.kind not in grade_class.BROKEN]
    assert len(set(notebooks)) == len(notebooks)


def test_hostile_code_stands_where_the_answer_should() -> None:
    hostile = next(each for each in class_of(10) if each.kind in grade_class.HOSTILE)
    text = sources(hostile)
    assert samples.SQUARE not in text  # or the answer would earn its points by itself
    assert samples.MEAN in text
    assert hostile.loses == {"q1"}
    assert text.index(grade_class.HOSTILE[hostile.kind]) < text.index('grader.check("q1")')
    with pytest.raises(ValueError, match=r'no cell with grader.check\("q9"\)'):
        grade_class.with_code(json.loads(hostile.data), "q9", "pass")


def test_the_zip_is_named_as_canvas_names_it(tmp_path: Path) -> None:
    grade_class.write_zip(class_of(20), tmp_path / "class.zip", "99_sample")
    names = zipfile.ZipFile(tmp_path / "class.zip").namelist()
    assert names[0] == "student000_LATE_1000_5000_99_sample.ipynb"
    assert names[1] == "student001_1001_5001_99_sample.ipynb"


def rows(handed: list[grade_class.Handed]) -> list[dict[str, Any]]:
    """What the grader should write."""
    return [
        {"student": f"s{number}", "user": str(1000 + number), "status": "graded"}
        | {q: str(0 if q in each.loses else points) for q, points in POSSIBLE.items()}
        for number, each in enumerate(handed)
    ]


def test_a_wrong_row_is_noticed() -> None:
    handed = class_of(10)
    assert grade_class.surprises(handed, rows(handed), POSSIBLE) == []
    robbed, forged, lost = rows(handed), rows(handed), rows(handed)[:-1]
    robbed[0]["q1"] = "2"
    forged[8]["q1"] = "3"
    assert grade_class.surprises(handed, robbed, POSSIBLE) == ["s0 (right): q1 2 of 3; graded"]
    assert len(grade_class.surprises(handed, forged, POSSIBLE)) == 1
    assert grade_class.surprises(handed, lost, POSSIBLE)[0].endswith("has no row")


def test_the_command_compares_two_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its exercise and its grader replaced: what is told of two tables that differ?"""
    (tmp_path / "solution.ipynb").write_bytes(samples.answers())
    (tmp_path / "student.ipynb").write_bytes(samples.answers("def square(x):\n    ...", "..."))

    class Built:
        name, autograder = "99_sample", tmp_path / "99_sample.zip"
        solution, student = tmp_path / "solution.ipynb", tmp_path / "student.ipynb"
        questions = tuple(
            type("Question", (), {"name": name, "points": points})
            for name, points in POSSIBLE.items()
        )

    runs: list[str] = []

    def graded(line: list[str]) -> int:
        runs.append(line[line.index("--out") + 1])
        table = rows(class_of(4))
        table[0]["status"] = f"graded {len(runs)}"
        with open(runs[-1], "w", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
        return 0

    monkeypatch.setattr(grade_class.exercises, "build", lambda *_: [Built])
    monkeypatch.setattr(grade_class, "run_grade", graded)
    monkeypatch.setattr(
        grade_class.exercise_check,
        "wrong_answers",
        lambda _: [exercise_check.Wrong("q1", "doubles", "def square(x):\n    return 2 * x")],
    )
    assert grade_class.main(["--size", "4"]) == 1
    assert len(set(runs)) == 2
    assert "the second run wrote another table" in capsys.readouterr().out
    assert grade_class.main(["--size", "4", "--once"]) == 0
    assert "Every row is as it should be." in capsys.readouterr().out
