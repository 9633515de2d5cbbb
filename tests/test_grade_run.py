"""How a run goes: points as otter gives them, a stop and a new start, no sandbox, bad arguments."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grading_samples as samples
import psutil
import pytest
from grading_samples import MEAN, SQUARE, answers, notebook

pytest.importorskip("otter")

from tools import grade
from tools.grading import collect, exercise, pool, sandbox

ROOT = Path(grade.__file__).resolve().parent.parent
LIMITS = sandbox.Limits(seconds=3, total_seconds=60, memory_mb=1000)


@pytest.fixture
def sample(tmp_path: Path) -> exercise.Exercise:
    return exercise.load(samples.autograder(tmp_path / "99_sample.zip", samples.TESTS))


def needs_bubblewrap() -> int | None:
    reason, user = sandbox.find()
    if reason != "bubblewrap":
        pytest.skip(f"needs a sandbox: {reason}")
    return user


def scores(
    chosen: exercise.Exercise,
    tmp_path: Path,
    isolated: bool,
    *data: bytes,
    limits: sandbox.Limits = LIMITS,
) -> list[tuple[dict[str, float], str]]:
    """Grade notebooks; return points by question, and the status."""
    user = needs_bubblewrap() if isolated else None
    store = pool.Store(tmp_path / "results")
    grader = pool.Grader(chosen, limits, isolated, user, store)
    submissions = [collect.Submission(str(n), "", False, "a", d) for n, d in enumerate(data)]
    results = grader.grade_all(submissions, 2, lambda: None)
    return [
        ({name: q["points"] for name, q in result["questions"].items()}, result["status"])
        for result in results
    ]


OTTER_RUN = """
import json, sys
from otter.run import main
for path in sys.argv[2:]:
    found = main(path, autograder=sys.argv[1], output_dir=None, no_logo=True)
    print(json.dumps({name: found.get_score(name) for name in found.test_files}))
