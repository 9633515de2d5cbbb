"""The grader's parts: names from an LMS, what travels, tables and pages, otter's zips."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import socket
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import grading_samples as samples
import numpy as np
import pytest
import torch

from tools.grading import codec, collect, docker, exercise, pool, results, sandbox, seccomp, session

WHO = [
    ("doejane_12_345_04_blocking.ipynb", "doejane", "12", "", "04_blocking.ipynb"),
    ("doejane_LATE_12_345_04_blocking-1.ipynb", "doejane", "12", "LATE_", "04_blocking-1.ipynb"),
    ("anon_aB3x9_345_a.ipynb", "anon", "aB3x9", "", "a.ipynb"),
    ("LATE_anon_12345_345_a.ipynb", "anon", "12345", "LATE_", "a.ipynb"),
    ("class/van_der_berg_12_345_a.ipynb", "van_der_berg", "12", "", "a.ipynb"),
    ("Jane Doe_12_assignsubmission_file_/a b.ipynb", "Jane Doe", "12", "", "a b.ipynb"),
    ("Jane Doe_12_assignsubmission_file/a.ipynb", "Jane Doe", "12", "", "a.ipynb"),
    ("x/Zoë O'Neil_7_assignsubmission_file_04.ipynb", "Zoë O'Neil", "7", "", "04.ipynb"),
    ("jane/04_blocking.ipynb", "jane/04_blocking", "", "", "04_blocking.ipynb"),
    ("../../etc/doe_1_2_a.ipynb", "doe", "1", "", "a.ipynb"),
    ("..\\..\\doe_1_2_a.ipynb", "doe", "1", "", "a.ipynb"),
    ("d\no\re_1_2_a.ipynb", "d\no\re", "1", "", "a.ipynb"),
]


@pytest.mark.parametrize(("path", "student", "user", "late", "file"), WHO)
def test_names_of_canvas_and_moodle(
    path: str, student: str, user: str, late: str, file: str
) -> None:
    who = collect.identify(path)
    assert (who["student"], who["user"], who["late"], who["file"]) == (student, user, late, file)


def test_a_student_with_several_files_gets_one_row(tmp_path: Path) -> None:
    good = samples.answers()
    for name in ("04_blocking.ipynb", "04_blocking-2.ipynb", "04_blocking-10.ipynb", "notes.pdf"):
        (tmp_path / f"doe_1_2_{name}").write_bytes(good)
    (tmp_path / "roe_2_3_essay.docx").write_bytes(b"x")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    folder = tmp_path / "Jane Doe_9_assignsubmission_file_"
    folder.mkdir()
    (folder / "05_pruning.ipynb").write_bytes(good)
    (folder / "04_blocking.ipynb").write_bytes(good + b" ")
    found = collect.collect(tmp_path, "04_blocking")
    assert [(s.student, s.file, s.problem) for s in found] == [
        ("doe", "04_blocking-10.ipynb", ""),
        ("Jane Doe", "04_blocking.ipynb", ""),
        ("roe", "essay.docx", "no notebook: essay.docx"),
    ]
    assert found[1].data == good + b" "
    assert found[1].page == f"{folder.name}/feedback.html"


def test_cloned_repositories_get_a_row_each(tmp_path: Path) -> None:
    good = samples.answers()
    for name in ("ada", "bob"):
        for file in ("04_blocking.ipynb", "scratch.ipynb", "README.md"):
            path = tmp_path / "clones" / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(good)
        copies = path.parent / ".ipynb_checkpoints"
        copies.mkdir()
        (copies / "04_blocking-checkpoint.ipynb").write_bytes(b"old")
    (tmp_path / "clones" / "eve.ipynb").write_bytes(good)  # not named as handed out: by its name
    (tmp_path / "clones" / "zoe.ipynb").write_bytes(good)
    found = [(s.student, s.file, s.data) for s in collect.collect(tmp_path, "04_blocking")]
    assert found == [
        ("clones/ada", "04_blocking.ipynb", good),
        ("clones/bob", "04_blocking.ipynb", good),
        ("clones/eve", "eve.ipynb", good),
        ("clones/zoe", "zoe.ipynb", good),
    ]


def test_links_and_lying_zips_are_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    folder = tmp_path / "class"
    folder.mkdir()
    (folder / "doe_1_2_a.ipynb").symlink_to(secret)
    os.mkfifo(folder / "roe_2_3_a.ipynb")
    problems = [s.problem for s in collect.collect(folder, "x")]
    assert problems == ["the notebook is a link or a device"] * 2

    packed = bytearray(samples.packed({"doe_1_2_a.ipynb": bytes(1 << 20)}))
    directory = packed.rindex(b"PK\x01\x02")
    struct.pack_into("<I", packed, directory + 24, 100)  # it says 100 bytes
    path = tmp_path / "class.zip"
    path.write_bytes(packed)
    (lying,) = collect.collect(path, "x")
    assert lying.data == b""
    assert lying.problem.startswith("the notebook can't be read from the zip")


def test_broken_zips(tmp_path: Path) -> None:
    whole = samples.packed({"doe_1_2_a.ipynb": samples.answers()})
    path = tmp_path / "class.zip"
    path.write_bytes(whole[:60] + b"????" + whole[64:])  # in the middle of the packed bytes
    (broken,) = collect.collect(path, "x")
    assert broken.problem.startswith("the notebook can't be read from the zip")
    path.write_bytes(whole.replace(b"PK\x01\x02", b"PK??"))
    with pytest.raises(ValueError, match="is a broken zip"):
        collect.collect(path, "x")


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "MOST_FILES", 2)
    for number in range(3):
        (tmp_path / f"s{number}_1_2_a.ipynb").write_bytes(b"x")
    with pytest.raises(ValueError, match="holds more than 2 files"):
        collect.collect(tmp_path, "x")


def through(value: Any, keep: Any = None) -> Any:
    """Send a value through a real channel."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        encoder = codec.Encoder(keep)
        codec.send(ours, {"value": encoder.encode(value)}, encoder.blobs)
        message, blobs = codec.receive(theirs)
        return codec.Decoder(blobs, lambda coded: codec.Remote(0, coded["type"], None)).decode(
            message["value"]
        )


