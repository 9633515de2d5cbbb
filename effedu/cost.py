"""What a language model costs: exact operations, bytes, parameters and cache of a configuration.

Nothing here runs the model. The counts follow from the shapes in its configuration, as in Kaplan
et al., "Scaling Laws for Neural Language Models" (2020), section 2.1, but without their
approximations; the tests hold them equal to ``torch.utils.flop_counter`` on real forward passes.
"""

from __future__ import annotations

import html
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import torch

from effedu._checks import check_int

# Where the site's own style sheet is absent (Colab, JupyterLab).
_STYLE = """<style>
.effedu-cost caption, .effedu-cost th { text-align: left; padding: 0.2em 0.6em }
.effedu-cost td { text-align: right; padding: 0.2em 0.6em; font-variant-numeric: tabular-nums }
</style>"""
_FAMILIES = ("gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")


@runtime_checkable
class BlockPattern(Protocol):
    """What ``cost`` reads of an attention pattern, such as ``effedu.patch.block(128)``."""

    @property
    def block_size(self) -> int: ...
    @property
    def blocks_back(self) -> int: ...
    @property
    def sinks(self) -> int: ...


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of the matrix products in one pass; a multiply-add counts as 2."""

    attention_projections: int  # query, key, value and output projections
    attention_scores: int  # query times key
    attention_values: int  # weights times value
    feed_forward: int
    unembedding: int  # hidden state to logits

    @property
    def attention(self) -> int:
        """Scores and values together: the part that grows with the square of the length."""
        return self.attention_scores + self.attention_values

    @property
    def total(self) -> int:
        """All parts."""
        return self.attention_projections + self.attention + self.feed_forward + self.unembedding


@dataclass(frozen=True)
class Traffic:
    """Bytes that one pass moves between memory and processor at the least; see :func:`cost`."""

    weights: int
    kv_cache_read: int
    kv_cache_written: int
    activations: int

    @property
    def total(self) -> int:
        """All parts."""
        return self.weights + self.kv_cache_read + self.kv_cache_written + self.activations


@dataclass(frozen=True)
class Part:
    """What one part of a model computes, moves and keeps, all layers together."""

    flops: int
    bytes_moved: int
    bytes_kept: int  # its weights; of attention, which has none, the KV cache after the pass


@dataclass(frozen=True)
class Cost:
    """The cost of one forward pass, from :func:`cost`. Counts are whole numbers, nothing rounded.

    Prints as a table, and shows as one in a notebook. ``parts`` shares the same totals out among
    ``"projections"``, ``"attention"``, ``"feed-forward"``, ``"logits"`` and
    ``"embedding and norms"``.
    """

    length: int
    batch: int
    cached: int
    dtype: torch.dtype
    flops: Flops
    bytes_moved: Traffic
    parameters: int
    kv_cache_bytes: int  # size of the cache after the pass
    parts: dict[str, Part]

    @property
    def intensity(self) -> float:
        """Operations per byte: low means the memory sets the pace, high means the processor."""
        return self.flops.total / self.bytes_moved.total

    def _rows(self) -> list[tuple[str, list[tuple[str, str]]]]:
        def parts(numbers: Flops | Traffic, unit: str) -> list[tuple[str, str]]:
            rows = [
                (
                    field.name.replace("_", " ").replace("kv", "KV"),
                    f"{_scaled(part, unit)} ({part / numbers.total:.1%})",
                )
                for field in fields(numbers)
                for part in [getattr(numbers, field.name)]
            ]
            return [*rows, ("total", _scaled(numbers.total, unit))]

        size = [
            ("parameters", f"{self.parameters:,}"),
            ("KV cache", _scaled(self.kv_cache_bytes, "B")),
            ("operations per byte", f"{self.intensity:.3g}"),
        ]
        return [
            ("operations", parts(self.flops, "FLOP")),
            ("bytes moved", parts(self.bytes_moved, "B")),
            ("size", size),
        ]

    def _title(self) -> str:
        new = f"{self.length:,} token{'s' * (self.length != 1)}"
        after = f" after {self.cached:,} cached" if self.cached else ""
        return f"{new}{after}, batch {self.batch}, {str(self.dtype).removeprefix('torch.')}"

    def __repr__(self) -> str:
        lines = [f"Cost of one pass: {self._title()}"]
        for part, rows in self._rows():
            lines.append(part)
            lines += [f"  {label:<22} {value:>22}" for label, value in rows]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        parts = [
            f'{_STYLE}<table class="effedu-table effedu-cost">'
            f"<caption>Cost of one pass: {html.escape(self._title())}</caption>"
        ]
        for part, rows in self._rows():
            parts.append(
                f'<tbody><tr><th colspan="2" scope="rowgroup">{html.escape(part)}</th></tr>'
            )
            parts += [
                f'<tr><th scope="row">{html.escape(label)}</th><td>{html.escape(value)}</td></tr>'
                for label, value in rows
            ]
            parts.append("</tbody>")
        return "".join(parts) + "</table>"


def _scaled(count: int, unit: str) -> str:
    """``1234567, "B"`` as ``1.23 MB``: powers of 1000, three digits."""
    value, prefixes = float(count), ["", "k", "M", "G", "T", "P", "E"]
    while value >= 999.5 and len(prefixes) > 1:
        value /= 1000
        prefixes.pop(0)
    text = str(count) if count < 1000 else f"{value:#.3g}".rstrip(".")
    return f"{text} {prefixes[0]}{unit}"


def live_pairs(
    length: int, *, block_size: int, blocks_back: int = 1, causal: bool = True, sinks: int = 0
) -> int:
    """Count the (query, key) pairs that :func:`effedu.blocking.block_mask` lets through, in O(1).

    Every query block sees itself (half of it when causal) and ``blocks_back`` full blocks behind
    it; the sum over blocks has a closed form. Sinks add the keys that lie outside this window.

    >>> live_pairs(8192, block_size=128)
    1560576
    >>> live_pairs(8192, block_size=8192)  # one block is plain causal attention: N (N + 1) / 2
    33558528
    """
    check_int("length", length, minimum=1)
    check_int("block_size", block_size, minimum=1)
    check_int("blocks_back", blocks_back, minimum=0)
    check_int("sinks", sinks, minimum=0)
    full, rest = divmod(length, block_size)  # whole blocks, and queries in the last, partial one

    # The window: keys in earlier blocks. Block q looks at min(q, blocks_back) of them, all whole.
    early = min(full, blocks_back + 1)  # these blocks have fewer than blocks_back behind them
    seen_blocks = early * (early - 1) // 2 + (full - early) * blocks_back
    behind = block_size**2 * seen_blocks + rest * block_size * min(full, blocks_back)

    # Sinks behind the window: a query in block q adds min(sinks, block_size * (q - blocks_back)).
    sinks = min(sinks, length)
    far = max(0, full - 1 - blocks_back)  # whole query blocks that have keys behind their window
    partly = min(far, sinks // block_size)  # of these, blocks with fewer such keys than sinks
    sink_pairs = block_size * (
        block_size * partly * (partly + 1) // 2 + (far - partly) * sinks
    ) + rest * min(sinks, block_size * max(0, full - blocks_back))
    if causal:
        own = full * (block_size * (block_size + 1) // 2) + rest * (rest + 1) // 2
        return own + behind + sink_pairs

    own = full * block_size**2 + rest**2
    # Without a causal mask there are also sinks ahead of the window: a query in block q adds
    # sinks - block_size * (q + blocks_back + 1) of them, while that is positive.
    first, last = blocks_back + 1, (sinks - 1) // block_size
    if last >= first:
        count = last - first + 1
        sink_pairs += block_size * (count * sinks - block_size * count * (first + last) // 2)
    return own + 2 * behind + sink_pairs


_Linear = tuple[int, int, int]  # inputs, outputs, bias parameters


@dataclass(frozen=True)
class _Shape:
    """The numbers of a configuration that its cost depends on."""

    vocab: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    linears: tuple[_Linear, ...]  # attention's projections in one layer
    feed_forward: tuple[_Linear, ...]
    norm: int  # parameters of one normalisation over the width
    head_norms: int  # parameters of the normalisations of queries and keys, per layer
    positions: int  # rows of the learned position table
    tied: bool  # embedding and unembedding share their weights
    windows: tuple[int | None, ...]  # sliding window of each layer


def _read(config: Any) -> _Shape:
    """Read the shape off a Hugging Face configuration by its attributes alone."""
    family = getattr(config, "model_type", None)
    if family not in _FAMILIES:
        raise ValueError(
            f"config must be a Hugging Face configuration with model_type one of "
            f"{', '.join(_FAMILIES)}; got {type(config).__name__} with model_type {family!r}"
        )
    if getattr(config, "add_cross_attention", False):
        raise ValueError("config.add_cross_attention must be False, got True: decoders only")
    width, heads = config.hidden_size, config.num_attention_heads
    layers = config.num_hidden_layers
    head_dim = getattr(config, "head_dim", None) or width // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    query_width, kv_width = heads * head_dim, kv_heads * head_dim
    linears: tuple[_Linear, ...]
    feed_forward: tuple[_Linear, ...]

    if family in ("gpt2", "gpt_neox"):  # one fused projection, LayerNorm, two-layer feed-forward
        bias = family == "gpt2" or bool(config.attention_bias)
        inner = config.n_inner if family == "gpt2" else config.intermediate_size
        inner = inner or 4 * width
        linears = ((width, 3 * width, 3 * width * bias), (width, width, width * bias))
        feed_forward = ((width, inner, inner), (inner, width, width))
        norm = 2 * width  # gain and bias
    else:  # separate projections, RMSNorm, gated feed-forward
        in_bias = family == "qwen2" or bool(getattr(config, "attention_bias", False))
        out_bias = family != "qwen2" and in_bias
        ff_bias = bool(getattr(config, "mlp_bias", False))
        inner = config.intermediate_size
        linears = (
            (width, query_width, query_width * in_bias),
            (width, kv_width, kv_width * in_bias),
            (width, kv_width, kv_width * in_bias),
            (query_width, width, width * out_bias),
        )
        gate = (width, inner, inner * ff_bias)
        feed_forward = (gate, gate, (inner, width, width * ff_bias))
        norm = width  # gain

    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"] * layers
    return _Shape(
        vocab=config.vocab_size,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        linears=linears,
        feed_forward=feed_forward,
        norm=norm,
        head_norms=2 * head_dim if family == "qwen3" else 0,
        positions=config.n_positions if family == "gpt2" else 0,
        tied=bool(config.tie_word_embeddings),
        windows=tuple(window if kind == "sliding_attention" else None for kind in kinds),
    )


def _kept(cached: int, window: int | None) -> int:
    """Cached tokens that a layer still holds: a sliding window keeps all but the newest's place."""
    return cached if window is None else min(cached, window - 1)


