"""Every chapter keeps the recipe of CONTRIBUTING.md, and every rule of it is able to fail."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.chapters import (
    CHAPTERS,
    CLAIM,
    PARTS,
    PROSE,
    ROOT,
    RULES,
    STATE,
    TAGS,
    VIEW,
    Chapter,
    Rule,
    asserts,
    count_words,
)

FOUND = sorted(CHAPTERS.glob("*.ipynb"))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", FOUND, ids=lambda path: path.stem)
def test_chapter_keeps_the_rule(path: Path, rule: Rule) -> None:
    problems = list(rule(Chapter(path)))
    assert not problems, "\n".join([f"{path.stem}, {rule.__doc__}", *problems])


def test_there_are_chapters() -> None:
    assert FOUND, f"no notebook below {CHAPTERS}"


def test_contributing_names_the_parts_and_the_tags() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    at = [guide.find(f"`## {part}`") for part in PARTS]
    assert -1 not in at, f"not in CONTRIBUTING.md: {PARTS[at.index(-1)]}"
    assert at == sorted(at)
    for tag in TAGS:
        assert f"`{tag}`" in guide, f"tag not in CONTRIBUTING.md: {tag}"


# --- every rule is able to fail: a sound little chapter, broken in one way at a time -------------

Notebook = dict[str, Any]
WIDGET = "0" * 32
LABELLED = '<svg aria-labelledby="t"><title id="t">Arcs show where a word looks</title></svg>'
SVG = '<svg role="img" aria-label="Time grows with the square of the length"><path/></svg>'


def text(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": "m", "metadata": {}, "source": source}


def code(source: str, *outputs: dict[str, Any], tags: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "cell_type": "code",
        "id": "c",
        "metadata": {"tags": list(tags)} if tags else {},
        "source": source,
        "outputs": list(outputs),
        "execution_count": 0,
    }


def display(**data: Any) -> dict[str, Any]:
    named = {key.replace("__", "/"): value for key, value in data.items()}
    return {"output_type": "display_data", "metadata": {}, "data": named}


def printed(words: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": "stdout", "text": words}


def sound() -> Notebook:
    """Return a chapter that keeps every rule."""
    claim = {"statement": "It is fast", "section": "3.2", "measured": "3x", "verdict": "holds"}
    answers = "\n\n".join(
        f"{number}. Why?\n\n<details><summary>Answer</summary>\n\nBecause.\n\n</details>"
        for number in (1, 2, 3)
    )
    cells = [
        text("# 03 Attention\n\nA chapter about looking at other words."),
        text(
            "## The question\n\nWhere does a word look? You will compute it in 40 minutes. "
            "Prerequisites: matrix products."
        ),
        text("## The idea\n\nEach word asks every word before it."),
        code(
            "plots.figure_svg(fig, alt='Time')",
            display(text__html=SVG + LABELLED),
            tags=("nbval-ignore-output",),
        ),
        text(
            "## The maths\n\nWeights are a softmax over scores.\n\n$$A = QK^T$$\n\n"
            "`effedu.attention.attention` computes it.\n\n$$e_{ij} = k_i$$\n\n"
            "<!-- not computed: quoted from the article -->"
        ),
        text("## Fifteen lines\n\nNow the same thing in plain code."),
        code(
            "from effedu.attention import attention\ntorch.testing.assert_close(ours, theirs)\n"
            "print(0.123)",
            printed("0.123\n"),
        ),
        text("## Predict, then run\n\nDo you think that it grows? Write it down."),
        code("assert ratio > 1\nprint(ratio)", printed("3.2\n"), tags=("nbval-ignore-output",)),
        text("## Touch it\n\nMove the block size and watch the pairs."),
        code(
            "PatternExplorer()",
            {**display(), "data": {VIEW: {"model_id": WIDGET}}},
            tags=("nbval-ignore-output",),
        ),
        text("## On trial\n\nThe article says that it is fast."),
        code("verdict", {**display(), "data": {CLAIM: claim, "text/plain": "It is fast: holds"}}),
        text("## Pitfalls\n\nA mask of the wrong shape raises an error."),
        text(f"## Check yourself\n\nThree questions for a quiet minute.\n\n{answers}"),
        text(
            "## Summary\n\n- Attention compares every pair of words.\n\n### Further reading\n\n"
            "- [Attention is all you need](https://arxiv.org/abs/1706.03762): the beginning."
        ),
    ]
    for count, cell in enumerate((cell for cell in cells if cell["cell_type"] == "code"), 1):
        cell["execution_count"] = count
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "widgets": {STATE: {"state": {WIDGET: {"state": {"_esm": "export default {}"}}}}},
    }
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def at(notebook: Notebook, start: str) -> dict[str, Any]:
    """Return the cell that begins with ``start``."""
    return next(cell for cell in notebook["cells"] if cell["source"].startswith(start))


def rewrite(start: str, old: str, new: str) -> Callable[[Notebook], None]:
    """Return a change of words in the cell that begins with ``start``."""

    def change(notebook: Notebook) -> None:
        cell = at(notebook, start)
        assert old in cell["source"], "the change has to change something"
        cell["source"] = cell["source"].replace(old, new)

    return change


def add(start: str, more: str) -> Callable[[Notebook], None]:
    """Return a change that appends to the cell that begins with ``start``."""

    def change(notebook: Notebook) -> None:
        at(notebook, start)["source"] += more

    return change


def output(start: str, **data: Any) -> Callable[[Notebook], None]:
    """Return a change of what the code cell that begins with ``start`` shows."""

    def change(notebook: Notebook) -> None:
        at(notebook, start)["outputs"] = [display(**data)]

    return change


def prints(start: str, words: str) -> Callable[[Notebook], None]:
    """Return a change of what the code cell that begins with ``start`` prints."""

    def change(notebook: Notebook) -> None:
        at(notebook, start)["outputs"] = [printed(words)]

    return change


def tagged(start: str, *names: str) -> Callable[[Notebook], None]:
    """Return a change of the tags of the cell that begins with ``start``."""

    def change(notebook: Notebook) -> None:
        at(notebook, start)["metadata"]["tags"] = list(names)

    return change


def swap_parts(notebook: Notebook) -> None:
    cells = notebook["cells"]
    one, two = cells.index(at(notebook, "## Pitfalls")), cells.index(at(notebook, "## Check"))
    cells[one], cells[two] = cells[two], cells[one]


def merge_parts(notebook: Notebook) -> None:
    pitfalls = at(notebook, "## Pitfalls")
    notebook["cells"].remove(pitfalls)
    at(notebook, "## Check")["source"] = (
        f"{pitfalls['source']}\n\n{at(notebook, '## Check')['source']}"
    )


def run_before_asking(notebook: Notebook) -> None:
    cells = notebook["cells"]
    cells.insert(cells.index(at(notebook, "## Touch")), text("Did you expect this?"))
    rewrite("## Predict", "Do you think that it grows? ", "")(notebook)


def no_experiment(notebook: Notebook) -> None:
    notebook["cells"].remove(at(notebook, "assert ratio"))


def no_widget(notebook: Notebook) -> None:
    notebook["cells"].remove(at(notebook, "PatternExplorer"))


def no_state(notebook: Notebook) -> None:
    del notebook["metadata"]["widgets"]


def no_module_text(notebook: Notebook) -> None:
    notebook["metadata"]["widgets"][STATE]["state"][WIDGET]["state"]["_esm"] = ""


def no_claim(notebook: Notebook) -> None:
    notebook["cells"].remove(at(notebook, "verdict"))


def no_verdict(notebook: Notebook) -> None:
    at(notebook, "verdict")["outputs"][0]["data"][CLAIM]["verdict"] = ""


def odd_verdict(notebook: Notebook) -> None:
    at(notebook, "verdict")["outputs"][0]["data"][CLAIM]["verdict"] = "sort of"


def not_run(notebook: Notebook) -> None:
    at(notebook, "PatternExplorer")["execution_count"] = None


def run_out_of_order(notebook: Notebook) -> None:
    at(notebook, "PatternExplorer")["execution_count"] = 17


def stops(notebook: Notebook) -> None:
    error = {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}
    at(notebook, "assert ratio")["outputs"] = [error]


def warns(notebook: Notebook) -> None:
    at(notebook, "from effedu")["outputs"].append({**printed("UserWarning"), "name": "stderr"})


def times(notebook: Notebook) -> None:
    at(notebook, "from effedu")["metadata"]["execution"] = {"iopub.status.busy": "2025-01-01"}


def other_kernel(notebook: Notebook) -> None:
    notebook["metadata"]["kernelspec"]["name"] = "my-env"


BROKEN: list[tuple[str, str, Callable[[Notebook], None]]] = [
    ("names", "module of this chapter", rewrite("from effedu", "effedu.attention", "elsewhere")),
    ("title", "begin the first cell", rewrite("# 03", "# 03 Attention", "Attention")),
    ("title", "one first-level heading", add("## Pitfalls", "\n\n# Another title")),
    ("title", "number the title", rewrite("# 03", "03", "04")),
    ("parts", "missing: ['The idea']", rewrite("## The idea", "## The idea", "## The concept")),
    ("parts", "in their order", swap_parts),
    ("parts", "begin a new cell", merge_parts),
    ("parts", "write something", rewrite("## Pitfalls", "A mask of the wrong shape raises", "")),
    ("parts", "skips a level", add("## Pitfalls", "\n\n#### Deep down")),
    ("question", "question mark", rewrite("## The question", "look?", "look.")),
    ("question", "how many minutes", rewrite("## The question", "40 minutes", "no time")),
    ("question", "prerequisites", rewrite("## The question", "Prerequisites:", "It uses")),
    ("fifteen_lines", "assert_close", rewrite("from effedu", "testing.assert_close", "allclose")),
    ("prediction", "ask the reader", run_before_asking),
    ("prediction", "put the experiment", no_experiment),
    ("touch", "show a widget", no_widget),
    ("touch", "with its state", no_state),
    ("touch", "with its state", no_module_text),
    ("claim", "end '## On trial'", no_claim),
    ("claim", "its verdict", no_verdict),
    ("claim", "not 'sort of'", odd_verdict),
    ("questions", "found 2", rewrite("## Check", "3. Why?\n\n<details>", "3. Why?\n\n<div>")),
    ("questions", "begin each <details>", rewrite("## Check", "summary>", "b>")),
    ("questions", "empty line", rewrite("## Check", "</summary>\n\n", "</summary>\n")),
    (
        "summary",
        "at most 5 lines",
        rewrite("## Summary", "- Attention", "- A\n" * 5 + "- Attention"),
    ),
    ("summary", "### Further reading", rewrite("## Summary", "Further reading", "Books")),
    ("words", "cut the prose", add("## Pitfalls", " word" * PROSE)),
    ("cell_size", "split cell", add("from effedu", "\n1" * 23)),
    (
        "cell_size",
        "break line 1",
        rewrite("from effedu", "attention\n", f"attention  # {'n' * 60}\n"),
    ),
    ("output_size", "print less", prints("from effedu", "line\n" * 41)),
    ("output_size", "print less", prints("from effedu", "x" * 4001)),
    ("output_size", "print less", output("from effedu", text__plain="line\n" * 41)),
    ("file_size", "smaller than 1 MB", output("plots", text__html=SVG + " " * 1_000_000)),
    ("alt_texts", "bare image/png", output("plots", image__png="aGVsbG8=")),
    ("alt_texts", "bare image/svg", output("plots", **{"image__svg+xml": SVG})),
    ("alt_texts", "in words", output("plots", text__html="<svg><path/></svg>")),
    (
        "alt_texts",
        "in words",
        output("plots", text__html=SVG.replace("Time grows with the square of", "")),
    ),
    ("alt_texts", "in words", output("plots", text__html=LABELLED.replace("Arcs show where", ""))),
    ("alt_texts", "in words", output("plots", text__html='<img src="data:" alt="">')),
    ("alt_texts", "what the picture shows", add("## The idea", "\n\n![plot](plot.svg)")),
    ("alt_texts", "an alt text", add("## The idea", '\n\n<img src="plot.svg">')),
    ("both_themes", "'#111111'", add("plots", '\nax.text(0, 0, "now", color="black")')),
    ("links", "where the link leads", add("## Summary", " See [here](https://pytorch.org).")),
    ("links", "give https://pytorch.org", add("## Summary", " See https://pytorch.org")),
    ("links", "does not exist", add("## Summary", " See [the next chapter](99_nothing.ipynb).")),
    ("links", "keep it in the book", add("## The idea", " ![One two three four](https://a.b/c)")),
    ("links", "to https", add("## Summary", " See [PyTorch](http://pytorch.org).")),
    ("markdown", "::: block", add("## Pitfalls", "\n\n:::{note}\nCareful.\n:::")),
    ("markdown", "directive", add("## Pitfalls", "\n\n```{note}\nCareful.\n```")),
    ("markdown", "role", add("## Pitfalls", " See {ref}`masks`.")),
    ("markdown", "target", add("## Pitfalls", "\n\n(masks)=\n")),
    ("markdown", "label behind", rewrite("## The maths", "QK^T$$", "QK^T$$ (scores)")),
    ("markdown", "does not close", add("## Pitfalls", "\n\n$$a = b")),
    ("stray_words", "'TODO'", add("## Pitfalls", " TODO: more.")),
    ("stray_words", "'/home/a'", prints("from effedu", "/home/ann/attention.py")),
    ("stray_words", "not ours", add("from effedu", "\n%pip install -q effedu")),
    ("equations", "name behind each", rewrite("## The maths", "`effedu.attention", "`nothing")),
    ("equations", "name behind each", rewrite("## The maths", "not computed: quoted", "quoted")),
    (
        "equations",
        "is no function",
        rewrite("## The maths", "attention.attention`", "attention.x`"),
    ),
    (
        "equations",
        "is no function",
        rewrite("## The maths", "effedu.attention.", "effedu.nowhere."),
    ),
    ("stored", "top to bottom", not_run),
    ("stored", "top to bottom", run_out_of_order),
    ("stored", "stops with ValueError", stops),
    ("stored", "writes to stderr", warns),
    ("stored", "times of execution", times),
    ("stored", "the kernel", other_kernel),
    ("tags", "unknown tag 'skip-me'", tagged("from effedu", "skip-me")),
    ("tags", "in a comment", add("from effedu", "\n# NBVAL_IGNORE_OUTPUT")),
    ("asserted", "assert in the same cell", rewrite("assert ratio", "assert ratio > 1\n", "")),
]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Chapter]:
    """Return a function that stores a notebook in a little repository of its own."""

    def store(notebook: Notebook, name: str = "03_attention") -> Chapter:
        for file, words in {
            "effedu/attention.py": "",
            "tests/test_attention.py": "from effedu.attention import attention",
            "book/_toc.yml": "chapters:\n  - file: chapters/03_attention\n",
            f"book/chapters/{name}.ipynb": json.dumps(notebook),
        }.items():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(words, "utf-8")
        return Chapter(tmp_path / f"book/chapters/{name}.ipynb", tmp_path)

    return store


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_sound_chapter_passes(make: Callable[..., Chapter], rule: Rule) -> None:
    assert list(rule(make(sound()))) == []


@pytest.mark.parametrize(
    ("name", "complaint", "change"),
    [pytest.param(*broken, id=f"{broken[0]}-{broken[1]}") for broken in BROKEN],
)
def test_broken_chapter_is_caught(
    make: Callable[..., Chapter], name: str, complaint: str, change: Callable[[Notebook], None]
) -> None:
    notebook = sound()
    before = copy.deepcopy(notebook)
    change(notebook)
    assert notebook != before
    (rule,) = (rule for rule in RULES if rule.__name__ == name)
    problems = list(rule(make(notebook)))
    assert any(complaint in problem for problem in problems), problems


def test_missing_neighbours_are_caught(make: Callable[..., Chapter]) -> None:
    by_name = {rule.__name__: rule for rule in RULES}
    elsewhere = make(sound(), name="05_pruning")
    problems = "\n".join(by_name["names"](elsewhere))
    assert "write effedu/pruning.py" in problems
    assert "write tests/test_pruning.py" in problems
    assert "chapters/05_pruning" in "\n".join(by_name["contents"](elsewhere))
    assert "two digits" in "\n".join(by_name["names"](make(sound(), name="attention")))


def test_unlinked_exercise_is_caught(make: Callable[..., Chapter], tmp_path: Path) -> None:
    chapter = make(sound())
    exercise = tmp_path / "book" / "exercises" / "03_attention.ipynb"
    exercise.parent.mkdir()
    exercise.write_text("{}")
    (rule,) = (rule for rule in RULES if rule.__name__ == "questions")
    assert any("link to the exercise" in problem for problem in rule(chapter))


def test_link_to_the_solutions_is_caught(make: Callable[..., Chapter]) -> None:
    notebook = sound()
    (cell,) = (cell for cell in notebook["cells"] if "## Check yourself" in cell["source"])
    cell["source"] += "\n\n[Exercise](../exercises/03_attention.ipynb)"
    (rule,) = (rule for rule in RULES if rule.__name__ == "questions")
    assert any("hold the solutions" in problem for problem in rule(make(notebook)))


def test_untested_equation_is_caught(make: Callable[..., Chapter], tmp_path: Path) -> None:
    chapter = make(sound())
    (tmp_path / "tests" / "test_attention.py").write_text("def test_something_else(): ...")
    (rule,) = (rule for rule in RULES if rule.__name__ == "equations")
    assert any("hold `effedu.attention.attention`" in problem for problem in rule(chapter))


def test_every_rule_is_broken_above() -> None:
    elsewhere = {"contents"}  # test_missing_neighbours_are_caught
    assert {rule.__name__ for rule in RULES} == {name for name, _, _ in BROKEN} | elsewhere


def test_words_count_prose_alone(make: Callable[..., Chapter]) -> None:
    notebook = sound()
    before = count_words(make(notebook))
    add("## Pitfalls", "\n\n```python\nnot prose\n```\n\n$$a + b$$ $x$ `code` <b>two</b> words")(
        notebook
    )
    assert count_words(make(notebook)) == before + 2


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("assert x > 1", True),
        ("torch.testing.assert_close(a, b)", True),
        ("%matplotlib inline\nassert x", True),
        ("print('assert')  # assert", False),
        ("x.sum()", False),
    ],
)
def test_asserts(source: str, expected: bool) -> None:
    assert asserts(source) is expected