VALUES = [
    None, True, 0, -(10**4000), 1.5, math.inf, "ä\ud800\n", b"\x00", 2j, ..., (), [1, [2, "x"]],
    (1, {"a": {3}}), {1: 2, (1, 2): frozenset({5})}, torch.float16, np.float64(0.5), np.int8(3),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_data_travels_as_it_is(value: Any) -> None:
    back = through(value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("name", codec.TORCH_TYPES)
def test_tensors_travel_bit_by_bit(name: str) -> None:
    tensor = (torch.randn(2, 3, 4) * 3).to(getattr(torch, name)).transpose(0, 2)
    back = through([tensor, tensor[0, 0, 0], tensor[:0]])
    for old, new in zip([tensor, tensor[0, 0, 0], tensor[:0]], back, strict=True):
        assert torch.equal(old, new)
        assert old.dtype == new.dtype
    assert torch.isnan(through(torch.tensor([math.nan]))).all()
    assert type(through(torch.nn.Parameter(torch.ones(2)))) is torch.Tensor


def test_arrays_travel() -> None:
    array = np.arange(6, dtype=np.int16).reshape(2, 3).T
    assert np.array_equal(through(array), array)
    assert through(np.array([True, False])).tolist() == [True, False]


def test_subclasses_arrive_as_plain_types() -> None:
    class Words(str):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = str.__hash__

    assert type(through(Words("a"))) is str
    assert through(Words("a")) != "b"


def test_what_is_no_data_is_opaque() -> None:
    back = through([object()], keep=lambda value: {"remote": 0, "type": "object"})[0]
    for act in (
        lambda: back == back,
        lambda: back != 1,
        lambda: back < 1,
        lambda: bool(back),
        lambda: len(back),
        lambda: list(back),
        lambda: 1 in back,
        lambda: back[0],
        lambda: abs(back),
        lambda: back - 1,
        lambda: torch.testing.assert_close(back, 1.0),
        lambda: np.testing.assert_allclose(back, 1.0),
    ):
        with pytest.raises((TypeError, AssertionError)):
            act()
    with pytest.raises(AttributeError):
        _ = back.shape
    with pytest.raises(TypeError, match="not a function"):
        codec.Encoder().encode(through)


BROKEN: list[tuple[Any, list[bytes]]] = [
    ([1], []),
    ({}, []),
    ({"pickle": 0}, [b"x"]),
    ({"bytes": 3}, []),
    ({"bytes": "x"}, [b""]),
    ({"dict": [[{"list": []}, 1]]}, []),
    ({"torch.Tensor": ["float32", [2], 0]}, [b"123"]),
    ({"torch.Tensor": ["float32", [-1, -1], 0]}, [b"1234"]),
    ({"torch.Tensor": ["float32", [1 << 40], 0]}, [b"1234"]),
    ({"torch.Tensor": ["load", [1], 0]}, [b"1234"]),
    ({"torch.load": ["float32", [1], 0]}, [b"1234"]),
    ({"torch.dtype": "load"}, []),
    ({"numpy.ndarray": ["O", [1], 0]}, [bytes(8)]),
    ({"numpy.ndarray": ["nonsense", [1], 0]}, [bytes(8)]),
    ({"numpy.scalar": ["<f8", [1, 1], 0]}, [bytes(4)]),
    ({"remote": "x"}, []),
]


@pytest.mark.parametrize(("coded", "blobs"), BROKEN)
def test_a_lying_worker_is_told_so(coded: Any, blobs: list[bytes]) -> None:
    line = session.Session.__new__(session.Session)
    with pytest.raises(codec.ProtocolError):
        codec.Decoder(blobs, line.remote).decode(coded)


def test_bytes_that_are_no_truth_values() -> None:
    coded = {"torch.Tensor": ["bool", [2], 0]}
    assert codec.Decoder([b"\x00\x07"], None).decode(coded).tolist() == [False, True]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (codec.HEADER.pack(1 << 30, 0), "a message of"),
        (codec.HEADER.pack(2, 1 << 40), "a message of"),
        (codec.HEADER.pack(2, 0) + b"[]", "not JSON of a message"),
        (codec.HEADER.pack(14, 0) + b'{"blobs": [5]}', "sizes that don't add up"),
        (codec.HEADER.pack(19, 0) + b'{"blobs": [-1, 1]} ', "sizes that don't add up"),
        (codec.HEADER.pack(100_000, 0) + b"[" * 100_000, "not JSON of a message"),
    ],
)
def test_what_is_no_message(data: bytes, words: str) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        ours.sendall(data)
        with pytest.raises(codec.ProtocolError, match=words):
            codec.receive(theirs)


