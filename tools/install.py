"""Make .venv and install the book's pinned packages into it: ``python3 tools/install.py``.

Standard library only, because it runs before anything is installed, and in plain old Python,
so that even a version which does not fit gets as far as the sentence that says so. A second run
compares one hash and returns at once.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
OLDEST, NEWEST = (3, 11), (3, 13)
LARGE = 10  # MB: a download worth a line of its own
QUIET = 20  # seconds without a word before we say that we are still at it


def version_of(python: str) -> tuple[int, int] | None:
    """Return the (major, minor) version of the interpreter ``python``, None if it does not run."""
    ask = "import sys; print(*sys.version_info[:2])"
    try:
        answer = subprocess.run([python, "-c", ask], capture_output=True, text=True, timeout=60)
        major, minor = answer.stdout.split()
        return int(major), int(minor)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def fits(version: tuple[int, int] | None) -> bool:
    """Say whether the book runs on this version of Python."""
    return version is not None and OLDEST <= version <= NEWEST


def find_python(wanted: str | None) -> str:
    """Return an interpreter that fits: ``wanted``, or the first that PATH offers.

    Raises ``SystemExit`` with one sentence when there is none.
    """
    candidates = [wanted] if wanted else [sys.executable, "python3"]
    if not wanted:
        candidates += [f"python3.{minor}" for minor in range(NEWEST[1], OLDEST[1] - 1, -1)]
    seen = []
    for candidate in candidates:
        version = version_of(candidate)
        if fits(version):
            return candidate
        if version:
            seen.append(f"{candidate} is {version[0]}.{version[1]}")
    found = "; ".join(dict.fromkeys(seen)) or f"{wanted or 'python3'} does not run"
    sys.exit(
        f"The book needs Python 3.{OLDEST[1]} to 3.{NEWEST[1]}, and {found}. "
        "Install one of them, or name it: make book PYTHON=/path/to/python3.12"
    )


def fingerprint(python: str) -> str:
    """Return a hash of everything the installation depends on."""
    digest = hashlib.sha256()
    for name in ("requirements.txt", "pyproject.toml"):
        digest.update((ROOT / name).read_bytes())
    digest.update(f"{ROOT} {version_of(python)}".encode())
    return digest.hexdigest()


def make_venv(python: str, venv: Path) -> None:
    """Create the virtual environment ``venv``; one sentence when Python comes without venv."""
    say(f"making {venv.name} with Python {'.'.join(map(str, version_of(python) or ()))}")
    done = subprocess.run([python, "-m", "venv", "--clear", venv], capture_output=True, text=True)
    if done.returncode:
        shutil.rmtree(venv, ignore_errors=True)
        sys.exit(
            f"{done.stdout}{done.stderr}\n{python} cannot make a virtual environment. On Debian "
            "and Ubuntu the package python3-venv is missing: apt-get install python3-venv"
        )


def say(sentence: str) -> None:
    """Print a line of progress at once."""
    print(f"  {sentence}", flush=True)


def large_download(line: str) -> str | None:
    """Return the name and size from pip's line about a download, if it is a large one.

    >>> large_download("  Downloading torch-2.13.0-cp311-cp311-linux_x86_64.whl (184.2 MB)")
    'torch 2.13.0 (184 MB)'
    >>> large_download("  Downloading six-1.17.0-py2.py3-none-any.whl (11 kB)")
    """
    found = re.search(r"(?:Downloading|Using cached) (\S+?)-([\d.]+)\S* \(([\d.]+) ([MG])B\)", line)
    if not found:
        return None
    name, version, amount, unit = found.groups()
    megabytes = float(amount) * (1000 if unit == "G" else 1)
    return f"{name} {version} ({megabytes:.0f} MB)" if megabytes >= LARGE else None


def pip(venv: Path, *arguments: str) -> None:
    """Run pip in ``venv``, keep its words in a log, and pass on only what a reader waits for."""
    command = [str(venv / "bin" / "python"), "-m", "pip", "install", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PIP_QUIET": "0"}
    started = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        errors="replace",
    )
    words: queue.Queue[str | None] = queue.Queue()

    def listen() -> None:
        for line in process.stdout or ():
            words.put(line)
        words.put(None)

    threading.Thread(target=listen, daemon=True).start()
    said: list[str] = []
    with open(venv / "install.log", "a", encoding="utf-8") as log:
        while True:
            try:
                line = words.get(timeout=QUIET)
            except queue.Empty:
                say(f"still installing, {time.monotonic() - started:.0f} s so far")
                continue
            if line is None:
                break
            log.write(line)
            said.append(line)
            download = large_download(line)
            if download:
                say(f"fetching {download}")
            elif line.startswith("Installing collected packages"):
                say("unpacking")
    if process.wait():
        sys.exit(
            f"{''.join(said[-12:])}\npip could not install the packages (its last words are "
            f"above, all of them in {venv / 'install.log'}). Without a connection to a package "
            "index it cannot; with one, run the same command again: it goes on from its cache."
        )


def install(wanted: str | None = None, venv: Path = VENV) -> None:
    """Bring ``venv`` to the state that requirements.txt and pyproject.toml describe."""
    python = str(venv / "bin" / "python")
    stamp = venv / "installed"
    another = wanted is not None and version_of(wanted) != version_of(python)
    if another or not fits(version_of(python)):
        make_venv(find_python(wanted), venv)
    wish = fingerprint(python)
    if stamp.exists() and stamp.read_text() == wish:
        return
    print("Setting up: some minutes the first time, and several hundred MB.", flush=True)
    started = time.monotonic()
    say("installing the packages pinned in requirements.txt")
    pip(venv, "-r", "requirements.txt")
    say("installing effedu from this folder")
    # setuptools and wheel are pinned, so the build needs no environment of its own.
    pip(venv, "--no-deps", "--no-build-isolation", "--editable", ".")
    # Built now, matplotlib's list of fonts does not announce itself in a chapter's output.
    subprocess.run([python, "-c", "import matplotlib.font_manager"], check=True)
    stamp.write_text(wish)
    print(f"Ready after {time.monotonic() - started:.0f} s.", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make .venv and install the book into it.")
    parser.add_argument("--python", help="the interpreter to use (default: the first that fits)")
    parser.add_argument("--venv", type=Path, default=VENV, help=argparse.SUPPRESS)
    options = parser.parse_args()
    install(options.python or None, options.venv)
