"""Run every check of the book and say at the end what came of each: ``make test``.

A step that fails does not stop the ones behind it, so one run shows everything that is wrong.
The exit status is 0 only if every step passed. ``--only pytest,nbval`` runs a part.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

from tools import chromium, debian, notebooks

ROOT = Path(__file__).resolve().parent.parent
MINUTE = 60


@dataclass
class Step:
    """One check: a command, how long it may take, and what came of it."""

    name: str
    command: list[str]
    minutes: float
    counts: dict[str, int] = field(default_factory=dict)  # filled for the steps that run pytest
    result: str = "not run"
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.result == "ok"


def pytest_step(name: str, minutes: float, *arguments: str, workers: int = 0) -> Step:
    """Return a step that runs pytest, whose tests are counted; in several processes if asked."""
    command = [sys.executable, "-m", "pytest", "-q", "--color=no", *arguments]
    if workers > 1:
        command += ["-n", str(workers), "--dist", "worksteal"]
    return Step(name, command, minutes, counts={"passed": 0, "failed": 0, "skipped": 0})


def all_steps() -> list[Step]:
    """Return the steps in the order in which they run: quick ones first."""
    python = sys.executable
    # A test is single-threaded, so each core takes one; four are enough, for memory's sake.
    workers = min(os.cpu_count() or 1, 4)
    steps = [
        Step("ruff check", [python, "-m", "ruff", "check", "."], 2),
        Step("ruff format", [python, "-m", "ruff", "format", "--check", "."], 2),
        Step("mypy", [python, "-m", "mypy"], 10),
        pytest_step("pytest", 30, "effedu", "tests", "--ignore=tests/site", workers=workers),
    ]
    for chapter in notebooks.notebooks([]):
        # One process a chapter: a kernel that hangs or dies costs its own chapter alone.
        steps.append(
            pytest_step(
                f"nbval {chapter.stem}",
                10,
                "--nbval",
                "--nbval-current-env",
                "--nbval-cell-timeout=180",
                str(chapter.relative_to(ROOT)),
            )
        )
    steps.append(Step("site", [python, "-m", "tools.site", "build", "--strict"], 15))
    steps.append(pytest_step("browser", 30, "tests/site", workers=workers))
    # Last, because it fetches the packages' wheels once more.
    steps.append(Step("bundle", [python, "-m", "tools.bundle", "--check"], 15))
    return steps


def environment() -> dict[str, str]:
    """Return the environment of every step: offline, unattended, the same on every machine."""
    columns = os.environ.get("COLUMNS", "100")
    return {
        **os.environ,
        **notebooks.KERNEL_ENVIRONMENT,
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": columns,
    }


def run_step(step: Step, env: dict[str, str]) -> None:
    """Run one step, its output going straight to ours; fill in its result, seconds and counts."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        command = [*step.command, f"--junitxml={report}"] if step.counts else step.command
        # A session of its own, so that a step out of time takes its kernels and browsers along.
        process = subprocess.Popen(command, cwd=ROOT, env=env, start_new_session=True)
        try:
            status = process.wait(timeout=step.minutes * MINUTE)
            step.result = "ok" if status == 0 else f"FAILED (exit status {status})"
        except subprocess.TimeoutExpired:
            step.result = f"FAILED (more than {step.minutes:g} minutes)"
        except KeyboardInterrupt:
            step.result = "interrupted"
            raise
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if step.counts:
            step.counts = count_tests(report)
            if not step.passed and not step.counts["failed"]:
                step.counts["failed"] = 1  # it broke down before, or beside, its tests
            elif step.passed and not step.counts["passed"]:
                step.result = "FAILED (no test ran)"
                step.counts["failed"] = 1
    step.seconds = time.monotonic() - started


def count_tests(report: Path) -> dict[str, int]:
    """Return how many tests passed, failed and were skipped, from pytest's JUnit report."""
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    if not report.exists():
        return counts
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        failed = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        skipped = int(suite.get("skipped", 0))
        counts["failed"] += failed
        counts["skipped"] += skipped
        counts["passed"] += int(suite.get("tests", 0)) - failed - skipped
    return counts


def summary(steps: list[Step]) -> str:
    """Return the table at the end, the sum over all tests, and a verdict in one line."""
    width = max(len(step.name) for step in steps)
    lines = [""]
    total = {"passed": 0, "failed": 0, "skipped": 0}
    for step in steps:
        tests = ""
        if step.counts:
            for kind in total:
                total[kind] += step.counts[kind]
            tests = ", ".join(f"{count} {kind}" for kind, count in step.counts.items() if count)
            tests = f"  ({tests})" if tests else ""
        lines.append(f"{step.name:<{width}}  {step.seconds:6.0f} s  {step.result}{tests}")
    seconds = sum(step.seconds for step in steps)
    wrong = [step.name for step in steps if not step.passed]
    lines.append(f"{'all':<{width}}  {seconds:6.0f} s")
    lines.append("")
    lines.append(f"Not passed: {', '.join(wrong)}" if wrong else "Every step passed.")
    skipped = f", {total['skipped']} skipped" if total["skipped"] else ""
    lines.append(f"{total['passed']} passed, {total['failed']} failed{skipped}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the steps; return 0 if every one passed."""
    parser = argparse.ArgumentParser(description="Run every check of the book.")
    parser.add_argument("--only", default="", help="names of steps, or their beginnings: a,b,c")
    wanted = [name for name in parser.parse_args(arguments).only.split(",") if name]
    steps = all_steps()
    if wanted:
        for name in wanted:
            if not any(step.name.startswith(name) for step in steps):
                names = ", ".join(step.name for step in steps)
                parser.error(f"no step begins with {name!r}; there are: {names}")
        steps = [step for step in steps if step.name.startswith(tuple(wanted))]

    env = environment()
    for number, step in enumerate(steps, 1):
        print(f"\n[{number}/{len(steps)}] {step.name}", flush=True)
        if step.name == "pytest" and not shutil.which("bwrap"):
            # Where this fails, the tests of the grader's sandbox are skipped and say why.
            print("No bubblewrap here: installing Debian's package.", flush=True)
            debian.install("bubblewrap")
        if step.name == "browser":
            try:
                env["CHROMIUM"] = chromium.ensure()
            except RuntimeError as problem:
                print(problem, flush=True)
                step.result = "FAILED (no Chromium)"
                step.counts["failed"] = 1
                continue
        try:
            run_step(step, env)
        except KeyboardInterrupt:
            break
        print(f"{step.name}: {step.result}, {step.seconds:.0f} s", flush=True)
    print(summary(steps), flush=True)
    return 0 if all(step.passed for step in steps) else 1


if __name__ == "__main__":
    sys.exit(main())
