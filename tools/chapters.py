"""What holds every chapter to the recipe (CONTRIBUTING.md): ``python -m tools.chapters 03``.

Each rule is a function from a chapter to the sentences that say what its author has to change;
no sentence means that the chapter keeps the rule. ``tests/test_chapters.py`` runs every rule over
every chapter, and proves on broken ones that each rule can fail.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from effedu.claims import MIME as CLAIM
from effedu.claims import WORDS

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = ROOT / "book" / "chapters"

# The ten parts, in this order, as second-level headings.
PARTS = (
    "The question",
    "The idea",
    "The maths",
    "Fifteen lines",
    "Predict, then run",
    "Touch it",
    "On trial",
    "Pitfalls",
    "Check yourself",
    "Summary",
)

# Which module a chapter is about, where it is not the one of its own name.
MODULES = {
    "background": "cost",
    "transformer": "lm",
    "project": "patch",
    "outlook": "claims",
}

TAGS = {
    "nbval-ignore-output": "times, pictures and widgets: nbval runs the cell, compares nothing",
    "remove-input": "the site shows the output alone",
    "hide-input": "the site folds the code away",
    "hide-output": "the site folds the output away",
    "prediction": "a question that the reader answers before going on",
}

PROSE = 2200  # words;  DESIGN asks for about 2,000
CELL_LINES = 25
CELL_WIDTH = 88
OUTPUT_LINES = 40
OUTPUT_CHARACTERS = 4000
SIZE = 1_000_000  # bytes of the stored notebook
SUMMARY_LINES = 5
ALT_WORDS = 4  # fewer than these describe no picture

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
IGNORE = "nbval-ignore-output"

# Words of a workshop and paths of a machine, which have no business in a book.
STRAY = re.compile(
    r"\b(?:TODO|FIXME|XXX|DESIGN\.md|article\.md|issue \d+|issue #\d+|(?:this|last|next) session)\b"
    r"|(?:/work|/tmp|/root|/home|/Users)/\w",
    re.IGNORECASE,
)
EMPTY_LINKS = {"here", "click here", "link", "this link", "this", "more", "read more"}


@dataclass(frozen=True)
class Chapter:
    """A stored notebook, and the repository in which its module, test and neighbours lie."""

    path: Path
    root: Path = ROOT

    @property
    def name(self) -> str:
        """Its name without the number: ``03_attention`` is about ``attention``."""
        return self.path.stem.partition("_")[2]

    @cached_property
    def notebook(self) -> dict[str, Any]:
        return json.loads(self.path.read_text("utf-8"))

    @cached_property
    def cells(self) -> list[Cell]:
        """Its cells, each with the part in which it stands."""
        cells, part = [], ""
        for number, raw in enumerate(self.notebook["cells"]):
            cell = Cell(number, raw, part)
            for heading in cell.headings():
                if heading[0] == 2:
                    part = heading[1]
            cells.append(Cell(number, raw, part))
        return cells

    @property
    def code(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.kind == "code" and cell.source.strip()]

    @property
    def prose(self) -> list[Cell]:
        return [cell for cell in self.cells if cell.kind == "markdown"]

    def part(self, name: str) -> list[Cell]:
        return [cell for cell in self.cells if cell.part == name]

    def text(self, name: str) -> str:
        """Return the Markdown of a part."""
        return "\n\n".join(cell.source for cell in self.part(name) if cell.kind == "markdown")


@dataclass(frozen=True)
class Cell:
    """A cell, its number (counted from 0) and the part of the chapter in which it stands."""

    number: int
    raw: dict[str, Any]
    part: str

    @property
    def kind(self) -> str:
        return str(self.raw["cell_type"])

    @property
    def source(self) -> str:
        return joined(self.raw["source"])

    @property
    def tags(self) -> list[str]:
        return list(self.raw.get("metadata", {}).get("tags", []))

    @property
    def outputs(self) -> list[dict[str, Any]]:
        return list(self.raw.get("outputs", []))

    def shown(self, mime: str) -> list[Any]:
        """Return what the outputs hold of one MIME type."""
        found = [output.get("data", {}).get(mime) for output in self.outputs]
        return [joined(data) for data in found if data is not None]

    def plain(self) -> str:
        """Return the prose: Markdown without blocks of code."""
        return re.sub(r"^(```|~~~).*?^\1", "", self.source, flags=re.DOTALL | re.MULTILINE)

    def headings(self) -> list[tuple[int, str]]:
        """Return level and text of each heading."""
        if self.kind != "markdown":
            return []
        found = re.findall(r"^(#{1,6}) +(.+?) *$", self.plain(), flags=re.MULTILINE)
        return [(len(marks), text) for marks, text in found]

    def __str__(self) -> str:
        first = next((line for line in self.source.splitlines() if line.strip()), "")
        return f"cell {self.number} ({first[:50]!r})"


def joined(text: Any) -> Any:
    """Return a notebook's text as one string: files may store it as a list of lines."""
    return "".join(text) if isinstance(text, list) else text


