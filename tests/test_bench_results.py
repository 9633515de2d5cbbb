"""The benchmark page: what it says is what the results hold, and gaps are said to be gaps."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st
from sphinx.errors import ExtensionError

from effedu.cost import live_pairs
from tools.bench import BLOCK_SIZES, LENGTHS, SHAPES, Part, parts_of

sys.path.insert(0, str(Path(__file__).parents[1] / "book" / "_ext"))

import bench_results as page

FACTORS = {"dense": 1.0, "block": 9.0, "flex": 8.0, "local": 2.0, "sliding": 0.4, "naive": 0.1}


def row(name: str, part: Part, block_size: int) -> dict[str, Any]:
    limit = part.length * (part.length + 1) / 2 / live_pairs(part.length, block_size=block_size)
    ratio = FACTORS[name] if FACTORS[name] <= 1 else FACTORS[name] / 10 * limit
    ours = FACTORS["block"] / 10 * limit / ratio
    spread = {"noisy": False}
    return {
        "name": name,
        **part._asdict(),
        "block_size": block_size,
        "seconds": 0.5 / ratio,
        **{"ratio": ratio, "low": 0.9 * ratio, "high": 1.1 * ratio, **spread},
        "limit": limit,
        "share": ratio / limit,
        "rounds": 5,
        "block_over_this": {"ratio": ours, "low": 0.9 * ours, "high": 1.1 * ours, **spread},
        "peak_bytes": 1000 * part.length,
        **({"window": 96} if name == "sliding" else {}),
        **({"compile_seconds": 9.5} if name == "flex" else {}),
    }


def made_up(parts: list[Part]) -> dict[str, Any]:
    """Results of a plausible size: the tests are about showing them."""
    rows, missing = [], []
    for part in parts:
        for size in BLOCK_SIZES:
            for name in FACTORS:
                gap = {"name": name, **part._asdict(), "block_size": size}
                if name == "flex" and part.direction != "forward":
                    missing.append({**gap, "reason": "no backward <here>"})
                elif name != "naive" or part.length <= 4096:
                    rows.append(row(name, part, size))
    over = {"ratio": 0.8, "low": 0.5, "high": 1.0, "noisy": True}
    return {
        "date": "2026-01-02",
        "machine": {"processor": "A <b>processor", "threads": 2, "cpu_capability": "AVX2"},
        "load_before": 0.1,
        "versions": {"torch": "2.0"},
        "setting": {"batch": 1, "dtype": "float32", "causal": True, "blocks_back": 1},
        "complete": True,
        "attention": rows,
        "missing": missing,
        "start": {
            "effedu_over_torch": over,
            "load_lm_first_seconds": 2.5,
            "load_lm_again_seconds": 0.06,
        },
    }


FULL = made_up(parts_of(SHAPES, LENGTHS))


def shown(*arguments: str, results: dict[str, Any] = FULL) -> BeautifulSoup:
    return BeautifulSoup(page.render(results, arguments), "html.parser")


def text(*arguments: str, results: dict[str, Any] = FULL) -> str:
    return " ".join(shown(*arguments, results=results).get_text().split())


def test_conditions_say_where_and_how() -> None:
    said = text("conditions")
    assert "2026-01-02 on A <b>processor (AVX2) with 2 threads; torch 2.0." in said
    assert "itself and 1 before it" in said
    assert "not finished" not in said
    assert "busy" not in said


def test_an_unfinished_or_disturbed_run_is_called_so() -> None:
    said = text("conditions", results={**FULL, "complete": False, "load_before": 1.5})
    assert "The run is not finished" in said
    assert "kept 1.5 cores busy" in said


@pytest.mark.parametrize("direction", ["forward", "forward+backward"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_table_has_a_row_for_each_length_and_block(shape: str, direction: str) -> None:
    soup = shown("speed", shape, direction)
    main, everything = soup.select("table.bench-table")
    lengths = [n for n in LENGTHS if direction == "forward" or n <= 8192]
    rows = main.select("tbody tr")
    assert [(r.th.text, r.td.text) for r in rows] == [
        (f"{n:,}", str(size)) for n in lengths for size in BLOCK_SIZES
    ]
    heads = [th.text.replace(page.BREAK, "") for th in main.select("thead th")]
    assert ("over FlexAttention" in heads) == (direction == "forward")
    assert {"share of the limit", "over local-attention", "over HF sliding mask"} <= set(heads)
    found = [r for r in FULL["attention"] if r["name"] == "block" and r["length"] == 8192]
    expected = next(r for r in found if r["block_size"] == 128)
    cells = [td.get_text() for td in rows[3 * lengths.index(8192) + 1].select("td")]
    assert cells[2].startswith(f"{expected['ratio']:.1f}× ")
    assert cells[3] == "90% of 21.5×"
    assert cells[-1].startswith("48.")  # over the sliding mask: 0.9 · 21.5 / 0.4
    assert len(everything.select("tbody tr")) == sum(
        (f"{r['heads']}x{r['head_dim']}", r["direction"]) == (shape, direction)
        for r in FULL["attention"]
    )
    assert "compiled in 9.5 s" in everything.text or direction != "forward"
    assert "window 96" in everything.text


def test_ratios_within_the_noise_are_marked() -> None:
    found = {"ratio": 1.234, "low": 0.9, "high": 12.34, "noisy": True}
    assert page.times(found) == "<b>1.23×</b> ~ <small>0.90–12.3</small>"
    assert "~" not in page.times({**found, "noisy": False})


@pytest.mark.parametrize(
    ("kind", "pictures"), [("speed", ["Speedup over", "Share of"]), ("memory", ["Peak memory"])]
)
def test_plots_are_pictures_inside_the_page_with_their_words(
    kind: str, pictures: list[str]
) -> None:
    soup = shown(kind, "8x64", "forward")
    svgs = soup.select(".effedu-figure svg")
    titles = [svg.title.get_text() for svg in svgs]
    assert [title.startswith(start) for title, start in zip(titles, pictures, strict=True)]
    assert all("65,536" in title for title in titles)
    written = " ".join(words.get_text() for svg in svgs for words in svg.select("text"))
    assert "length N (tokens)" in written
    assert "block attention" in written
    assert "dense SDPA" in written
    assert page.INK not in str(soup)  # it has become the colour of the page's text
    ids = [tag["id"] for tag in soup.select("[id]")]
    assert len(ids) == len(set(ids))


@given(
    st.lists(st.floats(0, 1), max_size=8).map(lambda heights: [*heights, *heights[:2]]),
)
def test_labels_are_moved_apart(heights: list[float]) -> None:
    found = page.apart(heights)
    assert all(b - a > 0.05 for a, b in itertools.pairwise(sorted(found)))
    far = all(abs(a - b) > 0.06 for a, b in itertools.combinations(heights, 2))
    assert not far or found == heights


def test_memory_is_a_table_by_length() -> None:
    main = shown("memory", "8x64", "forward").table
    rows = [[cell.text for cell in r.select("th, td")] for r in main.select("tbody tr")]
    assert [r[0] for r in rows] == [f"{n:,}" for n in LENGTHS]
    assert rows[0][1] == "1.02\u00a0MB"
    assert rows[-1][-1] == "–"


def test_what_is_missing_is_listed_once_with_its_reason() -> None:
    items = [li.get_text() for li in shown("missing").select("li")]
    assert items == [
        f"FlexAttention, {shape}, forward+backward, 1,024, 2,048, 4,096, 8,192 tokens: "
        "no backward <here>"
        for shape in ("8 heads of width 64", "4 heads of width 32")
    ]
    assert text("missing", results={**FULL, "missing": []}).startswith("Nothing")


def test_start_times() -> None:
    assert "took 1.25 times as long as import torch (1.00–2.00)" in text("start")
    assert "2.5 s the first time" in text("start")
    assert text("start", results={**FULL, "start": {}}) == "This was not measured."


def test_what_was_not_measured_is_said_to_be_so() -> None:
    few = made_up([Part(8, 64, "forward", 1024)])
    assert text("speed", "4x32", "forward", results=few) == "This was not measured."
    for found in few["attention"]:
        found["peak_bytes"] = None
    assert text("memory", "8x64", "forward", results=few) == "Memory was not measured."
    assert "Every measurement" in text(
        "speed", "8x64", "forward", results=few
    )  # one length is enough


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["speed"], ["speed", "8x64"], ["missing", "8x64"]]
)
def test_unknown_parts_stop_the_build(arguments: list[str]) -> None:
    with pytest.raises(
        ExtensionError, match="bench-results: expected conditions, linear, missing, start"
    ):
        page.render(FULL, arguments)


def test_the_page_shows_every_part_of_the_stored_results() -> None:
    """Each directive of the page renders from the file that the package ships."""
    book = Path(__file__).parents[1] / "book"
    results = json.loads(page.RESULTS.read_text(encoding="utf-8"))
    source = (book / "benchmarks.md").read_text(encoding="utf-8")
    asked = [
        line.removeprefix("```{bench-results}").split()
        for line in source.splitlines()
        if line.startswith("```{bench-results}")
    ]
    for shape in SHAPES:
        for direction in ("forward", "forward+backward"):
            assert ["speed", shape, direction] in asked
    assert ["conditions"] in asked
    assert ["missing"] in asked
    assert ["linear"] in asked
    for arguments in asked:
        assert page.render(results, arguments)


def test_linear_layers_stand_with_their_peers_and_errors() -> None:
    shown = text("linear")
    rows = json.loads(page.LINEAR.read_text(encoding="utf-8"))["linear"]
    for row in rows:
        if row["name"] != "float32":
            assert row["name"] in shown
            assert f"error {row['error']:.1%}" in shown
    assert "512" in shown
    assert "256 → 1,024" in shown
