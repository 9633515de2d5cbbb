"""ParetoExplorer: what it accepts, where it starts, and what it says without scripts."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from effedu.widgets import ParetoExplorer


def row(*method, **changes):
    """One measurement, in the form in which the book's sweep stores them."""
    return {
        "method": list(method or ["blocking"]),
        "label": "block(128)",
        "call": "effedu.patched(lm.model, attention=block(128))",
        "phase": "read",
        "length": 8192,
        "time": 0.35,
        "memory": 0.6,
        "bits": 0.004,
        "agreement": 0.97,
        **changes,
    }


ROWS = [
    row("dense", label="dense", call="", time=1, memory=1, bits=0, agreement=1),
    row(rounds=9, noisy=False),
    row("blocking", "int8", label="both", time=0.2, memory=0.4, bits=0.02, agreement=0.9),
    row("int8", label="int8()", time=0.8, memory=None, bits=None, agreement=None),
    row(length=512, time=0.9),
    row(length=2048, phase="write", time=1.1, bits=-0.01),
]


def test_starts_as_asked_and_keeps_what_it_draws():
    explorer = ParetoExplorer(ROWS)
    assert (explorer.length, explorer.phase, explorer.quality, explorer.cost) == (
        8192,
        "read",
        "bits",
        "time",
    )
    assert (explorer.selected, explorer.hidden, explorer.machine) == ("", [], "")
    assert explorer.rows[1] == row(bits_length=8192)  # further keys are left out
    assert explorer.methods == ["dense", "blocking", "int8", "combinations"]
    assert repr(explorer) == (
        "ParetoExplorer(6 measurements, reading 8,192 tokens, bits per byte against time)"
    )
    other = ParetoExplorer(
        ROWS, length=2048, phase="write", quality="agreement", cost="memory", trained_length=4096
    )
    assert repr(other).endswith("writing 2,048 tokens, agreement against memory)")
    assert other.trained_length == 4096


def test_no_method_is_the_dense_model():
    assert ParetoExplorer([{**row(), "method": ()}]).methods == ["dense"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "rows must hold at least one measurement, got none"),
        ([{"label": "x"}], r"rows\[0\] must have method, .*, agreement, got \['label'\]"),
        ([{**row(), "method": "int8"}], r"rows\[0\]\['method'\] must be a list .* got 'int8'"),
        ([{**row(), "method": [""]}], r"rows\[0\]\['method'\] must be a list of different words"),
        ([row("int8", "int8")], r"rows\[0\]\['method'\] .* got \['int8', 'int8'\]"),
        ([row("combinations")], r"rows\[0\]\['method'\] .* other than 'combinations'"),
        ([row(label="")], r"rows\[0\]\['label'\] must be a word, got ''"),
        ([row(call=None)], r"rows\[0\]\['call'\] must be a line of Python as text, got None"),
        ([row(phase="both")], r"rows\[0\]\['phase'\] must be one of read, write; got 'both'"),
        ([row(length=0)], r"rows\[0\]\['length'\] must be an integer of at least 1, got 0"),
        ([row(), row(length=9, time=0)], r"rows\[1\]\['time'\] must be a number above 0, got 0"),
        ([row(time=None)], r"rows\[0\]\['time'\] must be a number above 0, got None"),
        ([row(memory=math.inf)], r"rows\[0\]\['memory'\] must be a number above 0, got inf"),
        ([row(memory=True)], r"rows\[0\]\['memory'\] must be a number above 0, got True"),
        ([row(bits=math.nan)], r"rows\[0\]\['bits'\] must be a number above -1, got nan"),
        ([row(bits=-1)], r"rows\[0\]\['bits'\] must be a number above -1, got -1"),
        ([row(agreement=97)], r"rows\[0\]\['agreement'\] must be a number from 0 to 1, got 97"),
        ([row(agreement="1")], r"rows\[0\]\['agreement'\] must be a number from 0 to 1, got '1'"),
        ([row(bits_length=0)], r"rows\[0\]\['bits_length'\] must be an integer of at least 1"),
        ([row(), row()], r"rows\[1\] must be a new point, got 'block\(128\)' at length 8192 in"),
    ],
)
def test_bad_rows(rows, message):
    with pytest.raises(ValueError, match=message):
        ParetoExplorer(rows)


def test_rows_are_mappings():
    # Behind an object that says nothing of its items: the shape checker would stop a list before.
    with pytest.raises(ValueError, match=r"rows\[0\] must be a mapping, got list"):
        ParetoExplorer(iter([[1, 2]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phase": "think"}, "phase must be one of read, write; got 'think'"),
        ({"length": 1024}, "length must be one of 512, 8192; got 1024"),
        ({"length": 512, "phase": "write"}, "length must be one of 2048; got 512"),
        ({"quality": "speed"}, "quality must be one of bits, agreement; got 'speed'"),
        ({"cost": "bits"}, "cost must be one of time, memory; got 'bits'"),
        ({"selected": "nobody"}, r"selected must be one of dense, block\(128\), both, int8\(\)"),
        ({"length": 512, "selected": "both"}, r"selected must be one of block\(128\); got 'both'"),
        ({"hidden": ["int4"]}, "hidden must be one of dense, blocking, int8, combinations; got"),
        ({"trained_length": 0}, "trained_length must be an integer of at least 1, got 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        ParetoExplorer(ROWS, **options)


def test_a_bad_change_is_refused():
    explorer = ParetoExplorer(ROWS)
    for name, value in [
        ("length", 1024),
        ("length", True),
        ("phase", "think"),
        ("quality", "speed"),
        ("cost", "bits"),
        ("selected", "nobody"),
        ("hidden", ["nobody"]),
    ]:
        before = getattr(explorer, name)
        with pytest.raises(ValueError, match=f"{name} must be one of"):
            setattr(explorer, name, value)
        assert getattr(explorer, name) == before
    explorer.selected, explorer.hidden = "both", ["int8", "combinations"]
    explorer.phase, explorer.length = "write", 2048
    assert repr(explorer).endswith("writing 2,048 tokens, bits per byte against time)")


def test_fallback_has_every_number_as_text():
    rows = [*ROWS, row("int8", label="<img src=x>", call="<b>")]
    text = ParetoExplorer(rows, machine="<img src=y>").fallback()
    assert "<img" not in text
    assert "<b>" not in text
    table = ElementTree.fromstring(text).find("table")
    cells = [[c.text or c[0].text for c in r] for r in table.find("tbody")]
    assert [c[0] for c in cells] == ["both", "block(128)", "<img src=x>", "int8()", "dense"]
    assert cells[1] == ["block(128)", "0.35", "0.60", "+0.40%", "97.0%", row()["call"]]
    assert cells[3][1:5] == ["0.80", "–", "–", "–"]
    assert "measured on texts" not in text
    assert text.count("<circle") == 4  # of int8() the bits per byte were not measured


def test_fallback_shows_what_is_not_hidden():
    explorer = ParetoExplorer(ROWS, hidden=["combinations", "dense"], cost="memory")
    text = explorer.fallback()
    assert text.count('<tr><th scope="row">') == 2
    assert "2 configurations, reading 8,192 tokens" in text
    assert text.count("<circle") == 1
    elsewhere = ParetoExplorer([row(bits_length=4096)]).fallback()
    assert "The last two were measured on texts of 4,096 tokens." in elsewhere
    explorer.hidden = explorer.methods
    assert "<circle" not in explorer.fallback()
