"""The wheel: it holds what it needs, says what it requires, and works away from the repository."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 12_000_000  # bytes of weights in the wheel

# A session that a new owner of the package would try first, somewhere else than in the repository.
FIRST_STEPS = """
import sys
import effedu
from importlib import metadata

assert effedu.__file__.startswith(sys.prefix), effedu.__file__
assert metadata.version("effedu") == effedu.__version__

lm = effedu.load_lm()
text = "To be, or not to be, that is the question."
start = "Enter the king"
made = lm.generate(start, max_new_tokens=12, seed=0)
assert isinstance(made, str) and len(made) > 0, made
bits = lm.bits_per_byte(text * 4, length=128)
assert 0.5 < bits < 8, bits

from effedu.widgets import PatternExplorer, SpeedupExplorer
widget = PatternExplorer()
state = widget.get_state()
assert "export default" in state["_esm"]
assert state["_css"].strip()
assert "application/vnd.jupyter.widget-view+json" in widget._repr_mimebundle_()[0]

assert SpeedupExplorer.from_results(length=8192).rows

import matplotlib.pyplot as plt
plt.style.use("effedu.data.book")
print("bits per byte", bits)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without any of the repository on its path; return what it prints."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    env["HF_HUB_OFFLINE"] = "1"
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of what the build reads, so that the tree stays as it is.

    ``--no-isolation``: setuptools and wheel are pinned in requirements.txt, and stand here.
    """
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = ["pyproject.toml", "README.md", "LICENSE", "LICENSE-text", "effedu"]
    run("cp", "-r", *(ROOT / name for name in tracked), _made(source), cwd=folder)
    run(
        sys.executable,
        *("-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source),
        cwd=folder,
    )
    (built,) = folder.glob("effedu-*-py3-none-any.whl")
    return built


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def contents(wheel: Path) -> dict[str, zipfile.ZipInfo]:
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info for info in archive.infolist()}


@pytest.fixture(scope="module")
def metadata(wheel: Path, contents: dict[str, zipfile.ZipInfo]) -> Message:
    (name,) = (name for name in contents if name.endswith(".dist-info/METADATA"))
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an empty environment into which only the wheel was installed.

    PyTorch would take minutes to install again, and tells nothing about our wheel. A line in a
    .pth file lends the third-party packages of the environment that runs the tests instead. They
    come after the new environment's own, and .pth files among them (the editable install of
    effedu is one) do not count there: ``effedu`` can come from the wheel alone.
    """
    folder = tmp_path_factory.mktemp("reader")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(run(python, "-c", ask, cwd=folder).strip())
    ours = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "lent.pth").write_text("\n".join(sorted(ours)) + "\n")
    run(
        sys.executable,
        *("-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "-q", wheel),
        cwd=folder,
    )
    return python


def test_wheel_holds_every_file_of_the_package(contents: dict[str, zipfile.ZipInfo]) -> None:
    kept = {".py", ".js", ".css", ".typed", ".json", ".safetensors", ".txt", ".md", ".mplstyle"}
    files = [path for path in (ROOT / "effedu").rglob("*") if path.is_file()]
    files = [path for path in files if "__pycache__" not in path.parts]
    assert {path.suffix for path in files} <= kept, "a new kind of file: say so here"
    missing = {str(path.relative_to(ROOT)) for path in files} - set(contents)
    assert not missing


def test_wheel_holds_nothing_else(contents: dict[str, zipfile.ZipInfo]) -> None:
    tops = {name.split("/")[0] for name in contents}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"effedu"}


def test_weights_are_small(contents: dict[str, zipfile.ZipInfo]) -> None:
    weights = [info for name, info in contents.items() if name.endswith(".safetensors")]
    assert weights, "no weights in the wheel"
    assert sum(info.file_size for info in weights) <= LIMIT


def test_metadata_names_the_requirements(metadata: Message) -> None:
    required = {line.split(">")[0].split("<")[0] for line in metadata.get_all("Requires-Dist", [])}
    assert {"torch", "transformers", "safetensors", "tokenizers", "anywidget"} <= required
    assert not required & {"pytest", "jupyter-book", "ruff"}
    assert "==" not in str(metadata.get_all("Requires-Dist")), "ranges: Colab has its own torch"
    python = str(metadata["Requires-Python"])
    assert ">=3.11" in python
    assert "<3.14" in python


def test_licences_come_along(metadata: Message, contents: dict[str, zipfile.ZipInfo]) -> None:
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert metadata.get_all("License-File") == ["LICENSE", "LICENSE-text"]
    for name in ("LICENSE", "LICENSE-text"):
        assert any(file.endswith(f".dist-info/licenses/{name}") for file in contents)


def test_wheel_works_away_from_the_repository(python: Path, tmp_path: Path) -> None:
    assert "bits per byte" in run(python, "-c", FIRST_STEPS, cwd=tmp_path)


@pytest.mark.parametrize("number", [0, 1])
def test_code_of_the_readme_runs(number: int, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    assert len(blocks) == 2
    here = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
    run(sys.executable, "-c", here + blocks[number], cwd=tmp_path)


def test_import_is_light() -> None:
    """``import effedu`` loads neither the heavy packages nor the weights."""
    spy = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
import effedu
heavy = ("transformers", "tokenizers", "matplotlib", "anywidget", "ipywidgets")
print([name for name in heavy if name in sys.modules])
print([name for name in opened if name.endswith((".safetensors", "tokenizer.json"))])
"""
    assert run(sys.executable, "-c", spy, cwd=ROOT).split() == ["[]", "[]"]
