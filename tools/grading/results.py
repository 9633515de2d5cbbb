"""What an instructor gets: one row a student, and one page of feedback for each to hand back."""

from __future__ import annotations

import csv
import hashlib
import html
import io
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from tools.grading.collect import Submission, plain
from tools.grading.exercise import Exercise

SAFE_PATH = re.compile(r"[^/\\:*?\"<>|.][^/\\:*?\"<>|]*(/feedback\.html)?")

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }}
h2 {{ margin: 2rem 0 0; font-size: 1.15rem; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid; padding-left: 1em; }}
</style>
<h1>{title}</h1>
<p>{student}: <strong>{total} of {possible}</strong></p>
<p>{status}</p>
{questions}</html>
"""


def number(value: float) -> str:
    """Write points the same way everywhere: 2, 1.5, 0.33333."""
    return f"{round(value, 5):.5f}".rstrip("0").rstrip(".")


def count(value: float) -> str:
    """Write points with their unit: 1 point, 2.5 points."""
    return f"{number(value)} point{'' if value == 1 else 's'}"


def cell(text: str) -> str:
    """Return text that a spreadsheet takes for text, not for a formula.

    >>> cell("=HYPERLINK(1)")
    "'=HYPERLINK(1)"
    """
    shown = plain(text, 500)
    return f"'{shown}" if shown[:1] in ("=", "+", "-", "@") else shown


def totals(result: dict[str, Any]) -> tuple[float, float]:
    """Return points and possible points."""
    questions = result["questions"].values()
    return sum(q["points"] for q in questions), sum(q["possible"] for q in questions)


def status(result: dict[str, Any]) -> str:
    """Return what happened, in words."""
    words = [result["status"]] if result["status"] else []
    words += [f"{n} {q['lost']}" for n, q in result["questions"].items() if q["lost"]]
    first = "graded" if result["graded"] else "not graded"
    return ": ".join([first, "; ".join(words)]) if words else first


def table(submissions: list[Submission], results: list[dict[str, Any]], exercise: Exercise) -> str:
    """Return the CSV: student, user, late, file, points per question, total, possible, status."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ["student", "user", "late", "file", *exercise.questions, "total", "possible", "status"]
    writer.writerow(head)
    for submission, result in zip(submissions, results, strict=True):
        total, possible = totals(result)
        points = [number(result["questions"][name]["points"]) for name in exercise.questions]
        who = [submission.student, submission.user, "late" if submission.late else ""]
        row = [*who, submission.file, *points, number(total), number(possible)]
        writer.writerow([cell(text) for text in [*row, status(result)]])
    return out.getvalue()


def describe(case: dict[str, Any]) -> str:
    """Return the lines of one test case."""
    kind = "Hidden check" if case["hidden"] else "Check"
    verdict = "passed" if case["passed"] else "failed"
    text = f"<p>{kind}: {verdict} ({count(case['points'])})</p>\n"
    if case["hint"]:
        text += f"<p>{html.escape(plain(case['hint'], 2000))}</p>\n"
    if case["message"]:
        text += f"<pre>{html.escape(case['message'])}</pre>\n"
    return text


def page(submission: Submission, result: dict[str, Any], exercise: Exercise) -> str:
    """Return a student's feedback as HTML, every word of theirs escaped."""
    total, possible = totals(result)
    words = status(result)
    questions = ""
    for name, found in result["questions"].items():
        points = f"{number(found['points'])} of {count(found['possible'])}"
        questions += f"<h2>{html.escape(name)}: {points}</h2>\n"
        questions += "".join(describe(case) for case in found["cases"])
    return PAGE.format(
        title=f"Exercise {html.escape(exercise.name)}",
        student=html.escape(submission.student),
        total=number(total),
        possible=count(possible),
        status=html.escape(words[0].upper() + words[1:]) + ".",
        questions=questions,
    )


def feedback_path(submission: Submission) -> Path:
    """Return where a student's page goes, below the feedback folder, safe and one of its own.

    Moodle takes the pages back when they are named as it names submissions, in folders or not.
    """
    given = submission.page
    if SAFE_PATH.fullmatch(given) and plain(given) == given and len(given.encode()) < 200:
        return Path(given)
    stem = re.sub(r"[^A-Za-z0-9]+", "-", submission.student).strip("-")[:60] or "student"
    who = f"{submission.student}\0{submission.user}\0{submission.file}\0{submission.page}"
    mark = submission.user or hashlib.sha256(who.encode()).hexdigest()[:8]
    return Path(f"{stem}_{mark}.html")


def write(path: Path, text: str) -> None:
    """Write in one move: nobody ever reads half a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8", newline=""
    ) as part:
        part.write(text)
    os.chmod(part.name, 0o644)
    os.replace(part.name, path)
