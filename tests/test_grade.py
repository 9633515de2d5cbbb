"""A class graded from end to end, most of it hostile."""

from __future__ import annotations

import csv
import os
import re
import shutil
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

import grading_samples as samples
import psutil
import pytest
from grading_samples import MEAN, SQUARE, answers, notebook

pytest.importorskip("otter")

from tools import grade
from tools.grading import pool, sandbox

LIMITS = ["--seconds", "3", "--total-seconds", "60", "--memory-mb", "1000", "--jobs", "3"]
ALWAYS = (
    "class Yes(float):\n"
    "    __eq__ = __le__ = __lt__ = __ge__ = __gt__ = lambda *_: True\n"
    "    __ne__ = lambda *_: False\n"
    "    __sub__ = __abs__ = __getitem__ = lambda self, *_: self\n"
    "class Also:\n"
    "    __eq__ = __contains__ = __bool__ = lambda *_: True\n"
)
FORGE_RESULTS = """
import glob, pickle, sys, types
class GradingResults(dict):
    total = possible = 100
for path in ["results.pkl", "results.json", *glob.glob("/tmp/**/*", recursive=True)]:
    try:
        open(path, "wb").write(pickle.dumps({"score": 100}))
    except OSError:
        pass
fake = types.ModuleType("otter")
class Notebook:
    check = check_all = lambda *_: "all passed"
fake.Notebook = Notebook
sys.modules["otter"] = fake
grader = Notebook()
"""
FORGE_CHANNEL = """
import json, os, struct
text = json.dumps({"value": {"list": [0, 1, 4, 9, 16]}, "blobs": []}).encode()
for fd in range(3, 60):
    try:
        os.write(fd, struct.pack(">IQ", len(text), 0) + text)
        os.write(fd, b"('question', 'q1', {'points': 3})")
    except OSError:
        pass
"""
PATCH = """
import builtins, sys, unittest.mock
builtins.AssertionError = builtins.ValueError = Exception
builtins.abs = lambda _: 0
builtins.all = builtins.any = lambda _: True
builtins.isinstance = lambda *_: True
for module in list(sys.modules.values()):
    for name in ("check", "assert_close", "send", "encode", "run", "call"):
        if hasattr(module, name):
            setattr(module, name, lambda *_, **__: True)
sys.modules["otter"] = sys.modules["torch"] = unittest.mock.MagicMock()
"""
PEEK = """
import gc, inspect, sys
frame, seen = sys._getframe(), ""
while frame:
    seen += repr(sorted(frame.f_globals)) + repr(sorted(frame.f_locals))
    frame = frame.f_back
seen += repr([getattr(o, "__qualname__", "") for o in gc.get_objects()])
return x * x if "test_hidden" in seen or "test_case" in seen else None
"""


def read_code(paths: list[str]) -> str:
    """A submission that copies what it should not see into its answers."""
    return (
        f"import os\nseen = []\nfor path in {paths!r}:\n"
        "    try:\n        seen.append(open(path, 'rb').read())\n"
        "    except OSError:\n        pass\n"
        "if seen:\n    raise LookupError('read something')\n" + SQUARE
    )


@dataclass
class Case:
    """A submission: its bytes, the points for q1 and q2, and words of its status."""

    data: bytes
    q1: float = 0
    q2: float = 2.5
    status: str = ""
    exact: bool = True  # the status is these words and no others


