"""Move a block pattern and see what it costs: live pairs, operations, memory, and how far it sees.

The pattern is that of :func:`effedu.blocking.block_mask`; the page computes every number anew, and
the methods here compute the same ones in Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import traitlets

from effedu._checks import check_int
from effedu.cost import live_pairs
from effedu.widgets._base import Widget, compose

Spans = list[tuple[int, int]]  # half-open and in order: [(0, 4), (384, 512)]

_MINIMUM = {
    "length": 1,
    "block_size": 1,
    "blocks_back": 0,
    "sinks": 0,
    "layers": 1,
    "num_heads": 1,
    "head_dim": 1,
}
# Up to here a count of operations is a whole number that JavaScript holds exactly: at most 2^53.
_MAXIMUM = {
    "length": 2**18,
    "block_size": 2**18,
    "blocks_back": 2**18,
    "sinks": 2**18,
    "layers": 1024,
    "num_heads": 128,
    "head_dim": 256,
}


def _whole(name: str, value: object) -> int:
    """Return ``value`` if the trait ``name`` allows it, else raise ``ValueError``."""
    number = check_int(name, value, minimum=_MINIMUM[name])
    if number > _MAXIMUM[name]:
        raise ValueError(f"{name} must be at most {_MAXIMUM[name]:,}, got {number:,}")
    return number


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


@dataclass(frozen=True)
class PatternNumbers:
    """What a pattern costs in one layer, beside dense attention of the same length."""

    live_pairs: int
    dense_pairs: int  # all pairs: with a causal mask, those with key <= query
    flops: int  # scores and weighted values, 2 per multiply-add
    dense_flops: int
    weight_bytes: int  # fp32 weights held at once: every query with its whole window
    dense_weight_bytes: int  # the same for an N x N matrix per head
    speedup_limit: float  # dense_pairs / live_pairs


class PatternExplorer(Widget):
    """An attention mask to play with: who sees whom, what it costs, and how far the layers reach.

    All traits are synchronised with the page; setting one there or in Python changes the other.

    Args:
        length: number of tokens, up to 2**18. The picture is exact to the token up to 512.
        block_size, blocks_back, sinks, causal: the pattern, as in
            :func:`effedu.blocking.block_attention`.
        layers: layers that look one after the other, for the receptive field.
        query: the row that is looked at; negative ones count from the end, as in Python.
        num_heads, head_dim: what operations and memory are counted for, up to 128 and 256.

    Raises:
        ValueError: for a value that isn't a whole number in its range.

    >>> explorer = PatternExplorer(8192, block_size=128)
    >>> explorer
    PatternExplorer(length=8192, block_size=128, blocks_back=1, sinks=0, causal=True, layers=4)
    >>> round(explorer.speedup_limit, 1)
    21.5
    >>> explorer.receptive_field(layers=2)  # the last token, two layers deep
    [(7808, 8192)]
    """

    _esm, _css = compose("pattern_explorer")

    length = traitlets.Int(512).tag(sync=True)
    block_size = traitlets.Int(64).tag(sync=True)
    blocks_back = traitlets.Int(1).tag(sync=True)
    sinks = traitlets.Int(0).tag(sync=True)
    causal = traitlets.Bool(True).tag(sync=True)
    layers = traitlets.Int(4).tag(sync=True)
    query = traitlets.Int(-1).tag(sync=True)
    num_heads = traitlets.Int(8).tag(sync=True)
    head_dim = traitlets.Int(64).tag(sync=True)

    def __init__(
        self,
        length: int = 512,
        *,
        block_size: int = 64,
        blocks_back: int = 1,
        sinks: int = 0,
        causal: bool = True,
        layers: int = 4,
        query: int = -1,
        num_heads: int = 8,
        head_dim: int = 64,
    ) -> None:
        numbers = {
            "length": length,
            "block_size": block_size,
            "blocks_back": blocks_back,
            "sinks": sinks,
            "layers": layers,
            "num_heads": num_heads,
            "head_dim": head_dim,
        }
        for name, value in numbers.items():
            _whole(name, value)
        _flag("causal", causal)
        _row(query, length)
        super().__init__(causal=causal, query=query, **numbers)

    @traitlets.validate(*_MINIMUM)  # type: ignore[untyped-decorator]
    def _check(self, proposal: dict[str, Any]) -> int:
        return _whole(proposal["trait"].name, proposal["value"])

    @traitlets.validate("query")  # type: ignore[untyped-decorator]
    def _check_query(self, proposal: dict[str, Any]) -> int:
        _row(proposal["value"], self.length)
        return int(proposal["value"])

    @traitlets.observe("length")  # type: ignore[untyped-decorator]
    def _keep_query_inside(self, change: dict[str, Any]) -> None:
        if not -change["new"] <= self.query < change["new"]:
            self.query = -1

    @property
    def live_pairs(self) -> int:
        """Pairs of a query and a key that the pattern keeps."""
        return live_pairs(
            self.length,
            block_size=self.block_size,
            blocks_back=self.blocks_back,
            causal=self.causal,
            sinks=self.sinks,
        )

    @property
    def dense_pairs(self) -> int:
        """All pairs; with a causal mask those whose key is not later than their query."""
        return int(self.length * (self.length + 1) // 2 if self.causal else self.length**2)

    @property
    def speedup_limit(self) -> float:
        """How many times fewer pairs there are: no implementation can save more than this."""
        return self.dense_pairs / self.live_pairs

    @property
    def numbers(self) -> PatternNumbers:
        """Every count the page shows.

        >>> PatternExplorer(1024, block_size=128, num_heads=1, head_dim=1).numbers.weight_bytes
        1048576
        """
        per_pair = 4 * self.head_dim * self.num_heads  # score and value, 2 per multiply-add
        window = self.block_size * (1 + self.blocks_back * (1 if self.causal else 2)) + self.sinks
        row = 4 * self.num_heads * self.length  # one fp32 weight for each query and head
        return PatternNumbers(
            live_pairs=self.live_pairs,
            dense_pairs=self.dense_pairs,
            flops=per_pair * self.live_pairs,
            dense_flops=per_pair * self.dense_pairs,
            weight_bytes=row * min(self.length, window),
            dense_weight_bytes=row * self.length,
            speedup_limit=self.speedup_limit,
        )

    def visible(self, query: int | None = None) -> Spans:
        """Return the keys that ``query`` (by default the trait's) sees in one layer, as spans.

        >>> PatternExplorer(512, block_size=64, sinks=4).visible(200)
        [(0, 4), (128, 201)]
        """
        return self.receptive_field(layers=1, query=query)

    def receptive_field(self, layers: int | None = None, query: int | None = None) -> Spans:
        """Return the positions whose input can change ``query``'s output after ``layers`` layers.

        Layer by layer, from the query backwards: what is reached now looks at what it can see. It
        is the row ``query`` of the mask's boolean power, without its N x N matrices.

        Raises:
            ValueError: ``layers`` below 1, or a ``query`` that is not among the tokens.
        """
        layers = self.layers if layers is None else _whole("layers", layers)
        row = _row(self.query if query is None else query, self.length)
        spans = [(row, row + 1)]
        for _ in range(layers):
            wider = self._look(spans)
            if wider == spans:
                break  # nothing left to reach
            spans = wider
        return spans

    def layers_to_see_all(self, query: int | None = None) -> int | None:
        """Return how many layers it takes until everything that may reach ``query`` does, or None.

        >>> PatternExplorer(512, block_size=64).layers_to_see_all()  # from the last of 8 blocks
        7
        """
        row = _row(self.query if query is None else query, self.length)
        everything = [(0, row + 1 if self.causal else self.length)]
        spans, layers = self._look([(row, row + 1)]), 1
        while spans != everything:
            wider = self._look(spans)
            if wider == spans:
                return None
            spans, layers = wider, layers + 1
        return layers

    def _look(self, spans: Spans) -> Spans:
        """Return what the positions in ``spans`` see, together. The sinks are seen by each."""
        size, back = self.block_size, self.blocks_back
        seen: Spans = []
        for start, stop in spans:
            low = max(0, (start // size - back) * size)
            last = (stop - 1) // size  # block of the last position
            high = stop if self.causal else min(self.length, (last + back + 1) * size)
            sinks = min(self.sinks, stop if self.causal else self.length)
            seen += [(low, high), (0, sinks)] if sinks else [(low, high)]
        merged: Spans = []
        for start, stop in sorted(seen):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
            else:
                merged.append((start, stop))
        return merged

    def _summary(self) -> str:
        names = ("length", "block_size", "blocks_back", "sinks", "causal", "layers")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    def fallback(self) -> str:
        """Return the mask as a still picture, with the numbers of this state in words."""
        numbers, field = self.numbers, self.receptive_field(query=-1)
        kept = numbers.live_pairs / numbers.dense_pairs
        words = (
            f"Block attention over {self.length:,} tokens: blocks of {self.block_size:,}, "
            f"{self.blocks_back:,} back, {self.sinks:,} sinks, "
            f"{'causal' if self.causal else 'both ways'}. It computes {numbers.live_pairs:,} of "
            f"{numbers.dense_pairs:,} pairs ({kept:.1%}), so it can be at most "
            f"{numbers.speedup_limit:.1f} times faster. After {self.layers:,} layers the last "
            f"token depends on {sum(b - a for a, b in field):,} of {self.length:,} positions."
        )
        return f"<figure>{self._picture(words)}<figcaption>{escape(words)}</figcaption></figure>"

    def _picture(self, words: str, side: int = 320, bands: int = 64) -> str:
        """The mask in at most ``bands`` bands of rows; each shows what its last query sees."""
        bands = min(bands, self.length)
        scale = side / self.length
        live = []
        for band in range(bands):
            top, bottom = band * self.length // bands, (band + 1) * self.length // bands
            for start, stop in self.visible(bottom - 1):
                live.append(
                    f"M{start * scale:.2f} {top * scale:.2f}H{stop * scale:.2f}"
                    f"V{bottom * scale:.2f}H{start * scale:.2f}z"
                )
        all_pairs = f"M0 0L{side} {side}H0z" if self.causal else f"M0 0H{side}V{side}H0z"
        return (
            f'<svg viewBox="0 0 {side} {side}" width="{side}" height="{side}" role="img" '
            f'aria-label="{escape(words)}" style="max-width:100%;height:auto">'
            f'<path d="{all_pairs}" fill="currentColor" opacity="0.12"/>'
            f'<path d="{"".join(live)}" fill="#0072b2"/></svg>'
        )


def _row(query: object, length: int) -> int:
    """Return the position that ``query`` names among ``length`` tokens, or raise ``ValueError``."""
    if isinstance(query, bool) or not isinstance(query, int) or not -length <= query < length:
        raise ValueError(
            f"query must be a whole number from {-length} to {length - 1} for a length of "
            f"{length}, got {query!r}"
        )
    return query % length
