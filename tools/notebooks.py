"""Run the book's notebooks and store what they show, widget states included: ``make notebooks``.

The site renders what is stored here and nbval compares against it, so a second run gives the same
bytes, apart from outputs that are bound to differ (cells tagged ``nbval-ignore-output``): times of
execution and versions of the kernel go, and widgets get ids that stay. A notebook which fails
keeps its old contents.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import hashlib
import importlib.metadata
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
BOOK = ROOT / "book"
LIMIT = 60  # seconds that a notebook may take on two cores (DESIGN: a chapter's hard edges)
CELL_TIMEOUT = 300  # seconds after which a cell counts as stuck

KERNEL_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # chapters run on what the package ships
    "SOURCE_DATE_EPOCH": "0",  # matplotlib writes this date into pictures, and not today's
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # or each kernel warns about frozen modules
}
STAMPED = ("torch", "transformers", "numpy", "matplotlib", "anywidget")  # their versions are kept
STATE = "application/vnd.jupyter.widget-state+json"


def notebooks(names: list[str]) -> list[Path]:
    """Return the notebooks whose name begins with one of ``names``, or all of them.

    >>> notebooks(["no such chapter"])
    Traceback (most recent call last):
    ...
    ValueError: no notebook begins with 'no such chapter'; there are: ...
    """
    found = sorted(BOOK.glob("*.ipynb")) + sorted((BOOK / "chapters").glob("*.ipynb"))
    for name in names:
        if not any(path.stem.startswith(name) for path in found):
            there = ", ".join(path.stem for path in found) or "none yet"
            raise ValueError(f"no notebook begins with {name!r}; there are: {there}")
    return [path for path in found if not names or path.stem.startswith(tuple(names))]


def execute(path: Path) -> tuple[NotebookNode, list[float]]:
    """Run a notebook in its own folder; return it with new outputs, and each cell's seconds.

    Raises ``RuntimeError`` naming the notebook and the cell that failed, with its traceback.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)
    seconds = [0.0] * len(notebook.cells)
    running, since = 0, time.monotonic()

    def start(cell: NotebookNode, cell_index: int) -> None:
        nonlocal running, since
        running, since = cell_index, time.monotonic()

    def stop(cell: NotebookNode, cell_index: int, execute_reply: object) -> None:
        seconds[cell_index] = time.monotonic() - since

    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(path.parent)}},
        store_widget_state=True,
        record_timing=False,
        coalesce_streams=True,
        on_cell_execute=start,
        on_cell_executed=stop,
    )
    try:
        client.execute(env={**os.environ, **KERNEL_ENVIRONMENT})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as problem:
        words = re.sub(r"\x1b\[[\d;]*m", "", str(problem))  # a traceback's colours
        raise RuntimeError(
            f"{path.stem}, cell {running} (counted from 0): the file is left as it was.\n{words}"
        ) from problem
    return notebook, seconds


def stamp(seconds: float) -> dict[str, object]:
    """Return when, how long and with what a notebook ran; the site says it on its page."""
    from effedu.bench import machine

    host = machine()
    return {
        "date": datetime.date.today().isoformat(),
        "seconds": round(seconds),
        "machine": f"{host['processor']}, {host['threads']} threads, {host['cpu_capability']}",
        "python": host["python"],
        **{name: importlib.metadata.version(name) for name in STAMPED},
    }


def clean(notebook: NotebookNode, name: str, stored: dict[str, object]) -> NotebookNode:
    """Return the notebook without what changes from run to run though nothing has changed."""
    kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    kept = {"kernelspec": kernelspec, "language_info": {"name": "python"}, "stored": stored}
    if "widgets" in notebook.metadata:
        kept["widgets"] = notebook.metadata["widgets"]
    notebook.metadata = nbformat.from_dict(kept)
    notebook.nbformat_minor = 5
    for number, cell in enumerate(notebook.cells):
        cell.metadata = nbformat.from_dict(
            {"tags": list(cell.metadata["tags"])} if cell.metadata.get("tags") else {}
        )
        cell.setdefault("id", hashlib.sha256(f"{name} {number}".encode()).hexdigest()[:8])
    text = nbformat.writes(notebook)
    for number, old in enumerate(widget_states(notebook)):
        # Kernels draw these ids at random. They stand in outputs, states and references alike.
        new = hashlib.sha256(f"{name} widget {number}".encode()).hexdigest()[:32]
        text = text.replace(old, new)
    return nbformat.reads(text, as_version=4)


def widget_states(notebook: NotebookNode) -> list[str]:
    """Return the ids of the stored widgets, in the order in which the notebook made them."""
    return list(notebook.metadata.get("widgets", {}).get(STATE, {}).get("state", {}))


def as_bytes(notebook: NotebookNode) -> bytes:
    """Return a notebook as its file holds it."""
    nbformat.validate(notebook)
    return (nbformat.writes(notebook) + "\n").encode()


def write(data: bytes, path: Path) -> bool:
    """Write a file in one move, so that nobody ever reads half of it; say if it changed."""
    if path.exists() and path.read_bytes() == data:
        return False
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        part.write(data)
    try:
        os.chmod(part.name, path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.replace(part.name, path)
    except OSError:
        os.unlink(part.name)
        raise
    return True


def store(path: Path) -> None:
    """Run and store one notebook, saying what it took; ``RuntimeError`` if a cell fails."""
    print(f"{path.stem}: running", flush=True)
    earlier = nbformat.read(path, as_version=4).metadata.get("stored")
    notebook, seconds = execute(path)
    # The stamp alone is no change: what comes out as before keeps the date of before.
    data = as_bytes(clean(copy.deepcopy(notebook), path.stem, earlier or {}))
    if data != path.read_bytes():
        data = as_bytes(clean(copy.deepcopy(notebook), path.stem, stamp(sum(seconds))))
    changed = write(data, path)
    total, longest = sum(seconds), max(seconds, default=0.0)
    late = f". LONGER THAN {LIMIT} s: make its experiments smaller" if total > LIMIT else ""
    print(
        f"{path.stem}: {total:.1f} s, the longest cell {longest:.1f} s, "
        f"{len(widget_states(notebook))} widget models, {path.stat().st_size / 1000:.0f} kB, "
        f"{'stored' if changed else 'nothing new'}{late}",
        flush=True,
    )


def main(arguments: list[str] | None = None) -> int:
    """Run and store the named notebooks, all of them if none is named; 0 if all went well."""
    parser = argparse.ArgumentParser(description="Run the book's notebooks and store the outputs.")
    parser.add_argument("names", nargs="*", help="chapters by number or name: 03 04_blocking")
    try:
        paths = notebooks(parser.parse_args(arguments).names)
    except ValueError as problem:
        parser.error(str(problem))
    failed = 0
    for path in paths:
        try:
            store(path)
        except RuntimeError as problem:
            failed += 1
            print(problem, file=sys.stderr, flush=True)
    print(f"{len(paths) - failed} stored, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
