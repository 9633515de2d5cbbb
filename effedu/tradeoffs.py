"""Trade-offs: what a faster part gains for the whole, and which compromises are worth making.

:func:`sweep` reads what ``tools/sweep.py`` measured of every method on the embedded language model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SWEEP = Path(__file__).parent / "data" / "tradeoffs.json"


def amdahl(share: float | int, speedup: float | int) -> float:
    r"""How many times faster the whole gets when a part of it does.

    With a part that takes the share :math:`f` of the time and gets :math:`s` times faster, the
    whole takes :math:`1 - f + f / s` of its time.

    Args:
        share: of the time that the part takes before, from 0 to 1.
        speedup: of the part, above 0; ``math.inf`` if it is left out, which gives the bound on
            whatever one does to that part alone.

    Returns:
        The speedup of the whole; infinite for a share of 1 at infinite speedup.

    Raises:
        ValueError: an argument out of range.

    Source: Amdahl (1967), "Validity of the single processor approach to achieving large scale
    computing capabilities", AFIPS Spring Joint Computer Conference, pages 483-485. He argues in
    words for the part that does not run in parallel; the formula is the usual reading.

    >>> round(amdahl(0.69, 10), 2), round(amdahl(0.69, math.inf), 2)
    (2.64, 3.23)
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be from 0 to 1, got {share!r}")
    if not speedup > 0:
        raise ValueError(f"speedup must be above 0, got {speedup!r}")
    remains = 1 - share + share / speedup
    return 1 / remains if remains else math.inf


def frontier(points: Mapping[str, Sequence[float | int]]) -> list[str]:
    """The names of the points that no other one beats: the Pareto frontier.

    One point beats another if it is at least as low in every number, and lower in one. Points that
    are equal in all numbers do not beat each other.

    Args:
        points: for each configuration its costs and its loss of quality, as many numbers for all;
            lower is better.

    Returns:
        Names by their first number, lowest first.

    Raises:
        ValueError: points with no numbers, or with different counts of them, or NaN.

    >>> frontier({"dense": (1.0, 0.0), "block": (0.4, 0.02), "topk": (1.2, 0.01)})
    ['block', 'dense']
    """
    sizes = {len(numbers) for numbers in points.values()}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(
            f"points must have equally many numbers, at least one, got {sorted(sizes)}"
        )
    for name, numbers in points.items():
        if any(math.isnan(number) for number in numbers):
            raise ValueError(f"points[{name!r}] must hold numbers, got {tuple(numbers)}")

    def beaten(mine: Sequence[float | int]) -> bool:
        return any(
            all(a <= b for a, b in zip(other, mine, strict=True)) and tuple(other) != tuple(mine)
            for other in points.values()
        )

    kept = [name for name, numbers in points.items() if not beaten(numbers)]
    return sorted(kept, key=lambda name: tuple(points[name]))


def sweep(path: Path | str = SWEEP) -> dict[str, Any]:
    """What was measured of every method on the embedded model, as stored with the package.

    The mapping that comes back holds

    - ``rows``: one mapping for each configuration, ``phase`` (``"read"`` a text into a cache,
      ``"write"`` one token behind it) and ``length``, with ``method``, ``label`` and ``call``;
      ``time`` and ``memory`` as ratios to the dense model in float32 at the same phase and
      length, ``time_spread`` the quartiles of the ratio; ``bits``, relative extra bits per
      byte, and ``agreement``, the share of tokens whose likeliest successor is the dense
      model's, both measured at ``bits_length`` tokens; ``chunk``, tokens read at once, if the
      text was read in chunks.
    - ``attention_share``: by length, the share of dense attention in the time of reading.
    - ``time_by_part``: what a pass spends its time on, for a few configurations.
    - ``beyond``: quality at lengths that the model was not trained at.
    - ``recall``: facts found again, by the tokens between fact and question.
    - ``trained_context``, ``machine``, ``version``.

    Raises:
        ValueError: a file that is missing or of another version.

    >>> sorted({row["phase"] for row in sweep()["rows"]})
    ['read', 'write']
    """
    try:
        found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"path must be a file of tools/sweep.py, got {path}: {error}") from None
    if found.get("version") != 1:
        raise ValueError(f"path must hold version 1, got {found.get('version')!r} in {path}")
    return found
