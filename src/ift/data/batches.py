"""Examples to padded tensors, and the order in which rows are visited.

B batch, T time. Targets are the inputs shifted by one, made here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

from ift.data.examples import Example

IGNORE_INDEX = -100  # what torch's cross-entropy leaves out


class Batch(NamedTuple):
    input_ids: torch.Tensor  # (B, T) int64
    targets: torch.Tensor  # (B, T) int64, -100 where the loss must not look
    rows: list[int]  # numbers of the rows in their file, for messages
    tokens: int  # positions that are not padding


def collate(examples: Sequence[Example], *, end_of_text: int, pad_to: int | None = None) -> Batch:
    """Pad on the right and shift by one; -100 where the loss must not look.

    input_ids  (B, T)  padded with end-of-text, T the longest row or pad_to if that is more
    targets    (B, T)  input_ids one to the left, one end-of-text after a whole response; -100 over prompt and padding

    There is no attention mask: attention is causal, so a real token never sees the padding to its right.
    No examples at all give a blank batch of one position without a target: it fills a window, and weighs nothing.
    """
    length = max([example.tokens for example in examples] + [pad_to or 1])
    input_ids = torch.full((max(1, len(examples)), length), end_of_text)
    targets = torch.full_like(input_ids, IGNORE_INDEX)
    for ids, target, example in zip(input_ids, targets, examples, strict=False):
        n = example.tokens
        ids[:n] = torch.from_numpy(example.ids)
        supervised = torch.from_numpy(example.supervised[1:])
        target[: n - 1][supervised] = ids[1:n][supervised]
        if example.ends:
            target[n - 1] = end_of_text
    return Batch(input_ids, targets, [e.row for e in examples], sum(e.tokens for e in examples))


class StepSampler(Sampler[list[int]]):
    """Lists of row indices, one micro-batch each, so that every optimizer step is the same number of micro-batches.

    One step takes batch_size * accumulate * world rows of a permutation that depends on (seed, epoch) alone. The last
    step of an epoch takes what is left: its later micro-batches may be short or empty. So each row is seen exactly once
    an epoch, on any number of ranks, and windows of accumulation never straddle two epochs.
    """

    def __init__(
        self,
        rows: int,
        *,
        batch_size: int,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
        seed: int | None = None,
        drop_last: bool = False,
    ):
        """seed=None keeps the rows in order (validation, test)."""
        self.rows, self.batch_size, self.accumulate = rows, batch_size, accumulate
        self.rank, self.world, self.seed, self.drop_last = rank, world, seed, drop_last
        self.epoch = 0
        self._begin = (0, 0)

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch."""
        a_step = self.batch_size * self.accumulate * self.world
        return self.rows // a_step if self.drop_last else -(-self.rows // a_step)

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def begin_at(self, epoch: int, step: int) -> None:
        """Leave out the first steps of an epoch, which a run that goes on has taken already.

        Told by whoever counts optimizer steps: what a loader has fetched ahead says nothing about what was learnt.
        """
        self.epoch, self._begin = epoch, (epoch, step)

    def order(self) -> list[int]:
        if self.seed is None:
            return list(range(self.rows))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        permutation: list[int] = torch.randperm(self.rows, generator=generator).tolist()
        return permutation

    def __iter__(self) -> Iterator[list[int]]:
        order = self.order()
        epoch, step = self._begin
        for micro in range(step * self.accumulate if self.epoch == epoch else 0, len(self)):
            start = (micro * self.world + self.rank) * self.batch_size
            yield order[start : start + self.batch_size]
