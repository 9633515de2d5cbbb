"""The exact versions of ``requirements.txt``, for what installs a part of them elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"


def pinned(names: Iterable[str]) -> list[str]:
    """Return ``name==version`` for each name.

    Raises ``ValueError`` for names that requirements.txt does not pin.
    """
    lines = REQUIREMENTS.read_text(encoding="utf-8").splitlines()
    found = {line.partition("==")[0]: line for line in lines if "==" in line and line[0] != "#"}
    names = list(names)
    missing = sorted(set(names) - found.keys())
    if missing:
        raise ValueError(f"requirements.txt must pin {', '.join(missing)}")
    return [found[name] for name in names]
