"""Where a token stands: attention itself cannot tell, so the position has to come in from outside.

Sinusoids that are added (Vaswani et al., 2017, section 3.5, https://arxiv.org/abs/1706.03762),
rotations of queries and keys (Su et al., 2021, https://arxiv.org/abs/2104.09864), a bias on the
scores (Press et al., 2022, https://arxiv.org/abs/2108.12409), and encodings that only some
positions keep. :class:`SmallTransformer` and :func:`order_task` put them to the test in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Real
from torch import Tensor, nn

from effedu._checks import check_int
from effedu.attention import causal_mask

SCHEMES = ("none", "learned", "sinusoidal", "rotary", "alibi")
TASKS = ("copy", "reverse", "first", "nearest")


def frequencies(
    dim: int, *, base: float | int = 10_000, scale: float | int = 1
) -> Float[Tensor, "pairs"]:
    r"""The angle by which each pair of numbers turns from one position to the next, in radians.

    :math:`\theta_i = \text{base}^{-2i/\text{dim}} / \text{scale}` for :math:`i = 0, 1, …,
    \text{dim}/2 - 1`: the first pair turns fast, the last ones hardly move. With a ``scale`` above
    1 every position counts for less (position interpolation: Chen et al., 2023, section 2.3,
    equation 4, https://arxiv.org/abs/2306.15595). Float32 on the CPU.

    Args:
        dim: numbers that are encoded, two a pair; even.
        base: the longest wavelength is nearly ``2 π base`` positions.
        scale: what positions are divided by.

    Raises:
        ValueError: an odd ``dim`` or one below 2, or a base or scale that is not positive.

    Source: Vaswani et al. (2017), section 3.5; Su et al. (2021), section 3.2.2.

    >>> frequencies(8)
    tensor([1.0000, 0.1000, 0.0100, 0.0010])
    """
    check_int("dim", dim, minimum=2)
    if dim % 2:
        raise ValueError(f"dim must be even, two numbers for each frequency, got {dim}")
    for name, value in (("base", base), ("scale", scale)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return 1.0 / base ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim) / scale


def sinusoidal(
    length: int, dim: int, *, base: float | int = 10_000, scale: float | int = 1
) -> Float[Tensor, "length dim"]:
    r"""The table of sines and cosines that the first transformer added to its embeddings.

    Row :math:`p` holds :math:`\sin(p\,\theta_i)` at :math:`2i` and :math:`\cos(p\,\theta_i)` at
    :math:`2i + 1`, with :func:`frequencies`. The dot product of two rows depends on their distance
    alone: :math:`\sum_i \cos((p - q)\,\theta_i)`.

    Args:
        length: positions, at least 1.
        dim, base, scale: as in :func:`frequencies`.

    Raises:
        ValueError: an argument out of range.

    Source: Vaswani et al. (2017), section 3.5.

    >>> sinusoidal(3, 4).round(decimals=2)
    tensor([[ 0.0000,  1.0000,  0.0000,  1.0000],
            [ 0.8400,  0.5400,  0.0100,  1.0000],
            [ 0.9100, -0.4200,  0.0200,  1.0000]])
    """
    check_int("length", length, minimum=1)
    theta = frequencies(dim, base=base, scale=scale)
    angles = torch.arange(length)[:, None] * theta  # (length, dim / 2)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


def rotary(
    x: Float[Tensor, "*batch length head_dim"],
    positions: Real[Tensor, "length"] | None = None,
    *,
    base: float | int = 10_000,
    rotary_dim: int | None = None,
    interleaved: bool = False,
    scale: float | int = 1,
) -> Float[Tensor, "*batch length head_dim"]:
    r"""Turn each query or key by its position: their product then depends on the distance alone.

    Pair :math:`i` of row :math:`p` turns by the angle :math:`p\,\theta_i`, with
    :func:`frequencies`, so that :math:`(R_p q)^\top (R_m k) = q^\top R_{m-p}\, k`. Values are not
    turned. Lengths of vectors stay as they are.

    Which two numbers form a pair is a convention, and weights trained with one don't work with the
    other. By default number :math:`i` goes with number :math:`i + \text{rotary\_dim}/2` (GPT-NeoX,
    Llama as in Transformers); ``interleaved`` takes neighbours, :math:`2i` with :math:`2i + 1`
    (the paper, GPT-J).

    Args:
        x: ``(…, length, head_dim)``, queries or keys.
        positions: ``(length,)``, whole or not; 0, 1, 2, … if not given.
        base, scale: as in :func:`frequencies`. A ``scale`` of 2 lets a model read twice the length
            it was trained at with angles that it has seen (position interpolation).
        rotary_dim: turn the first so many numbers only and leave the rest (partial rotary, as in
            GPT-NeoX); even, all of ``head_dim`` if not given.
        interleaved: the convention for pairs, see above.

    Raises:
        ValueError: an ``x`` that has fewer than two dimensions or isn't floating-point, positions
            that do not fit it, an odd or too large ``rotary_dim``, or a base or scale that is not
            positive.

    Source: Su et al. (2021), section 3.4.2, equation 34.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    >>> rotary(x).round(decimals=2)  # by 0, 1 and 2 radians
    tensor([[ 1.0000,  0.0000],
            [ 0.5400,  0.8400],
            [-0.4200,  0.9100]])
    """
    positions, rotary_dim = _check_rotary(x, positions, rotary_dim)
    wide = torch.promote_types(x.dtype, torch.float32)  # positions need more than 16 bits
    theta = frequencies(rotary_dim, base=base, scale=scale).to(x.device)
    angles = positions[:, None].to(wide) * theta.to(wide)  # (length, rotary_dim / 2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    turned, rest = x[..., :rotary_dim], x[..., rotary_dim:]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    else:
        a, b = turned.chunk(2, dim=-1)
        turned = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return torch.cat((turned, rest), dim=-1)


def _check_rotary(
    x: Tensor, positions: Tensor | None, rotary_dim: int | None
) -> tuple[Tensor, int]:
    """Return positions and the width to turn, or raise ``ValueError``."""
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(
            f"x must be a floating-point tensor (…, length, head_dim), "
            f"got shape {tuple(x.shape)} and dtype {x.dtype}"
        )
    length, head_dim = x.shape[-2:]
    if positions is None:
        positions = torch.arange(length, device=x.device)
    if positions.shape != (length,) or positions.dtype == torch.bool:
        raise ValueError(
            f"positions must hold {length} numbers, one for each row of x, "
            f"got shape {tuple(positions.shape)} and dtype {positions.dtype}"
        )
    if positions.device != x.device:
        raise ValueError(f"positions must be on x's device {x.device}, got {positions.device}")
    rotary_dim = head_dim if rotary_dim is None else check_int("rotary_dim", rotary_dim, 2)
    if rotary_dim % 2 or rotary_dim > head_dim:
        raise ValueError(
            f"rotary_dim must be even and at most the head_dim {head_dim}, got {rotary_dim}"
        )
    return positions, rotary_dim


def alibi_slopes(num_heads: int) -> Float[Tensor, "heads"]:
    r"""How much each head dislikes distance: a geometric sequence, steep heads first.

    For :math:`h` heads, a power of two: :math:`2^{-8/h}, 2^{-16/h}, …, 2^{-8}`. Other counts take
    the sequence of the power of two below, and then every second slope of the next one.

    Raises:
        ValueError: ``num_heads`` below 1.

    Source: Press et al. (2022), section 3; other counts as in the authors' code and in BLOOM.

    >>> alibi_slopes(4), alibi_slopes(3)
    (tensor([0.2500, 0.0625, 0.0156, 0.0039]), tensor([0.0625, 0.0039, 0.2500]))
    """
    check_int("num_heads", num_heads, minimum=1)
    below = 2 ** (num_heads.bit_length() - 1)  # the largest power of two up to num_heads
    powers = [-8 * i / below for i in range(1, below + 1)]
    powers += [-4 * i / below for i in range(1, 2 * (num_heads - below), 2)]
    return 2.0 ** torch.tensor(powers)


def alibi(num_heads: int, length: int) -> Float[Tensor, "heads length length"]:
    r"""The bias that ALiBi adds to the scores: :math:`-m_h\,|i - j|`, :func:`alibi_slopes` times
    distance.

    Add it to :math:`q_i^\top k_j/\sqrt{d_k}` before the softmax. With a causal mask only the lower
    triangle counts, which is the paper's form. The upper one is its mirror image, so a model that
    looks both ways can tell far from near and not left from right.

    Raises:
        ValueError: an argument below 1.

    Source: Press et al. (2022), section 3.

    >>> alibi(1, 3)[0] * 256
    tensor([[-0., -1., -2.],
            [-1., -0., -1.],
            [-2., -1., -0.]])
    """
    check_int("length", length, minimum=1)
    place = torch.arange(length)
    return -alibi_slopes(num_heads)[:, None, None] * (place[:, None] - place).abs()


def sparse_positions(
    positions: Int[Tensor, "*shape"], *, keep: Literal["start"] | int = "start"
) -> Bool[Tensor, "*shape"]:
    """True where a sparse encoding says the position, false where it says nothing.

    ``keep="start"`` keeps position 0 alone, and a number keeps every so many: 0, ``keep``,
    2 ``keep``, … With the size of a block these are the starts of blocks. An encoding that is added
    becomes sparse as ``table * sparse_positions(…)[:, None]``: zeros elsewhere.

    Args:
        positions: whole numbers, any shape.
        keep: ``"start"``, or an integer of at least 1; with 1 all positions keep theirs.

    Raises:
        ValueError: positions that are not whole numbers, or another ``keep``.

    >>> sparse_positions(torch.arange(6), keep=3).int()
    tensor([1, 0, 0, 1, 0, 0], dtype=torch.int32)
    """
    if positions.is_floating_point() or positions.dtype == torch.bool:
        raise ValueError(f"positions must be whole numbers, got dtype {positions.dtype}")
    if keep == "start":
        return positions == 0
    if isinstance(keep, str):
        raise ValueError(f"keep must be 'start' or an integer of at least 1, got {keep!r}")
    return positions % check_int("keep", keep, minimum=1) == 0


# --- A small transformer, with one scheme or another ----------------------------------------------


class SmallTransformer(nn.Module):
    """A plain transformer of about 0.1 million parameters that learns from order, or can't.

    Layer norm before each part, GELU, nothing dropped out. The same layers serve every scheme:

    - ``"none"``: nothing says where a token stands;
    - ``"learned"``: a table of ``max_length`` trained vectors is added to the embeddings;
    - ``"sinusoidal"``: :func:`sinusoidal` is added;
    - ``"rotary"``: :func:`rotary` turns queries and keys in each layer;
    - ``"alibi"``: :func:`alibi` is added to the scores in each layer.

    Args:
        vocabulary: different tokens.
        positions: the scheme, one of ``SCHEMES``.
        keep: which positions keep what is added, as in :func:`sparse_positions`; only for the
            learned and sinusoidal schemes. All of them if not given.
        causal: whether each token sees only itself and those before it.
        max_length: longest text, for the learned scheme alone: the others know no end.
        width, heads, layers: the size.

    Attributes:
        scale: divides the positions of the sinusoidal and rotary schemes (position interpolation);
            1 at first, to be set at any time.

    Raises:
        ValueError: an argument out of range, or a text longer than the learned table.

    >>> model = SmallTransformer(10, positions="rotary")
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 10])
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        positions: str = "none",
        keep: Literal["start"] | int | None = None,
        causal: bool = True,
        max_length: int = 64,
        width: int = 64,
        heads: int = 4,
        layers: int = 2,
    ) -> None:
        super().__init__()
        sizes = {"vocabulary": vocabulary, "max_length": max_length, "width": width}
        for name, size in {**sizes, "heads": heads, "layers": layers}.items():
            check_int(name, size, minimum=1)
        if positions not in SCHEMES:
            raise ValueError(f"positions must be one of {', '.join(SCHEMES)}; got {positions!r}")
        if keep is not None and positions not in ("learned", "sinusoidal"):
            raise ValueError(f"keep must be None with the scheme {positions!r}, got {keep!r}")
        if keep is not None:
            sparse_positions(torch.arange(1), keep=keep)
        if width % (2 * heads):
            raise ValueError(
                f"width must be a multiple of twice the heads, got {width} and {heads}"
            )
        self.positions, self.keep, self.causal, self.heads = positions, keep, causal, heads
        self.scale: float | int = 1
        self.embed = nn.Embedding(vocabulary, width)
        self.table = nn.Embedding(max_length, width) if positions == "learned" else None
        self.layers = nn.ModuleList(_Layer(width, heads) for _ in range(layers))
        self.unembed = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, vocabulary))

    def forward(
        self, tokens: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length vocabulary"]:
        x = self.embed(tokens) + self._added(tokens.shape[1])  # (batch, length, width)
        bias = self._bias(tokens.shape[1])
        rotate = self._rotate if self.positions == "rotary" else nn.Identity()
        for layer in self.layers:
            x = layer(x, bias, rotate)
        logits: Tensor = self.unembed(x)
        return logits

    def _added(self, length: int) -> Tensor:
        """What the scheme adds to the embeddings: ``(length, width)``, or zeros."""
        weight = self.embed.weight
        if self.table is not None:
            if length > self.table.num_embeddings:
                raise ValueError(
                    f"tokens must have at most the learned table's {self.table.num_embeddings} "
                    f"positions, got {length}"
                )
            table = self.table.weight[:length]
        elif self.positions == "sinusoidal":
            table = sinusoidal(length, weight.shape[1], scale=self.scale).to(weight)
        else:
            return weight.new_zeros(length, weight.shape[1])
        if self.keep is None:
            return table
        kept = sparse_positions(torch.arange(length, device=weight.device), keep=self.keep)
        return table * kept[:, None]

    def _bias(self, length: int) -> Tensor:
        """What is added to the scores, ``(heads, length, length)``: ALiBi and the causal mask."""
        if self.positions == "alibi":
            bias = alibi(self.heads, length).to(self.embed.weight)
        else:
            bias = self.embed.weight.new_zeros(self.heads, length, length)
        if self.causal:
            bias = bias.masked_fill(~causal_mask(length, length, bias.device), -math.inf)
        return bias

    def _rotate(self, x: Tensor) -> Tensor:
        return rotary(x, scale=self.scale)


class _Layer(nn.Module):
    """Attention, then a feed-forward network, each added to what comes in."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, bias: Tensor, rotate: Callable[[Tensor], Tensor]) -> Tensor:
        joint = self.query_key_value(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        query, key, value = joint.permute(2, 0, 3, 1, 4)  # each (batch, heads, length, head_dim)
        mixed = F.scaled_dot_product_attention(rotate(query), rotate(key), value, attn_mask=bias)
        x = x + self.output(mixed.transpose(1, 2).flatten(2))  # (batch, length, width)
        result: Tensor = x + self.feed_forward(x)
        return result


# --- Tasks that need order ------------------------------------------------------------------------

SYMBOLS, KEYS = 16, 4  # symbol s has the key s // (SYMBOLS // KEYS)
ASK = SYMBOLS + KEYS  # the token that asks; SYMBOLS + key asks for that key
VOCABULARY = ASK + 1

Batch = tuple[Tensor, Tensor]  # tokens and targets, both (batch, length); -100 where none is asked


def order_task(
    name: str, *, length: int = 16, batch: int = 64, generator: torch.Generator | None = None
) -> Batch:
    """Random rows of a task that depends on the order of symbols, and the answers.

    Each row holds ``length`` symbols from 0 to 15, and then asks:

    - ``"copy"``: ``length`` times, for the symbols in their order;
    - ``"reverse"``: the same, from the last to the first;
    - ``"first"``: once, for the first symbol;
    - ``"nearest"``: once, for the last symbol of a given key (0–3 have key 0, 4–7 key 1, …).

    Returns:
        ``tokens`` and ``targets``, both ``(batch, total)``. Targets are -100 where nothing is
        asked, which ``cross_entropy`` ignores.

    Raises:
        ValueError: an unknown name, or a length or batch below 1.

    >>> tokens, targets = order_task("reverse", length=3, batch=1)
    >>> tokens[0, 3:].tolist(), bool((targets[0, 3:] == tokens[0, :3].flip(0)).all())
    ([20, 20, 20], True)
    """
    check_int("length", length, minimum=1)
    check_int("batch", batch, minimum=1)
    if name not in TASKS:
        raise ValueError(f"name must be one of {', '.join(TASKS)}; got {name!r}")
    symbols = torch.randint(SYMBOLS, (batch, length), generator=generator)
    if name in ("copy", "reverse"):
        asked = torch.full_like(symbols, ASK)
        answers = symbols if name == "copy" else symbols.flip(1)
    elif name == "first":
        asked, answers = torch.full((batch, 1), ASK), symbols[:, :1]
    else:
        # The key of a symbol that is there; then the last one that has it.
        keys = symbols // (SYMBOLS // KEYS)
        key = keys.gather(1, torch.randint(length, (batch, 1), generator=generator))
        last = (torch.arange(length) * (keys == key)).argmax(1, keepdim=True)
        asked, answers = SYMBOLS + key, symbols.gather(1, last)
    targets = torch.cat((torch.full_like(symbols, -100), answers), dim=1)
    return torch.cat((symbols, asked), dim=1), targets


def fit(
    model: nn.Module,
    draw: Callable[[torch.Generator], Batch],
    *,
    steps: int = 500,
    rate: float = 3e-3,
    seed: int = 0,
) -> list[float]:
    """Train a model on batches that are drawn anew in each step; return the losses in nats.

    AdamW with 50 steps of warm-up, then a rate that falls to zero along a straight line.

    Args:
        model: takes tokens and returns logits, such as :class:`SmallTransformer`.
        draw: gets a random generator and returns tokens and targets, as :func:`order_task` does.
        steps: at least 1.
        rate: the highest learning rate.
        seed: of the generator.

    Raises:
        ValueError: ``steps`` below 1, or a negative seed.

    >>> model = SmallTransformer(VOCABULARY, layers=1, width=16)
    >>> len(fit(model, lambda g: order_task("first", generator=g), steps=3))
    3
    """
    check_int("steps", steps, minimum=1)
    generator = torch.Generator().manual_seed(check_int("seed", seed, minimum=0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, fused=True)
    device = next(model.parameters()).device
    losses = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate * min((step + 1) / 50, 1 - step / steps)
        tokens, targets = (part.to(device) for part in draw(generator))
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def accuracy(model: Callable[[Tensor], Tensor], batch: Batch) -> float:
    """The share of asked answers that are the model's first choice.

    >>> accuracy(lambda tokens: F.one_hot(tokens, 21).float(), order_task("copy"))
    0.0
    """
    tokens, targets = batch
    asked = targets != -100
    return (model(tokens).argmax(-1) == targets)[asked].float().mean().item()