def _triangle(length: int, window: int | None) -> int:
    """Pairs under a causal mask in one layer: each query with itself and the keys before it."""
    seen = length if window is None else min(length, window)  # by the last query
    return seen * (seen + 1) // 2 + (length - seen) * seen


def _attended(
    shape: _Shape, pattern: BlockPattern | None, cached: int, length: int, causal: bool
) -> tuple[int, int]:
    """Pairs of new queries and keys, and cached keys that they read; over all layers."""
    total = cached + length
    if pattern is not None:
        narrow = [w for w in shape.windows if w is not None and w < total]
        if narrow:
            raise ValueError(
                f"attention must be None for a model whose sliding window ({min(narrow)}) is "
                f"shorter than length + cached ({total})"
            )
        pairs = _live_block_pairs(pattern, cached, length)
        return shape.layers * pairs, shape.layers * _block_keys_read(pattern, cached)
    kept = [_kept(cached, window) for window in shape.windows]
    if causal:
        return sum(_triangle(total, w) - _triangle(cached, w) for w in shape.windows), sum(kept)
    return sum(length * (k + length) for k in kept), sum(kept)


def _live_block_pairs(pattern: BlockPattern, cached: int, length: int) -> int:
    """Live pairs of the queries at positions ``cached`` to ``cached + length - 1``, one layer."""
    # Causal: earlier rows do not depend on later ones, so the new rows are a difference.
    before, after = (
        live_pairs(
            n,
            block_size=pattern.block_size,
            blocks_back=pattern.blocks_back,
            sinks=pattern.sinks,
        )
        if n
        else 0
        for n in (cached, cached + length)
    )
    return after - before