def cases(port: int, marked: Path, secret: list[str]) -> dict[str, Case]:
    """Every kind of submission that a class may hold, by name."""
    # Nothing but our own folder is named here: should the sandbox fail, the test fails, no more.
    delete = f"import shutil\nshutil.rmtree({str(marked)!r}, ignore_errors=True)\n" + SQUARE
    litter = "import os, tempfile\nfor p in ('/tmp', '/var/tmp', '/dev/shm', os.getcwd(), "
    litter += f"{str(marked)!r}, {tempfile.gettempdir()!r}):\n    try:\n"
    litter += "        open(p + '/owned-by-a-student', 'w').write('x')\n"
    litter += "    except OSError:\n        pass\n" + SQUARE
    connect = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)"
    spawn = "import subprocess\nsubprocess.Popen(['sleep', '43210'], start_new_session=True)\n"
    return {
        "right": Case(answers(), 3, 2.5, "graded"),
        "untouched": Case(answers("def square(x):\n    ...", "..."), 0, 0, "graded"),
        "partly": Case(answers("def square(x):\n    return 4"), 1, 2.5, "graded"),
        "raises": Case(answers("def square(x):\n    return y"), 0, 2.5, "graded"),
        "unparsable": Case(answers("def square(x:"), 0, 2.5, "cell 2 raised SyntaxError"),
        "loop": Case(answers("while True:\n    pass"), 0, 2.5, "cell 2 took longer than 3 s"),
        "loop in f": Case(
            answers("def square(x):\n    while True: pass"), 0, 2.5, "q1 took longer than 3 s"
        ),
        "loop later": Case(
            answers(SQUARE.replace("return", "while x < 0: pass\n    return")),
            1,
            2.5,
            "q1 took longer than 3 s",
        ),
        "sys.exit": Case(answers("import sys\nsys.exit(0)"), 0, 2.5, "cell 2 raised SystemExit"),
        "exit in f": Case(answers("def square(x):\n    raise SystemExit"), 0, 2.5, "graded"),
        "stops early": Case(answers("def square(x):\n    raise StopIteration"), 0, 2.5, "graded"),
        "os._exit": Case(answers("import os\nos._exit(0)"), 0, 2.5, "cell 2 ended its own process"),
        "kill all": Case(
            answers("import os\nos.kill(os.getpid(), 9)"),
            0,
            2.5,
            "cell 2 ended its own process",
        ),
        "memory": Case(
            # What the one cell hoards must not cost the other its memory.
            answers(
                "x = []\nwhile True:\n    x.append(bytearray(10**8))",
                "room = bytearray(3 * 10**8)\n" + MEAN,
            ),
            0,
            2.5,
            "cell 2 used more than 1000 MB or 64 processes",
        ),
        "memfd": Case(
            answers("import os\nos.memfd_create('x')"), 0, 2.5, "cell 2 raised PermissionError"
        ),
        "disk": Case(
            answers("f = open('a', 'wb')\nwhile True: f.write(bytes(10**7))"),
            0,
            2.5,
            "cell 2 ",
            False,
        ),
        "fork bomb": Case(answers("import os\nwhile True: os.fork()"), 0, 2.5, "cell 2 ", False),
        "fork answers": Case(answers("import os\nos.fork()\n" + SQUARE), 3, 2.5, "graded"),
        "leaves a process": Case(answers(spawn + SQUARE), 3, 2.5, "graded"),
        "deletes": Case(answers(delete), 3, 2.5, "graded"),
        "litters": Case(answers(litter), 3, 2.5, "graded"),
        "kernel settings": Case(
            answers("open('/proc/sys/kernel/core_pattern', 'w')"), 0, 2.5, "cell 2 raised ", False
        ),
        "odd metadata": Case(
            answers().replace(b'"metadata": {}', b'"metadata": {"otter": {"tests": 5}}'),
            0,
            0,
            "not graded: not a notebook",
            False,
        ),
        "reads": Case(answers(read_code(secret)), 3, 2.5, "graded"),
        "socket": Case(answers(connect), 0, 2.5, "cell 2 raised ConnectionRefusedError"),
        "socket to the host": Case(
            answers("import socket\nsocket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)"),
            0,
            2.5,
            "cell 2 raised OSError",
        ),
        "output": Case(
            answers("for _ in range(50): print('x' * 10**6)\n" + SQUARE), 3, 2.5, "graded"
        ),
        "output in f": Case(answers("def square(x):\n    print('x' * 10**6)"), 0, 2.5, "graded"),
        "large answer": Case(answers("def square(x):\n    return 'x' * 10**8"), 0, 2.5, "graded"),
        "always equal": Case(
            answers(ALWAYS + "def square(x): return Also()", "def mean(v): return Yes()"),
            0,
            0,
            "graded",
        ),
        "forged results": Case(answers(FORGE_RESULTS), 0, 2.5, "graded"),
        "forged channel": Case(
            answers(FORGE_CHANNEL), 0, 2.5, "cell 2 wrote into the grader's channel"
        ),
        "patches": Case(answers(PATCH), 0, 2.5, "cell 2 ", False),
        "peeks": Case(answers("def square(x):\n" + indent(PEEK)), 0, 2.5, "graded"),
        "no file": Case(b"", 0, 0, "not graded: the file is empty"),
        "broken": Case(b'{"cells": [{"cell_type": "co', 0, 0, "not graded: not a notebook", False),
        "nested": Case(b"[" * 100_000, 0, 0, "not graded: not a notebook", False),
        "zip": Case(samples.packed({"a": b"x"}), 0, 0, "not graded: not a notebook", False),
        "no code": Case(notebook(), 0, 0, "not graded: the notebook has no code"),
        "kernel": Case(
            answers(language="R"), 0, 0, "not graded: wrong kernel: R, only Python is graded"
        ),
        "other": Case(
            answers(name="04_blocking"),
            0,
            0,
            "not graded: another exercise's notebook: 04_blocking",
        ),
        "nameless": Case(answers(name=None), 3, 2.5, "no exercise named in its metadata"),
        "bomb": Case(bytes(30 << 20), 0, 0, "not graded: the notebook is larger than 20 MB"),
    }


def indent(code: str) -> str:
    return "".join(f"    {line}\n" for line in code.strip().splitlines())


NAMES = {  # as a student might call himself: as the table shows it
    "../../../up": "up",
    "=cmd|' ": "'=cmd|'",
    "a\x1b[31m\n\u202eb": "a [31m b",
    "<b>bold": "<b>bold",
}


