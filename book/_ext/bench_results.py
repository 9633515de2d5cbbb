"""``{bench-results}``: the measurements in ``bench/results.json`` as tables with bars.

``make bench`` writes that file. The page is made from it at build time, so a number can't be typed
wrong or grow old unseen; where the file is missing, the page says how to make it.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

RESULTS = Path(__file__).resolve().parent.parent.parent / "bench" / "results.json"
PEERS = {
    "flex": "over compiled FlexAttention",
    "local": "over local-attention",
    "naive": "over the plain formula",
}


class BenchResults(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # the measurements change without this page
        if not RESULTS.is_file():
            text = "No measurements are stored yet: the command below takes them."
            return [nodes.paragraph("", text, classes=["bench-missing"])]
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
        self.env.note_dependency(str(RESULTS))
        return [nodes.raw("", render(results), format="html")]


def render(results: dict[str, Any]) -> str:
    """The measurements as HTML: where they were made, then a table of speed and one of memory."""
    parts = [f"<p>{html.escape(conditions(results))}</p>", speed_table(results["attention"])]
    for peer, reason in results.get("missing", {}).items():
        parts.append(f"<p>Without {html.escape(peer)}: {html.escape(reason)}.</p>")
    if results.get("memory"):
        parts.append(memory_table(results["memory"]))
    return "\n".join(parts)


def conditions(results: dict[str, Any]) -> str:
    machine, setting = results["machine"], results["setting"]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    return (
        f"Measured on {results['date']} on {machine.get('processor', 'this machine')} with "
        f"{machine.get('threads', '?')} threads ({versions}): batch {setting['batch']}, "
        f"{setting['heads']} heads of width {setting['head_dim']}, {setting['dtype']}, "
        f"{'causal' if setting['causal'] else 'not causal'}, own block and "
        f"{setting['blocks_back']} before it."
    )


def speed_table(rows: list[dict[str, Any]]) -> str:
    """Block attention's speedups; the bar's frame is the limit that the live pairs set."""
    ours = [row for row in rows if row["name"] == "block"]
    others = {(row["name"], row["length"], row["block_size"]): row for row in rows}
    peers = [peer for peer in PEERS if any(row["name"] == peer for row in rows)]
    widest = max(max(row["limit"], row["ratio"]) for row in ours)
    head = ["tokens", "block", "over dense SDPA", "limit", *(PEERS[peer] for peer in peers)]
    lines = []
    for row in ours:
        bar = (
            f'<span class="bench-limit" style="width:{100 * row["limit"] / widest:.1f}%"></span>'
            f'<span class="bench-bar" style="width:{100 * row["ratio"] / widest:.1f}%"></span>'
        )
        cells = [
            f"<td>{row['block_size']}</td>",
            f'<td class="bench-plot">{times(row)}<span class="bench-track">{bar}</span></td>',
            f"<td>{row['limit']:.1f}×</td>",
        ]
        for peer in peers:
            other = others.get((peer, row["length"], row["block_size"]))
            cells.append(f"<td>{times(other['block_over_this']) if other else '–'}</td>")
        lines.append(f'<tr><th scope="row">{row["length"]:,}</th>{"".join(cells)}</tr>')
    return table(
        "How many times faster block attention is: the median of interleaved rounds, and between "
        "which values half of them lie. The limit is how many times fewer pairs it computes; "
        "~ marks differences smaller than the noise.",
        head,
        lines,
    )


def times(found: dict[str, Any]) -> str:
    mark = " ~" if found["noisy"] else ""
    return (
        f"<b>{found['ratio']:.2f}×</b>{mark} <small>{found['low']:.2f}–{found['high']:.2f}</small>"
    )


def memory_table(rows: list[dict[str, int]]) -> str:
    names = [name for name in ("block", "dense", "naive") if any(name in row for row in rows)]
    words = {"block": "block attention", "dense": "dense SDPA", "naive": "the plain formula"}
    lines = []
    for row in rows:
        cells = "".join(
            f"<td>{row[name] / 1e6:,.1f}</td>" if name in row else "<td>–</td>" for name in names
        )
        lines.append(f'<tr><th scope="row">{row["length"]:,}</th>{cells}</tr>')
    caption = "Peak memory beyond query, key and value, in MB."
    return table(caption, ["tokens", *(words[name] for name in names)], lines)


def table(caption: str, head: list[str], lines: list[str]) -> str:
    cells = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    return (
        f'<table class="bench-table"><caption><span>{html.escape(caption)}</span></caption>'
        f"<thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("bench-results", BenchResults)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