# --- the shape of a chapter ------------------------------------------------------------------


def names(chapter: Chapter) -> Iterator[str]:
    """``NN_name.ipynb`` goes with ``effedu/<module>.py`` and ``tests/test_<module>.py``."""
    if not re.fullmatch(r"\d\d_[a-z]+", chapter.path.stem):
        yield "name the file NN_name.ipynb: two digits, then one word in lower case"
        return
    module = MODULES.get(chapter.name, chapter.name)
    for file in (f"effedu/{module}.py", f"tests/test_{module}.py"):
        if not (chapter.root / file).exists():
            yield f"write {file}: a reader of {chapter.path.stem} looks for it there"
    if not any(
        re.search(rf"\beffedu\.{module}\b|\bfrom effedu import\b", c.source) for c in chapter.code
    ):
        yield f"use effedu.{module} in the chapter's code: it is the module of this chapter"


def contents(chapter: Chapter) -> Iterator[str]:
    """The chapter stands in the book's table of contents."""
    toc = chapter.root / "book" / "_toc.yml"
    entry = rf"^\s*- +file: +chapters/{chapter.path.stem}(?:\.ipynb)?\s*$"
    if not toc.exists() or not re.search(entry, toc.read_text("utf-8"), re.MULTILINE):
        yield f"add '- file: chapters/{chapter.path.stem}' to book/_toc.yml"


def title(chapter: Chapter) -> Iterator[str]:
    """The first line is the one first-level heading, with the file's number if any."""
    if not chapter.cells or not re.match(r"# +\S", chapter.cells[0].source):
        yield "begin the first cell with '# Title' or '# NN Title'"
        return
    tops = [text for cell in chapter.cells for level, text in cell.headings() if level == 1]
    if len(tops) != 1:
        yield f"keep one first-level heading, the title; there are {len(tops)}: {tops}"
    number = re.match(r"(\d+)\b", tops[0]) if tops else None
    if number and number[1] != chapter.path.stem[:2]:
        yield f"number the title like the file: {chapter.path.stem[:2]}, not {number[1]}"


def parts(chapter: Chapter) -> Iterator[str]:
    """The ten parts follow each other, each says something, and no level of heading is skipped."""
    headings = [heading for cell in chapter.cells for heading in cell.headings()]
    found = tuple(text for level, text in headings if level == 2)
    if found != PARTS:
        missing = [part for part in PARTS if part not in found]
        unknown = [part for part in found if part not in PARTS]
        yield (
            f"use the ten second-level headings of CONTRIBUTING.md in their order; missing: "
            f"{missing or 'none'}; unknown (make them third-level): {unknown or 'none'}; "
            f"found: {list(found)}"
        )
    for cell in chapter.cells:
        second = [text for level, text in cell.headings() if level == 2]
        if second and (len(second) > 1 or not cell.source.startswith("## ")):
            yield f"begin a new cell with '## {second[-1]}'"
    for part in found:
        body = re.sub(r"^#+ .*$", "", chapter.text(part), flags=re.MULTILINE)
        if len(body.split()) < 5:
            yield f"write something under '## {part}'"
    for (level, _), (deeper, text) in pairwise(headings):
        if deeper > level + 1:
            yield f"'{'#' * deeper} {text}' skips a level of heading"


def question(chapter: Chapter) -> Iterator[str]:
    """*The question* asks one, and says how long the chapter takes and what it builds on."""
    text = chapter.text("The question")
    if "?" not in text:
        yield "ask the chapter's question under '## The question', with a question mark"
    if not re.search(r"\bminutes?\b", text):
        yield "say under '## The question' how many minutes the chapter takes"
    if not re.search(r"prerequisite", text, re.IGNORECASE):
        yield "say under '## The question' what the prerequisites are ('Prerequisites: …')"


