"""Compressors and n-gram models to hold the language model against, all in bits per byte."""

from __future__ import annotations

import gzip
import lzma

import numpy as np


def compressor_bits(text: str) -> dict[str, float]:
    """Bits per byte of gzip and xz at their strongest, each given the whole text."""
    data = text.encode()
    return {
        "gzip": 8 * len(gzip.compress(data, 9)) / len(data),
        "xz": 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data),
    }


def ngram_bits(train: str, test: str, order: int) -> float:
    """Bits per byte on ``test`` of a byte ``order``-gram with Witten–Bell back-off.

    Each order mixes its own counts with the next shorter one's probability, with the weight
    ``distinct / (count + distinct)`` of the context (Witten and Bell, 1991).
    """
    seen = np.frombuffer(train.encode(), np.uint8).astype(np.int64)
    asked = np.frombuffer(test.encode(), np.uint8).astype(np.int64)
    probability = np.full(len(asked) - order + 1, 1 / 256)
    for n in range(1, order + 1):
        grams, counts = np.unique(_grams(seen, n), return_counts=True)
        contexts, first = np.unique(grams >> 8, return_index=True)
        distinct = np.diff(np.append(first, len(grams)))
        totals = np.add.reduceat(counts, first)
        query = _grams(asked, n)[order - n :]
        count = _look_up(grams, counts, query)
        total = _look_up(contexts, totals, query >> 8)
        kinds = _look_up(contexts, distinct, query >> 8)
        known = total > 0  # a context never seen leaves the shorter one's word
        mixed = (count + kinds * probability) / np.maximum(total + kinds, 1)
        probability = np.where(known, mixed, probability)
    return float(-np.log2(probability).mean())


def _grams(data: np.ndarray, n: int) -> np.ndarray:
    """Every run of ``n`` bytes as one integer, the last byte lowest."""
    grams = np.zeros(len(data) - n + 1, np.int64)
    for i in range(n):
        grams = (grams << 8) | data[i : len(data) - n + 1 + i]
    return grams


def _look_up(keys: np.ndarray, values: np.ndarray, query: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(keys, query), len(keys) - 1)
    return np.where(keys[place] == query, values[place], 0)
