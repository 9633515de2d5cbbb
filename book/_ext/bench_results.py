"""``{bench-results}``: the measurements in ``effedu/data/bench.json`` as tables and plots.

``make bench`` writes that file, and ``bench_linear.json`` beside it. The page is made from them at
build time, so a number can't be typed wrong or grow old unseen. The directive's first word says
what to show, the others of what::

    ```{bench-results} speed 8x64 forward
    ```

What was not measured is said in words: nothing is left blank, and nothing is made up.
"""

from __future__ import annotations

import html
import itertools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib.pyplot as plt
from docutils import nodes
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from effedu.bench import METHODS as NAMES
from effedu.bench import RESULTS
from effedu.plots import INK, figure_svg

LINEAR = RESULTS.with_name("bench_linear.json")
LOOKS = {  # colour and marker; the names are also written beside the lines
    "block": ("C0", "o"),
    "flex": ("C1", "s"),
    "local": ("C2", "^"),
    "sliding": ("C3", "D"),
    "naive": (INK, "v"),
    "dense": (INK, "."),
}
UNIT = "\u00a0"  # a number and its unit stay on one line
BREAK = "\u200b"  # where a long name may be broken
Row = dict[str, Any]


class BenchResults(SphinxDirective):
    """The directive; its arguments are a part of the page and, where it needs one, what of."""

    required_arguments = 1
    optional_arguments = 2

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()  # the measurements change without this page
        if not RESULTS.is_file():
            text = "No measurements are stored yet: `make bench` takes them."
            return [nodes.paragraph("", text, classes=["bench-missing"])]
        self.env.note_dependency(str(RESULTS))
        self.env.note_dependency(str(LINEAR))
        results = json.loads(RESULTS.read_text(encoding="utf-8"))
        return [nodes.raw("", render(results, self.arguments), format="html")]


def render(results: dict[str, Any], arguments: Sequence[str]) -> str:
    """One part of the page as HTML, such as ``["speed", "8x64", "forward"]``."""
    kind, *rest = arguments
    if kind in WHOLE and not rest:
        return WHOLE[kind](results)
    if kind in OF_ROWS and len(rest) == 2:
        shape, direction = rest
        rows = [
            row
            for row in results["attention"]
            if (f"{row['heads']}x{row['head_dim']}", row["direction"]) == (shape, direction)
        ]
        return OF_ROWS[kind](rows) if rows else "<p>This was not measured.</p>"
    raise ExtensionError(
        f"bench-results: expected {', '.join(WHOLE)}, or {' or '.join(OF_ROWS)} with a shape and a "
        f"direction, such as 'speed 8x64 forward'; got {' '.join(arguments)!r}"
    )


def conditions(results: dict[str, Any]) -> str:
    """Where and how it was measured, and what a reader should know before trusting it."""
    machine, setting = results["machine"], results["setting"]
    versions = ", ".join(f"{name} {number}" for name, number in results["versions"].items())
    sentences = [
        f"Measured on {results['date']} on {machine['processor']} ({machine['cpu_capability']}) "
        f"with {machine['threads']} threads; {versions}. Batch {setting['batch']}, "
        f"{setting['dtype']}, {'causal' if setting['causal'] else 'not causal'}; each block sees "
        f"itself and {setting['blocks_back']} before it."
    ]
    if not results["complete"]:
        sentences.append("The run is not finished: only a part of it stands here.")
    if results["load_before"] > 0.5:
        sentences.append(
            f"Other programs kept {results['load_before']} cores busy when it began, so expect "
            "noise."
        )
    return f"<p>{html.escape(' '.join(sentences))}</p>"


def speed(rows: list[Row]) -> str:
    """Everything about the time of one shape and direction."""
    return "\n".join([speed_table(rows), speedup_plot(rows), share_plot(rows), all_rows(rows)])


