"""An exercise as the grader sees it: otter's autograder zip, its tests and points."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

REFUSED = ("seed", "plugins", "grade_from_log", "score_threshold", "points_possible")


@dataclass(frozen=True)
class Exercise:
    """The parts of an autograder zip. It may be handed to another process as it is."""

    name: str
    zip_path: Path
    tests: dict[str, str]  # question → source of its test file
    files: dict[str, bytes]  # what a submission finds in its folder
    digest: str

    @property
    def questions(self) -> list[str]:
        return list(self.tests)

    @property
    def imports(self) -> list[str]:
        """The modules that the tests import: loaded once, before the judges are forked."""
        nodes = [node for source in self.tests.values() for node in ast.walk(ast.parse(source))]
        names = [
            alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names
        ]
        names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
        return sorted(set(names))

    def load(self) -> dict[str, object]:
        """Return otter's test files by question, points resolved; otter is imported here."""
        from otter.test_files.exception_test import ExceptionTestFile

        return {
            name: ExceptionTestFile.from_string(source, path=f"tests/{name}.py")
            for name, source in self.tests.items()
        }


def natural(name: str) -> list[object]:
    """Sort key that puts q2 before q10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def find(name: str, folder: Path) -> Path:
    """Return the autograder zip of exercise ``name`` ("04", "04_blocking", or a path to a zip).

    Raises ``ValueError`` when there is none, or more than one.
    """
    if name.endswith(".zip"):
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"--exercise {name}: there is no such file")
        return path
    there = sorted(folder.glob("*.zip"))
    if not there:
        raise ValueError(f"no exercises in {folder}: build them first (make exercises)")
    found = [path for path in there if path.stem == name or path.stem.startswith(f"{name}_")]
    if len(found) != 1:
        names = ", ".join(path.stem for path in there)
        raise ValueError(f"--exercise {name!r} names {len(found)} exercises; there are: {names}")
    return found[0]


def load(path: Path) -> Exercise:
    """Read an autograder zip; ``ValueError`` says why one can't be used."""
    data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = {PurePosixPath(n): archive.read(n) for n in archive.namelist() if n[-1] != "/"}
    except (zipfile.BadZipFile, OSError) as problem:
        raise ValueError(f"{path} is no autograder zip: {problem}") from problem
    tests = {
        part.stem: source.decode()
        for part, source in parts.items()
        if part.parent == PurePosixPath("tests") and part.suffix == ".py"
    }
    if not tests:
        raise ValueError(f"{path} is no autograder zip: it has no tests/*.py")
    config = json.loads(parts.get(PurePosixPath("otter_config.json"), b"{}"))
    for key in REFUSED:
        if config.get(key):
            raise ValueError(f"{path}: tools.grade does not know otter's setting {key!r}")
    for name, source in tests.items():
        try:
            nodes = list(ast.walk(ast.parse(source)))
        except SyntaxError as problem:
            raise ValueError(f"{path}: the tests of {name} are no Python: {problem}") from problem
        if any(isinstance(node, ast.arg) and node.arg == "env" for node in nodes):
            raise ValueError(f"{path}: the tests of {name} ask for env; name what they need")
        if re.search(r"^OK_FORMAT = True", source, re.MULTILINE):
            raise ValueError(f"{path}: the tests of {name} are doctests; set ok_format: false")
    files = {
        part.name: content
        for part, content in parts.items()
        if part.parent == PurePosixPath("files") and part.suffix != ".whl"
    }
    return Exercise(
        name=config.get("assignment_name") or path.stem,
        zip_path=path.resolve(),
        tests={name: tests[name] for name in sorted(tests, key=natural)},
        files=files,
        digest=hashlib.sha256(data).hexdigest(),
    )
