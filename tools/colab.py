"""Run the notebooks for Colab as a reader would: ``python -m tools.colab --reader python3.12``.

Publishes the book for an address on this machine, serves it there, makes a clean environment with
what Colab has before a notebook starts (the newest releases of it), and runs every edition from
top to bottom in it: each installs the package by its own first cell.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

from tools import notebooks, publish, site

# Colab's own packages that the book touches, in its words; `pip freeze` there lists hundreds more.
PREINSTALLED = ("ipykernel", "ipywidgets", "matplotlib", "numpy", "pandas", "torch", "transformers")
CELL_TIMEOUT = 600  # the first cell installs


def environment(folder: Path, reader: str) -> Path:
    """Make an environment below ``folder`` with Colab's packages; return its interpreter."""
    subprocess.run([reader, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    preinstall(python)
    spec = folder / "share" / "jupyter" / "kernels" / "reader" / "kernel.json"
    spec.parent.mkdir(parents=True)
    arguments = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": arguments, "display_name": "r", "language": "python"}))
    return python


def preinstall(python: Path) -> None:
    """Give an environment what Colab has before a notebook starts."""
    install = [str(python), "-m", "pip", "install", "--quiet", *PREINSTALLED]
    subprocess.run(install, check=True)


def run(edition: Path, python: Path, folder: Path) -> str:
    """Run one edition in an empty folder with that interpreter; return what went wrong, if so."""
    notebook = nbformat.read(edition, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="reader",
        resources={"metadata": {"path": str(folder)}},
    )
    paths = [str(python.parent.parent / "share" / "jupyter"), os.environ.get("JUPYTER_PATH", "")]
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, paths))
    # `%pip` runs the pip of the kernel; a site on loopback is one that pip would rather not trust.
    kernel = {
        **os.environ,
        **notebooks.KERNEL_ENVIRONMENT,
        "PATH": f"{python.parent}:/usr/bin:/bin",
    }
    try:
        client.execute(env=kernel)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as problem:
        return str(problem)
    return ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.colab", description=__doc__)
    parser.add_argument("names", nargs="*", help="only notebooks whose names begin so: 03 04")
    parser.add_argument("--reader", default=sys.executable, help="the reader's Python")
    options = parser.parse_args(arguments)
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "site"
        out.mkdir()
        with site.served(out) as address:
            found = publish.publish(address, out)
            python = environment(Path(scratch) / "reader", options.reader)
            version = subprocess.run([python, "-VV"], capture_output=True, text=True).stdout.strip()
            print(f"{len(found)} notebooks, {version}", flush=True)
            for path in found:
                if options.names and not path.stem.startswith(tuple(options.names)):
                    continue
                start = time.monotonic()
                with tempfile.TemporaryDirectory() as folder:
                    problem = run(path, python, Path(folder))
                seconds = time.monotonic() - start
                print(f"{path.parent.name}/{path.stem}: {'FAILED' if problem else 'ok'}, "
                      f"{seconds:.0f} s", flush=True)  # fmt: skip
                if problem:
                    wrong += 1
                    print(problem, file=sys.stderr, flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