def test_a_channel_that_is_silent_or_closed() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(TimeoutError):
            codec.receive(theirs, deadline=0.0)
        ours.close()
        with pytest.raises(EOFError):
            codec.receive(theirs)


def test_values_that_are_too_much() -> None:
    nested: list[Any] = []
    nested.append(nested)
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        codec.Encoder().encode(nested)
    with pytest.raises(ValueError, match="4,000 digits"):
        codec.Encoder().encode(1 << 20_000)
    with pytest.raises(ValueError, match="larger than 256 MB"):
        codec.Encoder().encode(torch.zeros(1).expand(1 << 28))
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(codec.TooLarge, match="longer than 16 MB of text"):
        codec.send(ours, {"value": "x" * (17 << 20)}, [])
    with pytest.raises(ValueError, match="a tensor of type"):
        codec.Encoder().encode(torch.eye(2).to_sparse())


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        ("ValueError", ValueError),
        ("SystemExit", RuntimeError),
        ("KeyboardInterrupt", RuntimeError),
        ("StopIteration", RuntimeError),
        ("print", RuntimeError),
        ("nonsense", RuntimeError),
        ("UnicodeDecodeError", ValueError),
    ],
)
def test_errors_come_back_as_builtin_ones(base: str, kind: type) -> None:
    problem = session.rebuilt(base, "Mine", "words")
    assert type(problem) is kind
    assert str(problem) == "words"


