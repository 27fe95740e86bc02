"""Layout in memory of the query, key and value weights of self-attention layers.

Where the three lie side by side, one matrix product computes all three projections.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import torch

# `attn1` is the self-attention of diffusers' transformer blocks.
_PROJECTION = re.compile(r"(.*\battn1)\.to_[qkv](\.weight)?")


def self_attention_of(name: str) -> str | None:
    """Return the name of the self-attention layer whose projection has this name, or None."""
    match = _PROJECTION.fullmatch(name)
    return match[1] if match else None


def projection_groups(names: Iterable[str]) -> list[list[str]]:
    """Return names in groups, in order of first members.

    Query, key and value of one self-attention layer form a group, in this order, as far as they
    are there. Every other name is alone.
    """
    present = dict.fromkeys(names)
    groups, placed = [], set()
    for name in present:
        if name not in placed:
            group = [member for member in _siblings(name) if member in present]
            placed.update(group)
            groups.append(group)
    return groups


def side_by_side(names: Iterable[str]) -> list[str]:
    """Return names with query, key and value of each self-attention layer next to each other."""
    return [name for group in projection_groups(names) for name in group]


def adjacent_view(matrices: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """Return matrices that follow one another in memory as one matrix, without a copy.

    Args:
        matrices: each [rows, columns].

    Returns:
        [sum of rows, columns]; None if they differ in columns or dtype, or are not adjacent.
    """
    first = matrices[0]
    storage, offset = first.untyped_storage(), first.storage_offset()
    for matrix in matrices:
        if (
            matrix.dim() != 2
            or matrix.shape[1] != first.shape[1]
            or matrix.dtype != first.dtype
            or not matrix.is_contiguous()
            or matrix.untyped_storage() is not storage
            or matrix.storage_offset() != offset
        ):
            return None
        offset += matrix.numel()
    columns = first.shape[1]
    return first.detach().as_strided((sum(map(len, matrices)), columns), (columns, 1))


def _siblings(name: str) -> list[str]:
    match = _PROJECTION.fullmatch(name)
    if match is None:
        return [name]
    return [f"{match[1]}.to_{letter}{match[2] or ''}" for letter in "qkv"]
