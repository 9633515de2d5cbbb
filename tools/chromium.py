"""Find Chromium for the browser tests, or install Debian's package."""

from __future__ import annotations

import os
import shutil
import subprocess

from tools import debian

# Quiet, without a window, and with nothing that asks a network.
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find() -> str | None:
    """Return the path of a Chromium: ``$CHROMIUM`` if it is set and runs, else one on PATH."""
    for name in (os.environ.get("CHROMIUM", ""), *NAMES):
        path = shutil.which(name) if name else None
        if path and _runs(path):
            return path
    return None


def _runs(path: str) -> bool:
    """Say whether it starts: Ubuntu's ``chromium-browser`` is a stub that asks for snap."""
    try:
        answer = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return "chrom" in answer.stdout.lower()


def ensure() -> str:
    """Return the path of a Chromium, installing Debian's package where there is none.

    Raises ``RuntimeError`` with one sentence that says what to do when that fails.
    """
    found = find()
    if found:
        return found
    print("No Chromium here: installing Debian's package.", flush=True)
    problem = debian.install("chromium")
    found = find()
    if found:
        return found
    raise RuntimeError(
        f"No Chromium for the browser tests ({problem}). Install it (Debian: apt-get install "
        "chromium) or name one: make test CHROMIUM=/path/to/chrome"
    )


if __name__ == "__main__":
    print(ensure())