def fifteen_lines(chapter: Chapter) -> Iterator[str]:
    """*Fifteen lines* shows the plain code equal to effedu's function."""
    code = "\n".join(cell.source for cell in chapter.part("Fifteen lines") if cell.kind == "code")
    if "assert_close" not in code:
        yield "show the plain lines equal to effedu's function with torch.testing.assert_close"


def prediction(chapter: Chapter) -> Iterator[str]:
    """*Predict, then run* asks before it runs."""
    asked = False
    for cell in chapter.part("Predict, then run"):
        asked = asked or (cell.kind == "markdown" and "?" in cell.source)
        if cell.kind == "code":
            if not asked:
                yield f"ask the reader for a prediction before {cell} runs"
            return
    yield "put the experiment, a code cell, under '## Predict, then run'"


def touch(chapter: Chapter) -> Iterator[str]:
    """*Touch it* shows a widget, and every widget shown is stored with its state."""
    states = chapter.notebook["metadata"].get("widgets", {}).get(STATE, {}).get("state", {})
    for cell in chapter.code:
        for view in cell.shown(VIEW):
            state = states.get(view.get("model_id"), {}).get("state", {})
            if not str(state.get("_esm") or "").strip():
                yield f"store the widget of {cell} with its state: make notebooks"
    if not any(cell.shown(VIEW) for cell in chapter.part("Touch it")):
        yield "show a widget under '## Touch it' and store it: make notebooks"


def claim(chapter: Chapter) -> Iterator[str]:
    """*On trial* records a claim with its verdict, which the ledger collects."""
    claims = [shown for cell in chapter.part("On trial") for shown in cell.shown(CLAIM)]
    if not claims:
        yield "end '## On trial' with a cell that shows Claim(…).verdict(…)"
    for each in claims:
        each = json.loads(each) if isinstance(each, str) else each
        for key in ("statement", "section", "measured", "verdict"):
            if not str(each.get(key) or "").strip():
                yield f"give the claim {each.get('statement')!r} its {key}"
        if each.get("verdict") not in WORDS:
            yield f"let the verdict be one of {', '.join(WORDS)}, not {each.get('verdict')!r}"


def questions(chapter: Chapter) -> Iterator[str]:
    """*Check yourself* has three questions, their answers folded, and links to the exercise."""
    text = chapter.text("Check yourself")
    folded = re.findall(r"<details>(.*?)</details>", text, flags=re.DOTALL)
    if len(folded) != 3 or text.count("<details") != 3:
        yield f"fold three answers with <details> under '## Check yourself'; found {len(folded)}"
    for answer in folded:
        summary = re.match(r"\s*<summary>(.+?)</summary>(\n[ \t]*\n)?", answer, flags=re.DOTALL)
        if not summary:
            yield "begin each <details> with a <summary>, so that there is something to click"
        elif not summary[2]:
            yield "leave an empty line after </summary>: Markdown in the answer needs it"
    # Not to the notebook beside the chapters: that is the master, with the solutions.
    exercise = chapter.root / "book" / "exercises" / chapter.path.name
    if exercise.exists() and "](../exercises.md" not in text:
        yield "link to the exercise at the end of '## Check yourself': ../exercises.md"
    if "../exercises/" in text:
        yield "link to ../exercises.md: the notebooks in ../exercises hold the solutions"


def summary(chapter: Chapter) -> Iterator[str]:
    """*Summary* keeps to five lines, then comes further reading."""
    text = re.sub(r"^## .*$", "", chapter.text("Summary"), flags=re.MULTILINE)
    lines, _, reading = re.sub("further reading", "\0", text, flags=re.IGNORECASE).partition("\0")
    count = sum(1 for line in lines.splitlines() if re.search(r"\w", line))
    if not 1 <= count <= SUMMARY_LINES:
        yield f"sum up in at most {SUMMARY_LINES} lines before the further reading, not {count}"
    if not re.search(r"\w", reading):
        yield "end the summary with '### Further reading': each with one line on why"


# --- what a reader can take in ---------------------------------------------------------------


