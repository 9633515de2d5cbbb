"""Find the submissions in what an LMS hands out, whatever their names try.

Canvas: one folder or zip of ``doejane_LATE_1234_5678_04_blocking.ipynb`` (name, perhaps LATE, the
numbers of user and file, the file's own name), or ``LATE_anon_aB3x9_5678_04_blocking.ipynb`` where
grading is anonymous. Moodle: a folder a student, ``Jane Doe_1234_assignsubmission_file`` (before
Moodle 4.1 with ``_`` at its end), or the same as the beginning of a file's name. Cloned
repositories: a folder a student, with the notebook under the name that was handed out. Other
notebooks count by their file name. Nothing is ever written to a path that a submission names.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

LARGEST = 20 << 20  # bytes of one submitted notebook
MOST_FILES = 20_000
COPIES = {"__MACOSX", ".ipynb_checkpoints"}  # folders of what macOS and Jupyter keep aside
NUMBERED = re.compile(r"-(\d+)$")  # Canvas: file-1.ipynb is a second try
ANONYMOUS = re.compile(
    r"(?P<late>LATE_)?(?P<name>anon)_(?P<user>[0-9A-Za-z]{5})_\d+_(?P<file>.+)", re.DOTALL
)
CANVAS = re.compile(r"(?P<name>.+?)_(?P<late>LATE_)?(?P<user>\d+)_\d+_(?P<file>.+)", re.DOTALL)
MOODLE = re.compile(
    r"(?P<head>(?P<name>.+)_(?P<user>\d+)_assignsubmission_[a-z]+)(_(?P<file>.*))?", re.DOTALL
)


@dataclass(frozen=True)
class Submission:
    """One student's work: who, the notebook's bytes, or why there are none."""

    student: str
    user: str
    late: bool
    file: str
    data: bytes = b""
    problem: str = ""
    page: str = ""  # the path under which Moodle takes a page of feedback back

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def order(self) -> tuple[str, str, str]:
        return (self.student.casefold(), self.user, self.file)


@dataclass(frozen=True)
class Entry:
    """One file of the folder or zip; ``read`` returns its bytes or raises ``ValueError``."""

    path: str
    size: int
    problem: str
    source: object

    def read(self) -> bytes:
        if self.problem:
            raise ValueError(self.problem)
        if self.size > LARGEST:
            raise ValueError(f"is larger than {LARGEST >> 20} MB")
        if isinstance(self.source, Path):
            data = self.source.read_bytes()
        else:
            archive, member = self.source  # type: ignore[misc]
            try:
                with archive.open(member) as file:
                    data = file.read(LARGEST + 1)  # what the zip says of sizes may be a lie
            except Exception as problem:  # zlib, bz2 and lzma each have errors of their own
                raise ValueError(f"can't be read from the zip: {plain(str(problem))}") from problem
        if len(data) > LARGEST:
            raise ValueError(f"is larger than {LARGEST >> 20} MB")
        return data


def plain(text: str, most: int = 200) -> str:
    """Return text in one line without control or formatting characters, at most ``most`` long.

    >>> plain("a\\x1b[31mb\\u202ec\\nd")
    'a [31mb c d'
    """
    shown = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    return " ".join(shown.split())[:most]


def entries(path: Path) -> Iterator[Entry]:
    """Return the files of a folder or zip, links and odd things marked, not followed."""
    if path.is_dir():
        for folder, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                file = Path(folder, name)
                status = file.lstat()
                problem = "" if stat.S_ISREG(status.st_mode) else "is a link or a device"
                yield Entry(str(file.relative_to(path)), status.st_size, problem, file)
        return
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as problem:
        raise ValueError(f"{path} is a broken zip: {plain(str(problem))}") from problem
    for member in sorted(archive.infolist(), key=lambda member: member.filename):
        if not member.is_dir():
            problem = "is encrypted" if member.flag_bits & 1 else ""
            yield Entry(member.filename, member.file_size, problem, (archive, member))


def identify(path: str) -> dict[str, str]:
    """Return who handed in the file: student, user, late, file and (Moodle) feedback's path.

    >>> identify("doejane_LATE_12_345_04_blocking-1.ipynb")["student"]
    'doejane'
    >>> identify("Jane Doe_12_assignsubmission_file/a.ipynb")["page"]
    'Jane Doe_12_assignsubmission_file/feedback.html'
    """
    parts = PurePosixPath(path.replace("\\", "/")).parts
    for number, part in enumerate(parts):
        if found := MOODLE.fullmatch(part):
            is_folder = number + 1 < len(parts)
            return {
                "student": found["name"],
                "user": found["user"],
                "late": "",
                "file": parts[-1] if is_folder else found["file"] or part,
                "page": f"{part}/feedback.html" if is_folder else f"{found['head']}_feedback.html",
            }
    name = parts[-1] if parts else path
    if found := ANONYMOUS.fullmatch(name) or CANVAS.fullmatch(name):
        return {
            "student": found["name"],
            "user": found["user"],
            "late": found["late"] or "",
            "file": found["file"],
            "page": "",
        }
    return {
        "student": str(PurePosixPath(*parts).with_suffix("")) if parts else path,
        "user": "",
        "late": "",
        "file": name,
        "page": "",
    }


def preference(file: str, exercise: str) -> tuple[bool, bool, int, str]:
    """Sort key of a student's several files: a notebook, of this exercise, the latest try."""
    stem, suffix = os.path.splitext(file)
    found = NUMBERED.search(stem)
    latest = int(found[1]) if found and len(found[1]) < 10 else 0
    return (suffix.lower() == ".ipynb", stem.startswith(exercise), latest, file)


