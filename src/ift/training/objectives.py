"""What training makes smaller: an objective turns a batch into a sum, its weight, and measures.

Sums, not means: they add up over micro-batches and ranks, so a step is the same however its rows are cut up.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor

from ift.data.batches import IGNORE_INDEX, Batch
from ift.model.gpt import GPT
from ift.model.layouts import Flat


class Sums(NamedTuple):
    loss: Tensor  # () fp32, a sum, with its gradient
    weight: int  # what the sum is divided by; 0 for a blank batch
    measures: dict[str, Tensor]  # further sums of the same weight, () each, without a gradient


class Objective(Protocol):
    """Has no state of its own: everything it knows of is in the model and the batch."""

    measures: tuple[str, ...]  # names of the measures that every batch has

    def __call__(self, model: GPT, batch: Batch) -> Sums: ...

    def report(self, means: dict[str, float]) -> dict[str, float]:
        """Numbers for a person, from the means of the loss ("loss") and of each measure over a whole split."""
        ...


class CrossEntropy:
    """Cross-entropy of the supervised tokens. Weight: their count; measure: those that are the model's first choice.

    A padded batch goes the plain way. An unpadded one gives the same sum and the same gradient, up to rounding, and
    computes the head for supervised tokens only: others have no part in either, and in GPT-2 small the head is 31 %
    of the arithmetic and most of the memory.
    """

    measures: tuple[str, ...] = ("accuracy",)

    def __call__(self, model: GPT, batch: Batch) -> Sums:
        if batch.lengths is None:
            logits, targets = model(batch.input_ids).flatten(0, 1).float(), batch.targets.flatten()
            loss = F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX, reduction="sum")
            correct = (logits.argmax(dim=-1) == targets).sum()
        else:
            supervised = batch.supervised  # (S,) of N tokens
            hidden = model.hidden(batch.input_ids, Flat(batch.lengths, batch.prefix), supervised)  # (S, C)
            loss, correct = model.loss(hidden, batch.targets[supervised])
        return Sums(loss, len(batch.supervised), {"accuracy": correct})

    def report(self, means: dict[str, float]) -> dict[str, float]:
        """Loss, perplexity and token accuracy."""
        loss = means["loss"]
        return {
            "loss": loss,
            "perplexity": math.exp(loss) if loss < 700 else math.inf,
            "accuracy": means["accuracy"],
        }
