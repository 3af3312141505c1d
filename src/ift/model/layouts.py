"""How tokens lie in a batch, and what each of them may see: the same attention for padded, flat and growing rows.

B rows, T time, N flat tokens, D channels of a head, P tokens that all rows of a batch begin with.
H heads of queries, K of keys and values: K divides H, and H / K neighbouring heads of queries share one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from ift.model.attention import Scores, attend_row
from ift.model.block_attention import BLOCK, Block, Plan, Stretches, attend_blocks
from ift.model.rotation import Rotary, rotate
from ift.model.varlen import Ends, attend_varlen, ends_of, varlen_takes


class Layout(Protocol):
    def positions(self, input_ids: Tensor) -> Tensor:
        """The position of each token in its row, broadcastable to input_ids."""
        ...

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
        """q (..., H, D), k and v (..., K, D) of all tokens -> (..., H * D), each query's mean of the values it sees.

        A query sees the keys of its own row that are not after it.

        layer    number of the layer, for layouts that keep keys and values
        scores   scale, window and cap of the products of queries and keys
        dropout  share of the weights that become zero
        rotary   turns queries and keys by their positions, first of all; what a layout keeps is turned
        """
        ...


class Padded:
    """(B, T) rows, padded on the right. Attention is causal, so no real token sees the padding.

    lengths  (B,) tokens of each row, without padding: for rotations that depend on it (longrope). None: T of each
    """

    def __init__(self, lengths: Tensor | None = None):
        self.lengths = lengths

    def positions(self, input_ids: Tensor) -> Tensor:
        return torch.arange(input_ids.shape[1], device=input_ids.device)

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
            turns = self._turns(rotary, q.shape[0], q.shape[1], q.device)
            q, k = rotate(q, turns), rotate(k, turns)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, heads, T, D) each
        return attend_row(q, k, v, scores, dropout=dropout).transpose(1, 2).flatten(2)

    def _turns(self, rotary: Rotary, rows: int, T: int, device: torch.device) -> tuple[Tensor, Tensor]:
        positions = torch.arange(T, device=device)
        if self.lengths is None:
            return rotary.turns(positions, T)
        cos, sin = rotary.turns(positions.repeat(rows), self.lengths.to(device).repeat_interleave(T))
        return cos.view(rows, T, *cos.shape[1:]), sin.view(rows, T, *sin.shape[1:])


PADDED = Padded()


class Flat:
    """(N,) tokens of rows one after the other, without padding; no token sees another row.

    lengths  tokens of each row, without the P that all rows begin with
    prefix   P: those stand once, before the rows. Their states are the same in every row, so all rows see these ones,
             and their gradients add up to those of P tokens in each row. Exact without dropout, and where all rows
             are on one side of a longrope's border (GPTConfig.border): whoever lays them out sees to it.
    """

    def __init__(self, lengths: Sequence[int], prefix: int = 0):
        self.lengths, self.prefix = lengths, prefix
        # most layers of a forward turn alike, and see alike
        self._turns: dict[tuple[Rotary, bool], tuple[Tensor, Tensor]] = {}
        self._plans: dict[tuple[int, int, int | None], Plan] = {}

    def positions(self, input_ids: Tensor) -> Tensor:
        rows = [torch.arange(self.prefix), *(torch.arange(self.prefix, self.prefix + n) for n in self.lengths)]
        return torch.cat(rows).to(input_ids.device, non_blocking=True)

    def row_lengths(self) -> Tensor:
        """(N,) tokens of the row that each token is of; of shared tokens, of the longest."""
        longest = self.prefix + max(self.lengths, default=0)
        counts = [self.prefix, *self.lengths]
        longest_of = torch.tensor([longest, *(self.prefix + n for n in self.lengths)])
        return longest_of.repeat_interleave(torch.tensor(counts), output_size=sum(counts))

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
            kind = rotary, torch.is_inference_mode_enabled()  # what is made there has no gradients elsewhere
            if kind not in self._turns:
                self._turns[kind] = rotary.turns(self.positions(q), self.row_lengths().to(q.device))
            q, k = rotate(q, self._turns[kind]), rotate(k, self._turns[kind])
        if dropout:
            return self._with_dropout(q, k, v, scores, dropout)
        if varlen_takes(q, scores):
            return attend_varlen(q, k, v, _ends(self, q.device), scores)
        return attend_blocks(q, k, v, self._plan(q, k, scores.window), scores)

    def _plan(self, q: Tensor, k: Tensor, window: int | None) -> Plan:
        kind = q.shape[1], k.shape[1], window
        if kind not in self._plans:
            self._plans[kind] = Plan(list(self.blocks()), (q.shape[1], k.shape[1]), window, q.device)
        return self._plans[kind]

    def rows(self) -> Iterator[tuple[int, int, Stretches]]:
        """Yield (begin, end, earlier): a row's own tokens, and the slices before them that it also sees.

        The prefix is a row. The earlier slices hold the row's positions from 0 on, in order.
        """
        if self.prefix:
            yield 0, self.prefix, ()
        shared = (slice(0, self.prefix),) if self.prefix else ()
        begin = self.prefix
        for length in self.lengths:
            yield begin, begin + length, shared
            begin += length

    def blocks(self) -> Iterator[Block]:
        """At most BLOCK queries of a row, the row's own keys up to the last of them, and its earlier slices."""
        for begin, end, earlier in self.rows():
            for first in range(begin, end, BLOCK):
                last = min(first + BLOCK, end)
                yield slice(first, last), slice(begin, last), earlier

    def _with_dropout(self, q: Tensor, k: Tensor, v: Tensor, scores: Scores, dropout: float) -> Tensor:
        if self.prefix:
            raise ValueError("rows that share a prefix would share its dropout too")
        rows = []
        for begin, end, _ in self.rows():
            query, key, value = (part[begin:end].transpose(0, 1)[None] for part in (q, k, v))  # (1, heads, T, D) each
            y = attend_row(query, key, value, scores, dropout=dropout)
            rows.append(y[0].transpose(0, 1).flatten(1))
        return torch.cat(rows)