def count_words(chapter: Chapter) -> int:
    """Return the number of words of prose: no code, formulas, tags or addresses."""
    total = 0
    for cell in chapter.prose:
        text = re.sub(r"\$\$.*?\$\$", " ", cell.plain(), flags=re.DOTALL)
        text = re.sub(r"\$[^$\n]+\$|`[^`\n]+`|<[^>]+>|\]\([^)]*\)", " ", text)
        total += sum(1 for word in text.split() if re.search(r"\w", word))
    return total


def words(chapter: Chapter) -> Iterator[str]:
    """About 2,000 words, and no more than 2,200."""
    count = count_words(chapter)
    if count > PROSE:
        yield f"cut the prose from {count} words to about 2000 (at most {PROSE})"


def cell_size(chapter: Chapter) -> Iterator[str]:
    """Code cells fit a small window: 25 lines of 88 characters."""
    for cell in chapter.code:
        lines = cell.source.splitlines()
        if len(lines) > CELL_LINES:
            yield f"split {cell}: {len(lines)} lines, at most {CELL_LINES}"
        for number, line in enumerate(lines, 1):
            if len(line) > CELL_WIDTH:
                yield f"break line {number} of {cell}: {len(line)} characters, not {CELL_WIDTH}"


def output_size(chapter: Chapter) -> Iterator[str]:
    """No wall of output: at most 40 lines and 4,000 characters of text a cell."""
    for cell in chapter.code:
        text = ""
        for output in cell.outputs:
            data = output.get("data", {})
            text += joined(output.get("text", ""))
            if set(data) <= {"text/plain"}:  # else the page shows something better than this
                text += joined(data.get("text/plain", ""))
        if len(text.splitlines()) > OUTPUT_LINES or len(text) > OUTPUT_CHARACTERS:
            yield (
                f"print less in {cell}: {len(text.splitlines())} lines, {len(text)} characters "
                f"(at most {OUTPUT_LINES} and {OUTPUT_CHARACTERS})"
            )


def file_size(chapter: Chapter) -> Iterator[str]:
    """The stored notebook stays under 1 MB."""
    size = chapter.path.stat().st_size
    if size >= SIZE:
        yield f"make the stored notebook smaller than 1 MB; it has {size / 1e6:.2f} MB"


# --- what everybody can read -----------------------------------------------------------------


def alt_texts(chapter: Chapter) -> Iterator[str]:
    """Every picture, printed or linked, says in words what it shows."""
    for cell in chapter.code:
        for mime in ("image/png", "image/jpeg", "image/svg+xml"):
            if cell.shown(mime):
                yield (
                    f"{cell} shows a bare {mime}: draw with effedu.plots.figure_svg(fig, alt='…'), "
                    "which keeps a description with the picture, and lines sharp in both themes"
                )
        for html in cell.shown("text/html"):
            for picture in re.finditer(r"<(svg|img)\b([^>]*)>", html):
                if not described(picture[1], picture[2], html[picture.end() :]):
                    yield f"describe the picture of {cell} in words: pass alt='…'"
    for cell in chapter.prose:
        for alt in re.findall(r"!\[([^\]]*)\]\(", cell.plain()):
            if len(alt.split()) < ALT_WORDS:
                yield f"say in {cell} what the picture shows: ![…](…) with some words, not {alt!r}"
        for attributes in re.findall(r"<img\b([^>]*)>", cell.plain()):
            if not described("img", attributes, ""):
                yield f"give the <img> of {cell} an alt text"


def described(tag: str, attributes: str, rest: str) -> bool:
    """Say whether a picture has a description, or is marked as decoration."""
    if re.search(r"aria-hidden=[\"']true|role=[\"'](?:presentation|none)", attributes):
        return True
    found = re.search(r"(?:aria-label|alt)=(?:\"([^\"]*)\"|'([^']*)')", attributes)
    text = (found[1] or found[2] or "") if found else ""
    if tag == "svg" and not text:
        label = re.search(r"aria-labelledby=[\"']([^\s\"']+)", attributes)
        place = (
            rf"<\w+\b[^>]*\bid=[\"']{re.escape(label[1])}[\"'][^>]*>" if label else "<title[^>]*>"
        )
        inside = re.search(rf"{place}([^<]*)<", rest.partition("</svg>")[0])
        text = inside[1] if inside else ""
    return len(text.split()) >= ALT_WORDS


