"""``make notebooks`` stores the same bytes twice, keeps widgets, and never spoils a file."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import nbformat
import pytest
import torch

from effedu import widgets
from tools import notebooks

WIDGET = """
import anywidget, traitlets

class Counter(anywidget.AnyWidget):
    _esm = "export default { render() {} }"
    value = traitlets.Int(3).tag(sync=True)

    def __repr__(self):
        return "Counter()"

Counter()
"""


def write(path: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_stores_the_same_bytes_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "03_small.ipynb", "print(1 + 1)", WIDGET)
    notebooks.store(path)
    first = path.read_bytes()
    monkeypatch.setattr(notebooks, "stamp", lambda seconds: {"date": "of another day"})
    notebooks.store(path)
    assert path.read_bytes() == first  # nothing new came out, so the date stays as well
    assert "stored" in capsys.readouterr().out

    stored = json.loads(first)
    assert [cell["execution_count"] for cell in stored["cells"]] == [1, 2]
    assert stored["cells"][0]["outputs"][0]["text"] == ["2\n"]
    view = stored["cells"][1]["outputs"][0]["data"]["application/vnd.jupyter.widget-view+json"]
    state = stored["metadata"]["widgets"][notebooks.STATE]["state"][view["model_id"]]["state"]
    assert state["value"] == 3
    assert "render()" in state["_esm"]
    assert stored["metadata"]["language_info"] == {"name": "python"}
    stamp = stored["metadata"]["stored"]
    assert stamp["torch"] == torch.__version__
    assert datetime.date.fromisoformat(stamp["date"]) <= datetime.date.today()
    assert stamp["seconds"] >= 0
    assert list(tmp_path.iterdir()) == [path]


def test_failing_notebook_is_named_and_left_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "03_small.ipynb", "x = 1", "raise KeyError('a name of mine')")
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match=r"03_small, cell 1[^$]*a name of mine"):
        notebooks.store(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="no notebook begins with '99'; there are: "):
        notebooks.notebooks(["99"])


@pytest.mark.parametrize("path", notebooks.notebooks([]), ids=lambda path: path.stem)
def test_stored_widgets_run_the_code_of_the_package(path: Path) -> None:
    """The site runs what is stored: a widget changed since would reach no reader."""
    metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    models = metadata["widgets"][notebooks.STATE]["state"].values()
    stored = {state["_anywidget_id"]: state for m in models if "_esm" in (state := m["state"])}
    assert stored, "no widget is stored"
    for name, state in stored.items():
        widget = getattr(widgets, name.rpartition(".")[2])
        for kind in ("_esm", "_css"):
            same = state[kind] == str(getattr(widget, kind))
            assert same, f"{kind} of {name} is not today's: make notebooks NAMES={path.stem[:2]}"
