"""Does an exercise grade as it should? ``python -m tools.exercises check 04``.

Every solution must score full marks, the untouched student notebook none, and each of the wrong
answers in book/exercises/wrong/NN_name.py must lose points in its question. All of it runs in
this process, with the checks from the autograder zip and without a kernel.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import re
import tempfile
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import torch

from tools.exercises import MASTERS, Built, load_checks

WRONG = MASTERS / "wrong"
MARK = re.compile(r"^# %% (q\d+): (.+)$", flags=re.MULTILINE)
LIMIT = 120  # seconds that an exercise may take on two cores


@dataclass
class Wrong:
    """A wrong answer: which question, why it is plausible, and the first check that caught it."""

    question: str
    why: str
    code: str
    caught: str = ""  # the last line of that check's message


@dataclass
class Found:
    """What the checks gave for the solution, the untouched notebook and the wrong answers."""

    name: str
    possible: dict[str, float]
    solution: dict[str, float] = field(default_factory=dict)
    untouched: dict[str, float] = field(default_factory=dict)
    wrong: list[Wrong] = field(default_factory=list)
    seconds: float = 0.0  # of the solution, its checks included

    def problems(self) -> Iterator[str]:
        """One sentence for everything that is not as it should be."""
        for question, points in self.possible.items():
            if self.solution[question] != points:
                yield f"{question}: the solution scores {self.solution[question]} of {points}"
            if self.untouched[question]:
                yield f"{question}: the untouched notebook scores {self.untouched[question]}"
            if sum(each.question == question for each in self.wrong) < 2:
                yield f"{question}: needs two wrong answers in {WRONG.name}/{self.name}.py"
        for each in self.wrong:
            if each.question not in self.possible:
                yield f"{each.question}: a wrong answer to a question that does not exist"
            elif not each.caught:
                yield f"{each.question}: full marks for a wrong answer ({each.why})"
        if self.seconds > LIMIT:
            yield f"{self.seconds:.0f} s: an exercise may take {LIMIT}"


def wrong_answers(path: Path) -> list[Wrong]:
    """Read the wrong answers: behind ``# %% q1: why it is plausible`` stands one to ``q1``."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    marks = list(MARK.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)][: len(marks)]
    return [
        Wrong(mark[1], mark[2].strip(), text[mark.end() : end].strip() + "\n")
        for mark, end in zip(marks, ends, strict=True)
    ]


def check_all(built: list[Built]) -> list[Found]:
    """Check several exercises, as many at once as the machine has cores."""
    jobs = min(len(built), os.cpu_count() or 1)
    context = multiprocessing.get_context("spawn")  # PyTorch's threads don't survive a fork
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        return list(pool.map(check, built))


def check(built: Built) -> Found:
    """Grade the solution, the untouched notebook and every wrong answer of one exercise."""
    found = Found(built.name, {each.name: each.points for each in built.questions})
    torch.set_num_threads(1)  # the models are small: two threads wait for each other
    with scratch() as folder:
        with zipfile.ZipFile(built.autograder) as archive:
            archive.extractall(folder, [n for n in archive.namelist() if n.startswith("tests/")])
        checks = {name: folder / "tests" / f"{name}.py" for name in found.possible}
        began = time.monotonic()
        solved = run(built.solution)
        found.solution = {name: grade(path, solved) for name, path in checks.items()}
        found.seconds = time.monotonic() - began
        untouched = run(built.student, forgiving=True)
        found.untouched = {name: grade(path, untouched) for name, path in checks.items()}
        for wrong in wrong_answers(WRONG / f"{built.name}.py"):
            found.wrong.append(wrong)
            if wrong.question in checks:
                answered = dict(solved)
                execute(wrong.code, f"<wrong answer: {wrong.why}>", answered)
                wrong.caught = first_loss(checks[wrong.question], answered)
    return found


def run(path: Path, *, forgiving: bool = False) -> dict[str, Any]:
    """Execute a notebook's code cells in order; return the names it leaves.

    ``forgiving`` goes on after an error, as otter does when it grades.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "code":
            try:
                execute(cell.source, f"<{path.stem}, cell {number}>", names)
            except Exception as problem:
                if not forgiving:
                    raise RuntimeError(f"{path.stem}, cell {number}: {problem!r}") from problem
    return names


def execute(code: str, name: str, names: dict[str, Any]) -> None:
    """Run ``code``, and keep what it prints to itself."""
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, name, "exec"), names)


def grade(path: Path, names: dict[str, Any]) -> float:
    """Run otter's checks of one question against ``names``; return the points."""
    checks = load_checks(path)
    with contextlib.redirect_stdout(io.StringIO()):
        checks.run(names)
    return checks.score


def first_loss(path: Path, names: dict[str, Any]) -> str:
    """Run the checks of one question until one costs points; return the end of what it says."""
    checks = load_checks(path)
    for case in [case for case in checks.test_cases if case.points]:
        checks.test_cases = [case]
        with contextlib.redirect_stdout(io.StringIO()):
            checks.run(names)
        (result,) = checks.test_case_results
        if not result.passed:
            return result.message.strip().splitlines()[-1]
    return ""


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Work in a new folder, for temporary files too: otter writes its log where one stands."""
    before = Path.cwd(), tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            os.chdir(before[0])
            tempfile.tempdir = before[1]


def report(found: list[Found], path: Path | None = None) -> int:
    """Print what was found, write it to ``path``; return 1 if anything is not as it should be."""
    bad = 0
    for each in found:
        problems = list(each.problems())
        bad += len(problems)
        print(
            f"{each.name}: solution {sum(each.solution.values()):g} of "
            f"{sum(each.possible.values()):g}, untouched {sum(each.untouched.values()):g}, "
            f"{len(each.wrong)} wrong answers, {each.seconds:.1f} s"
        )
        for problem in problems:
            print(f"  {problem}")
        for wrong in each.wrong:
            print(f"  {wrong.question} {wrong.why}\n      {wrong.caught[:150]}")
    if path:
        details = [{**asdict(each), "problems": list(each.problems())} for each in found]
        path.write_text(json.dumps(details, indent=1), encoding="utf-8")
    return 1 if bad else 0
