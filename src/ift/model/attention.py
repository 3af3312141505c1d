"""How queries weigh keys, the heads of a fused product, and torch's own attention for a row.

N tokens, T of a row, D channels of a head, H heads of queries, K heads of keys and values: K divides H, and H / K
neighbouring heads of queries share one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Scores(NamedTuple):
    """How a query weighs a key that is not after it."""

    scale: float  # of the product of the two
    window: int | None = None  # the key is seen while position of query - position of key < window
    cap: float | None = None  # the scaled product x becomes cap * tanh(x / cap)


def split_heads(fused: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(..., (H + 2K) * D) -> q (..., H, D), k and v (..., K, D): views."""
    apart = fused.view(*fused.shape[:-1], heads + 2 * kv_heads, -1)
    q, k, v = torch.split(apart, [heads, kv_heads, kv_heads], dim=-2)
    return q, k, v


def attend_row(q: Tensor, k: Tensor, v: Tensor, scores: Scores, *, dropout: float = 0.0, mask: bool = False) -> Tensor:
    """q (B, H, T, D), k and v (B, K, P + T, D) -> (B, H, T, D); the queries are the last T of the P + T positions.

    torch's fused attention, which knows no cap: with one, plain products. mask: give it a mask where it could do
    without one (its kernels round differently).
    """
    T, keys = q.shape[2], k.shape[2]
    windowed = scores.window is not None and scores.window < keys
    shared = q.shape[1] != k.shape[1]
    if scores.cap is None and keys == T and not windowed and not mask:
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=True, dropout_p=dropout, scale=scores.scale, enable_gqa=shared
        )
    seen = torch.ones(T, keys, dtype=torch.bool, device=q.device).tril(keys - T)
    if scores.window is not None and windowed:
        seen = seen.triu(keys - T - scores.window + 1)
    if scores.cap is None:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=seen, dropout_p=dropout, scale=scores.scale, enable_gqa=shared
        )
    if shared:
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (k, v))
    products = capped((q.float() * scores.scale) @ k.float().transpose(2, 3), scores.cap)
    weights = torch.softmax(products.masked_fill(~seen, -math.inf), dim=-1)
    return (F.dropout(weights, dropout) @ v.float()).to(q.dtype)


def capped(products: Tensor, cap: float | None) -> Tensor:
    return products if cap is None else cap * torch.tanh(products / cap)
