"""A report as one HTML page: no script, no request, readable on a phone and in the dark.

Whatever comes from a model or a reader is escaped where it enters the page.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from effedu.plots import FigureSVG, figure_svg
from effedu.report import Configuration, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The last line of defence, should escaping ever fail: a browser then runs and loads nothing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --paper: #fff; --muted: #59636e;
  --line: #dfe3e7; --surface: #f5f7f8; --accent: #0072b2 }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe3e8; --paper: #15191f;
  --muted: #9da7b3; --line: #303842; --surface: #1c2128; --accent: #56b4e9 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 2rem) 3rem; max-width: 52rem;
  background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 400 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 0.5rem }
h2 { font-size: 1.2rem; margin: 2.2rem 0 0.5rem }
p { margin: 0.5rem 0; max-width: 42rem } .muted { color: var(--muted) }
pre { background: var(--surface); border-left: 3px solid var(--accent); border-radius: 4px;
  padding: 0.8rem 1rem; margin: 0.8rem 0; white-space: pre-wrap; line-height: 1.5;
  font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: 0.875rem }
th { overflow-wrap: normal } td { white-space: nowrap }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  font-size: 0.9rem; margin: 0.8rem 0 }
th, td { padding: 0.4rem 0.5rem; text-align: right; border-bottom: 1px solid var(--line) }

th:first-child { text-align: left } thead th { color: var(--muted); font-weight: 600 }
tbody th { font-weight: 600 } tr.chosen { background: var(--surface) }
figure { margin: 1rem 0 } dt { font-weight: 600; margin-top: 0.6rem } dd { margin: 0 }
svg { display: block }
@media (max-width: 44rem) {
  thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }
  tbody tr { display: grid; grid-template-columns: 1fr 1fr; padding: 0.5rem;
    border-bottom: 1px solid var(--line) }
  tbody th { grid-column: 1 / -1 } th, td { border: 0; padding: 0.15rem 0.25rem; text-align: left }
  td::before { content: attr(data-label) " "; color: var(--muted) }
}
"""
_COLUMNS = ("reading", "writing", "the job", "weights", "cache", "bits/byte", "same choice")


def page(report: Report) -> str:
    """The whole page, to be saved as a file.

    >>> from effedu.lm import heldout_text, load_lm
    >>> from effedu.report import CONFIGURATIONS, measure
    >>> few = CONFIGURATIONS[:2]
    >>> html = page(measure(load_lm(), heldout_text()[:900], rounds=3, configurations=few))
    >>> html.startswith("<!DOCTYPE html>"), "<script" in html
    (True, False)
    """
    title = f"What makes {report.model} cheaper"
    body = "\n".join(
        [
            f"<h1>{escape(title)}</h1>",
            f'<p class="muted">{escape(report.description)}</p>',
            _recommended(report),
            "<h2>Every configuration</h2>",
            _paragraph(_legend(report)),
            _table(report),
            _pictures(report),
            _skipped(report),
            _samples(report),
            _conditions(report),
        ]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def _recommended(report: Report) -> str:
    rule = (
        f"The rule: of the configurations that need at most {100 * report.loss:g} % more bits per "
        f"byte than the dense model, the first is the one that takes the least time to read "
        f"{report.length:,} tokens and write {report.new_tokens:,}, if its gain is larger than the "
        f"noise. The second is the one with the least memory for weights and cache."
    )
    fast, small = report.fastest, report.smallest
    parts = ["<h2>Recommended</h2>", _paragraph(f"For time: {_says(report, fast)}")]
    parts.append(_code(report.results[fast].configuration))
    if small != fast:
        parts += [_paragraph(f"For memory: {_says(report, small)}")]
        parts.append(_code(report.results[small].configuration))
    else:
        parts.append(_paragraph("It is the best for memory, too."))
    return "\n".join([*parts, f'<p class="muted">{escape(rule)}</p>'])


def _says(report: Report, name: str) -> str:
    dense, found = report.results["dense"], report.results[name]
    if name == "dense":
        return "nothing that was tried beats the model as it is."
    return (
        f"{name} does the job in {report.job.ratio(name):.2f} of the time, with "
        f"{found.memory / dense.memory:.2f} of the memory and "
        f"{_more_bits(report, name):+.2f} % bits per byte."
    )


def _code(configuration: Configuration) -> str:
    return f"<pre><code>{escape(configuration.code)}</code></pre>"


def _more_bits(report: Report, name: str) -> float:
    """Percent of the dense model's bits per byte that this one needs beyond them."""
    dense = report.results["dense"].bits_per_byte
    more = 100 * (report.results[name].bits_per_byte / dense - 1)
    return round(more, 2) + 0.0  # no minus zero


def _legend(report: Report) -> str:
    times = report.times
    return (
        f"Times are shares of the dense model's, which reads {report.length:,} tokens in "
        f"{times.seconds('read dense'):.3g} s and then writes one in "
        f"{1e3 * times.seconds('write dense'):.3g} ms; the job is to read them and write "
        f"{report.new_tokens:,}. Bits per byte are over {report.scored_tokens:,} tokens of the "
        f"text; fewer are better. The last column says at how many of {report.length:,} tokens "
        f"the likeliest next token is that of the dense model."
    )


def _table(report: Report) -> str:
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("configuration", *_COLUMNS))
    chosen = {report.fastest, report.smallest}
    rows = []
    for name, found in report.results.items():
        cells = (
            f"{report.ratio('read', name):.2f}",
            f"{report.ratio('write', name):.2f}",
            f"{report.job.ratio(name):.2f}",
            _megabytes(found.weights),
            _megabytes(found.kv_cache),
            f"{found.bits_per_byte:.3f}",
            f"{100 * found.agreement:.1f} %",
        )
        data = "".join(
            f'<td data-label="{label}">{cell}</td>'
            for label, cell in zip(_COLUMNS, cells, strict=True)
        )
        mark = ' class="chosen"' if name in chosen else ""
        rows.append(f'<tr{mark}><th scope="row">{escape(name)}</th>{data}</tr>')
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.3g} MB" if count < 1e9 else f"{count / 1e9:,.3g} GB"


