"""Grade a class that nobody taught: ``make class``, or ``python -m tools.grade_class --size 60``.

It hands in 200 notebooks (right, untouched, partly wrong, hostile), has ``tools.grade`` grade them
unattended, then all of them again from nothing, and holds the two tables against each other and
against what each notebook should have earned.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from tools import exercise_check, exercises
from tools.grade import ROOT, positive

HOSTILE = {  # each stands in place of the answer to q1: that one is worth nothing, the rest stays
    "endless loop": "while True:\n    pass",
    "endless sleep": "import time\ntime.sleep(100_000)",
    "exit": "import os\nos._exit(0)",
    "sys.exit": "import sys\nsys.exit()",
    "memory bomb": "hoard = []\nwhile True:\n    hoard.append(bytearray(100_000_000))",
    "fork bomb": "import os\nwhile True:\n    os.fork()",
    "full disk": "with open('x', 'wb') as f:\n    while True:\n        f.write(bytes(10**7))",
    "50 MB of output": "for _ in range(50):\n    print('x' * 10**6)",
    "socket": "import socket\nsocket.create_connection(('192.0.2.1', 80), 2)",
    "patched checks": (
        "import torch, unittest.mock\ntorch.testing.assert_close = lambda *_, **__: None\n"
        "grader = unittest.mock.MagicMock()"
    ),
    "other files": "import os\nos.listdir('/home')\nopen('/etc/passwd')",
}
BROKEN = {
    "empty file": b"",
    "half a file": b'{"cells": [{"cell_type": "code", "sou',
    "not a notebook": b"%PDF-1.7",
}


@dataclass
class Handed:
    """A notebook that was handed in: what it is, and the questions that it should not earn."""

    kind: str
    data: bytes
    loses: set[str] = field(default_factory=set)


def with_code(notebook: dict[str, Any], question: str, code: str) -> dict[str, Any]:
    """Return the notebook with a cell more, right before the check of ``question``."""
    changed = json.loads(json.dumps(notebook))
    call = f'grader.check("{question}")'
    for at, cell in enumerate(changed["cells"]):
        if cell["cell_type"] == "code" and call in "".join(cell["source"]):
            new = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
            changed["cells"].insert(at, {**new, "source": code})
            return changed
    raise ValueError(f"the notebook has no cell with {call}")


def without(solution: dict[str, Any], student: dict[str, Any], question: str) -> dict[str, Any]:
    """Return the solution with the answer to one question as the student's version has it."""
    changed = json.loads(json.dumps(solution))
    call = f'grader.check("{question}")'
    at = [
        next(n for n, cell in enumerate(book["cells"]) if call in "".join(cell["source"]))
        for book in (solution, student)
    ]
    changed["cells"][at[0] - 1] = student["cells"][at[1] - 1]
    return changed


def compose(
    solution: dict[str, Any],
    student: dict[str, Any],
    wrong: list[exercise_check.Wrong],
    questions: list[str],
    size: int,
) -> list[Handed]:
    """Return ``size`` notebooks, no two alike: of ten, 4 right, 3 partly wrong, 1 untouched,
    1 hostile, and 1 hostile or broken."""
    first = questions[0]
    bare = without(solution, student, first)
    mistakes, attacks, wrecks = cycle(wrong), cycle(HOSTILE.items()), cycle(BROKEN.items())
    handed = []
    for number in range(size):
        place = number % 10
        if place < 4:
            kind, notebook, loses = "right", solution, set()
        elif place < 7:
            mistake = next(mistakes)
            notebook = with_code(solution, mistake.question, mistake.code)
            kind, loses = "partly wrong", {mistake.question}
        elif place == 7:
            kind, notebook, loses = "untouched", student, set(questions)
        elif place == 8 or number % 20 == 9:
            kind, code = next(attacks)
            notebook, loses = with_code(bare, first, code), {first}
        else:
            kind, data = next(wrecks)
            handed.append(Handed(kind, data, set(questions)))
            continue
        marked = {**notebook, "metadata": {**notebook["metadata"], "copy": number}}
        handed.append(Handed(kind, json.dumps(marked).encode(), loses))
    return handed


def write_zip(handed: list[Handed], path: Path, exercise: str) -> None:
    """Write the class as Canvas packs it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, each in enumerate(handed):
            late = "LATE_" if number % 17 == 0 else ""
            name = f"student{number:03}_{late}{1000 + number}_{5000 + number}_{exercise}.ipynb"
            archive.writestr(name, each.data)


def surprises(
    handed: list[Handed], rows: list[dict[str, str]], possible: dict[str, float]
) -> list[str]:
    """Say of each row that is not as it should be what is wrong with it."""
    by_user = {int(row["user"]) - 1000: row for row in rows}
    found = []
    for number, each in enumerate(handed):
        row = by_user.get(number)
        if row is None:
            found.append(f"student {number} ({each.kind}) has no row")
            continue
        for question, points in possible.items():
            earned = float(row[question])
            as_expected = earned < points if question in each.loses else earned == points
            if not as_expected:
                words = f"{question} {earned:g} of {points:g}; {row['status']}"
                found.append(f"{row['student']} ({each.kind}): {words}")
    return found


def run_grade(arguments: list[str]) -> int:
    """Run the command itself, as an instructor would; return its exit status."""
    return subprocess.run([sys.executable, "-m", "tools.grade", *arguments], cwd=ROOT).returncode


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    words = argparse.ArgumentParser(description="Grade a synthetic class, twice.")
    words.add_argument("--size", type=positive, default=200, help="submissions")
    words.add_argument("--exercise", default="03", help="its number or name")
    words.add_argument("--seconds", type=positive, default=20, help="for one cell or question")
    words.add_argument("--once", action="store_true", help="don't grade again")
    return words


def main(arguments: list[str] | None = None) -> int:
    """Run it; 0 if every row is as it should be and both tables are the same, byte for byte."""
    options = parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="class-") as scratch:
        folder = Path(scratch)
        (built,) = exercises.build(folder / "exercises", [options.exercise])
        wrong = exercise_check.wrong_answers(exercise_check.WRONG / f"{built.name}.py")
        possible = {question.name: float(question.points) for question in built.questions}
        books = [json.loads(path.read_text()) for path in (built.solution, built.student)]
        handed = compose(*books, wrong, list(possible), options.size)
        write_zip(handed, folder / "class.zip", built.name)
        tables = []
        for run in ["first", "second"][: 1 if options.once else 2]:
            out = folder / f"{run}.csv"
            line = [str(folder / "class.zip"), "--exercise", str(built.autograder)]
            line += ["--out", str(out), "--seconds", str(options.seconds)]
            began = time.monotonic()
            status = run_grade(line)
            print(f"{run} run: {len(handed)} submissions in {time.monotonic() - began:.0f} s")
            if status:
                return status
            tables.append(out.read_bytes())
        rows = list(csv.DictReader(tables[0].decode().splitlines()))
    print(", ".join(f"{count} {kind}" for kind, count in Counter(h.kind for h in handed).items()))
    found = surprises(handed, rows, possible)
    if len(set(tables)) > 1:
        found.append("the second run wrote another table")
    print("\n".join(found) or "Every row is as it should be.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
