"""Grade with ``otter grade``: one Docker container a submission, where Docker is there.

Otter runs hidden tests in the student's own process, so this stands behind the default in what
it proves; it is for those who want the image that Gradescope would use.
"""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tools.grading.collect import Submission, plain
from tools.grading.exercise import Exercise
from tools.grading.pool import Result, nothing, points
from tools.grading.sandbox import Limits


def check() -> None:
    """Raise ``ValueError`` in words when Docker can't be used."""
    docker = shutil.which("docker")
    if docker is None:
        raise ValueError("--docker: there is no docker command; leave the flag out, or install it")
    try:
        done = subprocess.run([docker, "info"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as problem:
        raise ValueError(f"--docker: docker does not answer: {problem}") from problem
    if done.returncode:
        words = plain(done.stderr or done.stdout, 300)
        raise ValueError(f"--docker: Docker is installed but does not run: {words}")


def command(
    exercise: Exercise, limits: Limits, jobs: int, submissions: Path, out: Path
) -> list[str]:
    """Return the command line of ``otter grade``; final_grades.csv comes to lie in ``out``."""
    line = [sys.executable, "-m", "otter", "grade", "--name", exercise.name.lower()]
    line += ["--autograder", str(exercise.zip_path), "--output-dir", str(out)]
    line += ["--containers", str(jobs), "--timeout", str(limits.total_seconds)]
    return [*line, "--no-network", str(submissions)]


def run_otter(line: list[str]) -> None:
    """Run ``otter grade``, whose own progress goes to the terminal.

    Raises ``ValueError`` when it fails, for instance because the image can't be built.
    """
    status = subprocess.run(line, stdout=sys.stderr).returncode
    if status:
        raise ValueError(f"--docker: otter grade ended with status {status}; it says why above")


def grade_all(
    submissions: list[Submission],
    exercise: Exercise,
    limits: Limits,
    jobs: int,
    done: Callable[[], None],
) -> list[Result]:
    """Return one result a submission, from otter's final_grades.csv."""
    with tempfile.TemporaryDirectory(prefix="grade-docker-") as scratch:
        folder, out = Path(scratch, "submissions"), Path(scratch, "out")
        folder.mkdir()
        out.mkdir()
        for number, submission in enumerate(submissions):  # names of our own, not the students'
            if not submission.problem:
                (folder / f"s{number:05}.ipynb").write_bytes(submission.data)
        if any(folder.iterdir()):
            run_otter(command(exercise, limits, jobs, folder, out))
        rows = read(out / "final_grades.csv")
    possible = points(exercise)
    results = []
    for number, submission in enumerate(submissions):
        row = rows.get(f"s{number:05}")
        if submission.problem or row is None:
            results.append(nothing(possible, submission.problem or "otter grade gave no result"))
        else:
            results.append(from_row(row, possible))
        done()
    return results


def read(path: Path) -> dict[str, dict[str, str]]:
    """Return otter's rows by the stem of the file they are about."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {Path(row["file"]).stem: row for row in csv.DictReader(file)}


def from_row(row: dict[str, str], possible: dict[str, float]) -> Result:
    """Return a result with the points of each question, or why otter has none."""
    told = row.get("grading_status", "Completed")
    if told != "Completed":
        return nothing(possible, f"otter grade: {plain(told)}")
    result = nothing(possible, "in Docker, by otter grade")
    result["graded"] = True
    for name, question in result["questions"].items():
        try:
            question["points"] = float(row[name])
        except (KeyError, ValueError):
            result["status"] = f"otter grade gave no points for {name}"
    return result
