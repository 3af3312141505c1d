"""Examples to padded or unpadded tensors, and the order in which rows are visited.

B batch, T time, N tokens of all rows together. Targets are the inputs shifted by one, made here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from ift.data.contract.examples import Example

IGNORE_INDEX = -100  # what torch's cross-entropy leaves out


class Batch(NamedTuple):
    """Rows padded to one length, (B, T), or one after the other without padding, (N,): then `lengths` are there."""

    input_ids: torch.Tensor  # (B, T) or (N,) int64
    targets: torch.Tensor  # the same shape, int64, -100 where the loss must not look
    supervised: torch.Tensor  # (S,) int64: where the other targets are, counted through the whole batch
    rows: list[int]  # numbers of the rows in their file, for messages
    row_tokens: list[int]  # of each row, without padding, with a shared prefix
    lengths: list[int] | None = None  # tokens of each row that follow the prefix; with `parents`, of each stretch
    prefix: int = 0  # tokens that all rows begin with: they stand once, before the rows
    parents: list[int] | None = None  # number of the stretch that each goes on after, -1: it begins a row (Tree)

    @property
    def tokens(self) -> int:
        """Of all rows, without padding, a shared prefix counted in each."""
        return sum(self.row_tokens)


def collate_padded(examples: Sequence[Example], *, end_of_text: int, pad_to: int | None = None) -> Batch:
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
        ids[: example.tokens] = torch.from_numpy(example.ids)
        target[: example.tokens] = torch.from_numpy(targets_of(example, end_of_text))
    return _batch(input_ids, targets, examples)


def collate_unpadded(
    examples: Sequence[Example], *, end_of_text: int, share_prefix: bool = False, border: int | None = None
) -> Batch:
    """The same rows and targets one after the other, without padding.

    input_ids  (N,)  with share_prefix what all rows begin with stands once, before the first row; and what some of them
                     go on with, before the first of these, as with templates that have two forms
    targets    (N,)  of each row as in collate_padded

    A shared prefix ends before the first supervised token and before the end of the shortest row, so that every row has
    its own last prompt token, which predicts its first target. None is shared between rows of up to `border` tokens and
    longer ones: the model turns their positions otherwise (GPTConfig.border).
    """
    if not examples:
        blank = collate_padded(examples, end_of_text=end_of_text)
        return blank._replace(input_ids=blank.input_ids[0], targets=blank.targets[0], lengths=[1])
    if border is not None and len({example.tokens > border for example in examples}) > 1:
        share_prefix = False
    prefix = _common_prefix(examples) if share_prefix and len(examples) > 1 else 0
    shared = _shared_by_some(examples, prefix) if share_prefix else {}
    stretches: list[tuple[Example, int, int]] = [(examples[0], 0, prefix)]  # tokens from a place to another of a row
    parents = [-1]
    ends: dict[int, int] = {}  # of what rows share that go on with the same token -> number of that stretch
    for example in examples:
        key = _going_on(example, prefix)
        begin, parent = shared.get(key, prefix), 0
        if begin > prefix:
            if key not in ends:
                ends[key] = len(stretches)
                stretches.append((example, prefix, begin))
                parents.append(0)
            parent = ends[key]
        stretches.append((example, begin, example.tokens))
        parents.append(parent)
    ids = [example.ids[begin:end] for example, begin, end in stretches]
    targets = [targets_of(example, end_of_text)[begin:end] for example, begin, end in stretches]
    flat, flat_targets = (torch.from_numpy(np.concatenate(parts).astype(np.int64)) for parts in (ids, targets))
    batch = _batch(flat, flat_targets, examples)
    lengths = [end - begin for _, begin, end in stretches]
    if not shared:
        return batch._replace(lengths=lengths[1:], prefix=prefix)
    if not prefix:
        return batch._replace(lengths=lengths[1:], parents=[parent - 1 for parent in parents[1:]])
    return batch._replace(lengths=lengths, prefix=prefix, parents=parents)


def targets_of(example: Example, end_of_text: int) -> np.ndarray:
    """(T,) the next token at each position; -100 where the loss must not look."""
    after = np.append(example.ids[1:], end_of_text)
    counts = np.append(example.supervised[1:], example.ends)
    return np.where(counts, after, IGNORE_INDEX)


def _batch(input_ids: torch.Tensor, targets: torch.Tensor, examples: Sequence[Example]) -> Batch:
    supervised = (targets.flatten() != IGNORE_INDEX).nonzero()[:, 0]
    return Batch(input_ids, targets, supervised, [e.row for e in examples], [e.tokens for e in examples])


def _common_prefix(examples: Sequence[Example]) -> int:
    """How many tokens all rows begin with, each row's first supervised token and last one left out."""
    first = examples[0].ids
    shared = len(first)
    for example in examples:
        unsupervised = int(example.supervised.argmax()) if example.supervised.any() else example.tokens
        shared = max(0, min(shared, unsupervised - 1, example.tokens - 1))
        differs = np.flatnonzero(first[:shared] != example.ids[:shared])
        shared = int(differs[0]) if len(differs) else shared
    return shared


WORTH = 8  # tokens; to share fewer saves less than rows in more parts cost


def _shared_by_some(examples: Sequence[Example], prefix: int) -> dict[int, int]:
    """Of rows that go on alike after what all begin with: their next token -> how many tokens they begin with."""
    alike: dict[int, list[Example]] = {}
    for example in examples:
        alike.setdefault(_going_on(example, prefix), []).append(example)
    if len(alike) < 2:
        return {}
    depths = {key: _common_prefix(rows) for key, rows in alike.items() if len(rows) > 1}
    return {key: depth for key, depth in depths.items() if depth >= prefix + WORTH}


def _going_on(example: Example, prefix: int) -> int:
    return int(example.ids[prefix])


Limit = int | float | None  # of batches: how many, a share of them, or None for all


def limited(batches: int, limit: Limit) -> int:
    """How many of them are used, as Lightning's limits count: 1 is one batch, 1.0 all. A share is at least one."""
    if limit is None:
        return batches
    return min(batches, limit if isinstance(limit, int) else max(1, int(batches * limit)))


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
        limit: Limit = None,
    ):
        """
        seed: None keeps the rows in order (validation, test)
        limit: batches of each rank in an epoch, rounded up to whole steps; the first ones of its order
        """
        self.rows, self.batch_size, self.accumulate = rows, batch_size, accumulate
        self.rank, self.world, self.seed, self.drop_last = rank, world, seed, drop_last
        self.limit = limit
        self.epoch = 0
        self._begin = (0, 0)

    @property
    def steps(self) -> int:
        """Optimizer steps in an epoch."""
        a_step = self.batch_size * self.accumulate * self.world
        steps = self.rows // a_step if self.drop_last else -(-self.rows // a_step)
        return -(-limited(steps * self.accumulate, self.limit) // self.accumulate)

    def __len__(self) -> int:
        return self.steps * self.accumulate

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def begin_at(self, epoch: int, step: int) -> None:
        """Leave out the first steps of an epoch, which a run that goes on has taken already.

        Set from the number of optimizer steps: what a loader has fetched ahead is not progress.
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