def both_themes(chapter: Chapter) -> Iterator[str]:
    """What a plot writes on a coloured patch is read on a dark page too."""
    for cell in chapter.code:
        for black in re.findall(r"color=.*(\"(?:black|k|#000|#000000)\")", cell.source):
            yield (
                f"write '#111111' instead of {black} in {cell}: figure_svg turns black into the "
                "colour of the page's text, which is white in the dark"
            )


def links(chapter: Chapter) -> Iterator[str]:
    """Links have words, lead somewhere, and load nothing from elsewhere into the page."""
    for cell in chapter.prose:
        text = re.sub(r"`[^`\n]+`", "", cell.plain())
        for bang, label, target in re.findall(r"(!?)\[([^\]]*)\]\(([^)\s]+)[^)]*\)", text):
            if not bang and (not label.strip() or label.strip().lower() in EMPTY_LINKS):
                yield f"say in {cell} where the link leads: {target} is called {label!r}"
            if bang and re.match(r"https?:|//", target):
                yield f"{cell} loads a picture from {target}: keep it in the book"
            if target.startswith("http://"):
                yield f"link in {cell} to https, not {target}"
            if not re.match(r"[a-z]+:|#", target):
                file = (chapter.path.parent / target.partition("#")[0]).resolve()
                if not file.exists():
                    yield f"{cell} links to {target}, which does not exist"
        bare = re.sub(r"\]\([^)]*\)|(?:href|src)=[\"'][^\"']*[\"']", "", text)
        for address in re.findall(r"https?://[^\s)>\"']+", bare):
            yield f"give {address} in {cell} a text: [what it is]({address})"


def markdown(chapter: Chapter) -> Iterator[str]:
    """Markdown that Colab, JupyterLab and the site render alike: no MyST in notebooks."""
    only_site = {
        r"^:::": "a ::: block",
        r"^(```|~~~)\{": "a ```{directive}",
        r"\{[a-z][\w:.-]*\}`": "a {role}`…`",
        r"^\([\w-]+\)=\s*$": "a (label)= target",
        r"\$\$[ \t]*\([\w:-]+\)": "a label behind $$",
        r"^\+\+\+": "a +++ break",
        r"\{\{.*?\}\}": "a {{ substitution }}",
        r"\\\(|\\\[": r"\( or \[ (write $ and $$)",
    }
    for cell in chapter.prose:
        for pattern, what in only_site.items():
            text = cell.source if "`" in pattern else cell.plain()
            if re.search(pattern, text, flags=re.MULTILINE):
                yield f"{cell} has {what}: plain Markdown only, other readers show it raw"
        if cell.plain().count("$$") % 2:
            yield f"{cell} opens a $$ that it does not close"


def stray_words(chapter: Chapter) -> Iterator[str]:
    """No notes to oneself, no paths of one's own machine, in text, code or output."""
    for cell in chapter.cells:
        shown = "".join(joined(output.get("text", "")) for output in cell.outputs)
        shown += "".join(str(shown) for shown in cell.shown("text/plain"))
        found = STRAY.search(cell.source) or STRAY.search(shown)
        if found:
            yield f"take {found[0]!r} out of {cell}"
        if re.search(r"pip install\s+(?:-\S+\s+)*effedu\b", cell.source):
            yield f"{cell} installs effedu from an index where the name is not ours"


# --- what is true ----------------------------------------------------------------------------


def equations(chapter: Chapter) -> Iterator[str]:
    """A displayed equation is followed by the function that computes it, which a test knows.

    Behind ``$$…$$``, in the same cell and before the next, stands `` `effedu.module.function` ``
    in backticks; or a comment says why nothing computes it: ``<!-- not computed: … -->``.
    """
    for cell in chapter.prose:
        pieces = re.split(r"\$\$.*?\$\$", cell.plain(), flags=re.DOTALL)
        for behind in pieces[1:]:
            if re.search(r"<!-- not computed: \S.*?-->", behind, flags=re.DOTALL):
                continue
            found = re.findall(r"`(effedu(?:\.\w+)+)(?:\([^`]*\))?`", behind)
            if not found:
                yield (
                    f"name behind each $$…$$ of {cell} the function that computes it, "
                    "`effedu.module.function`, or say <!-- not computed: why -->"
                )
            for name in found:
                yield from implemented(name, chapter)


