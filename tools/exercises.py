"""Build the exercises from their master notebooks: ``make exercises``.

``build`` writes below book/_build/exercises what students, instructors and graders get:

    student/NN_name.ipynb     the questions, with the public checks inside and nothing else
    autograder/NN_name.zip    for Gradescope, ``otter run`` and ``otter grade``
    solutions/NN_name.ipynb   for instructors
    points.json, points.md    what each question is worth

``check`` shows that a finished exercise grades as it should (see tools/exercise_check.py).
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shutil
import sys
import tempfile
import tomllib
import zipfile
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml

from tools import wheel
from tools.exercise_notebook import read_headings, tidy, with_hint, with_setup
from tools.pins import pinned

ROOT = Path(__file__).resolve().parent.parent
MASTERS = ROOT / "book" / "exercises"
OUT = ROOT / "book" / "_build" / "exercises"
GRADING_PYTHON = "3.12"
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the oldest date that a zip can hold


@dataclass(frozen=True)
class Question:
    """One question: its name in the checks (``q1``), its heading, its points."""

    name: str
    title: str
    points: int | float


@dataclass(frozen=True)
class Built:
    """What became of one master notebook."""

    name: str
    title: str
    questions: tuple[Question, ...]
    student: Path
    autograder: Path
    solution: Path

    @property
    def total(self) -> int | float:
        """The points of all questions."""
        return sum(question.points for question in self.questions)


def masters(names: list[str] | None = None) -> list[Path]:
    """Return the master notebooks whose name begins with one of ``names``, or all of them.

    >>> masters(["no such exercise"])
    Traceback (most recent call last):
    ...
    ValueError: no exercise begins with 'no such exercise'; there are: ...
    """
    found = sorted(MASTERS.glob("[0-9][0-9]_*.ipynb"))
    for name in names or []:
        if not any(path.stem.startswith(name) for path in found):
            there = ", ".join(path.stem for path in found) or "none yet"
            raise ValueError(f"no exercise begins with {name!r}; there are: {there}")
    return [path for path in found if not names or path.stem.startswith(tuple(names))]


def build(out_dir: Path = OUT, names: list[str] | None = None) -> list[Built]:
    """Build the exercises below ``out_dir``; the same sources give the same bytes.

    Args:
        out_dir: gets the folders and tables named above; other exercises in it stay.
        names: exercises by number or name, all of them if there is none.

    Raises:
        ValueError: a name that no exercise has, or a master notebook that breaks a rule.
    """
    paths = masters(names)
    out_dir = Path(out_dir)
    for folder in ("student", "autograder", "solutions"):
        (out_dir / folder).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        package = wheel.build(Path(scratch) / "wheel")
        built = [build_one(path, package, Path(scratch) / path.stem, out_dir) for path in paths]
    write_points(built, out_dir)
    return built


def build_one(master: Path, package: Path, scratch: Path, out_dir: Path) -> Built:
    """Let otter take one master notebook apart, and put what comes out into its place."""
    from otter.assign import main as assign

    scratch.mkdir()
    notebook = nbformat.read(master, as_version=4)
    title, headings = read_headings(notebook, master.name)
    shutil.copy(package, scratch)
    for cell in notebook.cells:
        cell.source = with_hint(cell.source)
    config = "# ASSIGNMENT CONFIG\n" + yaml.safe_dump(otter_config(master.stem, package.name))
    notebook.cells.insert(0, nbformat.v4.new_raw_cell(config))
    nbformat.write(notebook, scratch / master.name)
    with redirect_stdout(io.StringIO()):
        assign(str(scratch / master.name), str(scratch / "out"), no_run_tests=True)

    (archive,) = (scratch / "out" / "autograder").glob("*.zip")
    built = Built(
        name=master.stem,
        title=title,
        questions=read_points(scratch / "out" / "autograder" / "tests", headings),
        student=out_dir / "student" / master.name,
        autograder=out_dir / "autograder" / f"{master.stem}.zip",
        solution=out_dir / "solutions" / master.name,
    )
    for kind, path in (("student", built.student), ("autograder", built.solution)):
        made = nbformat.read(scratch / "out" / kind / master.name, as_version=4)
        with_setup(made, scratch / "out" / "student" / "tests", master.stem)
        nbformat.validate(made)
        path.write_text(nbformat.writes(made) + "\n", encoding="utf-8")
    repack(archive, built.autograder)
    return built


def otter_config(name: str, package: str) -> dict[str, object]:
    """Return what otter assign is told about an exercise."""
    return {
        "name": name,  # otter refuses a submission to another exercise
        "init_cell": False,  # with_setup makes one that needs no second file, and the last cells
        "check_all_cell": False,
        "export_cell": False,  # the notebook itself is handed in: otter's export can't run in Colab
        "show_question_points": True,
        "run_tests": False,
        "tests": {"files": True, "ok_format": False},
        "requirements": [*pins(), f"/autograder/source/files/{package}"],
        "overwrite_requirements": True,
        "autograder_files": [package],
        "python_version": GRADING_PYTHON,
        "generate": {"show_stdout": False, "show_hidden": False},
    }


def pins() -> list[str]:
    """Return what a grading machine installs: effedu's dependencies and otter, as pinned here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[^\w-]", wish)[0] for wish in project["dependencies"]]
    *packages, otter = pinned([*names, "otter-grader"])
    cpu = "--extra-index-url https://download.pytorch.org/whl/cpu"  # 200 MB and not 2 GB
    return [
        cpu,
        *packages,
        otter.replace("==", "[grading]=="),
    ]


