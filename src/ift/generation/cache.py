"""Keys and values of rows that are being answered, and the two ways in which tokens join them.

n rows, H heads of queries, K of keys and values, D channels of a head, P tokens that all prompts begin with, N tokens
of several prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ift.model.attention import Scores, attend_row, capped
from ift.model.gpt import GPT
from ift.model.rotation import Rotary, rotate
from ift.model.slices import least

MEMORY = 2 << 30  # bytes of keys and values on a CPU, where more than is there would end in swapping
MOST_SLOTS = 128  # more rows at once are hardly faster
GROWTH = 32  # positions: products over a slice would copy all keys and values first, so there is seldom room to spare


class Cache:
    """Room for `slots` rows of up to `capacity` positions, laid out for as many as are in use (`room`).

    The rows in use are always the first ones. A row lies flush left, position by position, so its states are those of
    the row alone.
    """

    def __init__(self, model: GPT, slots: int, capacity: int):
        config, dtype, device = model.config, model.compute_dtype, model.device
        self.shape, self.capacity, self.room = (slots, config.n_kv_head, config.head_dim), capacity, 0
        # zeros, not whatever was there: a position that no query sees is multiplied by 0, and 0 * nan is nan
        self.stores = [
            torch.zeros(math.prod(self.shape) * capacity, dtype=dtype, device=device) for _ in range(2 * config.n_layer)
        ]
        self.spare = torch.empty_like(self.stores[0])
        self.reserve(1)

    def reserve(self, positions: int) -> None:
        """Room for so many positions of each row. Existing keys and values are kept."""
        if positions > self.room:
            self._lay_out(positions)

    def give_back(self, positions: int) -> None:
        """Less room, where no row needs more than so many positions: each product reads all of it. Half is let be."""
        if 2 * positions + GROWTH < self.room:
            self._lay_out(positions)

    def _lay_out(self, positions: int) -> None:
        """Anew, with room for so many positions; what lies beyond them is lost."""
        before, self.room = self.room, min(self.capacity, math.ceil(positions / GROWTH) * GROWTH)
        kept = min(before, self.room)
        views = []
        for store in self.stores:
            view = self._view(store, self.room)
            if kept:
                old = self._view(self.spare, kept).copy_(self._view(store, before)[:, :, :kept])
                view[:, :, :kept] = old
            views.append(view)
        self.keys, self.values = views[::2], views[1::2]  # (slots, K, room, D) for each layer

    def _view(self, store: Tensor, room: int) -> Tensor:
        slots, heads, channels = self.shape
        return store[: slots * heads * room * channels].view(slots, heads, room, channels)

    def copy(self, source: int, targets: slice, length: int) -> None:
        """The first `length` positions of one slot into others."""
        for store in (*self.keys, *self.values):
            store[targets, :, :length] = store[source, :, :length].clone()


def slots_that_fit(model: GPT, capacity: int) -> int:
    """Rows whose keys and values take MEMORY, or on a GPU a quarter of what is free; MOST_SLOTS at most.

    Free is also what torch's allocator holds and nothing is in: after a training step that is most of the device.
    """
    config, dtype, device = model.config, model.compute_dtype, model.device
    memory = MEMORY
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        memory = (torch.cuda.mem_get_info(device)[0] + held) // 4
    row = 2 * config.n_layer * config.n_kv_head * config.head_dim * capacity * dtype.itemsize
    return least(max(1, min(MOST_SLOTS, memory // row)), model)


class Prefill:
    """Layout of (N,) prompt tokens one row after the other; each row goes on in its slot after the P that are there.

    totals: tokens of each row, with those that come later; None: these are the last
    """

    def __init__(
        self, cache: Cache, first_slot: int, lengths: Sequence[int], prefix: int, totals: Sequence[int] | None = None
    ):
        self.cache, self.first_slot, self.lengths, self.prefix = cache, first_slot, lengths, prefix
        self.totals = totals or [prefix + length for length in lengths]
        cache.reserve(prefix + max(lengths))
        self._turns: dict[Rotary, tuple[Tensor, Tensor]] = {}

    def positions(self, input_ids: Tensor) -> Tensor:
        return torch.cat([torch.arange(self.prefix, self.prefix + n) for n in self.lengths]).to(input_ids.device)

    def turns(self, rotary: Rotary, q: Tensor) -> tuple[Tensor, Tensor]:
        if rotary not in self._turns:
            rows = zip(self.totals, self.lengths, strict=True)
            of_each = torch.tensor([total for total, n in rows for _ in range(n)], device=q.device)
            self._turns[rotary] = rotary.turns(self.positions(q), of_each)
        return self._turns[rotary]

    def attend(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scores: Scores,
        dropout: float = 0.0,
        rotary: Rotary | None = None,
    ) -> Tensor:
        if rotary:
            turns = self.turns(rotary, q)
            q, k = rotate(q, turns), rotate(k, turns)
        lengths = list(self.lengths)
        rows = zip(*(torch.split(part, lengths) for part in (q, k, v)), strict=True)
        seen = []
        for slot, row in enumerate(rows, start=self.first_slot):
            queries, new_keys, new_values = (part.transpose(0, 1) for part in row)  # (heads, T, D) each
            keys, values = self.cache.keys[layer][slot], self.cache.values[layer][slot]
            end = self.prefix + queries.shape[1]
            keys[:, self.prefix : end], values[:, self.prefix : end] = new_keys, new_values
            y = attend_row(queries[None], keys[None, :, :end], values[None, :, :end], scores, mask=True)
            seen.append(y[0].transpose(0, 1).flatten(1))
        return torch.cat(seen)


class Step:
    """Layout of one new token (n,) for each of the first n slots, at positions (n,); `seen` is the largest plus one.

    Plain batched products: for one query a row they take a fraction of the time of torch's fused attention on a CPU.
    """

    def __init__(self, cache: Cache, positions: Tensor, seen: int):
        cache.reserve(seen)
        self.cache, self.at = cache, positions
        self.rows = torch.arange(len(positions), device=positions.device)
        unseen = torch.arange(cache.room, device=positions.device) > positions[:, None]
        self.mask = torch.zeros(unseen.shape, device=positions.device).masked_fill(unseen, -math.inf)[:, None]
        self._turns: dict[Rotary, tuple[Tensor, Tensor]] = {}  # most layers of a forward turn alike

    def positions(self, input_ids: Tensor) -> Tensor:
        return self.at

    def attend(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        scores: Scores,
        dropout: float = 0.0,
        rotary: Rotary | None = None,
    ) -> Tensor:
        n, heads, channels = q.shape
        if rotary:
            if rotary not in self._turns:
                self._turns[rotary] = rotary.turns(self.at)
            turns = self._turns[rotary]
            q, k = rotate(q, turns), rotate(k, turns)
        store = self.cache.keys[layer], self.cache.values[layer]
        store[0][self.rows, :, self.at], store[1][self.rows, :, self.at] = k, v
        keys, values = (part[:n].flatten(0, 1) for part in store)  # (n * K, room, D)
        queries = (q * scores.scale).reshape(len(keys), -1, channels)  # (n * K, H / K, D)
        products = capped(torch.bmm(queries, keys.transpose(1, 2)).view(n, heads, -1), scores.cap)
        mask = self.mask
        if scores.window is not None:
            far = torch.arange(keys.shape[1], device=q.device) <= self.at[:, None] - scores.window
            mask = mask.masked_fill(far[:, None], -math.inf)
        weights = torch.softmax(products + mask, dim=-1).to(q.dtype)  # in fp32: the mask is
        return torch.bmm(weights.view(len(keys), -1, keys.shape[1]), values).view(n, -1)
