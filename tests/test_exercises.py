"""Exercises: solutions score in full, untouched notebooks nothing, and every wrong answer loses."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import nbformat
import pytest
from filelock import FileLock
from nbformat import NotebookNode

from tools import exercise_check, exercise_notebook, exercises, pins
from tools.exercise_check import Found, Wrong

ROOT = Path(__file__).resolve().parent.parent
MASTERS = exercises.masters()
# Of otter's widgets for JupyterLab, which nothing here shows.
pytestmark = pytest.mark.filterwarnings("ignore:Traits should be given:DeprecationWarning")
each_master = pytest.mark.parametrize("master", MASTERS, ids=lambda path: path.stem)


def python(*arguments: str | Path, cwd: Path) -> str:
    """Run this Python without a network's model hub; return what it prints."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    env["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    env["TMPDIR"] = str(cwd)
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything built and checked once, outside of this process: as a reader's Python runs it.

    Where several processes share the tests, the first one does it and the others wait for it.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "exercises"
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "found.json").exists():
            (folder / "tmp").mkdir(parents=True, exist_ok=True)
            command = ["-m", "tools.exercises", "check", "--out", folder]
            done = subprocess.run(
                [sys.executable, *command, "--json", folder / "found.json"],
                cwd=ROOT,
                env={**os.environ, "HF_HUB_OFFLINE": "1", "TMPDIR": str(folder / "tmp")},
                capture_output=True,
                text=True,
                check=False,
            )
            assert (folder / "found.json").exists(), done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def found(out: Path) -> dict[str, dict[str, Any]]:
    return {each["name"]: each for each in json.loads((out / "found.json").read_text("utf-8"))}


# --- the exercises --------------------------------------------------------------------------------


def test_there_are_exercises() -> None:
    assert len(MASTERS) >= 2


@each_master
def test_exercise_grades_as_it_should(found: dict[str, dict[str, Any]], master: Path) -> None:
    each = found[master.stem]
    assert each["problems"] == []
    assert each["solution"] == each["possible"]
    assert set(each["untouched"].values()) == {0}
    assert all(wrong["caught"] for wrong in each["wrong"])


@each_master
def test_exercise_has_three_to_six_questions_with_both_kinds_of_check(
    out: Path, tmp_path: Path, master: Path
) -> None:
    with zipfile.ZipFile(out / "autograder" / f"{master.stem}.zip") as archive:
        archive.extractall(tmp_path)
    tests = sorted((tmp_path / "tests").glob("*.py"))
    assert 3 <= len(tests) <= 6
    for path in tests:
        cases = exercises.load_checks(path).test_cases
        assert {case.hidden for case in cases} == {True, False}, path.name
        assert all(case.points > 0 for case in cases), path.name
        assert all(case.failure_message for case in cases if case.hidden), path.name


@each_master
def test_exercise_and_chapter_go_together(master: Path) -> None:
    chapter = ROOT / "book" / "chapters" / master.name
    assert chapter.exists()
    text = "\n".join(cell.source for cell in nbformat.read(master, as_version=4).cells)
    assert f"(../chapters/{master.name})" in text
    assert "class=" not in text
    title = nbformat.read(chapter, as_version=4).cells[0].source.splitlines()[0]
    number, name = title.removeprefix("# ").split(" ", 1)
    assert f"# Exercise {number}: {name}" in text


# --- what students get ----------------------------------------------------------------------------


def lines_of(master: Path) -> dict[str, set[str]]:
    """The lines of a master by what they are: given, solution, public or hidden (checks)."""
    found: dict[str, set[str]] = {"given": set(), "solution": set(), "public": set()}
    found["hidden"] = set()
    block = ""
    for cell in nbformat.read(master, as_version=4).cells:
        lines = cell.source.splitlines()
        if cell.cell_type == "raw":
            starts = re.match(r"# (BEGIN|END) (SOLUTION|TESTS)", lines[0])
            if starts:
                block = starts[2] if starts[1] == "BEGIN" else ""
            continue
        inside = cell.cell_type == "markdown"  # of a solution: its explanation
        for line in lines:
            if "# BEGIN SOLUTION" in line or "# END SOLUTION" in line:
                inside = "BEGIN" in line
                continue
            kind = "hidden" if lines[0].startswith("# HIDDEN") else "public"
            if block == "SOLUTION":
                kind = "solution" if inside or line.rstrip().endswith("# SOLUTION") else "given"
            elif not block or re.match(r"\s*(def \w+\(.*\):$|import |from \S+ import )", line):
                kind = "given"
            found[kind].add(line.rsplit("# SOLUTION", 1)[0].strip())
    return found


