"""Argument checks shared by all modules: they name the argument, the value and what is allowed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor


def check_int(name: str, value: object, minimum: int) -> int:
    """Return ``value`` if it is an ``int`` of at least ``minimum``, else raise ``ValueError``.

    >>> check_int("block_size", 128, minimum=1)
    128
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")
    return value


def check_file(path: Path, expected: str) -> None:
    """Raise ``OSError`` unless the file has this SHA-256."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise OSError(
            f"{path} is damaged: its SHA-256 is {found}, not {expected}; "
            "copy the file again, or install effedu again"
        )


def check_attention_inputs(query: Tensor, key: Tensor, value: Tensor) -> None:
    """Raise ``ValueError`` unless the three fit together.

    All are ``(batch, heads, length, head_dim)``. ``key`` and ``value`` may have fewer heads than
    ``query`` (grouped queries), and ``value`` a width of its own; dtype and device are shared.
    """
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.ndim != 4:
            raise ValueError(
                f"{name} must have 4 dimensions (batch, heads, length, head_dim), "
                f"got {tensor.ndim}: shape {tuple(tensor.shape)}"
            )
        if 0 in tensor.shape:
            raise ValueError(f"{name} must not be empty, got shape {tuple(tensor.shape)}")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} must have a floating-point dtype, got {tensor.dtype}")
        if tensor.dtype != query.dtype:
            raise ValueError(
                f"{name} must have the query's dtype {query.dtype}, got {tensor.dtype}"
            )
        if tensor.device != query.device:
            raise ValueError(
                f"{name} must be on the query's device {query.device}, got {tensor.device}"
            )
    if not query.shape[0] == key.shape[0] == value.shape[0]:
        raise ValueError(
            f"query, key and value must have one batch size, got "
            f"{query.shape[0]}, {key.shape[0]} and {value.shape[0]}"
        )
    if key.shape[1:3] != value.shape[1:3]:
        raise ValueError(
            f"key and value must have the same heads and length, got shapes "
            f"{tuple(key.shape)} and {tuple(value.shape)}"
        )
    if query.shape[3] != key.shape[3]:
        raise ValueError(
            f"query and key must have the same head_dim, got {query.shape[3]} and {key.shape[3]}"
        )
    if query.shape[1] % key.shape[1]:
        raise ValueError(
            f"the query's heads must be a multiple of the key's heads, "
            f"got {query.shape[1]} and {key.shape[1]}"
        )


def repeat_key_value(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Repeat key and value heads until there is one per query head (grouped queries)."""
    groups = query.shape[1] // key.shape[1]
    if groups == 1:
        return key, value
    return torch.repeat_interleave(key, groups, 1), torch.repeat_interleave(value, groups, 1)