def result(points: float = 1.0, status: str = "", lost: str = "") -> dict[str, Any]:
    case = {"name": "q1 - 1", "hidden": False, "passed": False, "points": 2}
    case |= {"hint": "<hint>", "message": "<script>alert(1)</script>"}
    question = {"points": points, "possible": 2.0, "cases": [case], "lost": lost}
    return {"status": status, "graded": True, "questions": {"q1": question}}


def submission(**fields: Any) -> collect.Submission:
    return collect.Submission(
        **{"student": "Jane", "user": "7", "late": False, "file": "a"} | fields
    )


def test_the_table_is_safe_to_open_in_a_spreadsheet(tmp_path: Path) -> None:
    chosen = exercise.load(samples.autograder(tmp_path / "99_sample.zip", {"q1": ""}))
    students = [submission(student=name) for name in ("=1+1", "@x", "+1", "-1", '"a",b', "ä")]
    status = "cell 1 raised\n=cmd|x"
    text = results.table(students, [result(1 / 3, status)] * len(students), chosen)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["student"] for row in rows] == ["'=1+1", "'@x", "'+1", "'-1", '"a",b', "ä"]
    assert {row["q1"] for row in rows} == {"0.33333"}
    assert {row["status"] for row in rows} == {"graded: cell 1 raised =cmd|x"}


def test_feedback_escapes_every_word(tmp_path: Path) -> None:
    chosen = exercise.load(samples.autograder(tmp_path / "99_sample.zip", {"q1": ""}))
    page = results.page(submission(student="<i>"), result(lost="took <long>"), chosen)
    for raw in ("<i>", "<hint>", "<script>", "<long>"):
        assert raw not in page
    assert "&lt;i&gt;: <strong>1 of 2 points</strong>" in page
    assert "<p>Graded: q1 took &lt;long&gt;.</p>" in page


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({}, "Jane_7.html"),
        ({"student": "../../x"}, "x_7.html"),
        ({"student": "."}, "student_7.html"),
        ({"page": "Jane Doe_7_assignsubmission_file/feedback.html"},
         "Jane Doe_7_assignsubmission_file/feedback.html"),
        ({"page": "Zoë O'Neil_7_assignsubmission_file_feedback.html"},
         "Zoë O'Neil_7_assignsubmission_file_feedback.html"),
        ({"page": "../feedback.html"}, "Jane_7.html"),
        ({"page": "a/b/feedback.html"}, "Jane_7.html"),
        ({"page": "a\n_7_assignsubmission_file/feedback.html"}, "Jane_7.html"),
        ({"page": "a\u202e_7_assignsubmission_file_feedback.html"}, "Jane_7.html"),
        ({"page": "a" * 300 + "_7_assignsubmission_file_feedback.html"}, "Jane_7.html"),
    ],
)  # fmt: skip
def test_feedback_stays_in_its_folder(fields: dict[str, str], path: str) -> None:
    assert results.feedback_path(submission(**fields)) == Path(path)


@pytest.mark.parametrize(
    "handed_out",
    [
        "Jane Doe_7_assignsubmission_file/a.ipynb",
        "Jane Doe_7_assignsubmission_file_/a.ipynb",  # before Moodle 4.1
        "Jane Doe_7_assignsubmission_file_a.ipynb",  # without folders
    ],
)
def test_moodle_knows_whose_page_it_is(handed_out: str) -> None:
    """Its rule for what is uploaded: a part of the path is name_number_assignsubmission_file."""
    page = results.feedback_path(submission(page=collect.identify(handed_out)["page"]))
    name, number, *plugin = page.parts[0].removesuffix("_feedback.html").rstrip("_").split("_")
    assert (name, number, plugin) == ("Jane Doe", "7", ["assignsubmission", "file"])
    assert page.suffix == ".html"