def secret_lines(master: Path) -> set[str]:
    """Lines of solutions, explanations, hidden checks and wrong answers that say something."""
    lines = lines_of(master)
    secret = lines["solution"] | (lines["hidden"] - lines["public"])
    for wrong in exercise_check.wrong_answers(exercise_check.WRONG / f"{master.stem}.py"):
        secret |= {wrong.why, *(line.strip() for line in wrong.code.splitlines())}
    return {line for line in secret - lines["given"] if len(line) >= 20}


def everything(path: Path) -> str:
    """All that stands in a notebook file: sources, metadata, outputs."""
    notebook = nbformat.read(path, as_version=4)
    sources = "\n".join(cell.source for cell in notebook.cells)
    rest = [cell.get("outputs", []) for cell in notebook.cells]
    metadata = [cell.metadata for cell in notebook.cells]
    return sources + json.dumps([notebook.metadata, metadata, rest], ensure_ascii=False)


@each_master
def test_student_version_gives_nothing_away(out: Path, master: Path) -> None:
    text = everything(out / "student" / master.name)
    secret = secret_lines(master)
    assert len(secret) > 10  # the search looks for something
    assert [line for line in secret if line in text] == []
    for word in ("HIDDEN", "hidden=True", "BEGIN SOLUTION", "# SOLUTION", "BEGIN TESTS"):
        assert word not in text
    solution = everything(out / "solutions" / master.name)
    answers = [line for line in secret if line in solution]
    assert len(answers) > 5  # and it would find them


@each_master
def test_student_version_is_one_clean_file(out: Path, master: Path) -> None:
    notebook = nbformat.read(out / "student" / master.name, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    assert (
        exercise_notebook.SETUP in code[0].metadata.tags
    )  # an edition for Colab installs before it
    assert notebook.metadata.otter == {"assignment_name": master.stem}
    assert any("..." in cell.source for cell in code[1:])
    assert code[-1].source == "grader.check_all()"


@each_master
def test_every_public_check_says_something(out: Path, master: Path) -> None:
    notebook = nbformat.read(out / "student" / master.name, as_version=4)
    (setup,) = (c for c in notebook.cells if exercise_notebook.SETUP in c.metadata.get("tags", []))
    (checks,) = (
        ast.literal_eval(node.value)
        for node in ast.parse(setup.source).body
        if isinstance(node, ast.Assign) and node.targets[0].id == "CHECKS"
    )
    for question, source in checks.items():
        asserts = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Assert)]
        assert asserts, question
        assert all(node.msg is not None for node in asserts), question


@each_master
def test_a_notebook_that_lies_alone_has_no_dead_link(out: Path, master: Path) -> None:
    number, name = exercise_title(out / "student" / master.name)
    for kind in ("student", "solutions"):
        text = "\n".join(c.source for c in nbformat.read(out / kind / master.name, 4).cells)
        assert f"chapter {number}, {name}, of the book *Efficient Transformers, Live*" in text
        assert re.findall(r"\]\((?!https?://)|(?:href|src)=", text) == []


def exercise_title(path: Path) -> tuple[str, str]:
    title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0]
    number, name = re.fullmatch(r"# Exercise (\d\d): (.+)", title).groups()
    return number, name


def test_links_lead_to_the_site_where_its_address_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "# Exercise 04: Blocking\n\nGoes with [chapter 04](../chapters/04_blocking.ipynb)."
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])
    monkeypatch.setenv("EFFEDU_SITE_URL", "https://name.example/book")
    exercise_notebook.with_setup(notebook, tmp_path, "04_blocking")
    link = "[chapter 04](https://name.example/book/chapters/04_blocking.html)"
    assert notebook.cells[0].source.endswith(f"Goes with {link}.")


def test_checking_leaves_no_temporary_files(found: dict[str, Any], out: Path) -> None:
    assert found
    assert list((out / "tmp").iterdir()) == []


def tagged(notebook: NotebookNode, tag: str) -> list[NotebookNode]:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell for cell in cells if tag in cell.metadata.get("tags", [])]


