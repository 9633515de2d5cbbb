"""Build the package's wheel: the same bytes each time, and nothing left beside the sources."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("effedu", "pyproject.toml", "README.md", "LICENSE", "LICENSE-text")
LONG_AGO = "315532800"  # 1980, where the dates of zip files begin


def build(folder: Path) -> Path:
    """Build the wheel into ``folder`` and return its path.

    Raises ``RuntimeError`` with what was printed when that fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "package"
        copy.mkdir()
        for name in SOURCES:
            if (ROOT / name).is_dir():
                clean = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(ROOT / name, copy / name, ignore=clean)
            else:
                shutil.copy(ROOT / name, copy)
        for path in copy.rglob("*"):  # a wheel holds these: they must not depend on the umask
            path.chmod(0o755 if path.is_dir() else 0o644)
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
        done = subprocess.run(
            [*command, "--outdir", str(folder.resolve()), str(copy)],
            env={**os.environ, "SOURCE_DATE_EPOCH": LONG_AGO},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(f"the wheel was not built:\n{done.stdout}{done.stderr}")
    (wheel,) = folder.glob("effedu-*.whl")
    return wheel


if __name__ == "__main__":
    print(build(ROOT / "dist"))