def _skipped(report: Report) -> str:
    if not report.skipped:
        return ""
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(why)}</dd>" for name, why in report.skipped.items()
    )
    return f"<h2>Not possible with this model</h2><dl>{rows}</dl>"


def _samples(report: Report) -> str:
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd><pre>{escape(text)}</pre></dd>"
        for name, text in report.samples.items()
    )
    return f"<h2>How they go on</h2><p>After</p><pre>{escape(report.prompt)}</pre><dl>{rows}</dl>"


def _conditions(report: Report) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in report.machine.items())
    return (
        "<h2>How it was measured</h2>"
        + _paragraph(
            f"All in one run of {report.times.rounds} rounds, in which every configuration has its "
            "turn in random order; ratios are medians over rounds. Weights and cache are the bytes "
            "that are really stored. A quantized cache is judged on text that is read through "
            "it."
        )
        + f'<p class="muted">{escape(machine)}</p>'
    )


# --- Pictures ----------------------------------------------------------------------------------


def _pictures(report: Report) -> str:
    import matplotlib.style

    with matplotlib.style.context("effedu.data.book"):
        caption = (
            f"Beside the bars: change in bits per byte. In pink: above the accepted "
            f"{100 * report.loss:g} %."
        )
        return "\n".join([_figure(_times(report), caption), _figure(_memory(report))])


def _times(report: Report) -> FigureSVG:
    """How long the job takes, and beside it what that costs in quality."""
    names = list(report.results)[::-1]
    figure, axes = _axes(names)
    shares = [report.job.ratio(name) for name in names]
    axes.barh(names, shares, color=["C0" if n in report.good_enough else "C3" for n in names])
    for row, name in enumerate(names):
        text = "" if name == "dense" else f"{_more_bits(report, name):+.1f} %"
        end = max(1, shares[row])  # clear of the line at 1
        axes.annotate(text, (end, row), (4, 0), textcoords="offset points", va="center")
    axes.axvline(1, color="#767676", linewidth=1)
    axes.set(xlabel="time of the job, dense = 1", xlim=(0, 1.25 * max(shares)))
    best = f"{report.fastest} has {report.job.ratio(report.fastest):.2f}"
    alt = (
        "Bars: time of the job as a share of the dense model's, with the change in bits per byte. "
        f"The fastest within the accepted loss, {best}."
    )
    return figure_svg(figure, alt)


def _memory(report: Report) -> FigureSVG:
    """Weights, and the cache behind them."""
    names = list(report.results)[::-1]
    figure, axes = _axes(names)
    unit, size = ("GB", 1e9) if report.results["dense"].memory >= 1e9 else ("MB", 1e6)
    weights = [report.results[name].weights / size for name in names]
    caches = [report.results[name].kv_cache / size for name in names]
    axes.barh(names, weights, color="C0", label="weights")
    axes.barh(names, caches, left=weights, color="C1", label="cache")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    axes.set(xlabel=f"memory ({unit}), text of {report.length:,} tokens")
    alt = (
        "Stacked bars: bytes of weights and cache of each configuration. The smallest within the "
        f"accepted loss is {report.smallest}."
    )
    return figure_svg(figure, alt)


def _figure(picture: FigureSVG, caption: str = "") -> str:
    below = f'<figcaption class="muted">{escape(caption)}</figcaption>' if caption else ""
    return f"<figure>{picture.svg}{below}</figure>"


def _axes(names: list[str]) -> tuple[Figure, Axes]:
    """Small enough that its labels can still be read on a phone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.8, 1.1 + 0.32 * len(names)))
    axes = figure.subplots()
    axes.grid(False, axis="y")
    return figure, axes