def _block_keys_read(pattern: BlockPattern, cached: int) -> int:
    """Cached positions that new tokens, starting at position ``cached``, can see."""
    start = max(0, cached // pattern.block_size - pattern.blocks_back) * pattern.block_size
    return cached - start + min(pattern.sinks, start)


@dataclass(frozen=True)
class _Linears:
    """Linear layers that each read ``tokens`` tokens, as often as the model has layers."""

    shapes: tuple[_Linear, ...]
    tokens: int
    layers: int = 1

    @property
    def flops(self) -> int:
        return 2 * self.tokens * self.layers * sum(i * o for i, o, _ in self.shapes)

    @property
    def weights(self) -> int:
        return self.layers * sum(i * o + bias for i, o, bias in self.shapes)

    @property
    def activations(self) -> int:
        """Numbers that go in and come out."""
        return self.tokens * self.layers * sum(i + o for i, o, _ in self.shapes)

    def part(self, item: int) -> Part:
        moved = item * (self.weights + self.activations)
        return Part(self.flops, moved, item * self.weights)


def cost(
    config: Any,
    length: int,
    *,
    batch: int = 1,
    cached: int = 0,
    attention: BlockPattern | None = None,
    causal: bool = False,
    logits_to_keep: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Cost:
    """Exact cost of one forward pass of a causal language model over ``length`` new tokens.

    Reading a prompt is ``cost(config, length)``; writing one token after it, with a KV cache, is
    ``cost(config, 1, cached=length)``.

    **Operations** are those of the matrix products, 2 per multiply-add; normalisation, softmax,
    activation functions, rotation and biases are left out, as in ``torch.utils.flop_counter``.
    With ``attention=None`` attention is counted as the formula computes it: every query with
    every key, ``length * (cached + length)`` pairs, also those the causal mask throws away.
    ``causal=True`` counts only pairs that the mask lets through, as fused kernels compute them,
    apart from the tiles on the diagonal. With a block pattern only live pairs count
    (:func:`live_pairs`).

    **Bytes moved** is the least that the pass can move when weights do not fit in the processor's
    cache, with elementwise steps fused into their neighbours and scores never written out, as in
    FlashAttention (Dao et al., 2022). It counts

    - weights: each parameter read once, but of the two embedding tables only the rows looked up
      (``batch * length`` tokens, ``length`` positions; with tied embeddings the unembedding reads
      the whole table);
    - KV cache read: the cached keys and values that the new tokens may see;
    - KV cache written: keys and values of the new tokens;
    - activations: the input and output of every linear layer, and attention's query, new keys,
      new values and output, each moved once.

    Args:
        config: a Hugging Face configuration of the GPT-2, GPT-NeoX, Llama, Mistral, Qwen2 or
            Qwen3 family.
        length: new tokens per sequence.
        batch: sequences.
        cached: tokens per sequence that the KV cache already holds.
        attention: None for dense causal attention, or an object with ``block_size``,
            ``blocks_back`` and ``sinks``, such as ``effedu.patch.block(128)``.
        causal: leave out the pairs that the causal mask throws away.
        logits_to_keep: compute logits for the last so many tokens only; 0 means all, as in
            Transformers.
        dtype: of weights, activations and cache.

    Raises:
        ValueError: for an unknown kind of configuration, or a count out of range.

    >>> from types import SimpleNamespace
    >>> gpt2 = SimpleNamespace(
    ...     model_type="gpt2", vocab_size=50257, hidden_size=768, num_hidden_layers=12,
    ...     num_attention_heads=12, n_inner=None, n_positions=1024, tie_word_embeddings=True)
    >>> cost(gpt2, 1024).parameters
    124439808
    >>> round(cost(gpt2, 1024).flops.attention / cost(gpt2, 1024).flops.total, 3)
    0.133
    """
    shape = _read(config)
    check_int("length", length, minimum=1)
    check_int("batch", batch, minimum=1)
    check_int("cached", cached, minimum=0)
    check_int("logits_to_keep", logits_to_keep, minimum=0)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype must be a torch.dtype, got {dtype!r}")
    total = cached + length
    if shape.positions and total > shape.positions:
        raise ValueError(
            f"length + cached must be at most the model's {shape.positions} positions, got {total}"
        )
    pairs, keys_read = _attended(shape, attention, cached, length, causal)

    tokens, item = batch * length, dtype.itemsize
    outputs = batch * (min(logits_to_keep, length) or length)  # tokens that get logits
    projections = _Linears(shape.linears, tokens, shape.layers)
    feed_forward = _Linears(shape.feed_forward, tokens, shape.layers)
    logits = _Linears(((shape.width, shape.vocab, 0),), outputs)
    linears = (projections, feed_forward, logits)

    query_width, kv_width = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    product = 2 * batch * query_width * pairs  # of queries and keys, or of weights and values
    token_bytes = item * 2 * kv_width  # of one token's key and value in one layer
    cache_read = batch * token_bytes * keys_read
    cache_written = tokens * token_bytes * shape.layers
    cache_kept = batch * token_bytes * sum(_kept(total, window) for window in shape.windows)
    attended = tokens * shape.layers * 2 * (query_width + kv_width)  # in: q, k, v; out: the result

    norms = shape.layers * (2 * shape.norm + shape.head_norms) + shape.norm
    tables = (0 if shape.tied else logits.weights) + shape.positions * shape.width
    looked_up = (tokens + (length if shape.positions else 0)) * shape.width  # rows of the tables
    weights = sum(linear.weights for linear in linears) + norms
    activations = sum(linear.activations for linear in linears) + attended
    return Cost(
        length=length,
        batch=batch,
        cached=cached,
        dtype=dtype,
        flops=Flops(
            attention_projections=projections.flops,
            attention_scores=product,
            attention_values=product,
            feed_forward=feed_forward.flops,
            unembedding=logits.flops,
        ),
        bytes_moved=Traffic(
            weights=item * (weights + looked_up),
            kv_cache_read=cache_read,
            kv_cache_written=cache_written,
            activations=item * activations,
        ),
        parameters=weights + tables,
        kv_cache_bytes=cache_kept,
        parts={
            "projections": projections.part(item),
            "attention": Part(
                2 * product, item * attended + cache_read + cache_written, cache_kept
            ),
            "feed-forward": feed_forward.part(item),
            "logits": logits.part(item),
            "embedding and norms": Part(0, item * (norms + looked_up), item * (norms + tables)),
        },
    )


def crossover(config: Any, *, causal: bool = True) -> int:
    """First length at which attention to the whole text needs more FLOPs than the feed-forward.

    Reading ``N`` tokens, the feed-forward network has the same work for each of them, and attention
    an amount for each pair of tokens. With two matrices of width ``d`` and ``d_ff``, and heads that
    are together as wide as the model, they are equal at ``N = 2 d_ff - 1`` tokens; if the pairs
    that the causal mask throws away are computed too (``causal=False``), at ``N = d_ff``.

    Args:
        config: as for :func:`cost`.
        causal: count only pairs that the causal mask lets through, ``N (N + 1) / 2`` of them, or
            all ``N²``.

    Raises:
        ValueError: for an unknown kind of configuration, or a sliding window that is shorter than
            the result: such a model sees fewer pairs.

    >>> from types import SimpleNamespace
    >>> neox = SimpleNamespace(
    ...     model_type="gpt_neox", vocab_size=50432, hidden_size=6144, num_hidden_layers=44,
    ...     num_attention_heads=64, intermediate_size=24576, attention_bias=True,
    ...     tie_word_embeddings=False)
    >>> crossover(neox)
    49152
    """
    shape = _read(config)
    per_token = 2 * sum(inputs * outputs for inputs, outputs, _ in shape.feed_forward)
    per_pair = 4 * shape.heads * shape.head_dim
    # Pairs for each token: (N + 1) / 2 or N. The first N at which they cost more than per_token:
    found = max(1, 2 * per_token // per_pair) if causal else per_token // per_pair + 1
    narrow = [window for window in shape.windows if window is not None and window < found]
    if narrow:
        raise ValueError(
            f"config must have no sliding window shorter than the crossover at {found:,} tokens, "
            f"got one of {min(narrow):,}"
        )
    return found
