"""Grade many submissions at once, keep what is done, and go on after a stop.

Each submission gets a judge of its own, forked from one process that has imported torch and otter
already. What a judge finds is stored under a hash of all that it depends on, so that a second run
takes it from there, whatever stopped the first.
"""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tools.grading.collect import Submission
from tools.grading.exercise import Exercise
from tools.grading.sandbox import Limits

HERE = Path(__file__).resolve().parent
MARGIN = 60  # seconds over a submission's limit before its judge is ended
BROKEN = "LOOK AT THIS ONE"  # begins the status when it is the grader that failed
Result = dict[str, Any]

CONTEXT = multiprocessing.get_context("forkserver")


@functools.cache
def version() -> str:
    """Return a hash of the grader itself: results of another one don't count."""
    digest = hashlib.sha256()
    for file in sorted(HERE.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


class Store:
    """What was found out, in a folder of small JSON files, each written in one move."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Forget what is stored."""
        for file in self.folder.glob("*.json"):
            file.unlink()

    def get(self, name: str) -> Result | None:
        """Return a stored result, or None."""
        try:
            return json.loads((self.folder / f"{name}.json").read_text())
        except (OSError, ValueError):
            return None

    def put(self, name: str, result: Result) -> None:
        """Store a result."""
        with tempfile.NamedTemporaryFile(
            "w", dir=self.folder, suffix=".part", delete=False
        ) as part:
            json.dump(result, part, indent=1)
        os.replace(part.name, self.folder / f"{name}.json")


def in_judge(name: str, connection: Connection, *arguments: Any) -> None:
    """Call a function of the judge's module, in a process that has imported it already."""
    from tools.grading import judge

    getattr(judge, name)(connection, *arguments)


def nothing(possible: dict[str, float], status: str) -> Result:
    """Return the result of a submission that can't be run: no points, and why."""
    questions = {
        name: {"points": 0.0, "possible": points, "cases": [], "lost": ""}
        for name, points in possible.items()
    }
    return {"status": status, "graded": False, "questions": questions}


def points(exercise: Exercise) -> dict[str, float]:
    """Return what each question is worth; ``ValueError`` when a test file is broken."""
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=in_judge, args=("points", theirs, exercise), daemon=True)
    process.start()
    theirs.close()
    try:
        kind, found = ours.recv()
    except EOFError:
        kind, found = "problem", "the judge does not start (is otter-grader installed?)"
    process.join()
    if kind == "problem":
        raise ValueError(f"{exercise.name}: {found}")
    return found


class Grader:
    """Grades submissions to one exercise, several at a time."""

    def __init__(
        self, exercise: Exercise, limits: Limits, isolated: bool, user: int | None, store: Store
    ) -> None:
        self.exercise, self.limits, self.store = exercise, limits, store
        self.isolated, self.user = isolated, user
        # Only what is loaded before the first judge counts: this process grades one exercise.
        CONTEXT.set_forkserver_preload(["tools.grading.judge", *exercise.imports])
        name = f"points-{exercise.digest}"
        self.possible = store.get(name) or points(exercise)
        store.put(name, self.possible)
        self.running: set[Any] = set()

    def key(self, submission: Submission) -> str:
        """Return the name under which a result is stored."""
        parts = [submission.digest, self.exercise.digest, asdict(self.limits)]
        text = json.dumps([*parts, self.isolated, version()])
        return hashlib.sha256(text.encode()).hexdigest()

    def grade_all(
        self, submissions: list[Submission], jobs: int, done: Callable[[], Any]
    ) -> list[Result]:
        """Return one result a submission, in their order; ``done`` is called after each."""
        with ThreadPoolExecutor(jobs) as pool:
            futures = [pool.submit(self.grade, submission) for submission in submissions]
            try:
                for future in as_completed(futures):
                    future.result()
                    done()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(self.running):
                    process.terminate()
                raise
        return [future.result() for future in futures]

    def grade(self, submission: Submission) -> Result:
        """Return the stored result of a submission, or a new one."""
        if submission.problem:
            return nothing(self.possible, submission.problem)
        name = self.key(submission)
        result = self.store.get(name)
        if result is None:
            result = self.ask_judge(submission.data)
            if not result["status"].startswith(BROKEN):
                self.store.put(name, result)
        return result

    def ask_judge(self, data: bytes) -> Result:
        """Run one judge and gather what it finds; it is ended when it does not end itself."""
        ours, theirs = CONTEXT.Pipe(duplex=False)
        arguments = ("main", theirs, data, self.exercise, self.limits, self.isolated, self.user)
        process = CONTEXT.Process(target=in_judge, args=arguments, daemon=True)
        process.start()
        theirs.close()
        self.running.add(process)
        result = nothing(self.possible, "")
        end = time.monotonic() + self.limits.total_seconds + MARGIN
        try:
            while ours.poll(max(0.0, end - time.monotonic())):
                kind, name, content = ours.recv()  # from the judge, which is ours
                if kind == "question":
                    result["questions"][name] = content
                else:
                    return {**result, "status": name, "graded": kind == "end"}
            problem = "did not end in time"
        except EOFError:
            process.join()
            problem = f"ended with status {process.exitcode}"
        finally:
            self.running.discard(process)
            process.terminate()
            process.join(10)
            process.kill()
            process.join()
            ours.close()
        return {**result, "status": f"{BROKEN}: its judge {problem}"}
