"""Find Chromium for the browser tests, or install Debian's package."""

from __future__ import annotations

import os
import shutil
import subprocess

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
    problem = _install()
    found = find()
    if found:
        return found
    raise RuntimeError(
        f"No Chromium for the browser tests ({problem}). Install it (Debian: apt-get install "
        "chromium) or name one: make test CHROMIUM=/path/to/chrome"
    )


def _install() -> str:
    """Install the package without asking anything; return what went wrong, in a few words."""
    if not shutil.which("apt-get"):
        return "and no apt-get to install it with"
    prefix: list[str] = []
    if os.geteuid() != 0:
        if not shutil.which("sudo"):
            return "and installing it needs root"
        prefix = ["sudo", "-n"]
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    last = ""
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", "chromium"]):
        try:
            done = subprocess.run(
                [*prefix, "apt-get", *arguments],
                capture_output=True,
                text=True,
                env=quiet,
                timeout=900,
            )
        except subprocess.TimeoutExpired:
            return "apt-get took more than 15 minutes"
        words = done.stderr.strip().splitlines()
        last = words[-1] if done.returncode and words else last
    return last or "apt-get installed nothing that runs"


if __name__ == "__main__":
    print(ensure())