def memory(rows: list[Row]) -> str:
    """Peak memory of one shape and direction, for the middle block size."""
    block_size = middle(rows)
    rows = [r for r in rows if r["block_size"] == block_size and r.get("peak_bytes") is not None]
    if not rows:
        return "<p>Memory was not measured.</p>"
    return "\n".join([memory_plot(rows), memory_table(rows)])


def missing(results: dict[str, Any]) -> str:
    """What was left out or failed, and why; equal reasons once."""
    lengths: dict[tuple[str, str, str, str], set[int]] = {}
    for gap in results["missing"]:
        shape = f"{gap['heads']} heads of width {gap['head_dim']}"
        key = (NAMES[gap["name"]], shape, gap["direction"], gap["reason"])
        lengths.setdefault(key, set()).add(gap["length"])
    items = "".join(
        f"<li><strong>{html.escape(name)}</strong>, {html.escape(shape)}, {html.escape(way)}, "
        f"{', '.join(f'{n:,}' for n in sorted(found))} tokens: {html.escape(reason)}</li>"
        for (name, shape, way, reason), found in lengths.items()
    )
    return f"<ul>{items}</ul>" if items else "<p>Nothing: every method ran everywhere.</p>"


def start(results: dict[str, Any]) -> str:
    """How long the package takes to import, and the language model to load."""
    found = results["start"]
    if "effedu_over_torch" not in found:
        return "<p>This was not measured.</p>"
    over = found["effedu_over_torch"]
    text = (
        f"<code>import effedu</code> took {1 / over['ratio']:.2f} times as long as <code>import "
        f"torch</code> ({1 / over['high']:.2f}–{1 / over['low']:.2f})"
    )
    if "load_lm_first_seconds" in found:
        text += (
            f". Loading the embedded language model took {found['load_lm_first_seconds']:.1f} s "
            f"the first time, with the import of Transformers, and "
            f"{found['load_lm_again_seconds']:.2f} s after that"
        )
    return f"<p>{text}.</p>"


def linear(_: dict[str, Any]) -> str:
    """Layers of few bits beside plain ones and their peers, from a file of their own."""
    found = json.loads(LINEAR.read_text(encoding="utf-8"))
    rows = found["linear"]
    names = list(dict.fromkeys(row["name"] for row in rows if row["name"] != "float32"))
    by_shape: dict[tuple[int, int, int], dict[str, Row]] = {}
    for row in rows:
        by_shape.setdefault((row["tokens"], row["inputs"], row["outputs"]), {})[row["name"]] = row
    lines = []
    for (tokens, inputs, outputs), methods_of in by_shape.items():
        cells = [f"<td>{inputs:,} → {outputs:,}</td>"]
        for name in names:
            row = methods_of.get(name)
            cells.append(
                f"<td>{times(row)}<br><small>error {row['error']:.1%}</small></td>"
                if row
                else "<td>–</td>"
            )
        lines.append(f'<tr><th scope="row">{tokens:,}</th>{"".join(cells)}</tr>')
    machine = found["machine"]
    return table(
        f"How many times faster than a float32 layer, and the relative error of the output; "
        f"measured on {found['date']} on {machine['processor']} ({machine['cpu_capability']}) with "
        f"{machine['threads']} threads.",
        ["tokens", "layer", *names],
        lines,
    )


WHOLE: dict[str, Callable[[dict[str, Any]], str]] = {
    "conditions": conditions,
    "linear": linear,
    "missing": missing,
    "start": start,
}
OF_ROWS: dict[str, Callable[[list[Row]], str]] = {"speed": speed, "memory": memory}


