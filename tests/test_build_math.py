"""Formulas typeset while the site is built: for the eye, for screen readers, and then it ends."""

from __future__ import annotations

import subprocess
import sys

from tools import site

EXTENSIONS = site.BOOK / "_ext"


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"from build_math import typeset\n{code}"],
        cwd=EXTENSIONS,
        capture_output=True,
        text=True,
        timeout=60,  # the engine's own threads must not keep a process from ending
        check=True,
    )
    return done.stdout


def test_a_formula_becomes_html_with_mathml() -> None:
    made = run(r"print(typeset(r'\sqrt{d_k}', True))")
    assert made.startswith('<span class="katex-display">')
    assert "<msqrt>" in made


def test_what_katex_cannot_read_is_named() -> None:
    said = run("try: typeset('x^', False)\nexcept ValueError as error: print(error)")
    assert said.startswith("can't typeset 'x^': ParseError: ")