def answered(out: Path, name: str, questions: set[str]) -> NotebookNode:
    """The student notebook of an exercise with the solutions of some questions filled in."""
    student = nbformat.read(out / "student" / f"{name}.ipynb", as_version=4)
    solved = nbformat.read(out / "solutions" / f"{name}.ipynb", as_version=4)
    answers = [
        c for c in solved.cells if "otter_assign_solution_cell" in c.metadata.get("tags", [])
    ]
    answers = [cell.source for cell in answers if cell.cell_type == "code"]
    places = [c for c in student.cells if "otter_answer_cell" in c.metadata.get("tags", [])]
    assert len(answers) == len(places)
    for number, (place, answer) in enumerate(zip(places, answers, strict=True), 1):
        if f"q{number}" in questions:
            place.source = answer
    return student


def test_checks_work_in_a_kernel_and_otter_run_grades_the_zip(out: Path, tmp_path: Path) -> None:
    """Once for real: a kernel runs a half-finished notebook, and otter grades the same file."""
    name = "03_attention"
    notebook = answered(out, name, {"q1", "q3"})
    submission = tmp_path / "handed in.ipynb"
    nbformat.write(notebook, submission)
    archive = out / "autograder" / f"{name}.zip"
    command = ("-m", "otter", "run", "-a", archive, "-o", tmp_path, "--no-logo", submission)
    printed = python(*command, cwd=tmp_path)
    results = json.loads((tmp_path / "results.json").read_text("utf-8"))
    scores: dict[str, float] = {}
    for test in results["tests"]:
        question = test["name"].split(" - ")[0]
        if re.fullmatch(r"q\d", question):
            scores[question] = scores.get(question, 0) + test.get("score", 0)
    points = {q["name"]: q["points"] for q in points_of(out, name)}
    expected = {q: points[q] if q in ("q1", "q3") else 0 for q in points}
    assert scores == expected, printed


def points_of(out: Path, name: str) -> list[dict[str, Any]]:
    return json.loads((out / "points.json").read_text("utf-8"))[name]["questions"]


def test_check_cell_helps_in_colab_too(out: Path, tmp_path: Path) -> None:
    """There otter wants a folder with the checks, and nothing else: the set-up makes one."""
    code = f"""
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
type(shell).__repr__ = lambda self: "<google.colab._shell.Shell>"
from tools.exercise_check import run
names = run(Path({str(out / "student" / "03_attention.ipynb")!r}), forgiving=True)
assert names["grader"].interpreter.name == "COLAB"
shown, _ = shell.display_formatter.format(names["grader"].check("q1", names))
assert list(shown) == ["text/plain"]
print(shown["text/plain"])
"""
    printed = python("-c", code, cwd=tmp_path)
    assert "q1 results:" in printed
    assert "should return a tensor, got NoneType" in printed
    assert list(tmp_path.glob("checks-*")) == []  # they went with the process


# --- the zip --------------------------------------------------------------------------------------


def test_zip_is_ready_for_gradescope(out: Path) -> None:
    with zipfile.ZipFile(out / "autograder" / f"{MASTERS[0].stem}.zip") as archive:
        names = archive.namelist()
        config = json.loads(archive.read("otter_config.json"))
        environment = archive.read("environment.yml").decode()
    (wheel,) = (name for name in names if name.endswith(".whl"))
    assert wheel.startswith("files/effedu-")
    assert {"setup.sh", "run_autograder", "run_otter.py", "tests/q1.py"} <= set(names)
    assert config["assignment_name"] == MASTERS[0].stem
    assert f"/autograder/source/{wheel}" in environment
    assert re.search(r"\botter-grader\[grading\]==\d", environment)
    pinned = re.findall(r"^(\S+==\S+)$", pins.REQUIREMENTS.read_text("utf-8"), re.MULTILINE)
    for package in ("torch", "transformers", "numpy", "tokenizers"):
        (pin,) = (line for line in pinned if line.startswith(f"{package}=="))
        assert pin in environment
    assert not re.search(r"pip.*\beffedu\b(?!-)", environment)  # no index has our name


def test_same_sources_give_the_same_bytes(out: Path, tmp_path: Path) -> None:
    name = MASTERS[0].stem
    (built,) = exercises.build(tmp_path, [name])
    for again in (built.student, built.solution, built.autograder):
        before = out / again.relative_to(tmp_path)
        assert again.read_bytes() == before.read_bytes(), again.name


