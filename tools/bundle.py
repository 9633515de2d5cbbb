"""One archive for a classroom without a network: ``make bundle``.

It holds the built site, the package with its model, all wheels that they need on this kind of
machine and Python, the chapters, the exercises for students, and a page that says how to use them.
``--check`` unpacks it where there is no network at all, installs it by its own words, runs a
chapter and loads the site.
"""

from __future__ import annotations

import argparse
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

from tools import exercises, site, wheel
from tools.pins import REQUIREMENTS, pinned

ROOT = site.ROOT
OUT = ROOT / "dist"
TOOLS = ("jupyterlab", "ipywidgets", "otter-grader")  # what a classroom uses beside the package

HOW_TO = """\
Efficient Transformers, Live: everything for a classroom without a network
===========================================================================

Made for {system}, Python {python}. Nothing here needs the internet.

To read the book
    python3 -m http.server --bind 127.0.0.1 --directory site 8000
    and open http://127.0.0.1:8000/ in a browser. Any web server can hand out the folder `site`.

To run the chapters and the exercises
    python3 -m venv venv
    venv/bin/python -m pip install --no-index --find-links wheels {wheel} {tools}
    venv/bin/python -m jupyterlab
    The chapters are in `chapters`, the exercises in `exercises`. Their first cells need nothing
    else; a cell that begins with %pip can be skipped.

On Windows it is venv\\Scripts\\python instead of venv/bin/python.
"""


def collect(folder: Path, wheels: bool = True) -> Path:
    """Lay out the bundle below ``folder``: return its own folder.

    ``wheels=False`` leaves out the wheels of others, half a gigabyte of them.
    """
    system = re.sub(r"\W+", "-", f"{platform.system()}-{platform.machine()}".lower())
    here = folder / f"effedu-{system}-py{sysconfig.get_python_version()}"
    problems = site.build()
    if problems:
        raise RuntimeError("the site was not built:\n" + "\n".join(problems))
    shutil.copytree(site.OUT, here / "site")
    package = wheel.build(here / "wheels")
    if wheels:
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--wheel-dir", package.parent]
        subprocess.run(
            [*command, "--constraint", REQUIREMENTS, package, *pinned(TOOLS)], check=True
        )
    shutil.copytree(site.BOOK / "chapters", here / "chapters", ignore=shutil.ignore_patterns(".*"))
    with tempfile.TemporaryDirectory() as scratch:
        exercises.build(Path(scratch))
        shutil.copytree(Path(scratch) / "student", here / "exercises")
    how_to = HOW_TO.format(
        system=f"{platform.system()} ({platform.machine()})",
        python=sysconfig.get_python_version(),
        wheel="effedu",
        tools=" ".join(pinned(TOOLS)),
    )
    (here / "README.txt").write_text(how_to, "utf-8")
    return here


def pack(folder: Path, archive: Path) -> None:
    """Write a folder as a zip file; wheels are compressed already and only stored."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    unfinished = archive.with_suffix(".part")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                kind = zipfile.ZIP_STORED if path.suffix == ".whl" else zipfile.ZIP_DEFLATED
                file.write(path, path.relative_to(folder.parent), compress_type=kind)
    unfinished.replace(archive)


# Follows the how-to, in a world of its own with nothing but this machine's loopback.
CHECK = r"""
set -euo pipefail
ip link set lo up
grep -qv "lo:" <(tail -n +3 /proc/net/dev) && { echo "there is a network"; exit 1; }
cd "$1"
{commands}
venv/bin/python -m nbconvert --to notebook --execute --stdout "chapters/$2.ipynb" > ran.ipynb
python3 -m http.server --bind 127.0.0.1 --directory site 8000 > /dev/null 2>&1 &
trap "kill $!" EXIT
for _ in $(seq 50); do
  venv/bin/python -c "
import urllib.request
page = urllib.request.urlopen('http://127.0.0.1:8000/').read()
assert b'Efficient Transformers, Live' in page" 2> /dev/null && exit 0
  sleep 0.2
done
echo "the site can't be loaded"; exit 1
"""


def instructions(text: str) -> list[str]:
    """The commands of the how-to that install; a check follows the page's own words."""
    return [
        line.strip() for line in text.splitlines() if " -m venv " in line or " install " in line
    ]


ALONE = ["unshare", "--net", "--map-root-user"]


def namespaces() -> bool:
    """Say whether this machine lets us make a world without a network."""
    return (
        shutil.which(ALONE[0]) is not None
        and subprocess.run([*ALONE, "true"], capture_output=True).returncode == 0
    )


def check(archive: Path, chapter: str) -> None:
    """Unpack, install, run a chapter and load the site without a network.

    Raises ``RuntimeError`` with what was printed when a step fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        with zipfile.ZipFile(archive) as file:
            file.extractall(scratch)
        (folder,) = Path(scratch).iterdir()
        commands = instructions((folder / "README.txt").read_text("utf-8"))
        script = CHECK.replace("{commands}", "\n".join(commands))
        command = [*ALONE, "bash", "-c", script, "check", str(folder), chapter]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the bundle doesn't work:\n{done.stdout}{done.stderr}"[-4000:])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.bundle", description=__doc__)
    parser.add_argument("--check", action="store_true", help="try it without a network (Linux)")
    options = parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            folder = collect(Path(scratch))
            archive = OUT / f"{folder.name}.zip"
            pack(folder, archive)
        print(f"{archive}: {archive.stat().st_size / 1e6:.0f} MB", flush=True)
        if options.check and not namespaces():
            print("Not tried: this machine has no network namespaces (unshare --net).")
        elif options.check:
            check(archive, "03_attention")
            print("Installed from it, ran a chapter and loaded the site, all without a network.")
    except (RuntimeError, subprocess.CalledProcessError) as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