def read_points(tests: Path, headings: list[str]) -> tuple[Question, ...]:
    """Return the questions with the points that otter gives for all their checks."""
    found = {path.stem: load_checks(path).possible for path in tests.glob("*.py")}
    names = [f"q{number}" for number in range(1, len(headings) + 1)]
    if sorted(found) != sorted(names):
        raise ValueError(
            f"questions must be called {', '.join(names)}, one for each heading "
            f"'## Question …', got {', '.join(sorted(found))}"
        )
    whole = {name: int(points) if points % 1 == 0 else points for name, points in found.items()}
    return tuple(Question(n, title, whole[n]) for n, title in zip(names, headings, strict=True))


def load_checks(path: Path) -> Any:
    """Return otter's test file ``path``, ready to run."""
    from otter.nbmeta_config import NBMetadataConfig
    from otter.test_files import create_test_file

    return create_test_file(str(path), NBMetadataConfig())


def repack(archive: Path, target: Path) -> None:
    """Write a zip with the same files, in order and without dates."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for name in sorted(old.namelist()):
            info = zipfile.ZipInfo(name, LONG_AGO)
            info.external_attr = (0o755 if name in ("setup.sh", "run_autograder") else 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            data = old.read(name)
            if name.startswith("tests/"):
                data = tidy(data.decode()).encode()
            new.writestr(info, data)


def write_points(built: list[Built], out_dir: Path) -> None:
    """Write points.json and points.md; exercises that were not built now keep their entry."""
    path = out_dir / "points.json"
    table = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for each in built:
        questions = [vars(question) for question in each.questions]
        table[each.name] = {"title": each.title, "total": each.total, "questions": questions}
    there = {master.stem for master in masters()}
    table = {name: table[name] for name in sorted(table) if name in there}
    path.write_text(json.dumps(table, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = ["| exercise | question | points |", "|---|---|---:|"]
    for entry in table.values():
        for question in entry["questions"]:
            lines.append(f"| {entry['title']} | {question['title']} | {question['points']} |")
        lines.append(f"| **{entry['title']}** | **all** | **{entry['total']}** |")
    (out_dir / "points.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Build or check the named exercises; 0 if all went well."""
    parser = argparse.ArgumentParser(description="Build or check the exercises.")
    parser.add_argument("action", choices=["build", "check"])
    parser.add_argument("names", nargs="*", help="exercises by number or name: 03 04_blocking")
    parser.add_argument("--out", type=Path, default=OUT, help="where to build (%(default)s)")
    parser.add_argument("--json", type=Path, help="check: write what was found to this file too")
    options = parser.parse_args(arguments)
    try:
        built = build(options.out, options.names)
    except ValueError as problem:
        parser.error(str(problem))
    for each in built:
        print(f"{each.name}: {len(each.questions)} questions, {each.total} points", flush=True)
    print(f"{len(built)} exercises built below {options.out}", flush=True)
    if options.action == "build":
        return 0
    from tools import exercise_check

    return exercise_check.report(exercise_check.check_all(built), options.json)


if __name__ == "__main__":
    sys.exit(main())
