"""Score one submission: this process holds the tests, the sandbox holds the student's code.

The cells run in the worker one by one. After the last cell that calls ``grader.check("q1")`` (or at
the end) otter's own tests of q1 run *here*, once, with the student's names replaced by stand-ins
that ask the worker. So there is nothing in the student's process to forge, patch or read: it can
only answer, and an answer is data (``codec.py``).
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from tools.grading.collect import plain
from tools.grading.exercise import Exercise
from tools.grading.sandbox import Limits, Sandbox
from tools.grading.session import SLACK, Lost, Session

GRACE = 30  # seconds that the judge's own work may add to a question's limit
BAD_CELLS = 3  # cells that may end the worker before the rest is given up
JUDGE_MEMORY = 16 << 30  # bytes of address space; torch alone maps several GB
OTTER = "otter"


class Unusable(Exception):
    """There is nothing in this file to run; the words say why."""


@dataclass
class Cell:
    """A code cell and the questions to check once it has run; ``number`` counts from 1."""

    number: int
    source: str
    questions: list[str] = field(default_factory=list)


def parse(data: bytes, exercise: Exercise) -> tuple[list[Cell], str]:
    """Return the notebook's code cells and a remark, or raise ``Unusable``."""
    if not data.strip():
        raise Unusable("the file is empty")
    try:
        notebook = json.loads(data)
        cells = notebook["cells"]
        metadata = notebook.get("metadata") or {}
        codes = [cell for cell in cells if cell["cell_type"] == "code"]
        sources = ["".join(cell["source"]) for cell in codes]
        tagged = [(cell.get("metadata") or {}).get(OTTER) or {} for cell in codes]
        kernel = metadata.get("kernelspec") or {}
        language = kernel.get("language") or (metadata.get("language_info") or {}).get("name")
        name = (metadata.get(OTTER) or {}).get("assignment_name")
        listed = [list(config.get("tests") or []) for config in tagged]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Unusable("not a notebook: it is no JSON in Jupyter's format") from None
    if language and str(language).lower() not in ("python", "python3", "ipython"):
        raise Unusable(f"wrong kernel: {plain(str(language), 30)}, only Python is graded")
    if name and name != exercise.name:
        raise Unusable(f"another exercise's notebook: {plain(str(name), 60)}")
    if not any(source.strip() for source in sources):
        raise Unusable("the notebook has no code")
    remark = "" if name else "no exercise named in its metadata"
    parts = [Cell(number, source) for number, source in enumerate(sources, 1)]
    for question in exercise.questions:
        call = re.compile(rf"^[^#\n]*\.check\(\s*(['\"]){re.escape(question)}\1", re.MULTILINE)
        for cell, others in reversed(list(zip(parts, listed, strict=True))):
            if call.search(cell.source) or question in others:
                cell.questions.append(question)
                break
    return parts, remark