class Tree(Flat):
    """(N,) tokens of stretches one after the other, each of which may go on where an earlier one ends.

    lengths  tokens of each stretch, one at least
    parents  number of the stretch that each goes on after, -1 where it begins a row; a parent comes before its children

    A stretch sees itself and those on its way from the beginning: rows that begin alike are computed once up to where
    they part. Exact as Flat's prefix is.
    """

    def __init__(self, lengths: Sequence[int], parents: Sequence[int]):
        super().__init__(lengths)
        ends = list(accumulate(lengths))
        self.stretches = [slice(end - length, end) for length, end in zip(lengths, ends, strict=True)]
        self.ways: list[Stretches] = []  # to each stretch, without itself
        self.starts: list[int] = []  # position of its first token
        for parent in parents:
            before = parent >= 0
            self.ways.append((*self.ways[parent], self.stretches[parent]) if before else ())
            self.starts.append(self.starts[parent] + lengths[parent] if before else 0)
        self.longest = [start + length for start, length in zip(self.starts, lengths, strict=True)]  # row through each
        for child in range(len(parents) - 1, -1, -1):
            if parents[child] >= 0:
                self.longest[parents[child]] = max(self.longest[parents[child]], self.longest[child])

    def row_lengths(self) -> Tensor:
        counts = list(self.lengths)
        return torch.tensor(self.longest).repeat_interleave(torch.tensor(counts), output_size=sum(counts))

    def positions(self, input_ids: Tensor) -> Tensor:
        rows = [torch.arange(start, start + n) for start, n in zip(self.starts, self.lengths, strict=True)]
        return torch.cat(rows).to(input_ids.device, non_blocking=True)

    def rows(self) -> Iterator[tuple[int, int, Stretches]]:
        for stretch, way in zip(self.stretches, self.ways, strict=True):
            yield stretch.start, stretch.stop, way


@lru_cache(maxsize=2)  # the layers of one forward ask for the same
def _ends(flat: Flat, device: torch.device) -> Ends:
    return ends_of([(slice(begin, end), earlier) for begin, end, earlier in flat.rows()], device)