def implemented(name: str, chapter: Chapter) -> Iterator[str]:
    """Yield what is wrong with ``effedu.module.function``: it must exist, and a test use it."""
    module, _, function = name.rpartition(".")
    try:
        there = hasattr(importlib.import_module(module), function)
    except ImportError:
        there = False
    if not there or module == "effedu":
        yield f"`{name}` is no function: write `effedu.module.function` as one imports it"
        return
    test = chapter.root / "tests" / f"test_{module.rpartition('.')[2]}.py"
    if not test.exists() or not re.search(rf"\b{function}\b", test.read_text("utf-8")):
        yield f"hold `{name}` to its equation in tests/{test.name}: it does not mention {function}"


def stored(chapter: Chapter) -> Iterator[str]:
    """Every code cell has run, from top to bottom, without an error, and is stored clean."""
    counts = [cell.raw.get("execution_count") for cell in chapter.code]
    if counts != list(range(1, len(counts) + 1)):
        yield f"run the notebook from top to bottom and store it: make notebooks; counts {counts}"
    for cell in chapter.code:
        for output in cell.outputs:
            if output["output_type"] == "error":
                yield f"{cell} stops with {output['ename']}: show an error with try and except"
            if output.get("name") == "stderr":
                yield f"{cell} writes to stderr: {joined(output['text'])[:80]!r}"
        if "execution" in cell.raw.get("metadata", {}):
            yield f"{cell} carries times of execution: make notebooks takes them out"
    if chapter.notebook["metadata"].get("kernelspec", {}).get("name") != "python3":
        yield "store the notebook with the kernel 'python3': make notebooks"


def tags(chapter: Chapter) -> Iterator[str]:
    """Only the tags listed in CONTRIBUTING.md, and none of nbval's as comments."""
    for cell in chapter.cells:
        for tag in set(cell.tags) - set(TAGS):
            yield f"{cell} has the unknown tag {tag!r}; there are {', '.join(TAGS)}"
        if re.search(r"^\s*#\s*(?:NBVAL|PYTEST_VALIDATE)_", cell.source, flags=re.MULTILINE):
            yield f"{cell} speaks to nbval in a comment: use the tag {IGNORE}"


def asserted(chapter: Chapter) -> Iterator[str]:
    """A cell whose output nbval does not compare asserts what it says, or only draws."""
    for cell in chapter.code:
        if IGNORE in cell.tags and not only_draws(cell) and not asserts(cell.source):
            yield (
                f"{cell} prints what nbval does not compare: assert in the same cell what holds of "
                f"it, or print rounded values and drop the tag {IGNORE}"
            )


def only_draws(cell: Cell) -> bool:
    """Say whether every output is a picture, a widget, a table or a claim, and none is text."""
    rich = {"text/html", VIEW, CLAIM}
    return all(rich & set(output.get("data", {})) for output in cell.outputs)


def asserts(source: str) -> bool:
    """Say whether code has an ``assert``, or calls a function whose name says that it does."""
    plain = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith("%"))
    for node in ast.walk(ast.parse(plain)):
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name.startswith("assert_"):
                return True
    return False


Rule = Callable[[Chapter], Iterator[str]]
RULES: tuple[Rule, ...] = (
    names,
    contents,
    title,
    parts,
    question,
    fifteen_lines,
    prediction,
    touch,
    claim,
    questions,
    summary,
    words,
    cell_size,
    output_size,
    file_size,
    alt_texts,
    both_themes,
    links,
    markdown,
    stray_words,
    equations,
    stored,
    tags,
    asserted,
)


def main(arguments: list[str] | None = None) -> int:
    """Print what the named chapters, or all, have to change; 0 if nothing."""
    parser = argparse.ArgumentParser(description="Hold chapters to the recipe.")
    parser.add_argument("names", nargs="*", help="chapters by number or name: 03 04_blocking")
    wanted = tuple(parser.parse_args(arguments).names)
    problems = 0
    for path in sorted(CHAPTERS.glob("*.ipynb")):
        if wanted and not path.stem.startswith(wanted):
            continue
        chapter = Chapter(path)
        print(f"{path.stem}: {count_words(chapter)} words, {path.stat().st_size / 1000:.0f} kB")
        for rule in RULES:
            for problem in rule(chapter):
                problems += 1
                print(f"  {rule.__name__}: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