@dataclass
class Class:
    """A graded class: what went in, and what came out."""

    cases: dict[str, Case]
    rows: dict[str, dict[str, str]]
    folder: Path
    arguments: list[str]
    marked: Path


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Class:
    """One run of the command over all of them, as Canvas zips them."""
    if sandbox.find()[0] != "bubblewrap":
        pytest.skip(f"needs a sandbox: {sandbox.find()[0]}")
    folder = tmp_path_factory.mktemp("class")
    marked = tmp_path_factory.mktemp("marked")
    (marked / "precious.txt").write_text("precious")
    zipped = samples.autograder(folder / "99_sample.zip", samples.TESTS)
    submissions = folder / "submissions.zip"
    secret = [str(zipped), str(submissions), str(marked / "precious.txt"), "/etc/passwd"]
    secret += [
        str(Path(grade.__file__)),
        f"/proc/{os.getpid()}/environ",
        os.path.expanduser("~/.bashrc"),
    ]
    with socket.create_server(("127.0.0.1", 0)) as server:
        class_of = cases(server.getsockname()[1], marked, secret)
        handed_in = {name: case.data for name, case in class_of.items()}
        handed_in |= {name: answers() for name in NAMES}
        files = {
            f"{name}_{user}_1_sample.ipynb": data
            for user, (name, data) in enumerate(handed_in.items(), 100)
        }
        submissions.write_bytes(samples.packed(files))
        arguments = [str(submissions), "--exercise", str(zipped), *LIMITS]
        assert grade.main([*arguments, "--out", str(folder / "grades.csv")]) == 0
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody is waiting at the door
            server.accept()
    with (folder / "grades.csv").open(newline="") as file:
        rows = {row["student"]: row for row in csv.DictReader(file)}
    return Class(class_of, rows, folder, arguments, marked)


def test_each_submission_gets_what_it_earned(graded: Class) -> None:
    wrong = []
    for name, case in graded.cases.items():
        row = graded.rows[name]
        words = (
            case.status if case.status.startswith(("graded", "not")) else f"graded: {case.status}"
        )
        told = row["status"] == words if case.exact else row["status"].startswith(words)
        if (float(row["q1"]), float(row["q2"])) != (case.q1, case.q2) or not told:
            wrong.append((name, row["q1"], row["q2"], row["status"]))
    assert wrong == []
    assert len(graded.rows) == len(graded.cases) + len(NAMES)


def test_names_do_no_harm(graded: Class) -> None:
    for shown in NAMES.values():
        assert graded.rows[shown]["total"] == "5.5"
    text = (graded.folder / "grades.csv").read_text()
    assert all(c == "\n" or c.isprintable() for c in text)
    pages = list((graded.folder / "grades.feedback").rglob("*"))
    assert len(pages) == len(graded.rows)
    assert all(re.fullmatch(r"[A-Za-z0-9-]+_\d+\.html", page.name) for page in pages)
    bold = next(page for page in pages if page.name.startswith("b-bold")).read_text()
    assert "&lt;b&gt;bold" in bold
    assert "<b>" not in bold


def test_nothing_is_left_behind(graded: Class) -> None:
    assert [p.name for p in graded.marked.iterdir()] == ["precious.txt"]
    assert (graded.marked / "precious.txt").read_text() == "precious"
    for folder in ("/tmp", "/var/tmp", "/dev/shm", tempfile.gettempdir()):
        assert not Path(folder, "owned-by-a-student").exists()
    commands = [process.info["cmdline"] for process in psutil.process_iter(["cmdline"])]
    assert ["sleep", "43210"] not in commands
    below = {path.name for path in graded.folder.iterdir()}
    assert below == {
        "99_sample.zip",
        "submissions.zip",
        "grades.csv",
        "grades.feedback",
        "grades.results",
    }


def test_feedback_helps_and_gives_no_hidden_check_away(graded: Class) -> None:
    pages = graded.folder / "grades.feedback"
    raises = next(pages.glob("raises_*.html")).read_text()
    assert "A square is a product: &lt;x&gt; times x." in raises  # the author's hint
    assert "name &#x27;y&#x27; is not defined" in raises  # of the public check
    assert "Hidden check: failed (1.5 points)" in raises
    untouched = next(pages.glob("untouched_*.html")).read_text()
    assert "<pre>mean should be a function.</pre>" in untouched  # the check's own words alone
    for page in pages.iterdir():
        assert "range(5)" not in page.read_text()
        assert "square(-3)" not in page.read_text()


def test_a_second_run_grades_nothing_and_writes_the_same(
    graded: Class, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*_: object) -> None:
        raise AssertionError("this one was graded already")

    monkeypatch.setattr(pool.Grader, "ask_judge", ask)
    again = graded.folder.parent / "again"
    again.mkdir()
    shutil.copytree(graded.folder / "grades.results", again / "grades.results")
    assert grade.main([*graded.arguments, "--out", str(again / "grades.csv")]) == 0
    first, second = graded.folder / "grades.csv", again / "grades.csv"
    assert first.read_bytes() == second.read_bytes()