"""


def test_points_are_those_of_otter_run(sample: exercise.Exercise, tmp_path: Path) -> None:
    # Otter checks a question where its check stands, not at the end: mean is gone by then.
    later = notebook(
        "import otter\ngrader = otter.Notebook()",
        MEAN,
        'grader.check("q2")',
        "mean = None\nimport nothing_like_it",
        "def square(x):\n    return 4 if x > 0 else 9",
    )
    (tmp_path / "later.ipynb").write_bytes(later)
    line = [sys.executable, "-c", OTTER_RUN, str(sample.zip_path), "later.ipynb"]
    told = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    otters = [json.loads(words) for words in told.splitlines() if words.startswith("{")]
    found = [points for points, _ in scores(sample, tmp_path, True, later)]
    assert found == otters == [{"q1": 1, "q2": 2.5}]


def test_tensors_travel_and_assert_close_is_the_judges(tmp_path: Path) -> None:
    path = samples.autograder(tmp_path / "99_sample.zip", samples.TENSOR_TESTS)
    right = (
        "import torch\ndef softmax(scores):\n    e = scores.exp()\n"
        "    return e / e.sum(-1, keepdim=True)\ndef draw():\n    return torch.rand(2)"
    )
    forged = (
        "import torch\ntorch.testing.assert_close = lambda *_, **__: None\n"
        "torch.equal = lambda *_: True\n"
        "class Close(torch.Tensor):\n"
        "    __torch_function__ = classmethod(lambda *_, **__: True)\n"
        "def softmax(scores):\n    return torch.zeros(3, 5).as_subclass(Close)\n"
        "def draw():\n    return torch.zeros(2).as_subclass(Close)"
    )
    both = notebook(right), notebook(forged)
    found = scores(exercise.load(path), tmp_path, True, *both, limits=sandbox.Limits())
    assert found == [({"q1": 3}, ""), ({"q1": 0}, "")]


def test_without_bubblewrap_limits_hold(sample: exercise.Exercise, tmp_path: Path) -> None:
    stray = "import subprocess\nsubprocess.Popen(['sleep', '54321'], start_new_session=True)\n"
    right = answers(stray + SQUARE + "\nopen('left-54321', 'w').write('x')")
    loop, memory = answers("while True: pass"), answers("x = bytearray(2 * 10**9)")
    found = scores(sample, tmp_path, False, right, loop, memory)
    assert found == [
        ({"q1": 3, "q2": 2.5}, ""),
        ({"q1": 0, "q2": 2.5}, "cell 2 took longer than 3 s"),
        ({"q1": 0, "q2": 2.5}, "cell 2 used more than 1000 MB or 64 processes"),
    ]
    commands = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert ["sleep", "54321"] not in commands
    assert not list(Path(tempfile.gettempdir()).glob("grade-*/left-54321"))


def test_the_command_warns_without_bubblewrap(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox.shutil, "which", lambda _: None)
    sandbox.find.cache_clear()
    zipped = samples.autograder(tmp_path / "99_sample.zip", samples.TESTS)
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "doe_1_2_a.ipynb").write_bytes(b"")
    out = tmp_path / "g.csv"
    grade.main([str(tmp_path / "class"), "--exercise", str(zipped), "--out", str(out)])
    sandbox.find.cache_clear()
    assert "WARNING: bubblewrap is not installed" in capsys.readouterr().err
    assert "doe,1,,a.ipynb,0,0,0,5.5,not graded: the file is empty" in out.read_text()


def test_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_bubblewrap()
    zipped = samples.autograder(tmp_path / "99_sample.zip", samples.TESTS)
    (tmp_path / "class").mkdir()
    for number in range(4):
        wait = f"import time; time.sleep({4 if number else 0})\n"
        (tmp_path / "class" / f"s{number}_{number}_1_a.ipynb").write_bytes(answers(wait + SQUARE))
    line = [str(tmp_path / "class"), "--exercise", str(zipped), "--jobs", "4", "--seconds", "20"]
    line += ["--out", str(tmp_path / "g.csv")]
    run = subprocess.Popen([sys.executable, "-m", "tools.grade", *line], cwd=ROOT)
    stored = tmp_path / "g.results"
    patience = time.monotonic() + 60
    while len(results := list(stored.glob("*.json"))) < 2 and time.monotonic() < patience:
        time.sleep(0.05)  # the points and a submission
    family = psutil.Process(run.pid).children(recursive=True)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    assert len(results) >= 2
    _, alive = psutil.wait_procs(family, timeout=10)  # judges and workers go with it
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []

    asked = []
    ask = pool.Grader.ask_judge
    monkeypatch.setattr(
        pool.Grader, "ask_judge", lambda self, data: asked.append(data) or ask(self, data)
    )
    done = len(list(stored.glob("*.json"))) - 1
    assert grade.main(line) == 0
    assert len(asked) == 4 - done
    with (tmp_path / "g.csv").open(newline="") as file:
        assert [row["total"] for row in csv.DictReader(file)] == ["5.5"] * 4


BAD = [
    (["nowhere", "--exercise", "99", "--out", "g.csv"], "nowhere: there is no such folder or zip"),
    (["class", "--exercise", "98", "--out", "g.csv"], "'98' names 0 exercises; .* 99_sample"),
    (["class", "--exercise", "no.zip", "--out", "g.csv"], "no.zip: there is no such file"),
    (["class", "--exercise", "text.zip", "--out", "g.csv"], "text.zip is no autograder zip"),
    (["empty", "--exercise", "99", "--out", "g.csv"], "no submissions in empty"),
    (["text.zip", "--exercise", "99", "--out", "g.csv"], "neither a folder nor a zip"),
    (["class", "--exercise", "99", "--out", "class"], "--out class is a folder"),
    (["class", "--exercise", "99", "--out", "no/g.csv"], "there is no folder no"),
    (["class", "--exercise", "99", "--out", "/proc/g.csv"], "can't be written"),
    (["class", "--exercise", "99", "--out", "g.csv", "--jobs", "0"], "'0' is not a whole number"),
    (["class", "--exercise", "99", "--out", "g.csv", "--seconds", "x"], "'x' is not a whole"),
    (["class", "--exercise", "99", "--out", "g.csv", "--docker"], "--docker: "),
]


@pytest.mark.parametrize(("line", "words"), BAD)
def test_wrong_arguments_are_told_before_any_work(
    line: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")  # no docker
    for folder in ("class", "empty", "zips"):
        Path(folder).mkdir()
    Path("class", "doe_1_2_a.ipynb").write_bytes(answers())
    Path("text.zip").write_text("no zip")
    samples.autograder(Path("zips", "99_sample.zip"), samples.TESTS)
    with pytest.raises(SystemExit) as stop:
        grade.main([*line, "--exercises", "zips"])
    assert stop.value.code == 2
    assert re.search(words, capsys.readouterr().err)
    assert not Path("g.csv").exists()