def zipped(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"readme": "x"}, "it has no tests"),
        ({"tests/q1.py": "OK_FORMAT = True"}, "the tests of q1 are doctests"),
        ({"tests/q1.py": "def"}, "the tests of q1 are no Python"),
        ({"tests/q1.py": "def test(f, env): pass"}, "the tests of q1 ask for env"),
        ({"tests/q1.py": "", "otter_config.json": '{"seed": 3}'}, "otter's setting 'seed'"),
    ],
)
def test_zips_that_are_no_exercise(tmp_path: Path, files: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        exercise.load(zipped(tmp_path / "x.zip", files))


def test_what_an_exercise_zip_holds(tmp_path: Path) -> None:
    tests = {f"tests/q{n}.py": "import math\nfrom torch.nn import Linear" for n in (10, 2)}
    files = {"files/data.txt": "1", "files/effedu-0.1.0-py3-none-any.whl": "x"}
    chosen = exercise.load(zipped(tmp_path / "05_x.zip", {**tests, **files}))
    assert chosen.questions == ["q2", "q10"]
    assert chosen.files == {"data.txt": b"1"}
    assert chosen.imports == ["math", "torch.nn"]
    assert chosen.name == "05_x"
    assert exercise.find("05", tmp_path).name == "05_x.zip"
    with pytest.raises(ValueError, match="build them first"):
        exercise.find("05", tmp_path / "nowhere")


def test_a_broken_test_file_is_told_before_grading(tmp_path: Path) -> None:
    pytest.importorskip("otter")
    chosen = exercise.load(zipped(tmp_path / "x.zip", {"tests/q1.py": "name = 1 / 0"}))
    with pytest.raises(ValueError, match=r"x: its tests can't be read: division by zero"):
        pool.points(chosen)


def test_the_sandbox_sees_little_and_gets_no_environment() -> None:
    line = sandbox.bubblewrap(sandbox.Limits(), ["true"])
    bound = [line[at + 1] for at, word in enumerate(line) if word.startswith("--ro-bind")]
    assert not {"/", "/home", "/root", "/etc", "/var", str(Path.home())} & set(bound)
    repository = Path(sandbox.__file__).parents[2]
    assert str(repository / "effedu") in bound
    assert not {str(repository), str(repository / "book"), str(repository / "tools")} & set(bound)
    assert "--unshare-all" in line
    assert "--clearenv" in line


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_refuses_what_it_names_and_nothing_else(machine: str) -> None:
    """Run the filter's program here, as the kernel would, for every number."""
    raw = seccomp.program(machine)
    program = [seccomp.INSTRUCTION.unpack_from(raw, at) for at in range(0, len(raw), 8)]

    def verdict(architecture: int, number: int, argument: int = 0) -> int:
        at, value = 0, 0
        words = {seccomp.ARCHITECTURE: architecture, seccomp.NUMBER: number}
        words[seccomp.FIRST_ARGUMENT] = argument
        while True:
            code, yes, no, k = program[at]
            at += 1
            if code == seccomp.LOAD:
                value = words[k]
            elif code == seccomp.RETURN:
                return k
            else:
                at += yes if (value == k if code == seccomp.EQUAL else value >= k) else no

    mine = seccomp.MACHINES[machine]
    refused = {numbers[machine] for numbers in seccomp.REFUSED.values()}
    for number in range(600):
        expected = seccomp.ERROR | errno.EPERM if number in refused else seccomp.ALLOW
        assert verdict(mine, number, socket.AF_UNIX) == expected
    for family in range(64):
        expected = seccomp.ERROR | errno.EAFNOSUPPORT
        if family in seccomp.FAMILIES:
            expected = seccomp.ALLOW
        assert verdict(mine, seccomp.SOCKET[machine], family) == expected
    assert verdict(mine, seccomp.X32 + 1) == seccomp.KILL
    assert verdict(mine + 1, 1) == seccomp.KILL


def test_docker_points_come_from_otters_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def run_otter(command: list[str]) -> None:
        seen.append(sorted(path.name for path in Path(command[-1]).iterdir()))
        out = Path(command[command.index("--output-dir") + 1])
        (out / "final_grades.csv").write_text(
            "file,q1,q2,grading_status\n"
            "points-per-question,3,2.5,--\n"
            "s00000.ipynb,3,0.5,Completed\n"
            "s00003.ipynb,0,0,Executing 's00003.ipynb' in docker container timed out\n"
        )

    monkeypatch.setattr(docker, "run_otter", run_otter)
    monkeypatch.setattr(docker, "points", lambda _: {"q1": 3.0, "q2": 2.5})
    chosen = exercise.load(samples.autograder(tmp_path / "99_sample.zip", samples.TESTS))
    class_of = [
        submission(student="../a", data=b"{}"),
        submission(data=b"{}"),
        submission(problem="no notebook: x"),
        submission(data=b"{}"),
    ]
    found = docker.grade_all(class_of, chosen, sandbox.Limits(), 2, lambda: None)
    assert seen == [["s00000.ipynb", "s00001.ipynb", "s00003.ipynb"]]
    assert [results.totals(each)[0] for each in found] == [3.5, 0, 0, 0]
    assert [results.status(each) for each in found] == [
        "graded: in Docker, by otter grade",
        "not graded: otter grade gave no result",
        "not graded: no notebook: x",
        "not graded: otter grade: Executing 's00003.ipynb' in docker container timed out",
    ]


@pytest.mark.filterwarnings("ignore:Traits should be given:DeprecationWarning")  # otter's widgets
def test_docker_gets_options_that_otter_has(tmp_path: Path) -> None:
    """Otter's own parser reads the command line, and what it reads is what was meant."""
    from otter.cli import grade_cli

    chosen = exercise.load(samples.autograder(tmp_path / "99_Sample.zip", samples.TESTS))
    folder = tmp_path / "submissions"
    folder.mkdir()
    limits = sandbox.Limits(total_seconds=77)
    line = docker.command(chosen, limits, 3, folder, tmp_path)
    assert line[1:4] == ["-m", "otter", "grade"]
    read = grade_cli.make_context("grade", line[4:]).params
    wanted = {"name": "99_sample", "autograder": str(chosen.zip_path), "containers": 3}
    wanted |= {"output_dir": str(tmp_path), "timeout": 77, "no_network": True, "ext": "ipynb"}
    assert read.items() >= {**wanted, "paths": (str(folder),)}.items()


def test_docker_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="otter grade ended with status 3; it says why above"):
        docker.run_otter([sys.executable, "-c", "raise SystemExit(3)"])


def test_docker_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker.shutil, "which", lambda _: None)
    with pytest.raises(ValueError, match="there is no docker command"):
        docker.check()
    monkeypatch.setattr(docker.shutil, "which", lambda _: "docker")
    failed = subprocess.CompletedProcess([], 1, "", "Cannot connect to the daemon")
    monkeypatch.setattr(docker.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ValueError, match="Docker is installed but does not run: Cannot connect"):
        docker.check()


def test_a_store_keeps_whole_results_only(tmp_path: Path) -> None:
    store = pool.Store(tmp_path / "results")
    store.put("a", {"status": "", "questions": {}})
    (tmp_path / "results" / "b.json").write_text('{"status": ')
    assert store.get("a") == {"status": "", "questions": {}}
    assert store.get("b") is None
    assert json.loads((tmp_path / "results" / "a.json").read_text())
    store.clear()
    assert store.get("a") is None