class Judge:
    """Everything about one submission; ``tell`` is called with each finished question."""

    def __init__(
        self,
        cells: list[Cell],
        exercise: Exercise,
        limits: Limits,
        isolated: bool,
        user: int | None,
        tell: Any,
    ) -> None:
        self.cells, self.exercise, self.limits = cells, exercise, limits
        self.isolated, self.user, self.tell = isolated, user, tell
        self.pending = list(exercise.questions)
        self.errors: dict[int, str] = {}  # cell → what it raised
        self.bad: dict[int, str] = {}  # cell → how it ended the worker
        self.end = time.monotonic() + limits.total_seconds

    def grade(self) -> str:
        """Run and check everything, with a new worker after each one lost; return remarks."""
        stopped = ""
        while self.pending and not stopped:
            sandbox = Sandbox(self.limits, self.isolated, self.user)
            sandbox.start()
            try:
                session = Session(self.exercise, self.limits, sandbox, self.end)
                self.walk(session)
            except Lost as problem:
                stopped = f"could not start: {problem}"
            finally:
                sandbox.close()
            if time.monotonic() >= self.end:
                stopped = f"stopped after {self.limits.total_seconds} s in all"
            elif len(self.bad) >= BAD_CELLS and self.pending:
                stopped = f"given up after {BAD_CELLS} such cells"
        for question in self.pending:
            self.tell(question, score(self.exercise.load()[question], stopped), stopped)
        words = [f"cell {number} {words}" for number, words in self.bad.items()]
        words += [f"cell {number} raised {words}" for number, words in self.errors.items()]
        if len(words) > 4:
            words[4:] = [f"and {len(words) - 4} cells more"]
        return "; ".join([*words, *([stopped] if stopped else [])])

    def walk(self, session: Session) -> None:
        """Go through the cells that don't end the worker, until it is lost or all is checked."""
        for cell in self.cells:
            if cell.number not in self.bad:
                try:
                    error = session.run(cell.source)
                except Lost as problem:
                    self.bad[cell.number] = str(problem)
                    return
                if error:
                    self.errors[cell.number] = error
            for question in cell.questions:
                if question in self.pending and not self.check(question, session):
                    return
        for question in list(self.pending):
            if not self.check(question, session):
                return

    def check(self, question: str, session: Session) -> bool:
        """Run the tests of one question; False when the worker is lost on the way."""
        test: Any = self.exercise.load()[question]
        lost = ""
        session.allow(self.limits.seconds)
        try:
            signal.setitimer(signal.ITIMER_REAL, SLACK * self.limits.seconds + GRACE)
            test.run(session)
        except Lost as problem:
            lost = str(problem)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self.pending.remove(question)
        self.tell(question, score(test, lost), lost)
        return not (lost or session.sandbox.reason)


def said(message: str) -> str:
    """Return what a failed check says: its author's words, or where it failed if there are none.

    >>> said("❌ Test case failed\\nError at line 3:\\n  assert x\\nAssertionError: Add x.")
    'Add x.'
    """
    where = message.removeprefix("❌ Test case failed\n")
    _, _, words = where.partition("\nAssertionError: ")
    return (words.strip() or where)[:2000]


def score(test: Any, lost: str) -> dict[str, Any]:
    """Return points and cases of a question; cases that were never reached have failed."""
    reached = [(result.passed, result.message) for result in test.test_case_results]
    missing = len(test.test_cases) - len(reached)
    outcomes = reached + [(False, lost or "not reached")] * missing
    passed = sum(case.points for case, (ok, _) in zip(test.test_cases, outcomes, strict=True) if ok)
    if test.all_or_nothing and not all(ok for ok, _ in outcomes):
        passed = 0
    cases = [
        {
            "name": case.name,
            "hidden": bool(case.hidden),
            "passed": bool(ok),
            "points": case.points,
            "hint": (case.success_message if ok else case.failure_message) or "",
            # What a hidden test says would give it away.
            "message": "" if ok or case.hidden else said(message),
        }
        for case, (ok, message) in zip(test.test_cases, outcomes, strict=True)
    ]
    possible = round(float(test.possible), 5)
    return {"points": round(float(passed), 5), "possible": possible, "cases": cases}


def points(connection: Connection, exercise: Exercise) -> None:
    """Send what each question is worth, or what is wrong with the tests."""
    try:
        tests: dict[str, Any] = exercise.load()
        connection.send(("points", {q: round(float(t.possible), 5) for q, t in tests.items()}))
    except Exception as problem:  # a test file runs whatever its author wrote
        connection.send(("problem", f"its tests can't be read: {plain(str(problem))}"))


def main(
    connection: Connection,
    data: bytes,
    exercise: Exercise,
    limits: Limits,
    isolated: bool,
    user: int | None,
) -> None:
    """Grade in this process (a fork of one that has torch) and send each finding as it comes."""

    def out_of_time(*_: object) -> None:
        raise Lost("the check itself took too long")

    signal.signal(signal.SIGALRM, out_of_time)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the sandbox is closed on the way out
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the command; it ends us
    resource.setrlimit(resource.RLIMIT_AS, (JUDGE_MEMORY, JUDGE_MEMORY))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)

    def tell(question: str, result: dict[str, Any], lost: str) -> None:
        connection.send(("question", question, result | {"lost": lost}))

    try:
        cells, remark = parse(data, exercise)
        words = Judge(cells, exercise, limits, isolated, user, tell).grade()
        connection.send(("end", "; ".join(filter(None, [words, remark])), ""))
    except Unusable as problem:
        connection.send(("unusable", str(problem), ""))