def collect(path: Path, exercise: str) -> list[Submission]:
    """Return one submission a student, sorted; ``ValueError`` when there is nothing to grade."""
    if not path.exists():
        raise ValueError(f"{path}: there is no such folder or zip")
    if not path.is_dir() and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is neither a folder nor a zip")
    found: list[tuple[dict[str, str], Entry]] = []
    for number, entry in enumerate(entries(path)):
        if number >= MOST_FILES:
            raise ValueError(f"{path} holds more than {MOST_FILES} files")
        who = identify(entry.path)
        known = who["user"] or entry.path.lower().endswith(".ipynb")
        copies = COPIES.intersection(entry.path.split("/"))
        if known and not copies and not who["file"].startswith("."):
            found.append((who, entry))
    if not found:
        raise ValueError(f"no submissions in {path}: expected notebooks (.ipynb)")
    students: dict[tuple[str, str], list[tuple[dict[str, str], Entry]]] = {}
    homes = {folder(entry) for who, entry in found if who["file"] == f"{exercise}.ipynb"}
    for who, entry in found:
        home = folder(entry)
        if home and home in homes and not who["user"]:  # a folder a student
            who["student"] = home
        students.setdefault((who["student"], who["user"]), []).append((who, entry))
    chosen = [choose(files, exercise) for files in students.values()]
    return sorted(chosen, key=lambda submission: submission.order)


def folder(entry: Entry) -> str:
    """Return the folder that a file lies in; empty at the top."""
    return entry.path.replace("\\", "/").rpartition("/")[0]


def choose(files: list[tuple[dict[str, str], Entry]], exercise: str) -> Submission:
    """Return the submission of a student who may have handed in several files."""
    who, entry = max(files, key=lambda pair: preference(pair[0]["file"], exercise))
    data, problem = b"", ""
    if not who["file"].lower().endswith(".ipynb"):
        problem = f"no notebook: {plain(who['file'], 80)}"
    else:
        try:
            data = entry.read()
        except ValueError as reason:
            problem = f"the notebook {reason}"
        except OSError as reason:
            problem = f"the notebook can't be read: {plain(str(reason.strerror))}"
    return Submission(
        student=plain(who["student"]) or "(no name)",
        user=who["user"][:20],
        late=bool(who["late"]),
        file=plain(who["file"]),
        data=data,
        problem=problem,
        page=who["page"],
    )