def test_points_table_adds_up(out: Path) -> None:
    table = json.loads((out / "points.json").read_text("utf-8"))
    assert list(table) == [master.stem for master in MASTERS]
    markdown = (out / "points.md").read_text("utf-8")
    for entry in table.values():
        assert entry["total"] == sum(question["points"] for question in entry["questions"])
        assert all(question["points"] >= 2 for question in entry["questions"])
        assert f"**{entry['total']}**" in markdown


# --- the tools can fail ---------------------------------------------------------------------------


def sound() -> Found:
    """What the check finds in an exercise where all is well."""
    wrong = [Wrong("q1", "why", "x = 1", "caught") for _ in range(2)]
    return Found("04_blocking", {"q1": 2.0}, {"q1": 2.0}, {"q1": 0.0}, wrong, 1.0)


def test_sound_exercise_has_no_problem() -> None:
    assert list(sound().problems()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solution": {"q1": 1.0}}, "the solution scores 1.0 of 2.0"),
        ({"untouched": {"q1": 1.0}}, "the untouched notebook scores 1.0"),
        ({"wrong": [Wrong("q1", "why", "", "caught")]}, "needs two wrong answers"),
        ({"wrong": [Wrong("q1", "why", "")] * 2}, "full marks for a wrong answer"),
        ({"wrong": [Wrong("q1", "", "", "x")] * 2 + [Wrong("q9", "", "")]}, "does not exist"),
        ({"seconds": 121.0}, "may take 120"),
    ],
)
def test_problems_are_found(
    change: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = sound()
    for key, value in change.items():
        setattr(found, key, value)
    assert any(message in problem for problem in found.problems())
    assert exercise_check.report([found]) == 1
    assert message in capsys.readouterr().out


CHECK = """
from otter.test_files import test_case
OK_FORMAT = False
name = "q1"
points = None

@test_case(points=1, hidden=False)
def first(answer):
    assert answer > 0, "positive"

@test_case(points=2, hidden=True)
def second(answer):
    assert answer == 7
"""


def test_grading_in_process_is_otters(tmp_path: Path) -> None:
    path = tmp_path / "q1.py"
    path.write_text(CHECK, encoding="utf-8")
    assert exercise_check.grade(path, {"answer": 7}) == 3
    assert exercise_check.grade(path, {"answer": 6}) == 1
    assert exercise_check.grade(path, {}) == 0
    assert exercise_check.first_loss(path, {"answer": 7}) == ""
    assert exercise_check.first_loss(path, {"answer": -1}) == "AssertionError: positive"
    assert exercise_check.first_loss(path, {"answer": 6}).startswith("AssertionError")


def test_wrong_answers_are_read(tmp_path: Path) -> None:
    path = tmp_path / "04.py"
    path.write_text("# %% q1: one\nx = 1\n\n# %% q2: two: it is\ny = 2\nz = 3\n", encoding="utf-8")
    first, second = exercise_check.wrong_answers(path)
    assert (first.question, first.why, first.code) == ("q1", "one", "x = 1\n")
    assert (second.question, second.why, second.code) == ("q2", "two: it is", "y = 2\nz = 3\n")
    assert exercise_check.wrong_answers(tmp_path / "none.py") == []


def test_names_and_titles_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no exercise begins with '99'; there are: 0"):
        exercises.build(tmp_path, ["99"])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A\n\n# B")])
    with pytest.raises(ValueError, match=r"x\.ipynb must have one title \(# …\), got \['A', 'B'\]"):
        exercise_notebook.read_headings(notebook, "x.ipynb")
    (tmp_path / "q2.py").write_text(CHECK, encoding="utf-8")
    with pytest.raises(ValueError, match="questions must be called q1, one for each heading"):
        exercises.read_points(tmp_path, ["First"])


def test_missing_pin_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = pins.REQUIREMENTS.read_text("utf-8").replace("torch==", "# torch==")
    (tmp_path / "requirements.txt").write_text(lines, encoding="utf-8")
    monkeypatch.setattr(pins, "REQUIREMENTS", tmp_path / "requirements.txt")
    with pytest.raises(ValueError, match=r"requirements\.txt must pin torch$"):
        exercises.pins()


@pytest.mark.parametrize("text", ["a\n'''b'''\n", "back\\slash\n", "''''\n", "ü 🙂\n"])
def test_quoted_text_reads_back(text: str) -> None:
    assert ast.literal_eval(exercise_notebook.quoted(text)) == text


def test_a_hint_with_double_quotes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hint must be written without double quotes, got .Try"):
        exercise_notebook.with_hint('# HIDDEN: Try "one" block.\ndef test(sees): ...')
