"""Install one of Debian's packages, for what the checks need beside Python."""

from __future__ import annotations

import os
import shutil
import subprocess


def install(package: str) -> str:
    """Install a package without asking anything; return what went wrong, in a few words."""
    if not shutil.which("apt-get"):
        return "and no apt-get to install it with"
    prefix: list[str] = []
    if os.geteuid() != 0:
        if not shutil.which("sudo"):
            return "and installing it needs root"
        prefix = ["sudo", "-n"]
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    last = ""
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", package]):
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