def middle(rows: list[Row]) -> int:
    """The block size that plots show where one has to be chosen."""
    sizes = sorted({row["block_size"] for row in rows})
    return int(sizes[len(sizes) // 2])


def methods(rows: list[Row]) -> list[str]:
    """The names that were measured, ours first."""
    return [name for name in NAMES if any(row["name"] == name for row in rows)]


# Tables ---------------------------------------------------------------------------------------


def speed_table(rows: list[Row]) -> str:
    """Block attention's speedups; the bar's frame is the limit that the live pairs set."""
    ours = [row for row in rows if row["name"] == "block"]
    others = {(row["name"], row["length"], row["block_size"]): row for row in rows}
    # Naive softmax ends where the table begins to matter; it has its place in the folded one.
    peers = [name for name in methods(rows) if name not in ("block", "dense", "naive")]
    head = ["tokens", "block", "time", "over dense SDPA", "share of the limit"]
    head += [f"over {NAMES[peer].replace('xA', f'x{BREAK}A')}" for peer in peers]
    lines = []
    for row in ours:
        width = f"width:{100 * min(1, row['share']):.1f}%"
        bar = (
            '<span class="bench-track"><span class="bench-limit" style="width:100%"></span>'
            f'<span class="bench-bar" style="{width}"></span></span>'
        )
        cells = [
            f"<td>{row['block_size']}</td>",
            f"<td>{duration(row['seconds'])}</td>",
            f"<td>{times(row)}</td>",
            f"<td>{row['share']:.0%} <small>of {number(row['limit'])}×</small>{bar}</td>",
        ]
        for peer in peers:
            other = others.get((peer, row["length"], row["block_size"]))
            cells.append(f"<td>{times(other['block_over_this']) if other else '–'}</td>")
        lines.append(f'<tr><th scope="row">{row["length"]:,}</th>{"".join(cells)}</tr>')
    return table(
        "How many times faster block attention is: the median of interleaved rounds, and between "
        "which values half of them lie; ~ marks differences smaller than the noise. The limit is "
        "how many times fewer pairs the pattern keeps; a full bar would reach it.",
        head,
        lines,
    )


def all_rows(rows: list[Row]) -> str:
    """Every method in a row of its own, folded away."""
    head = ["method", "tokens", "block", "time", "over dense SDPA", "share", "peak memory"]
    lines = []
    for row in rows:
        pattern = f", window {row['window']}" if "window" in row else ""
        compiled = row.get("compile_seconds")
        notes = f"{row['rounds']} rounds" + (f", compiled in {compiled} s" if compiled else "")
        peak = row.get("peak_bytes")
        lines.append(
            f'<tr><th scope="row">{NAMES[row["name"]]}{pattern}</th><td>{row["length"]:,}</td>'
            f"<td>{row['block_size']}</td><td>{duration(row['seconds'])}</td>"
            f"<td>{times(row)}</td><td>{row['share']:.1%}</td>"
            f"<td>{'–' if peak is None else megabytes(peak)}</td><td>{notes}</td></tr>"
        )
    text = (
        "Every measurement: speed against dense SDPA, and peak memory beyond query, key and value."
    )
    inner = table(text, [*head, "how"], lines)
    return f"<details><summary>Every measurement</summary>{inner}</details>"


def memory_table(rows: list[Row]) -> str:
    """Peak memory by length, a column for each method."""
    names = methods(rows)
    found = {(row["name"], row["length"]): row["peak_bytes"] for row in rows}
    lines = []
    for length in sorted({row["length"] for row in rows}):
        peaks = [found.get((name, length)) for name in names]
        cells = "".join(f"<td>{'–' if p is None else megabytes(p)}</td>" for p in peaks)
        lines.append(f'<tr><th scope="row">{length:,}</th>{cells}</tr>')
    caption = (
        f"Peak memory beyond query, key and value, in blocks of {rows[0]['block_size']}. The "
        "result is counted, and so is a mask that is kept between calls."
    )
    return table(caption, ["tokens", *(NAMES[name] for name in names)], lines)


def times(found: Row) -> str:
    """A ratio with its spread; what does not exceed the noise is marked."""
    mark = " ~" if found["noisy"] else ""
    low, high = number(found["low"]), number(found["high"])
    return f"<b>{number(found['ratio'])}×</b>{mark} <small>{low}–{high}</small>"


def number(x: float) -> str:
    """Three digits."""
    return f"{x:.2f}" if x < 9.995 else f"{x:.1f}" if x < 99.95 else f"{x:,.0f}"


def duration(seconds: float) -> str:
    return f"{number(seconds)}{UNIT}s" if seconds >= 1 else f"{number(1000 * seconds)}{UNIT}ms"


def megabytes(size: float) -> str:
    return f"{number(size / 1e6)}{UNIT}MB"


def table(caption: str, head: list[str], lines: list[str]) -> str:
    cells = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in head)
    return (
        f'<table class="bench-table"><caption><span>{html.escape(caption)}</span></caption>'
        f"<thead><tr>{cells}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )


# Plots ----------------------------------------------------------------------------------------

Line = tuple[str, list[int], list[float]]  # label, lengths, values


def speedup_plot(rows: list[Row]) -> str:
    """Speedup over dense SDPA against length, for the middle block size, with the limit."""
    block_size = middle(rows)
    rows = [row for row in rows if row["block_size"] == block_size]
    names = [name for name in methods(rows) if name != "dense"]
    lines = {name: line(rows, name, "ratio") for name in names}
    limit = ("limit", *line(rows, "block", "limit")[1:])

    def draw(axes: Axes) -> None:
        _, lengths, values = limit
        axes.plot(lengths, values, color=INK, linestyle="--", linewidth=1.5)
        axes.axhline(1, color=INK, linewidth=1)
        for name, (_, lengths, values) in reversed(lines.items()):
            axes.plot(lengths, values, color=LOOKS[name][0], marker=LOOKS[name][1])
        axes.set(yscale="log", ylabel="times as fast as dense SDPA")
        plain_ticks(axes, suffix="×")
        ends = {limit[0]: (limit, INK), "dense": (("dense SDPA", limit[1], [1.0]), INK)}
        ends |= {name: (found, LOOKS[name][0]) for name, found in lines.items()}
        label_ends(axes, list(ends.values()))

    alt = (
        f"Speedup over dense SDPA against length, both logarithmic, in blocks of {block_size}. "
        f"{at_the_end([limit, *lines.values()], lambda value: f'{number(value)} times')}"
    )
    return drawn(draw, sorted({row["length"] for row in rows}), alt)


def share_plot(rows: list[Row]) -> str:
    """The part of the limit that block attention and FlexAttention reach, for each block size."""
    sizes = sorted({row["block_size"] for row in rows})
    lines = {}
    for colour, size in enumerate(sizes):
        own = [row for row in rows if row["block_size"] == size]
        for name in ("block", "flex"):
            if any(row["name"] == name for row in own):
                label = f"{'block' if name == 'block' else 'Flex'}, {size}"
                _, lengths, values = line(own, name, "share")
                lines[(name, colour)] = (label, lengths, [100 * value for value in values])

    def draw(axes: Axes) -> None:
        for (name, colour), (_, lengths, values) in lines.items():
            style = {"linestyle": "-" if name == "block" else ":", "marker": LOOKS[name][1]}
            axes.plot(lengths, values, color=f"C{colour}", **style)
        axes.set(ylabel="share of the limit (%)")
        axes.set_ylim(0, 1.05 * max(100, *(max(values) for _, _, values in lines.values())))
        label_ends(axes, [(found, f"C{colour}") for (_, colour), found in lines.items()])

    alt = (
        "Share of the live-pair limit against length, for block attention (solid) and "
        "FlexAttention (dotted, where it ran), a line for each block size. "
        f"{at_the_end(list(lines.values()), lambda value: f'{value:.0f} percent')}"
    )
    return drawn(draw, sorted({row["length"] for row in rows}), alt)


def memory_plot(rows: list[Row]) -> str:
    """Peak memory against length."""
    lines = {name: line(rows, name, "peak_bytes") for name in methods(rows)}
    lines = {name: (at, n, [size / 1e6 for size in v]) for name, (at, n, v) in lines.items()}

    def draw(axes: Axes) -> None:
        for name, (_, lengths, values) in reversed(lines.items()):
            style = {"linestyle": "--"} if name == "dense" else {"marker": LOOKS[name][1]}
            axes.plot(lengths, values, color=LOOKS[name][0], **style)
        axes.set(yscale="log", ylabel="peak memory (MB)")
        plain_ticks(axes)
        label_ends(axes, [(found, LOOKS[name][0]) for name, found in lines.items()])

    alt = (
        f"Peak memory against length, both logarithmic, in blocks of {rows[0]['block_size']}. "
        f"{at_the_end(list(lines.values()), lambda value: f'{number(value)} MB')}"
    )
    return drawn(draw, sorted({row["length"] for row in rows}), alt)


def line(rows: list[Row], name: str, key: str) -> Line:
    """One method's values by length."""
    found = sorted((row["length"], row[key]) for row in rows if row["name"] == name)
    return NAMES[name], [length for length, _ in found], [value for _, value in found]


def drawn(draw: Callable[[Axes], None], lengths: list[int], alt: str) -> str:
    """A figure in the book's style with lengths sideways, as SVG for the inside of the page."""
    with plt.style.context("effedu.data.book"):
        figure = Figure(figsize=(6.4, 3.9))
        axes = figure.subplots()
        axes.set_xscale("log", base=2)
        axes.set_xlabel("length N (tokens)")
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
        axes.minorticks_off()
        draw(axes)
        return str(figure_svg(figure, alt)._repr_mimebundle_()["text/html"])


def plain_ticks(axes: Axes, suffix: str = "") -> None:
    """1, 2, 5, 10 … upwards on a logarithmic axis, written out; wide ranges get powers of ten."""
    low, high = axes.get_ylim()
    digits = (1, 2, 5) if high / low < 300 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**power for power in powers for digit in digits]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:,g}{suffix}" for tick in ticks])
    axes.set_ylim(low, high)
    axes.minorticks_off()


