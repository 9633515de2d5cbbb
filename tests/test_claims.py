"""Claims, their verdicts, and reading them back from stored notebooks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

from effedu.claims import MIME, Claim, Verdict, collect

CLAIM = Claim("Blocks save <time> & memory.", section="3.2", experiment="Run & compare.")


def store(path: Path, *outputs: Any) -> Path:
    cells = [
        nbformat.v4.new_markdown_cell("no outputs here"),
        nbformat.v4.new_code_cell("claim", outputs=list(outputs)),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def shown(data: dict[str, Any]) -> Any:
    return nbformat.v4.new_output("display_data", data=data)


@pytest.mark.parametrize(
    ("holds", "when", "word"),
    [
        (True, "", "holds"),
        (True, "texts are long", "holds when"),
        (False, "", "fails"),
        (np.bool_(True), "", "holds"),
        (torch.tensor(False), "", "fails"),
    ],
)
def test_the_three_verdicts(holds: object, when: str, word: str) -> None:
    verdict = CLAIM.verdict("4.0x", holds=holds, when=when)
    assert verdict.verdict == word
    assert verdict.when == when
    assert f"claim-verdict-{word.replace(' ', '-')}" in verdict._repr_mimebundle_()["text/html"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.246813, "0.247"),
        (12.3456, "12.3"),
        (4, "4"),
        (8192, "8,192"),
        (1234.5, "1,230"),
        (999.6, "1,000"),
        (0.0, "0"),
        (np.float32(1.23456), "1.23"),
        (torch.tensor(2.71828), "2.72"),
        ("as it stands", "as it stands"),
    ],
)
def test_numbers_keep_three_digits(number: Any, text: str) -> None:
    assert CLAIM.verdict(number, holds=True).measured == text


def test_text_is_stable_and_complete() -> None:
    verdict = CLAIM.verdict(3.456, unit="x", holds=True, when="N > 1,000")
    assert repr(verdict) == (
        "Claim (article, section 3.2): Blocks save <time> & memory.\n"
        "Experiment: Run & compare.\n"
        "Measured:   3.46x\n"
        "Verdict:    holds when N > 1,000"
    )
    assert repr(Claim("Short.", section="1").verdict(1, holds=False)).count("\n") == 2


def test_html_escapes_every_text() -> None:
    bad = "<img src=x onerror=alert(1)>"
    claim = Claim(bad, section=bad, experiment=bad)
    bundle = claim.verdict(bad, holds=True, when=bad)._repr_mimebundle_()
    assert "<img" not in bundle["text/html"]
    assert bundle["text/html"].count("&lt;img") == 5
    assert bundle[MIME]["statement"] == bad


def test_collect_reads_back_what_a_kernel_stored(tmp_path: Path) -> None:
    source = (
        "from effedu.claims import Claim\n"
        "Claim('Blocks save time.', section='3.2').verdict(4.321, holds=True, unit='x')"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    root = Path(__file__).parents[1]
    NotebookClient(notebook, resources={"metadata": {"path": str(root)}}).execute()
    path = tmp_path / "03_attention.ipynb"
    nbformat.write(notebook, path)
    assert collect([path]) == [(path, Verdict("Blocks save time.", "3.2", "", "4.32x", "holds"))]


def test_collect_keeps_order_and_skips_other_outputs(tmp_path: Path) -> None:
    one, two = CLAIM.verdict(1, holds=True), CLAIM.verdict(2, holds=False)
    first = store(
        tmp_path / "a.ipynb",
        nbformat.v4.new_output("stream", text="hello"),
        shown(two._repr_mimebundle_()),
        shown({"text/plain": "no claim"}),
        shown(one._repr_mimebundle_()),
    )
    second, empty = (
        store(tmp_path / "b.ipynb", shown(one._repr_mimebundle_())),
        tmp_path / "c.ipynb",
    )
    store(empty)
    assert collect([str(second), empty, first]) == [(second, one), (first, two), (first, one)]


def test_collect_names_what_is_broken(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.ipynb cannot be read: No such file"):
        collect([tmp_path / "none.ipynb"])
    path = tmp_path / "a.ipynb"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"a\.ipynb is not valid JSON"):
        collect([path])
    path.write_text(json.dumps({"nbformat": 4}))
    with pytest.raises(ValueError, match=r"a\.ipynb has no list of cells"):
        collect([path])
    good = CLAIM.verdict(1, holds=True)._repr_mimebundle_()[MIME]
    for bad, message in (
        ("text", "must have the fields .*; got str"),
        ({k: v for k, v in good.items() if k != "section"}, "must have the fields experiment,"),
        ({**good, "measured": 3}, "must have text in measured"),
        ({**good, "verdict": "maybe"}, "is malformed: verdict must be one of holds, .*'maybe'"),
    ):
        store(path, shown({MIME: bad}))
        with pytest.raises(ValueError, match=rf"the claim in cell 2 of .*a\.ipynb {message}"):
            collect([path])


def test_bad_claims_and_verdicts() -> None:
    with pytest.raises(ValueError, match="statement must not be empty"):
        Claim(" ", section="1")
    with pytest.raises(ValueError, match="section must not be empty"):
        Claim("x", section="")
    with pytest.raises(ValueError, match="measured must not be empty"):
        CLAIM.verdict("", holds=True)
    with pytest.raises(ValueError, match="holds must be True or False, got 1"):
        CLAIM.verdict("x", holds=1)
    with pytest.raises(ValueError, match="when must be empty for a claim that fails, got 'rain'"):
        CLAIM.verdict("x", holds=False, when="rain")
    for value in (float("nan"), float("inf"), True):
        with pytest.raises(ValueError, match="measured must be text or a finite number"):
            CLAIM.verdict(value, holds=True)
    with pytest.raises(ValueError, match="when must be given with the verdict 'holds when' and"):
        Verdict("x", "1", "", "2", "holds when")
    with pytest.raises(ValueError, match="verdict must be one of holds, holds when, fails"):
        Verdict("x", "1", "", "2", "perhaps")
