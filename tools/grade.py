"""Grade a class: ``python -m tools.grade SUBMISSIONS --exercise 04 --out grades.csv``.

SUBMISSIONS is a folder or zip as Canvas or Moodle hands it out. The CSV has one row a student;
next to it lie a folder of feedback pages to hand back, and what is needed to go on after a stop.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

from tools.grading import collect, docker, exercise, pool, results, sandbox

ROOT = Path(__file__).resolve().parent.parent
EXERCISES = ROOT / "book" / "_build" / "exercises" / "autograder"


def positive(text: str) -> int:
    """Return a whole number from 1 on, for argparse."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return value


def parser() -> argparse.ArgumentParser:
    """Return the command's arguments."""
    limits = sandbox.Limits()
    words = argparse.ArgumentParser(
        prog="python -m tools.grade",
        description="Grade a folder or zip of submissions, each in a sandbox of its own.",
    )
    add = words.add_argument
    add("submissions", type=Path, help="folder or zip, as Canvas or Moodle hands it out")
    add("--exercise", required=True, help="its number or name (04, 04_blocking), or a zip")
    add("--out", type=Path, required=True, help="the CSV to write, one row a student")
    add("--exercises", type=Path, default=EXERCISES, help="folder of autograder zips")
    add("--jobs", type=positive, default=os.cpu_count() or 1, help="submissions at a time")
    add("--seconds", type=positive, default=limits.seconds, help="for one cell or question")
    add("--total-seconds", type=positive, default=limits.total_seconds, help="for a submission")
    add("--memory-mb", type=positive, default=limits.memory_mb, help="for a submission")
    add("--fresh", action="store_true", help="grade all again, whatever is stored")
    add("--docker", action="store_true", help="let otter grade do it, in Docker containers")
    return words


def check_out(path: Path) -> None:
    """Raise ``ValueError`` when the CSV could not be written at the end."""
    if path.is_dir():
        raise ValueError(f"--out {path} is a folder; name a file")
    if not path.parent.is_dir():
        raise ValueError(f"--out {path}: there is no folder {path.parent}")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.exists():
            path.open("a").close()
    except OSError as problem:
        raise ValueError(f"--out {path} can't be written: {problem.strerror}") from problem


def write(
    out: Path,
    submissions: list[collect.Submission],
    found: list[pool.Result],
    chosen: exercise.Exercise,
) -> None:
    """Write a page of feedback for each student, then the table."""
    folder = out.with_suffix(".feedback")
    taken: set[Path] = set()
    for number, (submission, result) in enumerate(zip(submissions, found, strict=True)):
        path = results.feedback_path(submission)
        if path in taken:
            path = path.with_stem(f"{path.stem}_{number}")
        taken.add(path)
        results.write(folder / path, results.page(submission, result, chosen))
    results.write(out, results.table(submissions, found, chosen))


def grade(arguments: argparse.Namespace) -> int:
    """Check everything that can be wrong, then grade; return how many rows need a look."""
    check_out(arguments.out)
    chosen = exercise.load(exercise.find(arguments.exercise, arguments.exercises))
    submissions = collect.collect(arguments.submissions, chosen.name)
    limits = sandbox.Limits(
        seconds=arguments.seconds,
        total_seconds=arguments.total_seconds,
        memory_mb=arguments.memory_mb,
    )
    if arguments.docker:
        docker.check()
    store = pool.Store(arguments.out.with_suffix(".results"))
    if arguments.fresh:
        store.clear()
    with tqdm(total=len(submissions), unit=" submissions", disable=None) as bar:
        if arguments.docker:
            found = docker.grade_all(submissions, chosen, limits, arguments.jobs, bar.update)
        else:
            reason, user = sandbox.find()
            isolated = reason == "bubblewrap"
            if not isolated:
                bar.write(sandbox.WARNING.format(reason=reason), file=sys.stderr)
            grader = pool.Grader(chosen, limits, isolated, user, store)
            found = grader.grade_all(submissions, arguments.jobs, bar.update)
    write(arguments.out, submissions, found, chosen)
    return sum(result["status"].startswith(pool.BROKEN) for result in found)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when all is graded, 1 when rows need a look, 2 when nothing was done."""
    started = time.monotonic()
    words = parser()
    parsed = words.parse_args(arguments)
    try:
        doubtful = grade(parsed)
    except ValueError as problem:
        words.error(str(problem))
    except KeyboardInterrupt:
        print("Stopped. The same command goes on from here.", file=sys.stderr)
        return 130
    seconds = time.monotonic() - started
    folder = parsed.out.with_suffix(".feedback")
    print(f"{parsed.out}: written in {seconds:.0f} s; feedback in {folder}")
    if doubtful:
        print(f"{doubtful} rows need a look: their judges failed (see the status)", file=sys.stderr)
    return 1 if doubtful else 0


if __name__ == "__main__":
    sys.exit(main())
