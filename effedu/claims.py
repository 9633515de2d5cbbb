"""A claim on trial: what the article says, what an experiment measured, and the verdict.

A chapter shows a verdict as the last value of a cell. Besides text and HTML the output then holds
the verdict as data, and the ledger page reads it back from the stored notebook (:func:`collect`),
so that no number is ever typed twice.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, SupportsFloat

MIME = "application/vnd.effedu.claim+json"
WORDS = ("holds", "holds when", "fails")

# Enough to read as a card where the site's own style sheet is absent (Colab, JupyterLab). Every
# colour is a variable of the page, or the text's own.
_STYLE = """<style>
.claim { border: 1px solid; border-color: var(--pst-color-border, currentColor);
  border-left-width: 4px; border-radius: 4px; padding: 0.75em 1em; max-width: 45em; margin: 0 }
.claim p { margin: 0 0 0.5em } .claim dl { margin: 0; display: grid;
  grid-template-columns: max-content 1fr; gap: 0.25em 1em }
.claim dt { font-weight: 600 } .claim dd { margin: 0 }
</style>"""


@dataclass(frozen=True)
class Verdict:
    """What came of a claim. Made by :meth:`Claim.verdict`; displays as a card in a notebook."""

    statement: str
    section: str
    experiment: str
    measured: str
    verdict: str  # one of WORDS
    when: str = ""

    def __post_init__(self) -> None:
        for name in ("statement", "section", "measured"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} must not be empty")
        if self.verdict not in WORDS:
            raise ValueError(f"verdict must be one of {', '.join(WORDS)}; got {self.verdict!r}")
        if bool(self.when) != (self.verdict == "holds when"):
            raise ValueError(
                f"when must be given with the verdict 'holds when' and only then; "
                f"got {self.when!r} with {self.verdict!r}"
            )

    def _rows(self) -> list[tuple[str, str]]:
        verdict = f"{self.verdict} {self.when}".strip()
        rows = [("Experiment", self.experiment), ("Measured", self.measured), ("Verdict", verdict)]
        return [(name, text) for name, text in rows if text]

    def __repr__(self) -> str:
        lines = [f"Claim (article, section {self.section}): {self.statement}"]
        return "\n".join(lines + [f"{name + ':':<12}{text}" for name, text in self._rows()])

    def _html(self) -> str:
        kind = self.verdict.replace(" ", "-")
        rows = "".join(
            f'<dt>{name}</dt><dd class="claim-{name.lower()}">{html.escape(text)}</dd>'
            for name, text in self._rows()
        )
        return (
            f'{_STYLE}<div class="claim claim-verdict-{kind}">'
            f'<p class="claim-statement"><strong>{html.escape(self.statement)}</strong> '
            f'<span class="claim-section">(article, section {html.escape(self.section)})</span></p>'
            f"<dl>{rows}</dl></div>"
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        return {"text/plain": repr(self), "text/html": self._html(), MIME: asdict(self)}


@dataclass(frozen=True)
class Claim:
    """A statement of the article that an experiment can judge.

    Args:
        statement: the claim in our own words, plain text.
        section: the article's section, such as ``"4.3"``.
        experiment: how it was tested, in one sentence; optional.

    >>> claim = Claim("Blocking cuts the time to a quarter.", section="4.3")
    >>> claim.verdict(0.2468, holds=True, when="the text is longer than 1,000 tokens")
    Claim (article, section 4.3): Blocking cuts the time to a quarter.
    Measured:   0.247
    Verdict:    holds when the text is longer than 1,000 tokens
    """

    statement: str
    section: str
    experiment: str = ""

    def __init__(self, statement: str, *, section: str, experiment: str = "") -> None:
        for name, text in (("statement", statement), ("section", section)):
            if not text.strip():
                raise ValueError(f"{name} must not be empty")
        for name, text in zip(self.__annotations__, (statement, section, experiment), strict=True):
            object.__setattr__(self, name, text)  # frozen, so not by plain assignment

    def verdict(
        self, measured: str | SupportsFloat, *, holds: object, when: str = "", unit: str = ""
    ) -> Verdict:
        """Pass judgement: *holds*, *holds when* (if ``when`` is given) or *fails*.

        Args:
            measured: the number, kept to three digits so that other processors agree, or a text
                that contains the rounded numbers.
            holds: whether the measurement bears the claim out.
            when: the condition under which it holds; only for claims that hold.
            unit: written after a number, such as ``"x"`` or ``" bits per byte"``.

        Raises:
            ValueError: an empty or NaN measurement, ``holds`` not a truth value, or a condition
                on a claim that fails.
        """
        if hasattr(holds, "item"):  # a NumPy or PyTorch truth value
            holds = holds.item()
        if not isinstance(holds, bool):
            raise ValueError(f"holds must be True or False, got {holds!r}")
        if when and not holds:
            raise ValueError(f"when must be empty for a claim that fails, got {when!r}")
        word = "fails" if not holds else "holds when" if when else "holds"
        text = measured if isinstance(measured, str) else _three_digits(measured)
        return Verdict(self.statement, self.section, self.experiment, text + unit, word, when)


def _three_digits(number: SupportsFloat) -> str:
    """A number as text with three significant digits: ``1234.5`` as ``1,230``."""
    if hasattr(number, "item"):
        number = number.item()
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError(f"measured must be text or a finite number, got {number!r}")
    if isinstance(number, int):
        return f"{number:,}"
    rounded = float(f"{number:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:.3g}"


def collect(notebooks: Iterable[Path | str]) -> list[tuple[Path, Verdict]]:
    """Read every verdict from the stored outputs of notebooks, in order, running nothing.

    Args:
        notebooks: paths of ``.ipynb`` files.

    Returns:
        ``(notebook, verdict)`` pairs; a notebook without verdicts adds none.

    Raises:
        ValueError: a file that is missing, is not a notebook, or holds a malformed verdict.

    >>> collect([])
    []
    """
    found = []
    for notebook in map(Path, notebooks):
        try:
            content = json.loads(notebook.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"notebook {notebook} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"notebook {notebook} is not valid JSON: {error}") from error
        if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
            raise ValueError(f"notebook {notebook} has no list of cells")
        for number, cell in enumerate(content["cells"], start=1):
            for output in cell.get("outputs", []):
                if MIME in output.get("data", {}):
                    found.append((notebook, _parse(output["data"][MIME], notebook, number)))
    return found


def _parse(data: object, notebook: Path, number: int) -> Verdict:
    names = {field.name for field in fields(Verdict)}
    where = f"the claim in cell {number} of {notebook}"
    if not isinstance(data, dict) or set(data) != names:
        got = ", ".join(sorted(data)) if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"{where} must have the fields {', '.join(sorted(names))}; got {got}")
    not_text = [name for name in sorted(names) if not isinstance(data[name], str)]
    if not_text:
        raise ValueError(f"{where} must have text in {', '.join(not_text)}")
    try:
        return Verdict(**data)
    except ValueError as error:
        raise ValueError(f"{where} is malformed: {error}") from error
