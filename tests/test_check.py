"""``make test`` tells the truth: every step runs, the sum is right, one failure fails it all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tools import check


def python(name: str, code: str, minutes: float = 1) -> check.Step:
    return check.Step(name, [sys.executable, "-c", code], minutes)


def pytest_on(folder: Path, code: str) -> check.Step:
    """Return a step that runs pytest on a file of its own."""
    file = folder / "test_it.py"
    file.write_text(code)
    arguments = [str(file), "-c", str(folder / "none.ini"), "-p", "no:cacheprovider"]
    (folder / "none.ini").write_text("[pytest]\n")
    return check.pytest_step("pytest", 1, *arguments)


def run_all(steps: list[check.Step], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(check, "all_steps", lambda: steps)
    return check.main(list(arguments))


def test_all_good(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    steps = [python("style", "pass"), pytest_on(tmp_path, "def test_a(): pass\ndef test_b(): pass")]
    assert run_all(steps, monkeypatch) == 0
    assert capfd.readouterr().out.rstrip().endswith("Every step passed.\n2 passed, 0 failed")


def test_a_failure_stops_nothing_and_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = "import pytest\ndef test_a(): pass\ndef test_b(): assert 0\n"
    code += "@pytest.mark.skip\ndef test_c(): pass"
    steps = [python("style", "raise SystemExit(3)"), pytest_on(tmp_path, code), python("end", "")]
    assert run_all(steps, monkeypatch) == 1
    said = capfd.readouterr().out
    assert "FAILED (exit status 3)" in said
    assert said.rstrip().endswith("Not passed: style, pytest\n1 passed, 1 failed, 1 skipped")
    assert steps[2].passed


def test_tests_that_do_not_run_count_as_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for code in ("import nothing_of_this_name", "# no test"):
        step = pytest_on(tmp_path, code)
        assert run_all([step], monkeypatch) == 1
        assert step.counts["failed"] == 1
        assert not step.passed


def test_out_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    step = python("slow", "import time; time.sleep(60)", minutes=0.01)
    assert run_all([step], monkeypatch) == 1
    assert step.result == "FAILED (more than 0.01 minutes)"


def test_only(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    steps = [python("one", "print('ran one')"), python("two", "print('ran two')")]
    assert run_all(steps, monkeypatch, "--only", "two") == 0
    said = capfd.readouterr().out
    assert "ran two" in said
    assert "ran one" not in said
    with pytest.raises(SystemExit):
        run_all(steps, monkeypatch, "--only", "three")
    assert "no step begins with 'three'" in capfd.readouterr().err


def test_no_browser(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def missing() -> str:
        raise RuntimeError("No Chromium for the browser tests")

    monkeypatch.setattr(check.chromium, "ensure", missing)
    assert run_all([check.pytest_step("browser", 1)], monkeypatch) == 1
    assert capfd.readouterr().out.rstrip().endswith("0 passed, 1 failed")
