"""``{exercise-list}``: the exercises with their points, to download or to open in Colab.

``tools.exercises`` makes the students' notebooks from the masters, which hold the solutions. A
build of the site makes them anew when a master has changed, and ships the students' alone.
"""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from lean_theme import colab_address
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from tools import exercises

FOLDER = "exercises"  # of the site


class ExerciseList(SphinxDirective):
    """The directive: a table with a row for each exercise."""

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # the masters change without this page
        rows = []
        points = json.loads((exercises.OUT / "points.json").read_text("utf-8"))
        for name, each in points.items():
            file = f"{FOLDER}/{name}.ipynb"
            colab = colab_address(self.env.app.config, file)
            links = f'<a href="{file}" download>Download</a>'
            if colab:
                links += f' · <a href="{html.escape(colab)}" rel="external">Open in Colab</a>'
            questions = "".join(
                f"<li>{html.escape(question['title'])} ({question['points']:g})</li>"
                for question in each["questions"]
            )
            rows.append(
                f'<tr id="exercise-{name[:2]}"><th scope="row">{html.escape(each["title"])}</th>'
                f"<td><ol>{questions}</ol></td><td>{each['total']:g}</td><td>{links}</td></tr>"
            )
        total = sum(each["total"] for each in points.values())
        head = "".join(
            f'<th scope="col">{name}</th>'
            for name in ("Exercise", "Questions, with points", "Points", "Notebook")
        )
        table = (
            f'<table class="exercise-list"><caption>{len(rows)} exercises, {total:g} points'
            f"</caption><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        )
        return [nodes.raw("", table, format="html")]


def students(folder: Path) -> list[Path]:
    """The students' notebooks below ``folder``, made again if a master is newer than its own."""
    tools = Path(exercises.__file__).parent.glob("exercise*.py")
    tool = max(path.stat().st_mtime for path in tools)
    made = [folder / "student" / master.name for master in exercises.masters()]
    for master, student in zip(exercises.masters(), made, strict=True):
        changed = max(master.stat().st_mtime, tool)
        if not student.exists() or student.stat().st_mtime < changed:
            exercises.build(folder)
            break
    return made


def ship_exercises(app: Sphinx) -> None:
    """Put the students' notebooks beside the pages, and nothing else of an exercise."""
    if app.builder.format == "html":
        target = Path(app.outdir) / FOLDER
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for notebook in students(exercises.OUT):
            shutil.copy(notebook, target)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("exercise-list", ExerciseList)
    app.connect("builder-inited", ship_exercises)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
