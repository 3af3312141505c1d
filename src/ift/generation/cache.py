"""Keys and values of rows that are being answered, and the two ways in which tokens join them.

n rows, H heads, D channels of a head, C = H * D, P tokens that all prompts begin with, N tokens of several prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ift.model.gpt import GPT


class Cache:
    """A fixed room for `slots` rows of up to `capacity` positions. The rows in use are always the first ones.

    A row lies flush left, position by position, so its states are those of the row alone.
    """

    def __init__(self, model: GPT, slots: int, capacity: int):
        config, dtype = model.config, model.lm_head.compute_dtype
        shape = (slots, config.n_head, capacity, config.n_embd // config.n_head)
        # zeros, not whatever was there: a position that no query sees is multiplied by 0, and 0 * nan is nan
        self.keys, self.values = (
            [torch.zeros(shape, dtype=dtype, device=model.wte.weight.device) for _ in range(config.n_layer)]
            for _ in range(2)
        )

    def copy(self, source: int, targets: slice, length: int) -> None:
        """The first `length` positions of one slot into others."""
        for store in (*self.keys, *self.values):
            store[targets, :, :length] = store[source, :, :length].clone()


class Prefill:
    """Layout of (N,) prompt tokens one row after the other; each row goes on in its slot after the P that are there."""

    def __init__(self, cache: Cache, first_slot: int, lengths: Sequence[int], prefix: int):
        self.cache, self.first_slot, self.lengths, self.prefix = cache, first_slot, lengths, prefix

    def positions(self, input_ids: Tensor) -> Tensor:
        return torch.cat([torch.arange(self.prefix, self.prefix + n) for n in self.lengths]).to(input_ids.device)

    def attend(self, layer: int, qkv: Tensor, n_head: int, dropout: float) -> Tensor:
        seen = []
        for slot, row in enumerate(torch.split(qkv, list(self.lengths)), start=self.first_slot):
            q, k, v = row.view(len(row), 3, n_head, -1).permute(1, 2, 0, 3)  # (H, T, D) each
            keys, values = self.cache.keys[layer][slot], self.cache.values[layer][slot]
            end = self.prefix + len(row)
            keys[:, self.prefix : end], values[:, self.prefix : end] = k, v
            mask = torch.ones(len(row), end, dtype=torch.bool, device=qkv.device).tril(self.prefix)
            y = F.scaled_dot_product_attention(q[None], keys[None, :, :end], values[None, :, :end], attn_mask=mask)
            seen.append(y[0].transpose(0, 1).flatten(1))
        return torch.cat(seen)


class Step:
    """Layout of one new token (n,) for each of the first n slots, at positions (n,); `seen` is the largest plus one.

    Plain batched products: for one query a row they take half the time of torch's fused attention on a CPU, or less.
    """

    def __init__(self, cache: Cache, positions: Tensor, seen: int):
        self.cache, self.at, self.seen = cache, positions, seen
        self.rows = torch.arange(len(positions), device=positions.device)
        unseen = torch.arange(seen, device=positions.device) > positions[:, None]
        self.mask = torch.zeros(unseen.shape, device=positions.device).masked_fill(unseen, -math.inf)[:, None]

    def positions(self, input_ids: Tensor) -> Tensor:
        return self.at

    def attend(self, layer: int, qkv: Tensor, n_head: int, dropout: float) -> Tensor:
        n = len(qkv)
        q, k, v = qkv.view(n, 3, n_head, -1).unbind(1)  # (n, H, D) each
        store = self.cache.keys[layer], self.cache.values[layer]
        store[0][self.rows, :, self.at], store[1][self.rows, :, self.at] = k, v
        keys, values = (part[:n].flatten(0, 1)[:, : self.seen] for part in store)  # (n * H, seen, D)
        q = (q / math.sqrt(q.shape[-1])).reshape(n * n_head, 1, -1)
        # the same products; on a CPU each type is two to four times slower the other way round
        low = q.dtype != torch.float32
        scores = torch.bmm(keys, q.transpose(1, 2)) if low else torch.bmm(q, keys.transpose(1, 2))
        weights = torch.softmax(scores.view(n, n_head, self.seen) + self.mask, dim=-1).to(
            qkv.dtype
        )  # fp32: the mask is
        return torch.bmm(weights.view(n * n_head, 1, self.seen), values).view(n, -1)