def label_ends(axes: Axes, ends: list[tuple[Line, str]]) -> None:
    """Names beside the ends of lines, moved apart where they would lie on each other."""
    longest = max(max(lengths) for (_, lengths, _), _ in ends)
    to_height = axes.transScale + axes.transLimits
    for inside in (False, True):  # at the right edge; behind lines that end before
        group = [end for end in ends if (end[0][1][-1] < longest) == inside]
        heights = [to_height.transform((n[-1], values[-1]))[1] for (_, n, values), _ in group]
        for ((label, lengths, _), colour), height in zip(group, apart(heights), strict=True):
            axes.annotate(
                label,
                (lengths[-1], height) if inside else (1, height),
                xycoords=("data" if inside else "axes fraction", "axes fraction"),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                color=colour,
                fontsize=10,
            )


def apart(heights: Sequence[float], gap: float = 0.06) -> list[float]:
    """The same heights with at least ``gap`` between any two, each moved as little as is easy.

    >>> apart([0.5, 0.5, 0.9], gap=0.1)
    [0.55, 0.45, 0.9]
    """
    found = [float(height) for height in heights]
    order = sorted(range(len(found)), key=lambda i: (found[i], -i))  # the first named lies on top
    for _ in range(100):
        for low, high in itertools.pairwise(order):
            lacking = gap - (found[high] - found[low])
            if lacking > 1e-9:
                found[low] -= lacking / 2
                found[high] += lacking / 2
    return found


def at_the_end(lines: list[Line], say: Callable[[float], str]) -> str:
    """The last value of each line in words, for those who do not see the picture."""
    parts = [f"{label} {say(values[-1])} at {lengths[-1]:,}" for label, lengths, values in lines]
    return f"At the longest length of each: {', '.join(parts)} tokens."


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("bench-results", BenchResults)
    return {"version": "2", "parallel_read_safe": True, "parallel_write_safe": True}
